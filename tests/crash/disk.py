"""A file system in memory: what a directory holds, changed by recorded calls.

Inodes and names are apart, as on a disk: a name may be lost and its inode stay, or a
name may be there and what was written into its inode be lost.
"""

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Ino = int


@dataclass
class Node:
    """An inode.

    Attributes:
        mode: Type and permission bits.
        body: A file's content, a link's target, a device's number.
        mtime_ns: Its time, where that was set on purpose; else it is new.
        names: A directory's entries.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    body: bytes | int = b""
    mtime_ns: int | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: dict[bytes, Ino] = field(default_factory=dict)

    def copy(self) -> "Node":
        return Node(
            self.mode,
            self.uid,
            self.gid,
            self.body,
            self.mtime_ns,
            dict(self.xattrs),
            dict(self.names),
        )

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else b""


# --- changes ------------------------------------------------------------------------


class Name(NamedTuple):
    """A directory gets a name, or loses it (`ino` None)."""

    directory: Ino
    name: bytes
    ino: Ino | None

    @property
    def kept_by(self) -> Ino:
        return self.directory

    def apply(self, disk: "Disk") -> None:
        names = disk.own(self.directory).names
        if self.ino is None:
            names.pop(self.name, None)
        else:
            names[self.name] = self.ino


class Rename(NamedTuple):
    """A name moves; both directories change at once, or neither."""

    directory: Ino
    name: bytes
    ino: Ino
    old_directory: Ino
    old_name: bytes

    @property
    def kept_by(self) -> Ino:
        return self.directory

    def apply(self, disk: "Disk") -> None:
        olds = disk.own(self.old_directory).names
        if olds.get(self.old_name) == self.ino:
            del olds[self.old_name]
        disk.own(self.directory).names[self.name] = self.ino


class Write(NamedTuple):
    """A file gets bytes."""

    kept_by: Ino
    offset: int
    data: bytes

    def apply(self, disk: "Disk") -> None:
        node = disk.own(self.kept_by)
        old = node.data.ljust(self.offset, b"\0")
        end = self.offset + len(self.data)
        node.body = old[: self.offset] + self.data + old[end:]


class Resize(NamedTuple):
    """A file gets a length."""

    kept_by: Ino
    size: int

    def apply(self, disk: "Disk") -> None:
        node = disk.own(self.kept_by)
        node.body = node.data[: self.size].ljust(self.size, b"\0")


class Dress(NamedTuple):
    """An inode gets an owner, permission bits or a time; None leaves it as it is."""

    kept_by: Ino
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None

    def apply(self, disk: "Disk") -> None:
        node = disk.own(self.kept_by)
        if self.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | self.mode
        if self.uid is not None:
            node.uid = self.uid
        if self.gid is not None:
            node.gid = self.gid
        if self.mtime_ns is not None:
            node.mtime_ns = self.mtime_ns


class Attribute(NamedTuple):
    """An inode gets an extended attribute, or loses it (None)."""

    kept_by: Ino
    name: bytes
    value: bytes | None

    def apply(self, disk: "Disk") -> None:
        xattrs = disk.own(self.kept_by).xattrs
        if self.value is None:
            xattrs.pop(self.name, None)
        else:
            xattrs[self.name] = self.value


Change = Name | Rename | Write | Resize | Dress | Attribute


class Fact(NamedTuple):
    """What there is of a path."""

    path: bytes
    ino: Ino
    mode: int
    uid: int
    gid: int
    body: bytes | int
    xattrs: tuple[tuple[bytes, bytes], ...]


# --- the disk ------------------------------------------------------------------------


class Disk:
    """Inodes by number; 1 is the top directory.

    Copies share inodes until one of them changes one.
    """

    def __init__(self, nodes: dict[Ino, Node] | None = None) -> None:
        self.nodes = nodes if nodes is not None else {}
        self._owned: set[Ino] = set()

    def copy(self) -> "Disk":
        self._owned.clear()
        return Disk(dict(self.nodes))

    def own(self, ino: Ino) -> Node:
        if ino not in self._owned:
            self.nodes[ino] = self.nodes[ino].copy()
            self._owned.add(ino)
        return self.nodes[ino]

    def fingerprint(self) -> int:
        """Return a number that tells reachable states apart, and set times."""
        facts = self.facts()
        times = tuple(self.nodes[fact.ino].mtime_ns for fact in facts)
        return hash((tuple(facts), times))

    def digest(self, new_ns: int) -> str:
        """Return a digest of all that a path shows, the same in every process.

        Args:
            new_ns: A time; what is younger is just new.
        """
        leaders: dict[Ino, int] = {}
        shown = [
            (leaders.setdefault(fact.ino, at), min(self._mtime_ns(fact), new_ns), fact)
            for at, fact in enumerate(self.facts())
        ]
        text = repr(
            [(leader, time, fact._replace(ino=0)) for leader, time, fact in shown]
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def _mtime_ns(self, fact: Fact) -> int:
        return self.nodes[fact.ino].mtime_ns or 0

    def facts(self) -> "list[Fact]":
        """Return what there is of each path that can be reached; no times."""
        found: list[Fact] = []
        stack: list[tuple[Ino, bytes]] = [(1, b"")]
        while stack:
            ino, path = stack.pop()
            node = self.nodes[ino]
            xattrs = tuple(sorted(node.xattrs.items()))
            found.append(
                Fact(path, ino, node.mode, node.uid, node.gid, node.body, xattrs)
            )
            stack += [(i, path + b"/" + n) for n, i in sorted(node.names.items())]
        return found

    def write_to(self, top: Path, new_ns: int) -> None:
        """Make a real directory of it; ``top`` is there and empty.

        Args:
            top: The directory.
            new_ns: The time of what had none set.
        """
        made: dict[Ino, bytes] = {}
        stack = [(1, os.fsencode(top))]
        directories: list[tuple[bytes, Node]] = []
        while stack:
            ino, path = stack.pop()
            node = self.nodes[ino]
            kind = stat.S_IFMT(node.mode)
            if kind != stat.S_IFDIR and ino in made:
                os.link(made[ino], path, follow_symlinks=False)
                continue
            made[ino] = path
            if kind == stat.S_IFDIR:
                if ino != 1:
                    os.mkdir(path)
                directories.append((path, node))
                stack += [(i, path + b"/" + n) for n, i in node.names.items()]
                continue
            _make(path, node, kind)
            _dress(path, node, new_ns)
        for path, node in reversed(directories):
            _dress(path, node, new_ns)


def _make(path: bytes, node: Node, kind: int) -> None:
    if kind == stat.S_IFREG:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if node.data:
            os.write(descriptor, node.data)
        os.close(descriptor)
    elif kind == stat.S_IFLNK:
        os.symlink(node.data, path)
    else:
        os.mknod(path, kind | 0o600, node.body if isinstance(node.body, int) else 0)


def _dress(path: bytes, node: Node, new_ns: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, node.uid, node.gid, follow_symlinks=False)
    if not stat.S_ISLNK(node.mode):
        os.chmod(path, stat.S_IMODE(node.mode))
    for name, value in node.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    time = new_ns if node.mtime_ns is None else node.mtime_ns
    os.utime(path, ns=(time, time), follow_symlinks=False)


def read_disk(top: Path) -> Disk:
    """Read a real directory."""
    nodes: dict[Ino, Node] = {}
    inodes: dict[int, Ino] = {}

    def add(path: bytes) -> Ino:
        facts = os.lstat(path)
        if facts.st_ino in inodes:
            return inodes[facts.st_ino]
        ino = inodes[facts.st_ino] = len(nodes) + 1
        node = nodes[ino] = Node(
            facts.st_mode,
            facts.st_uid,
            facts.st_gid,
            _body(path, facts),
            facts.st_mtime_ns,
            _xattrs(path),
        )
        if stat.S_ISDIR(facts.st_mode):
            for name in sorted(os.listdir(path)):
                node.names[name] = add(path + b"/" + name)
        return ino

    add(os.fsencode(top))
    return Disk(nodes)


def _body(path: bytes, facts: os.stat_result) -> bytes | int:
    if stat.S_ISREG(facts.st_mode):
        return Path(os.fsdecode(path)).read_bytes()
    if stat.S_ISLNK(facts.st_mode):
        return os.readlink(path)
    return 0 if stat.S_ISDIR(facts.st_mode) else facts.st_rdev


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    names = map(os.fsencode, os.listxattr(path, follow_symlinks=False))
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if not name.startswith(b"security.selinux")
    }


def differences(expected: Disk, found: Disk) -> list[str]:
    """Tell how two disks differ, hard links included, times not."""

    def facts(disk: Disk) -> dict[bytes, object]:
        leaders: dict[Ino, bytes] = {}
        return {
            fact.path: (leaders.setdefault(fact.ino, fact.path), fact[2:])
            for fact in sorted(disk.facts(), key=lambda fact: fact.path)
        }

    one, other = facts(expected), facts(found)
    return [
        f"{path!r}: {str(one.get(path))[:200]} against {str(other.get(path))[:200]}"
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    ]
