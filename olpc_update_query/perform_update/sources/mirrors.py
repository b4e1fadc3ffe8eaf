"""Mirrors: the sources of one order that have the same files, the best first."""

import time
from collections.abc import Iterable

from olpc_update_query import errors
from olpc_update_query.perform_update.sources.health import Health, Trouble
from olpc_update_query.perform_update.sources.spool import AnotherFile, Files

ROOM = 4  # connections to one server at a time
RANGES = 100  # ranges of a file in one request; Apache takes up to 200
_FINAL = (
    AnotherFile,
    errors.BuildNotFound,
    errors.CorruptContent,
    errors.NoAnswer,
    errors.ProxyRefused,
)
_STRIKES = 2  # failures in a row of a mirror that has given nothing yet
_MORE_STRIKES = 6  # and of one that has
_REST = 8.0  # seconds that a slow mirror is left alone; twice as long each time


class Mirror:
    """One source in this run.

    Attributes:
        files: What it has.
        room: How many connections it takes at a time.
        ranges: How many ranges of a file it gives in one reply.
        rate: Bytes a second of one connection, once that is known.
        shown: The files of which it has given something.
        absent: Why it is not asked for a file again, by name.
        is_slow: Whether another was far faster.
    """

    def __init__(self, files: Files, health: Health) -> None:
        self.files, self.url, self._health = files, files.url, health
        self.room, self.ranges = ROOM, RANGES
        self.rate, self.is_slow = 0.0, False
        self.shown: set[str] = set()
        self.absent: dict[str, errors.UpdateError] = {}
        self._strikes, self._rested, self._lags = 0, 0.0, 0

    @property
    def is_proven(self) -> bool:
        """Whether it has given something, in this run or in the last one."""
        return bool(self.shown) or self._health.is_good(self.url)

    def can_give(self, name: str) -> bool:
        """Say whether it is worth asking for a file, now or later."""
        return name not in self.absent

    def is_awake(self) -> bool:
        """Say whether it may be asked now."""
        return time.monotonic() >= self._rested

    def wake(self) -> None:
        """Let it be asked now."""
        self._rested = 0.0

    def rest(self, seconds: float) -> None:
        """Ask others for a while."""
        self._rested = time.monotonic() + seconds

    def do_well(self, rate: float) -> None:
        """Note that it gave all that it was asked for, so many bytes a second."""
        self._strikes, self.rate = 0, rate
        self._health.note(self.url, None)

    def fall_behind(self) -> None:
        """Note that it is silent, or far slower than another."""
        self.is_slow = True
        self.rest(_REST * 2.0**self._lags)
        self._lags += 1
        self._health.note(self.url, Trouble.SLOW)

    def fail(self, name: str, error: errors.UpdateError, *, moved: bool) -> None:
        """Note a failure.

        Args:
            name: The file that it was asked for.
            error: What happened.
            moved: Whether bytes had come before.
        """
        if isinstance(error, _FINAL):
            self.absent[name] = error
            if isinstance(error, errors.CorruptContent):
                self._health.note(self.url, Trouble.LIED)
            return
        self._strikes = 1 if moved else self._strikes + 1
        if self._strikes >= (_MORE_STRIKES if self.shown else _STRIKES):
            self.absent[name] = error
            self._health.note(self.url, Trouble.FAILED)
        elif not moved:
            self.rest(min(2.0 ** (self._strikes - 1), _REST))


def ranked(mirrors: Iterable[Mirror]) -> list[Mirror]:
    """Return mirrors in the order in which to ask them."""
    return sorted(mirrors, key=lambda mirror: mirror.is_slow)
