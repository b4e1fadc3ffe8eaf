"""One file, from as many mirrors and connections as it takes.

It begins with one connection to the best mirror. Another one is added while much is
left to do, and for as long as that makes the whole faster: over a link that loses
packets one connection gets a fifth of the bandwidth. A mirror that says nothing for
four seconds, or is far slower than another, is left: its span is given to the next,
and what it gave is kept. No counter ends a download that moves.

Small spans all over a file are asked for many at a time. A mirror that cannot do that
is asked for few long ones, with what lies between, which is dropped.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from olpc_update_query import errors
from olpc_update_query.model.pack import Range, coalesce
from olpc_update_query.perform_update.sources.lanes import Lane
from olpc_update_query.perform_update.sources.mirrors import Mirror, ranked
from olpc_update_query.perform_update.sources.spool import AnotherFile, Spool
from olpc_update_query.perform_update.spans import Span, Spans, offset_in, size_of
from olpc_update_query.ports import Clock, Progress, RangesRefused

HEAD = 256 * 1024  # bytes asked for first, when it is not known how fast they come
SPELL = 10.0  # seconds that what is asked for in one go shall take
SILENCE = 4.0  # seconds after which another mirror is asked for the same
LONG_SILENCE = 45.0  # the same, when the only other way is a new connection
HOPE = 1.5  # seconds that an unknown mirror has for its first byte
LONG_HOPE = 3.0  # and one that was good before
HASTE = 0.4  # and every one after that
WORTHWHILE = 4.0  # seconds still to go that make another connection worth while
PROBATION = 2.5  # seconds after which a connection must have shown what it is worth
GAIN = 1.15  # by how much one more must make the whole faster
LAG = 8  # a mirror that is so many times slower than another is left
MOST = 6  # connections at a time
RACERS = 8  # the same, while nothing at all has come
PAUSE = 1.0  # seconds before mirrors are asked again that have all failed
_TICK = 0.2
_ENDS_ALL = (errors.NoSpace, errors.DiskFailed, errors.NotPermitted)


_log = logging.getLogger(__name__)


class Download:
    """A file on its way into its spool.

    Args:
        mirrors: Whom to ask, the best first.
        name: The file, by its path in the build's directory.
        spool: Where it goes.
        limit: The most bytes that it may have.
        clock: For pauses when nobody answers.
        audience: Who is told of mirrors that are left.
        tell: Called now and then while it moves.
    """

    def __init__(  # noqa: PLR0913 - a file, its sources, its place, and who is told
        self,
        mirrors: Sequence[Mirror],
        name: str,
        spool: Spool,
        *,
        limit: int,
        clock: Clock,
        audience: Progress,
        tell: Callable[[], None],
    ) -> None:
        self._audience = audience
        self.name, self.spool, self.limit = name, spool, limit
        self.lock = threading.Condition()
        self._mirrors, self._clock, self._tell = mirrors, clock, tell
        self._lanes: list[Lane] = []
        self._wanted, self._bridged = Spans(), Spans()
        self._target, self._is_enough = 1, False
        self._added, self._before = 0.0, 0.0
        self._pauses = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=12)

    def fetch_all(self) -> None:
        """Fetch the whole file, whose length nobody has told yet.

        Raises:
            UpdateError: See ``fill``.
        """
        while self.spool.length is None or self.spool.size < self.spool.length:
            begun = self.spool.size
            self.fill([Span(begun, self.spool.length or begun + HEAD)])

    def fill(self, wanted: Iterable[Span]) -> None:
        """Fetch spans of the file, as far as it reaches.

        Raises:
            AnotherFile: No mirror has the file that the spool is a part of.
            NetworkError: No mirror gives any more; what has come is kept.
            CorruptContent: Every mirror has more than there may be.
            TreeError: The disk is full or failing.
        """
        self._wanted = Spans(wanted)
        stretches = (Range(start, end - start) for start, end in self._wanted)
        self._bridged = Spans(
            (start, start + length) for start, length in coalesce(stretches)
        )
        try:
            with self.lock:
                while self._gaps():
                    self._reap()
                    now = time.monotonic()
                    self._judge(now)
                    self._staff(now)
                    if self._gaps():
                        self.lock.wait(_TICK)
                        self.spool.sync_when_due()
                        self._tell()
        finally:
            with self.lock:
                for lane in self._lanes:
                    lane.cancel()
                self._lanes.clear()
        self._tell()

    # --- what is left to do -----------------------------------------------------

    def _gaps(self) -> list[Span]:
        return self.lacking(0, self.finish())

    def _free(self) -> Span | None:
        """Return the first stretch with a gap that no lane is after."""
        taken = Spans((lane.position, lane.end) for lane in self._lanes)
        for stretch in taken.gaps(0, self.finish()):
            if self.lacking(*stretch):
                return stretch
        return None

    def lacking(self, start: int, end: int) -> list[Span]:
        """Return what of these bytes is wanted and has not come."""
        if self.spool.length is not None:
            end = min(end, self.spool.length)
        wanted = self._wanted.within(start, end)
        return [gap for span in wanted for gap in self.spool.have.gaps(*span)]

    def finish(self) -> int:
        """Return where the last of what is wanted ends."""
        return self._wanted.finish

    def heard(self, lane: Lane) -> None:
        """Leave a span that several were asked for to the one that brings it."""
        for other in self._lanes:
            overlap = lane.position < other.end and other.position < lane.end
            is_silent = not other.got or other.moved <= lane.begun
            if other is not lane and overlap and is_silent:
                other.cancel()
                if lane.moved - other.moved >= HASTE:
                    other.mirror.is_slow = True  # not to be waited for once more

    # --- who is at work -------------------------------------------------------------

    def _reap(self) -> None:
        """Take leave of the lanes that have ended."""
        now = time.monotonic()
        for lane in [lane for lane in self._lanes if lane.is_over]:
            self._lanes.remove(lane)
            error = lane.error
            _log.debug(
                "%s: %s at %d of %d, %d bytes in %.1f s, %d of them new: %s",
                lane.mirror.url,
                self.name,
                lane.position,
                lane.end,
                lane.got,
                now - lane.begun,
                lane.gave,
                error or ("taken away" if lane.is_cancelled else "done"),
            )
            if error is None:
                if lane.got and not lane.is_cancelled:
                    lane.mirror.do_well(max(lane.rate(now), 1.0))
            elif isinstance(error, RangesRefused):
                lane.mirror.ranges = 1
            elif isinstance(error, _ENDS_ALL) or not isinstance(
                error, errors.UpdateError
            ):
                raise error
            elif not lane.gave and self._lanes_of(lane.mirror):
                lane.mirror.room = len(self._lanes_of(lane.mirror))
            else:
                lane.mirror.fail(self.name, error, moved=lane.gave > 0)
                if not lane.gave:
                    self._tell_of(lane.mirror, error)

    def _tell_of(self, mirror: Mirror, error: errors.UpdateError) -> None:
        """Tell what becomes of a mirror that gave nothing."""
        others = [other for other in self._mirrors if other is not mirror]
        if any(other.can_give(self.name) for other in others):
            self._audience.step(f"left for the next source: {error}")
        elif mirror.can_give(self.name):
            self._audience.step(f"asked again in a moment: {error}")

    def _lanes_of(self, mirror: Mirror) -> list[Lane]:
        return [lane for lane in self._lanes if lane.mirror is mirror]

    def _judge(self, now: float) -> None:
        """Leave mirrors that are silent, or far slower than another."""
        self._marks.append((now, self.spool.have.total))
        for lane in self._lanes:
            if not self._has_other(lane.mirror):
                continue
            is_silent = now - lane.moved >= SILENCE
            if is_silent and lane.mirror.is_awake():
                self._leave(lane.mirror, f"silent for {SILENCE:.0f} seconds")
            elif not is_silent and now - lane.begun >= PROBATION:
                best = self._best_rate(lane.mirror, now)
                if lane.rate(now) * LAG < best:
                    lane.cancel()
                    lane.mirror.rate = lane.rate(now)
                    self._leave(lane.mirror, "far slower than another")

    def _leave(self, mirror: Mirror, reason: str) -> None:
        mirror.fall_behind()
        self._audience.step(f"left for the next source: {mirror.url}: {reason}")

    def _has_other(self, mirror: Mirror) -> bool:
        return any(
            other is not mirror and other.can_give(self.name) and other.is_awake()
            for other in self._mirrors
        )

    def _best_rate(self, mirror: Mirror, now: float) -> float:
        """Return how fast the fastest other mirror is, by one connection."""
        rates = [other.rate for other in self._mirrors if other is not mirror]
        rates += [
            lane.rate(now)
            for lane in self._lanes
            if lane.mirror is not mirror and lane.got >= HEAD // 8
        ]
        return max(rates, default=0.0)

    # --- who is asked next ----------------------------------------------------------

    def _staff(self, now: float) -> None:
        """Put mirrors to work."""
        live = [lane for lane in self._lanes if now - lane.moved < SILENCE]
        if self._lanes and not any(lane.got for lane in self._lanes):
            self._race(now)
        elif len(live) < self._target:
            self._put_to_work(now)
        elif self._wants_more(now):
            self._added, self._before = now, self._rate()
            self._target += 1
            if not self._put_to_work(now):
                self._target -= 1
        if not self._lanes:
            self._look_for_anybody(now)

    def _race(self, now: float) -> None:
        """While nothing at all has come, ask one more mirror for the same."""
        latest = max(self._lanes, key=lambda lane: lane.begun)
        hope = LONG_HOPE if latest.mirror.is_proven else HOPE
        if len(self._lanes) > 1:
            hope = HASTE
        if now - latest.begun < hope or len(self._lanes) >= RACERS:
            return
        busy = {id(lane.mirror) for lane in self._lanes}
        for mirror in self._available():
            if id(mirror) not in busy:
                job = self._job(mirror, Span(0, self.finish()))
                self._lanes += [Lane(mirror, self, job)] if job else []
                return

    def _wants_more(self, now: float) -> bool:
        """Tell whether one more connection is worth a try."""
        rate = self._rate()
        left = size_of(self._gaps())
        if self._target >= MOST or left < WORTHWHILE * rate:
            return False
        is_due = self._target > 1 and now - self._added >= PROBATION
        if is_due and not self._is_enough and rate < self._before * GAIN:
            self._is_enough = True
            self._target -= 1
        begun = min(lane.begun for lane in self._lanes) if self._lanes else now
        waited = now - max(self._added, begun)
        return not self._is_enough and waited >= PROBATION

    def _rate(self) -> float:
        """Return how many bytes a second have come lately."""
        if len(self._marks) < 2:
            return 0.0
        (then, had), (now, has) = self._marks[0], self._marks[-1]
        return (has - had) / max(now - then, 0.001)

    def _available(self) -> list[Mirror]:
        free = [
            mirror
            for mirror in self._mirrors
            if mirror.can_give(self.name)
            and mirror.is_awake()
            and len(self._lanes_of(mirror)) < mirror.room
        ]
        return sorted(ranked(free), key=lambda mirror: len(self._lanes_of(mirror)))

    def _put_to_work(self, now: float) -> bool:
        """Give somebody something to do; say whether there was both."""
        for mirror in self._available():
            span = self._free()
            if span is not None:
                span = self._job(mirror, span)
            else:
                span = self._take_over(mirror, now)
            if span is not None:
                self._lanes.append(Lane(mirror, self, span))
                return True
        return False

    def _job(self, mirror: Mirror, stretch: Span) -> Span | None:
        """Return how far into a stretch to ask a mirror for its gaps in one go."""
        gaps = self.lacking(*stretch)
        if not gaps:
            return None
        if mirror.ranges == 1:
            bridge = next(self._bridged.within(gaps[0].start, stretch.end))
            last = [gap for gap in gaps if gap.start < bridge.end][-1]
            gaps = [Span(gaps[0].start, last.end)]
        gaps = gaps[: mirror.ranges]
        portion = self._portion(mirror, size_of(gaps))
        return Span(gaps[0].start, offset_in(gaps, portion))

    def _portion(self, mirror: Mirror, length: int) -> int:
        """Return how many of so many bytes to ask a mirror for in one go."""
        portion = max(HEAD, int(mirror.rate * SPELL))
        # leave something for the connections that there are, and for one more
        shares = self._target + (length > mirror.rate * WORTHWHILE)
        if length > 2 * HEAD:
            portion = min(portion, max(length // shares, HEAD))
        # no crumbs, which would cost a request of their own
        return length if length < portion + HEAD // 4 else portion

    def _take_over(self, mirror: Mirror, now: float) -> Span | None:
        """Take a span, or the end of one, from the lane that needs longest for it."""
        busy = [lane for lane in self._lanes if lane.rest()]
        victim = max(busy, key=lambda lane: lane.left(now), default=None)
        if victim is None:
            return None
        silent = now - victim.moved
        if silent >= (LONG_SILENCE if victim.mirror is mirror else SILENCE):
            return self._job(mirror, Span(victim.position, victim.end))
        if victim.mirror is mirror or victim.left(now) < WORTHWHILE:
            return None
        mine, its = mirror.rate, victim.rate(now)
        share = its / (its + mine) if mine else 0.5
        rest = victim.rest()
        start = offset_in(rest, int(size_of(rest) * share))
        span = Span(start, victim.end)
        victim.end = start
        return self._job(mirror, span)

    def _look_for_anybody(self, now: float) -> None:
        """Nobody is at work: ask the next one, wait, or give up.

        Raises:
            NetworkError: Nobody is left to ask.
        """
        hopeful = [one for one in self._mirrors if one.can_give(self.name)]
        if not hopeful:
            raise self._reason()
        if not any(mirror.is_awake() for mirror in hopeful):
            self._clock.sleep(PAUSE * 2 ** min(self._pauses, 3))
            self._pauses += 1
            for mirror in hopeful:
                mirror.wake()
        self._put_to_work(now)

    def _reason(self) -> errors.UpdateError:
        """Say why nobody gives any more."""
        reasons = [mirror.absent[self.name] for mirror in self._mirrors]
        for error in reasons:
            if isinstance(error, AnotherFile):
                return error
        passing = [one for one in reasons if not isinstance(one, errors.BuildNotFound)]
        if not reasons:
            return errors.BuildNotFound(self.name, "no source has it")
        return (passing or reasons)[0]
