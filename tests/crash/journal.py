"""From recorded calls to changes of a disk, and which of them a sync has made safe.

What is assumed of a file system is as little as any promises (docs/crash-safety.md):
``fsync`` of a file keeps its bytes and its metadata, ``fsync`` of a directory keeps
its names, ``syncfs`` keeps everything; a rename is whole or did not happen; whatever
was not synced may be lost or kept, each change by itself.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.crash.calls import Call, number, string
from tests.crash.disk import (
    Attribute,
    Change,
    Disk,
    Dress,
    Ino,
    Name,
    Node,
    Rename,
    Resize,
    Write,
)


class Sync(NamedTuple):
    """A sync of one inode, or of everything (None)."""

    ino: Ino | None


@dataclass
class File:
    """An open file: an inode and where it stands."""

    ino: Ino
    offset: int = 0
    append: bool = False


@dataclass
class Journal:
    """All that a run did to a disk, in order.

    Attributes:
        start: The disk before.
        births: Inodes that were made, as they were when they were new.
        events: Changes and syncs.
    """

    start: Disk
    births: dict[Ino, Node] = field(default_factory=dict)
    events: list[Change | Sync] = field(default_factory=list)

    def end(self) -> Disk:
        """Return the disk after all of it."""
        disk = self.disk()
        for event in self.events:
            if not isinstance(event, Sync):
                event.apply(disk)
        return disk

    def disk(self) -> Disk:
        """Return the disk before, with the inodes to come, which nothing names yet."""
        disk = self.start.copy()
        disk.nodes.update(self.births)
        return disk


def read_journal(start: Disk, root: Path, calls: Iterable[Call], pid: int) -> Journal:
    """Follow recorded calls.

    Args:
        start: What was below ``root`` before.
        root: The directory that counts.
        calls: The calls.
        pid: The first process.
    """
    calls = list(calls)
    reader = _Reader(start, os.fsencode(root), pid)
    reader.expect(calls)
    for call in calls:
        reader.take(call)
    return reader.journal


_PROC = re.compile(rb"/proc/self/fd/(\d+)(?:/(.*))?$", re.DOTALL)
_SHARED = b"-shm"
"""SQLite's processes share memory in such a file, which says nothing after a cut."""
_TIME = re.compile(r"\{tv_sec=(-?\d+), tv_nsec=(\d+|UTIME_\w+)\}")
_MAKEDEV = re.compile(r"makedev\((\w+), (\w+)\)")


