"""Lanes: connections that carry pieces of one file side by side.

Each is a thread. It asks one mirror for a span, and puts what comes into the spool.
Whoever is in charge (`download`) can shorten a span while it comes.
"""

import threading
import time
from typing import Protocol

from olpc_update_query import errors
from olpc_update_query.perform_update.sources.mirrors import Mirror
from olpc_update_query.perform_update.sources.spool import (
    OVERLAP,
    AnotherFile,
    Feed,
    Spool,
    differs,
)
from olpc_update_query.perform_update.spans import Span

_GLIMPSE = 64  # bytes compared at a mirror that has shown more before


class Dispatcher(Protocol):
    """Who is in charge of the lanes."""

    name: str
    spool: Spool
    limit: int
    lock: threading.Condition

    def heard(self, lane: "Lane") -> None:
        """Note that new bytes came."""

    def lacking(self, start: int, end: int) -> list[Span]:
        """Return what of these bytes is wanted and has not come."""

    def finish(self) -> int:
        """Return where the last of what is wanted ends."""


class Lane:
    """One connection at work; every attribute is guarded by the dispatcher's lock.

    Attributes:
        mirror: Whom it asks.
        position: Offset of the byte that it needs next.
        end: Where its span ends; whoever lowers it takes the rest away.
        got: How many bytes have come.
        gave: How many of them were new.
        begun: When it was begun, by the monotonic clock: a laptop that was suspended
            meanwhile has not waited.
        moved: When bytes last came.
        is_cancelled: Whether its span was taken away.
        is_over: Whether it has ended.
        error: Why, if not because all had come.
    """

    def __init__(self, mirror: Mirror, dispatcher: Dispatcher, span: Span) -> None:
        self.mirror, self._dispatcher = mirror, dispatcher
        self.position, self.end = span
        self.got = self.gave = 0
        self.is_cancelled = self.is_over = False
        self.begun = self.moved = time.monotonic()
        self.error: BaseException | None = None
        threading.Thread(target=self._run, name="lane", daemon=True).start()

    def cancel(self) -> None:
        """Take its span away; the connection goes as soon as it notices."""
        self.end, self.is_cancelled = self.position, True

    def rate(self, now: float) -> float:
        """Return how many bytes a second have come."""
        return self.got / max(now - self.begun, 0.001)

    def left(self, now: float) -> float:
        """Return how many seconds it still needs, at its rate so far."""
        return (self.end - self.position) / max(self.rate(now), 0.001)

    def _run(self) -> None:
        try:
            self._carry()
        except BaseException as error:  # noqa: BLE001 - the dispatcher raises it
            self.error = error
        with self._dispatcher.lock:
            self.is_over = True
            self._dispatcher.lock.notify()

    def _carry(self) -> None:
        name, spool = self._dispatcher.name, self._dispatcher.spool
        with self._dispatcher.lock:
            overlap = _GLIMPSE if name in self.mirror.shown else OVERLAP
            start = self.position - min(spool.have.run_before(self.position), overlap)
            asked = self.end
        with Feed(self.mirror.files, name, start, asked - start) as feed:
            with self._dispatcher.lock:
                self._begin(feed)
            for at, data in feed.read():
                if feed.is_ranged and feed.position > asked:
                    what = f"the bytes up to {asked}"
                    raise errors.CorruptContent(feed.url, what, "more")
                with self._dispatcher.lock:
                    if not self._accept(at, data, feed):
                        return
        with self._dispatcher.lock:
            self._finish(feed)

    def _begin(self, feed: Feed) -> None:
        """Compare what the mirror says of the file with what is known of it."""
        spool, total = self._dispatcher.spool, feed.total
        if not feed.is_ranged and not self.is_cancelled:
            self.mirror.room = 1  # all of it comes, whatever is asked for
            self.end = max(self.end, self._dispatcher.finish())
        if total is None:
            return
        if total == 0:
            raise _nothing(feed)
        if total > self._dispatcher.limit:
            what = f"at most {self._dispatcher.limit} bytes"
            raise errors.CorruptContent(feed.url, what, f"{total}")
        if spool.length not in {None, total}:
            raise AnotherFile(feed.url, f"it has {total} bytes, not {spool.length}")
        spool.length = total
        self.end = min(self.end, total)

    def _accept(self, at: int, data: bytes, feed: Feed) -> bool:
        """Take in what came; say whether there is more to come."""
        spool = self._dispatcher.spool
        if self.position >= self.end:
            return False
        if differs(spool, at, data):
            raise AnotherFile(feed.url, "it is another file than before")
        self.got += len(data)
        self.moved = time.monotonic()
        stop = at + len(data)
        if stop > self._dispatcher.limit:
            what = f"at most {self._dispatcher.limit} bytes"
            raise errors.CorruptContent(feed.url, what, "more")
        end = min(stop, self.end)
        for start, until in self._dispatcher.lacking(self.position, end):
            spool.write(start, data[start - at : until - at], self.mirror.url)
            self.gave += until - start
            self.mirror.shown.add(self._dispatcher.name)
        self.position = max(self.position, end)
        self._dispatcher.heard(self)
        return self.position < self.end

    def _finish(self, feed: Feed) -> None:
        """Judge the end of what came."""
        spool = self._dispatcher.spool
        if spool.length is None and feed.total is None and not feed.is_ranged:
            if feed.position == 0:
                raise _nothing(feed)
            spool.length = feed.position
        elif self.position < self.end:
            reason = f"it ends after {self.position} bytes, not {self.end}"
            raise errors.NetworkError(feed.url, reason)


def _nothing(feed: Feed) -> errors.CorruptContent:
    """Return the error of a file that is there and empty: no file of a build is."""
    return errors.CorruptContent(feed.url, "a file of a build", "an empty one")
