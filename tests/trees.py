"""Trees of files from literals, and pictures of whole trees to compare.

A tree is written as a mapping from path to what is there::

    build_tree(root, {
        "bin/sh": File("#!", mode=0o755),
        "etc/motd": "hello",             # a plain file
        "var/empty/": Dir(mode=0o1777),  # parents appear by themselves
        "bin/bash": Hard("bin/sh"),
        "sh": Link("bin/sh"),
    })

and compared as a whole::

    assert not difference(before, snapshot(root))
"""

import contextlib
import errno
import hashlib
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

MTIME_NS = 1_600_000_000_123_456_789
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # net_raw+ep


@dataclass(frozen=True, kw_only=True)
class Node:
    """What every kind of path has."""

    mode: int = 0o644
    mtime_ns: int = MTIME_NS
    owner: tuple[int, int] | None = None
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class File(Node):
    """A file: a hole of ``hole`` bytes, then the content."""

    content: str | bytes = b""
    hole: int = 0


@dataclass(frozen=True)
class Dir(Node):
    mode: int = field(default=0o755, kw_only=True)


@dataclass(frozen=True)
class Link(Node):
    target: str | bytes


@dataclass(frozen=True)
class Hard(Node):
    """Another name of a file that stands earlier in the mapping."""

    to: str | bytes


@dataclass(frozen=True)
class Fifo(Node):
    pass


@dataclass(frozen=True)
class Socket(Node):
    pass


@dataclass(frozen=True)
class Device(Node):
    """A device; ``kind`` is `stat.S_IFCHR` or `stat.S_IFBLK`. Only root can."""

    kind: int
    major: int
    minor: int


Spec = Mapping[str | bytes, "Node | str | bytes | None"]


def build_tree(root: Path, spec: Spec) -> Path:
    """Make a tree below ``root``, or add to the one that is there.

    Every time that is not given is `MTIME_NS`, the directories' included.

    Args:
        root: The tree's own directory; a key ``""`` sets its mode and time.
        spec: Path to node. Text or bytes mean a file of that content, a key that
            ends in ``/`` a directory. Parents that are not named get mode 0755.

    Returns:
        ``root``.
    """
    top = os.fsencode(root)
    os.makedirs(top, exist_ok=True)
    dirs: dict[bytes, Dir] = {b"": Dir()}
    nodes = {_raw(path): _node(path, what) for path, what in spec.items()}
    for path, node in nodes.items():
        _make_parents(top, path, dirs)
        _make(top, path, node)
        if isinstance(node, Dir):
            dirs[path] = node
        elif not isinstance(node, Hard):
            _dress(os.path.join(top, path), node)
    for path, node in sorted(dirs.items(), reverse=True):
        _dress(os.path.join(top, path), node)
    return root


def _raw(path: str | bytes) -> bytes:
    return os.fsencode(path).rstrip(b"/")


def _node(path: str | bytes, what: Node | str | bytes | None) -> Node:
    if isinstance(what, Node):
        return what
    is_directory = not _raw(path) or os.fsencode(path).endswith(b"/")
    return Dir() if is_directory else File(what or b"")


def _make_parents(top: bytes, path: bytes, dirs: dict[bytes, Dir]) -> None:
    parts = path.split(b"/")[:-1]
    for depth in range(len(parts)):
        parent = b"/".join(parts[: depth + 1])
        if parent not in dirs and not os.path.isdir(os.path.join(top, parent)):
            os.mkdir(os.path.join(top, parent))
            dirs[parent] = Dir()


def _make(top: bytes, path: bytes, node: Node) -> None:
    full = os.path.join(top, path)
    match node:
        case Dir():
            os.makedirs(full, exist_ok=True)
        case File():
            _write(full, node)
        case Link(target=target):
            os.symlink(os.fsencode(target), full)
        case Hard(to=to):
            os.link(os.path.join(top, _raw(to)), full)
        case _:
            _make_special(full, node)


def _write(full: bytes, node: File) -> None:
    content = node.content
    with open(full, "wb") as out:
        out.truncate(node.hole)
        out.seek(node.hole)
        out.write(content.encode() if isinstance(content, str) else content)


def _make_special(full: bytes, node: Node) -> None:
    match node:
        case Fifo():
            os.mkfifo(full)
        case Socket():
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(os.fsdecode(full))
        case Device(kind=kind, major=major, minor=minor):
            os.mknod(full, kind | 0o600, os.makedev(major, minor))
        case _:
            raise TypeError(node)


def _dress(full: bytes, node: Node) -> None:
    """Give a path its owner, mode, attributes and, last, its time."""
    if node.owner is not None:
        os.chown(full, *node.owner, follow_symlinks=False)
    if not isinstance(node, Link):
        os.chmod(full, node.mode)
    for name, value in node.xattrs.items():
        os.setxattr(full, name, value, follow_symlinks=False)
    os.utime(full, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)


