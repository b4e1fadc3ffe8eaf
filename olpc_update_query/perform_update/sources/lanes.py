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
from olpc_update_query.perform_update.spans import Span, Spans, size_of

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
        asked: What of its span it has asked for.
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
        self.asked = [span]
        self._ranges = mirror.ranges  # what the span was chosen for
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
        return size_of(self.rest()) / max(self.rate(now), 0.001)

    def rest(self) -> list[Span]:
        """Return what it has asked for and has not got."""
        return list(Spans(self.asked).within(self.position, self.end))

    def _run(self) -> None:
        try:
            self._carry()
        except BaseException as error:  # noqa: BLE001 - the dispatcher raises it
            self.error = error
        with self._dispatcher.lock:
            self.is_over = True
            self._dispatcher.lock.notify()

    def _carry(self) -> None:
        with self._dispatcher.lock:
            spans = self._choose()
        if not spans:
            return
        with Feed(self.mirror.files, self._dispatcher.name, spans) as feed:
            with self._dispatcher.lock:
                self._begin(feed)
            if not self._take_in(feed, spans):
                return
        with self._dispatcher.lock:
            self._finish(feed)

    def _choose(self) -> list[Span]:
        """Return what to ask for: what is lacking, or all from its first to its last.

        It begins with bytes that are there, to see that it is the same file.
        """
        lacking = self._dispatcher.lacking(self.position, self.end)
        if not lacking:
            return []
        if self._ranges == 1:
            lacking = [Span(lacking[0].start, lacking[-1].end)]
        self.asked = lacking[: self._ranges]
        self.position, self.end = self.asked[0].start, self.asked[-1].end
        is_known = self._dispatcher.name in self.mirror.shown
        overlap = _GLIMPSE if is_known else OVERLAP
        known = self._dispatcher.spool.have.last_before(self.position)
        start = max(known.start, known.end - overlap)
        if known.end == self.position:
            return [self.asked[0]._replace(start=start), *self.asked[1:]]
        if len(self.asked) > 1 and known.end and not is_known:
            return [Span(start, known.end), *self.asked]
        return self.asked

    def _take_in(self, feed: Feed, spans: list[Span]) -> bool:
        """Take in what comes; say whether it came to its end."""
        asked = spans[-1].end
        for at, data in feed.read():
            if feed.is_ranged and feed.position > asked:
                what = f"the bytes up to {asked}"
                raise errors.CorruptContent(feed.url, what, "more")
            with self._dispatcher.lock:
                # behind the last of several ranges little is left to come
                if not self._accept(at, data, feed) and (
                    len(spans) == 1 or self.end < asked
                ):
                    return False
        return True

    def _begin(self, feed: Feed) -> None:
        """Compare what the mirror says of the file with what is known of it."""
        spool, total = self._dispatcher.spool, feed.total
        if not feed.is_ranged and not self.is_cancelled:
            self.mirror.room = 1  # all of it comes, whatever is asked for
            self.end = max(self.end, self._dispatcher.finish())
            self.asked = [Span(self.position, self.end)]
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
        self.position = max(self.position, at)
        if differs(spool, at, data):
            raise AnotherFile(feed.url, "it is another file than was begun with")
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
        if len(self.asked) > 1:
            self._count_ranges()
            return
        if spool.length is None and feed.total is None and not feed.is_ranged:
            if feed.position == 0:
                raise _nothing(feed)
            spool.length = feed.position
        elif self.position < self.end:
            reason = f"it ends after {self.position} bytes, not {self.end}"
            raise errors.NetworkError(feed.url, reason)

    def _count_ranges(self) -> None:
        """Ask for no more ranges at once than the mirror gives."""
        have = self._dispatcher.spool.have
        come = sum(have.covers(*span) for span in self.asked)
        if come < len(self.asked) and not self.is_cancelled:
            self.mirror.ranges = max(min(come, self.mirror.ranges), 1)


def _nothing(feed: Feed) -> errors.CorruptContent:
    """Return the error of a file that is there and empty: no file of a build is."""
    return errors.CorruptContent(feed.url, "a file of a build", "an empty one")
