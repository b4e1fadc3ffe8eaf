"""``changes.log``: who changed what, and when, one line each.

A line is on the disk before its change is made: whenever the power fails, no change is
without its record. What was refused or failed after its line gets a second one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from olpc_update_query.model.wire import format_time
from olpc_update_query.ports import Clock
from olpc_update_query.server.ownership import hand_over
from olpc_update_query.system.files import disk_errors, fsync_directory, write_all

FILE: Final = "changes.log"


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
