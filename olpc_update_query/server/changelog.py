"""``changes.log``: who changed what, and when, one line each.

A line is on the disk before its change is made: whenever the power fails, no change is
without its record. What was refused or failed after its line gets a second one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed
from olpc_update_query.model.wire import format_time, parse_time
from olpc_update_query.ports import Clock
from olpc_update_query.server.ownership import hand_over
from olpc_update_query.system.files import disk_errors, fsync_directory, write_all

FILE: Final = "changes.log"
_LONG: Final = 1000
"""Bytes that hold a line, unless many laptops are named in it."""


@contextlib.contextmanager
def recorded(site: Path, clock: Clock, who: str, what: str) -> Iterator[None]:
    """Write down a change, then let the block make it.

    Args:
        site: The site.
        clock: The present.
        who: Who changes it.
        what: What is changed, in a few words.

    Raises:
        NoSpace, NotPermitted, DiskFailed: It cannot be written down; nothing is done.
    """

    def write(text: str) -> None:
        _append(site / FILE, f"{format_time(clock.now())} {who}: {_in_one_line(text)}")

    with disk_errors(site / FILE):
        write(what)
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):  # the block's own error is what to tell
            write(f"not done: {what}: {_why(error)}")
        raise


class Change(NamedTuple):
    """A line of the log.

    Attributes:
        time: When, in seconds; None where the line does not say it.
        who: Who made the change.
        what: What was changed.
    """

    time: int | None
    who: str
    what: str


def latest_changes(site: Path, limit: int) -> list[Change]:
    """Return what was changed last, newest first; nothing if there is no log.

    Args:
        site: The site.
        limit: How many changes at most.
    """
    try:
        with open(site / FILE, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit * _LONG))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    if size > limit * _LONG:
        del lines[0]  # the half of one
    return [_parse(line) for line in reversed(lines[-limit:])]


def _parse(line: str) -> Change:
    """Read a line; people write here as well, and power cuts leave halves."""
    plain = _in_one_line(line)
    stamp, _, rest = plain.partition(" ")
    who, mark, what = rest.partition(": ")
    try:
        return Change(parse_time(stamp), who, what) if mark else Change(None, "", plain)
    except Malformed:
        return Change(None, "", plain)


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    said = error.strerror if isinstance(error, OSError) else str(error)
    return said or type(error).__name__


def _in_one_line(text: str) -> str:
    return "".join(mark if mark.isprintable() else " " for mark in text)


def _append(path: Path, line: str) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        is_whole = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        start = "" if is_whole else "\n"  # after what a power cut has left
        write_all(descriptor, f"{start}{line}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not size:
        fsync_directory(path.parent)
        hand_over(path.parent, [path])