def every_kind(root: Path) -> Path:
    """Make a tree that holds every kind of path that this user can make.

    Devices, owners and ``security.capability`` need root, attributes a file system
    that has them; where they cannot be made they are left out.
    """
    spec: dict[str | bytes, Node | str | bytes | None] = {
        "": Dir(mode=0o755),
        "a": Dir(),
        "a/b/deep": "below a",
        "a-b": "sorts between a and a/b",
        "bin/busybox": File(b"\x7fELF" + bytes(range(256)) * 40, mode=0o755),
        "bin/ls": Hard("bin/busybox"),
        "bin/su": File("setuid", mode=0o4755),
        "dev/fifo": Fifo(mode=0o622),
        "empty/": Dir(mode=0o700),
        "etc/empty": "",
        "etc/private": File("secret", mode=0o600),
        "etc/unreadable": File("for root", mode=0o000 if os.geteuid() == 0 else 0o400),
        "lib/other name of busybox": Hard("bin/busybox"),
        "link/absolute": Link("/etc/private"),
        "link/dangling": Link("../nowhere"),
        "link/slash": Link("../empty/"),
        "link/foreign": Link(b"caf\xe9/%41\n"),
        "name/ leading and trailing ": "spaces",
        "name/new\nline\ttab": "control",
        'name/per%41cent "quoted" back\\slash': "escapes",
        "name/\x7f\x01": "more control",
        "name/caf\u00e9-\U0001f9d2": "unicode",
        b"name/latin-\xe9\xff": "bytes",
        b"name/cut-\xe2\x82": "bytes that begin like UTF-8",
        b"dir-\xff/": Dir(mode=0o750),
        b"dir-\xff/inside": "in a foreign directory",
        "name/" + "n" * 255: "a long name",
        "old": File("from before 1970", mtime_ns=-1_500_000_000),
        "setgid/": Dir(mode=0o2775),
        "tmp/": Dir(mode=0o1777),
        "tmp/sparse": File(b"tail", hole=3 << 20),
        "usr/copy": "the same content",
        "usr/other copy": File("the same content", mode=0o755, mtime_ns=0),
    }
    build_tree(root, spec)
    for path, node in _privileged().items():
        with _where_possible():
            build_tree(root, {path: node})
    _settle(root)
    return root


def _privileged() -> dict[str | bytes, Node]:
    return {
        "dev/null": Device(stat.S_IFCHR, 1, 3, mode=0o666),
        "dev/disk": Device(stat.S_IFBLK, 259, 70000, mode=0o660),
        "home/child": File("hers", owner=(1000, 1001)),
        "home/hers/": Dir(mode=0o2750, owner=(1000, 1001)),
        "home/link": Link("child", owner=(1000, 1001)),
        "bin/ping": File("cap", mode=0o755, xattrs={"security.capability": CAPABILITY}),
        "attributes/file": File("x", xattrs={"user.note": b"\x00\xff", "user.b": b""}),
        "attributes/dir/": Dir(xattrs={"user.per%cent \u00e9": b"text"}),
    }


def _settle(root: Path) -> None:
    """Set the times of the directories again, after things were put into them."""
    for where, _, _ in os.walk(os.fsencode(root), topdown=False):
        os.utime(where, ns=(MTIME_NS, MTIME_NS))


@contextlib.contextmanager
def _where_possible() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EACCES, errno.ENOTSUP}:
            raise


class Picture(NamedTuple):
    """Everything about one path.

    Attributes:
        group: The first path, in order, of the names that share the inode.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    sha256: str
    target: bytes
    device: tuple[int, int]
    group: bytes
    xattrs: tuple[tuple[str, bytes], ...]


def snapshot(root: Path) -> dict[bytes, Picture]:
    """Return everything below ``root`` and itself (path ``b""``), in path order."""
    top = os.fsencode(root)
    paths = sorted(_walk(top))
    groups: dict[tuple[int, int], bytes] = {}
    return {path: _picture(top, path, groups) for path in paths}


def _walk(top: bytes, below: bytes = b"") -> Iterator[bytes]:
    yield below
    with os.scandir(os.path.join(top, below)) as found:
        for item in found:
            path = os.path.join(below, item.name)
            if item.is_dir(follow_symlinks=False):
                yield from _walk(top, path)
            else:
                yield path


def _picture(top: bytes, path: bytes, groups: dict[tuple[int, int], bytes]) -> Picture:
    full = os.path.join(top, path)
    facts = os.lstat(full)
    is_file = stat.S_ISREG(facts.st_mode)
    names = os.listxattr(full, follow_symlinks=False)
    return Picture(
        kind=stat.filemode(facts.st_mode)[0],
        mode=stat.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
        mtime_ns=facts.st_mtime_ns,
        size=facts.st_size if is_file else 0,
        sha256=_sha256(full) if is_file else "",
        target=os.readlink(full) if stat.S_ISLNK(facts.st_mode) else b"",
        device=(os.major(facts.st_rdev), os.minor(facts.st_rdev)),
        group=groups.setdefault((facts.st_dev, facts.st_ino), path),
        xattrs=tuple(
            (name, os.getxattr(full, name, follow_symlinks=False))
            for name in sorted(names)
        ),
    )


def _sha256(full: bytes) -> str:
    with open(full, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def difference(
    expected: Mapping[bytes, Picture], found: Mapping[bytes, Picture]
) -> str:
    """Return how two trees differ, one line per path and fact; empty if they do not."""
    lines: list[str] = []
    for path in sorted(expected.keys() | found.keys()):
        before, after = expected.get(path), found.get(path)
        if before is None:
            lines.append(f"{path!r}: unexpected: {after}")
        elif after is None:
            lines.append(f"{path!r}: missing: {before}")
        else:
            lines += [
                f"{path!r}: {name}: expected {old!r}, found {new!r}"
                for name, old, new in zip(Picture._fields, before, after, strict=True)
                if old != new
            ]
    return "\n".join(lines)
