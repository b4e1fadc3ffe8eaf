"""One thread that does everything, and APScheduler, which only ticks."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

Work = Callable[[], object]
LATE = 5.0
"""Seconds that a tick may be late before it is missed."""

_log = logging.getLogger(__name__)


class Loop:
    """Does what it is given, one thing after the other, from whichever thread.

    Args:
        tick: What to do regularly.
        seconds: How often.
    """

    def __init__(self, tick: Work, seconds: int) -> None:
        self._tick, self._seconds = tick, seconds
        self._inbox: SimpleQueue[Work] = SimpleQueue()
        self._goes_on = True
        self._scheduler = _scheduler()

    def post(self, work: Work) -> None:
        """Have something done; signal handlers may call this too."""
        self._inbox.put(work)

    def alarm(self, seconds: float) -> None:
        """Tick once more, in so many seconds; it replaces an earlier alarm."""
        from apscheduler.triggers.date import DateTrigger

        self._scheduler.add_job(
            self.post,
            DateTrigger(datetime.now(UTC) + timedelta(seconds=seconds), "UTC"),  # noqa: TID251
            args=[self._tick],
            id="alarm",
            replace_existing=True,
            misfire_grace_time=None,
        )

    def run(self) -> None:
        """Work until ``stop``."""
        self._begin_to_tick()
        self._scheduler.start()
        try:
            while self._goes_on:
                self._work()
        finally:
            self._scheduler.shutdown(wait=False)

    def stop(self) -> None:
        """End ``run`` when what it does just now is done."""
        self._goes_on = False
        self.post(bool)

    def _work(self) -> None:
        """Do the next thing.

        APScheduler goes by the clock on the wall. Where that is set back by a year it
        would tick again in a year, so ticks that are missing are begun anew.
        """
        try:
            work = self._inbox.get(timeout=2 * self._seconds + LATE)
        except Empty:
            _log.warning("no tick came: the clock was set back")
            self._begin_to_tick()
            return
        try:
            work()
        except Exception:  # noqa: BLE001 - one fault must not end the rest
            _log.exception("this is a bug in the daemon")

    def _begin_to_tick(self) -> None:
        """Tick, at once and then regularly.

        APScheduler leaves out a job that is a second late unless told otherwise, and
        a laptop that wakes up is late by hours.
        """
        from apscheduler.triggers.interval import IntervalTrigger

        self._scheduler.add_job(
            self.post,
            IntervalTrigger(seconds=self._seconds, timezone="UTC"),
            args=[self._tick],
            next_run_time=datetime.now(UTC),  # noqa: TID251 - it is APScheduler's clock
            id="tick",
            replace_existing=True,
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )


def _scheduler() -> "BackgroundScheduler":
    """Make a scheduler that ticks in its own thread, without a pool of others."""
    with _no_plugins():
        from apscheduler.executors.debug import DebugExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    return BackgroundScheduler(
        timezone="UTC", executors={"default": DebugExecutor()}, daemon=True
    )


@contextlib.contextmanager
def _no_plugins() -> Iterator[None]:
    """Keep APScheduler before 3.10, as Debian 12 has it, from ``pkg_resources``.

    It looks up the names of its plugins there, at the cost of 7 MB. We name none.
    """
    if "pkg_resources" in sys.modules:
        yield
        return
    stand_in = ModuleType("pkg_resources")

    def get_distribution(name: str) -> object:
        raise LookupError(name)

    stand_in.__dict__.update(
        iter_entry_points=lambda group: iter(()),
        get_distribution=get_distribution,
        DistributionNotFound=LookupError,
    )
    sys.modules["pkg_resources"] = stand_in
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]
