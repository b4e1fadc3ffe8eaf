"""What is remembered of sources from one run to the next.

A source is known by its scheme, host and port. The order of an order's addresses is
its publisher's; one that made trouble lately comes behind those that did not.
"""

import contextlib
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.ports import Clock
from olpc_update_query.system.state import StateStore

NAME: Final = "sources"
_HOUR: Final = 3600
_MOST: Final = 64  # sources that are remembered


class Trouble(IntEnum):
    """What a source did; what is worse is greater."""

    SLOW = 1
    FAILED = 2
    LIED = 3


_KEPT: Final = {
    Trouble.SLOW: 6 * _HOUR,
    Trouble.FAILED: 24 * _HOUR,
    Trouble.LIED: 30 * 24 * _HOUR,
}
"""For how many seconds it counts."""


class Health:
    """The health of sources.

    Args:
        directory: Where it is kept; None to forget it at the end.
        clock: The machine's clocks.
    """

    def __init__(self, directory: Path | None, clock: Clock) -> None:
        self._store = None if directory is None else StateStore(directory)
        self._clock = clock
        self._known: dict[str, tuple[int, int]] = {}
        for name, value in (self._store.load(NAME) if self._store else {}).items():
            match value:
                case [int(kind), int(when)] if kind in {0, *Trouble}:
                    self._known[name] = (kind, when)

    def is_good(self, url: str) -> bool:
        """Say whether a source gave what it was asked for when it was last asked."""
        return self._known.get(_place(url), (-1, 0))[0] == 0

    def order(self, urls: Sequence[str]) -> list[str]:
        """Return addresses in the order in which to ask them."""
        return sorted(urls, key=self._trouble)

    def note(self, url: str, trouble: Trouble | None) -> None:
        """Note what a source did; None for nothing wrong.

        That it gave other things well does not clear a source that lied.
        """
        if trouble is None and self._trouble(url) == Trouble.LIED:
            return
        self._known[_place(url)] = (trouble or 0, self._clock.now())

    def save(self) -> None:
        """Keep it for the next run; a disk that refuses is no reason to fail."""
        latest = sorted(self._known.items(), key=lambda item: item[1][1])[-_MOST:]
        facts: dict[str, Json] = {name: [*known] for name, known in latest}
        if self._store is not None and facts:
            with contextlib.suppress(errors.UpdateError):
                self._store.save(NAME, facts)

    def _trouble(self, url: str) -> int:
        kind, when = self._known.get(_place(url), (0, 0))
        age = self._clock.now() - when
        is_old = not kind or not 0 <= age < _KEPT[Trouble(kind)]
        return 0 if is_old else kind


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
