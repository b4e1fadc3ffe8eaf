"""Whether a laptop could boot a build, as far as its manifest tells."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from olpc_update_query.errors import UnfitTree
from olpc_update_query.model.entry import Entry, Kind

INIT: Final = b"sbin/init"
_MOST_LINKS: Final = 40  # as the kernel allows
_EXECUTABLE: Final = 0o111


def check_bootable(entries: Sequence[Entry]) -> None:
    """Refuse a build that the initramfs would not start.

    It wants a directory ``etc`` and a program ``sbin/init``; links to it are followed
    within the tree.

    Args:
        entries: Those of its manifest.

    Raises:
        UnfitTree: One of them is missing.
    """
    links: dict[bytes, bytes] = {
        entry.path: entry.target for entry in entries if entry.kind is Kind.SYMLINK
    }
    init = _resolve(INIT, links)
    etc = program = None
    for entry in entries:
        etc = entry if entry.path == b"etc" else etc
        program = entry if entry.path == init else program
    if etc is None or etc.kind is not Kind.DIRECTORY:
        raise _unbootable("etc", "there is no such directory")
    if program is None or program.kind is not Kind.FILE:
        raise _unbootable("sbin/init", "there is no such program")
    if not program.mode & _EXECUTABLE:
        raise _unbootable("sbin/init", "it is not executable")


def _unbootable(path: str, reason: str) -> UnfitTree:
    return UnfitTree(path, f"{reason}, so no laptop could boot it; or give --any-tree")


def _resolve(path: bytes, links: Mapping[bytes, bytes]) -> bytes | None:
    """Follow the links in a path; None when they lead nowhere."""
    todo, done, followed = deque(path.split(b"/")), b"", 0
    while todo:
        name = todo.popleft()
        if name == b"..":
            done = done.rpartition(b"/")[0]
            continue
        if name in {b"", b"."}:
            continue
        here = done + b"/" + name if done else name
        if here not in links:
            done = here
            continue
        followed += 1
        if followed > _MOST_LINKS:
            return None
        target = links[here]
        done = b"" if target.startswith(b"/") else done
        todo.extendleft(reversed(target.split(b"/")))
    return done
