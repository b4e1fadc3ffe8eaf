"""Compare two trees by everything a file has. Shares no code with the product.

Names, kinds, permission bits, owners, times to the nanosecond, contents, link
targets, device numbers, extended attributes, and which names are one file.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LABELS = {"security.selinux"}  # given by the machine, not by the tree


class Item(NamedTuple):
    """All that is to be kept of one path."""

    kind: str
    mode: str
    owner: tuple[int, int]
    mtime_ns: int
    content: str
    same_file_as: bytes
    attributes: tuple[tuple[str, bytes], ...]


Survey = dict[bytes, Item]


def survey(root: Path) -> Survey:
    """Read a whole tree.

    Args:
        root: The tree; its own entry is ``b""``.
    """
    top = os.fsencode(root)
    leaders: dict[tuple[int, int], bytes] = {}
    found = {}
    for path in sorted(_walk(top)):
        name = path[len(top) + 1 :]
        status = os.lstat(path)
        leader = leaders.setdefault((status.st_dev, status.st_ino), name)
        found[name] = _look_at(path, status, leader)
    return found


def differences(wanted: Survey, found: Survey, *, forgive_times: str = "") -> list[str]:
    """Tell how two trees differ, a line for each difference.

    Args:
        wanted: What should be there.
        found: What is there.
        forgive_times: Kinds whose times need not agree, such as ``"dl"``.
    """
    lines = [f"{_show(name)}: missing" for name in wanted.keys() - found.keys()]
    lines += [f"{_show(name)}: too much" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        for field in Item._fields:
            want, have = getattr(wanted[name], field), getattr(found[name], field)
            forgiven = field == "mtime_ns" and wanted[name].kind in forgive_times
            if want != have and not forgiven:
                lines.append(f"{_show(name)}: {field} {want!r} became {have!r}")
    return sorted(lines)


def _walk(top: bytes) -> Iterator[bytes]:
    yield top
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry.path


def _look_at(path: bytes, status: os.stat_result, leader: bytes) -> Item:
    content = ""
    kind = stat.filemode(status.st_mode)[0]
    if kind == "-":
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == "l":
        content = repr(os.readlink(path))
    elif kind in "bc":
        content = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return Item(
        kind,
        oct(stat.S_IMODE(status.st_mode)),
        (status.st_uid, status.st_gid),
        status.st_mtime_ns,
        content,
        leader,
        tuple(_attributes(path)),
    )


def _attributes(path: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return  # a file system that has none
    for name in sorted(set(names) - _LABELS):
        yield name, os.getxattr(path, name, follow_symlinks=False)


def _show(name: bytes) -> str:
    return os.fsdecode(name).encode("utf-8", "backslashreplace").decode() or "."
