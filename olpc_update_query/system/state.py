"""What a run leaves for the next one: the due time, facts by name, and the history.

Nothing here is trusted or indispensable: a damaged file counts as absent, with a
warning, and the next run writes it afresh. Where absence allows something, as that of
a hold does, a disk that refuses to read is an error: see `StateStore.require`.
"""

import contextlib
import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query.errors import Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.policy.due import Due, format_due, parse_due
from olpc_update_query.system.files import (
    disk_errors,
    read_bounded,
    replace_file,
    write_all,
)

KEPT_EVENTS = 500
LONGEST_HISTORY = 256 * 1024
LARGEST_STATE = 1024 * 1024

_log = logging.getLogger(__name__)


class StateStore:
    """The state files of one side, asker or installer, in one directory.

    Args:
        directory: Where they are; it is made when something is first written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # --- the due time ---------------------------------------------------------

    def read_due(self) -> Due | None:
        """Return when the next query is due, or None when that is not known."""
        raw = self._read("due", 4096)
        if raw is None:
            return None
        due = parse_due(raw.decode("ascii", "replace"))
        if due is None:
            self._warn("due", "not two numbers")
        return due

    def write_due(self, due: Due) -> None:
        """Keep when the next query is due.

        Raises:
            TreeError: The disk refused.
            NotPermitted: The user may not write there.
        """
        self._write("due", format_due(due).encode())

    # --- facts by name --------------------------------------------------------

    def load(self, name: str) -> dict[str, Json]:
        """Return what was saved under ``name``; empty when absent or damaged."""
        return self._decode(name, self._read(f"{name}.json", LARGEST_STATE))

    def require(self, name: str) -> dict[str, Json]:
        """Return what `load` does, but only if it could be read.

        Raises:
            TreeError: The disk refused.
            NotPermitted: The user may not read it.
        """
        path = self.directory / f"{name}.json"
        with disk_errors(path):
            try:
                raw = read_bounded(path, LARGEST_STATE)
            except FileNotFoundError:
                return {}
            except ValueError as error:
                self._warn(path.name, str(error))
                return {}
        return self._decode(name, raw)

    def _decode(self, name: str, raw: bytes | None) -> dict[str, Json]:
        if raw is None:
            return {}
        try:
            found = canonical.decode(raw.removesuffix(b"\n"))
        except Malformed as error:
            self._warn(f"{name}.json", error.reason)
            return {}
        if not isinstance(found, dict):
            self._warn(f"{name}.json", "not an object")
            return {}
        return found

    def save(self, name: str, facts: dict[str, Json]) -> None:
        """Replace what is kept under ``name``, atomically.

        Raises:
            TreeError: The disk refused; the old facts are still there.
            NotPermitted: The user may not write there.
        """
        self._write(f"{name}.json", canonical.encode(facts) + b"\n")

    # --- the history ----------------------------------------------------------

    @property
    def _history(self) -> Path:
        return self.directory / "history.jsonl"

    def append_history(self, event: dict[str, Json]) -> None:
        """Add one event to the history; several processes may do so at once.

        It is one line of canonical JSON, so a newline in a text becomes a space.
        Past ``LONGEST_HISTORY`` bytes only the last ``KEPT_EVENTS`` events stay.

        Raises:
            TreeError: The disk refused.
            NotPermitted: The user may not write there.
        """
        line = canonical.encode(event).replace(b"\n", b" ") + b"\n"
        with disk_errors(self._history, needed=len(line)):
            os.makedirs(self.directory, exist_ok=True)
            with _locked_for_append(self._history) as descriptor:
                _append_line(descriptor, line)
                if os.fstat(descriptor).st_size > LONGEST_HISTORY:
                    replace_file(self._history, _newest(descriptor))

    def history(self, limit: int = KEPT_EVENTS) -> list[dict[str, Json]]:
        """Return the last ``limit`` events, oldest first; torn lines are left out."""
        raw = self._read("history.jsonl", 4 * LONGEST_HISTORY) or b""
        lines = raw.split(b"\n")
        events = [event for line in lines if (event := _event(line)) is not None]
        return events[-limit:] if limit > 0 else []

    # --- the files ------------------------------------------------------------

    def _read(self, name: str, limit: int) -> bytes | None:
        try:
            return read_bounded(self.directory / name, limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(name, error.strerror or str(error))
        except ValueError as error:
            self._warn(name, str(error))
        return None

    def _write(self, name: str, data: bytes) -> None:
        path = self.directory / name
        with disk_errors(path, needed=len(data)):
            os.makedirs(self.directory, exist_ok=True)
            replace_file(path, data)

    def _warn(self, name: str, reason: str) -> None:
        _warn_once(self.directory / name, reason)


@functools.cache
def _warn_once(path: Path, reason: str) -> None:
    """Say it once in a run, which may look at a file several times."""
    _log.warning("%s counts as absent: %s", path, reason)


@contextlib.contextmanager
def _locked_for_append(path: Path) -> Iterator[int]:
    """Open the file that ``path`` names while nobody else appends or trims it."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _still_named(path, descriptor):
                continue  # another process trimmed it while this one waited
            yield descriptor
            return
        finally:
            os.close(descriptor)


def _still_named(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _append_line(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line  # the power failed in the middle of the last one
    write_all(descriptor, line)
    os.fsync(descriptor)


def _newest(descriptor: int) -> bytes:
    """Return the last events, few enough that trimming is rare."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, LONGEST_HISTORY, max(size - LONGEST_HISTORY, 0))
    kept: list[bytes] = []
    room = LONGEST_HISTORY // 2
    for line in reversed(tail.split(b"\n")[1:-1][-KEPT_EVENTS:]):
        room -= len(line) + 1
        if kept and room < 0:
            break
        kept.append(line + b"\n")
    return b"".join(reversed(kept))


def _event(line: bytes) -> dict[str, Json] | None:
    try:
        found = canonical.decode(line)
    except Malformed:
        return None
    return found if isinstance(found, dict) else None