class _Reader:
    def __init__(self, start: Disk, root: bytes, pid: int) -> None:
        self.journal = Journal(start)
        self._root = root
        self._now = start.copy()
        self._next = max(start.nodes) + 1
        self._files: dict[int, dict[int, File]] = {pid: {}}
        self._owners: dict[int, tuple[int, int]] = {pid: (os.geteuid(), os.getegid())}
        self._parents: dict[int, tuple[int, bool]] = {}

    def expect(self, calls: Iterable[Call]) -> None:
        """Learn who starts whom: a child's calls may stand before its birth."""
        for call in calls:
            if call.name in {"clone", "clone3", "fork", "vfork"}:
                shared = "CLONE_FILES" in " ".join(call.args)
                self._parents[call.result] = call.pid, shared

    def take(self, call: Call) -> None:
        handler: Callable[[Call], None] | None = getattr(self, f"_{call.name}", None)
        if handler is not None:
            handler(call)

    # --- processes and descriptors -------------------------------------------------

    def _table(self, call: Call) -> dict[int, File]:
        self._begin(call.pid)
        return self._files[call.pid]

    def _begin(self, pid: int) -> None:
        """Give a new process or thread what its parent has."""
        if pid not in self._files:
            parent, shared = self._parents[pid]
            self._begin(parent)
            table = self._files[parent]
            self._files[pid] = table if shared else dict(table)
            self._owners[pid] = self._owners[parent]

    def _clone(self, call: Call) -> None:
        self._begin(call.result)

    _clone3 = _fork = _vfork = _clone

    def _setresuid(self, call: Call) -> None:
        self._table(call)
        self._owners[call.pid] = int(call.args[1]), self._owners[call.pid][1]

    def _setresgid(self, call: Call) -> None:
        self._table(call)
        self._owners[call.pid] = self._owners[call.pid][0], int(call.args[1])

    def _owner(self, call: Call) -> tuple[int, int]:
        self._table(call)
        return self._owners[call.pid]

    def _close(self, call: Call) -> None:
        self._table(call).pop(int(call.args[0]), None)

    def _dup(self, call: Call) -> None:
        table = self._table(call)
        table.pop(call.result, None)
        if (file := table.get(int(call.args[0]))) is not None:
            table[call.result] = file

    _dup2 = _dup3 = _dup

    def _fcntl(self, call: Call) -> None:
        if call.args[1].startswith("F_DUPFD"):
            self._dup(call)

    def _lseek(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            file.offset = call.result

    def _read(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            file.offset += call.result

    _readv = _read

    def _file(self, call: Call, text: str) -> File | None:
        return self._table(call).get(int(text))

    # --- paths ------------------------------------------------------------------------

    def _base(self, call: Call, directory: str) -> Ino | None:
        if directory == "AT_FDCWD":
            return None
        file = self._file(call, directory)
        return file.ino if file else None

    def _place(
        self, call: Call, directory: str, path: str, *, follow: bool = False
    ) -> tuple[Ino, bytes] | None:
        """Return the directory and the name that a path leads to; None if outside."""
        raw = string(path)
        if raw.endswith(_SHARED):
            return None
        base = self._base(call, directory)
        if through := _PROC.match(raw):
            file = self._file(call, through[1].decode())
            if file is None:
                return None
            base, raw = file.ino, through[2] or b"."
        elif raw.startswith(b"/"):
            if raw != self._root and not raw.startswith(self._root + b"/"):
                return None
            base, raw = 1, raw[len(self._root) + 1 :]
        if base is None:
            return None
        return self._walk(base, raw, follow=follow)

    def _walk(self, base: Ino, raw: bytes, *, follow: bool) -> tuple[Ino, bytes] | None:
        parts = [part for part in raw.split(b"/") if part not in {b"", b"."}]
        for at, part in enumerate(parts):
            is_last = at == len(parts) - 1
            ino = self._now.nodes[base].names.get(part)
            node = self._now.nodes[ino] if ino is not None else None
            if node and stat.S_ISLNK(node.mode) and (follow or not is_last):
                if node.data.startswith(b"/"):
                    return None
                rest = b"/".join([node.data, *parts[at + 1 :]])
                return self._walk(base, rest, follow=follow)
            if is_last:
                return base, part
            if ino is None or part == b"..":
                return None
            base = ino
        return base, b""

    def _ino(self, place: tuple[Ino, bytes] | None) -> Ino | None:
        if place is None:
            return None
        directory, name = place
        return self._now.nodes[directory].names.get(name) if name else directory

    # --- changes ----------------------------------------------------------------------

    def _do(self, change: Change) -> None:
        change.apply(self._now)
        self.journal.events.append(change)

    def _born(self, node: Node) -> Ino:
        ino, self._next = self._next, self._next + 1
        self.journal.births[ino] = node
        self._now.nodes[ino] = node.copy()
        return ino

    def _make(self, place: tuple[Ino, bytes] | None, node: Node) -> Ino | None:
        if place is None:
            return None
        if self._now.nodes[place[0]].mode & stat.S_ISGID:
            node.gid = self._now.nodes[place[0]].gid
            if stat.S_ISDIR(node.mode):
                node.mode |= stat.S_ISGID
        ino = self._born(node)
        self._do(Name(*place, ino))
        return ino

    def _openat(self, call: Call) -> None:
        flags = call.args[2]
        place = self._place(call, *call.args[:2], follow="O_NOFOLLOW" not in flags)
        table = self._table(call)
        table.pop(call.result, None)
        ino = self._ino(place)
        if place is None:
            return
        if ino is None:
            mode = stat.S_IFREG | (number(call.args[3]) & ~UMASK)
            ino = self._make(place, Node(mode, *self._owner(call)))
        elif "O_TRUNC" in flags and self._now.nodes[ino].data:
            self._do(Resize(ino, 0))
        if ino is not None:
            table[call.result] = File(ino, append="O_APPEND" in flags)

    def _open(self, call: Call) -> None:
        self._openat(call._replace(args=("AT_FDCWD", *call.args)))

    def _mkdir(self, call: Call) -> None:
        self._mkdirat(call._replace(args=("AT_FDCWD", *call.args)))

    def _mkdirat(self, call: Call) -> None:
        mode = stat.S_IFDIR | (number(call.args[2]) & ~UMASK)
        node = Node(mode, *self._owner(call), body=0)
        self._make(self._place(call, *call.args[:2]), node)

    def _mknodat(self, call: Call) -> None:
        kinds = {"S_IFCHR": stat.S_IFCHR, "S_IFBLK": stat.S_IFBLK}
        kind, _, bits = call.args[2].partition("|")
        found = _MAKEDEV.search(" ".join(call.args[3:]))
        device = os.makedev(int(found[1], 0), int(found[2], 0)) if found else 0
        mode = kinds.get(kind, stat.S_IFIFO) | (number(bits) & ~UMASK)
        self._make(
            self._place(call, *call.args[:2]),
            Node(mode, *self._owner(call), body=device),
        )

    def _mknod(self, call: Call) -> None:
        self._mknodat(call._replace(args=("AT_FDCWD", *call.args)))

    def _symlink(self, call: Call) -> None:
        self._symlinkat(call._replace(args=(call.args[0], "AT_FDCWD", call.args[1])))

    def _symlinkat(self, call: Call) -> None:
        place = self._place(call, *call.args[1:3])
        owner = self._owner(call)
        self._make(place, Node(stat.S_IFLNK | 0o777, *owner, body=string(call.args[0])))

    def _link(self, call: Call) -> None:
        old, new = call.args
        self._linkat(call._replace(args=("AT_FDCWD", old, "AT_FDCWD", new, "0")))

    def _linkat(self, call: Call) -> None:
        ino = self._ino(self._place(call, *call.args[:2]))
        place = self._place(call, *call.args[2:4])
        if ino is not None and place is not None:
            self._do(Name(*place, ino))

    def _rename(self, call: Call) -> None:
        old, new = call.args
        self._renameat(call._replace(args=("AT_FDCWD", old, "AT_FDCWD", new)))

    def _renameat(self, call: Call) -> None:
        old = self._place(call, *call.args[:2])
        new = self._place(call, *call.args[2:4])
        ino = self._ino(old)
        if old is not None and new is not None and ino is not None:
            if self._ino(new) != ino:
                self._do(Rename(*new, ino, *old))
        elif old is not None or new is not None:
            raise ValueError(f"a rename across the border: {call}")

    _renameat2 = _renameat

    def _unlink(self, call: Call) -> None:
        self._unlinkat(call._replace(args=("AT_FDCWD", call.args[0], "0")))

    _rmdir = _unlink

    def _unlinkat(self, call: Call) -> None:
        if (place := self._place(call, *call.args[:2])) is not None:
            self._do(Name(*place, None))

    def _write(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            size = len(self._now.nodes[file.ino].data)
            offset = size if file.append else file.offset
            self._put(file, string(call.args[1])[: call.result], offset)
            file.offset = offset + call.result

    def _pwrite64(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            self._put(file, string(call.args[1])[: call.result], number(call.args[3]))

    def _writev(self, call: Call) -> None:
        if self._file(call, call.args[0]):
            raise ValueError(f"not followed: {call.name}")

    _pwritev = _pwritev2 = _truncate = _creat = _writev

    def _fallocate(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            if "PUNCH_HOLE" not in call.args[1]:
                raise ValueError(f"not followed: {call}")
            start, length = number(call.args[2]), number(call.args[3])
            length = min(length, len(self._now.nodes[file.ino].data) - start)
            self._put(file, bytes(max(length, 0)), start)

    def _put(self, file: File, data: bytes, offset: int) -> None:
        if data:
            self._do(Write(file.ino, offset, data))

    def _mmap(self, call: Call) -> None:
        is_shared = "MAP_SHARED" in call.args[3] and "PROT_WRITE" in call.args[2]
        if is_shared and call.args[4] != "-1" and self._file(call, call.args[4]):
            raise ValueError("a file is written through memory, unseen")

    def _ftruncate(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            size = number(call.args[1])
            if size != len(self._now.nodes[file.ino].data):
                self._do(Resize(file.ino, size))

    def _copy_file_range(self, call: Call) -> None:
        source, target = (self._file(call, call.args[i]) for i in (0, 2))
        if source and target:
            start, place = (_offset(call.args[i]) for i in (1, 3))
            data = self._now.nodes[source.ino].data
            self._put(target, data[start : start + call.result], place)

    def _sendfile(self, call: Call) -> None:
        target, source = (self._file(call, call.args[i]) for i in (0, 1))
        if source and target:
            start = _offset(call.args[2])
            data = self._now.nodes[source.ino].data[start : start + call.result]
            self._put(target, data, target.offset)
            target.offset += call.result

    def _ioctl(self, call: Call) -> None:
        if "CLONE" not in call.args[1]:
            return
        target, source = self._file(call, call.args[0]), self._file(call, call.args[2])
        if target and source:
            self._put(target, self._now.nodes[source.ino].data, 0)

    # --- metadata --------------------------------------------------------------------

    def _fchmod(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            self._do(Dress(file.ino, mode=number(call.args[1])))

    def _fchmodat(self, call: Call) -> None:
        ino = self._ino(self._place(call, *call.args[:2], follow=True))
        if ino is not None:
            self._do(Dress(ino, mode=number(call.args[2])))

    def _chmod(self, call: Call) -> None:
        self._fchmodat(call._replace(args=("AT_FDCWD", *call.args)))

    def _fchown(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            self._own(file.ino, *call.args[1:3])

    def _fchownat(self, call: Call) -> None:
        follow = "NOFOLLOW" not in call.args[4]
        ino = self._ino(self._place(call, *call.args[:2], follow=follow))
        if ino is not None:
            self._own(ino, *call.args[2:4])

    def _chown(self, call: Call) -> None:
        self._fchownat(call._replace(args=("AT_FDCWD", *call.args, "0")))

    def _lchown(self, call: Call) -> None:
        self._fchownat(
            call._replace(args=("AT_FDCWD", *call.args, "AT_SYMLINK_NOFOLLOW"))
        )

    def _own(self, ino: Ino, uid: str, gid: str) -> None:
        """Change the owner; that drops set-user-id bits and capabilities."""
        self._do(Dress(ino, uid=int(uid), gid=int(gid)))
        node = self._now.nodes[ino]
        if stat.S_ISREG(node.mode) and node.mode & 0o6000:
            self._do(Dress(ino, mode=stat.S_IMODE(node.mode) & ~0o6000))

    def _utimensat(self, call: Call) -> None:
        directory, path, times, flags = call.args
        if path == "NULL":
            file = self._file(call, directory)
            ino = file.ino if file else None
        else:
            follow = "NOFOLLOW" not in flags
            ino = self._ino(self._place(call, directory, path, follow=follow))
        found = _TIME.findall(times)
        if ino is not None and len(found) == 2 and found[1][1].isdigit():
            seconds, nanoseconds = map(int, found[1])
            self._do(Dress(ino, mtime_ns=seconds * 10**9 + nanoseconds))

    def _fsetxattr(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            value = string(call.args[2])
            self._do(Attribute(file.ino, string(call.args[1]), value))

    def _lsetxattr(self, call: Call) -> None:
        ino = self._ino(self._place(call, "AT_FDCWD", call.args[0]))
        if ino is not None:
            value = string(call.args[2])
            self._do(Attribute(ino, string(call.args[1]), value))

    _setxattr = _lsetxattr

    def _fremovexattr(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            self._do(Attribute(file.ino, string(call.args[1]), None))

    # --- syncs -----------------------------------------------------------------------

    def _fsync(self, call: Call) -> None:
        if file := self._file(call, call.args[0]):
            self.journal.events.append(Sync(file.ino))

    _fdatasync = _fsync

    def _syncfs(self, call: Call) -> None:
        if self._file(call, call.args[0]):
            self.journal.events.append(Sync(None))

    def _sync(self, call: Call) -> None:
        self.journal.events.append(Sync(None))


UMASK = 0o022


def _offset(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0
