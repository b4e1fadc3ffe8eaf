"""When a run is started, and what is told about it. All in one thread."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from olpc_update_query.daemon.child import Ended, Progress, Step, Told
from olpc_update_query.daemon.links import Link, LinkWatch
from olpc_update_query.policy.due import may_skip, parse_due
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.ports import Clock
from olpc_update_query.system.files import read_bounded
from olpc_update_query.system.notify import notify
from olpc_update_query.system.work import work_area

PAUSE = 300.0
"""Seconds after a run that reached nobody; a new link ends the pause."""

OFFLINE_PAUSE = 3600.0
"""The same while NetworkManager says that there is no link, which it may not know."""

ALARM = 60
"""A due time less than so many seconds off gets a tick of its own."""

_BY_ITSELF = (Trigger.PORTAL, Trigger.GATE)  # they may lead to a query before its time
_log = logging.getLogger(__name__)


class News(Protocol):
    """Who wants to know what the daemon does."""

    def state(self, state: str, text: str) -> None:
        """Tell that a run began, goes on with another step, or ended."""

    def progress(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived."""


class Timetable(Protocol):
    """Where work is left, and alarms are set (``daemon.loop``)."""

    def post(self, work: Callable[[], object]) -> None:
        """Have something done in the daemon's thread."""

    def alarm(self, seconds: float) -> None:
        """Tick once more in so many seconds."""


class Run(Protocol):
    """A run that is under way."""

    def stop(self) -> None:
        """End it where it may end."""


class Runs(Protocol):
    """How a run is started: as a child (``daemon.child``), as units (``units``)."""

    def begin(
        self,
        trigger: Trigger,
        hear: Callable[[Told], object],
        end: Callable[[int], object],
        *,
        now: bool,
    ) -> Run:
        """Start a run.

        Args:
            trigger: What woke the daemon.
            hear: Called with each thing that it tells, in a thread.
            end: Called with its exit code when it has ended, in a thread.
            now: Ask even if no query is due.

        Raises:
            OSError: It cannot be started.
        """


class Keeper:
    """The run that is under way, and the reasons to start the next.

    Args:
        runs: How a run is started.
        root: Where the laptop's file system begins.
        clock: The machine's clocks.
        timetable: The daemon's thread.
        news: Who wants to know.
    """

    def __init__(
        self,
        runs: Runs,
        root: Path,
        clock: Clock,
        timetable: Timetable,
        news: News,
    ) -> None:
        self._runs, self._root, self._clock = runs, root, clock
        self._timetable, self._news = timetable, news
        self._watch = LinkWatch()
        self._run: Run | None = None
        self._pending: Trigger | None = None
        self._paused_until = 0.0

    # --- what wakes it --------------------------------------------------------------

    def tick(self) -> None:
        """Start a run if one is due, unless the last one reached nobody just now."""
        notify("WATCHDOG=1")
        if self._clock.boottime() >= self._paused_until:
            self.wake(Trigger.TIMER)

    def wake(self, trigger: Trigger, *, now: bool = False) -> str:
        """Start a run, or say why not.

        Args:
            trigger: What woke the daemon.
            now: Ask even if no query is due.

        Returns:
            ``started``, ``running`` or ``not-due``.
        """
        if self._run is not None:
            self._pending = _weightier(trigger, self._pending)
            return "running"
        if not (now or trigger in _BY_ITSELF or self._is_due()):
            return "not-due"
        self._start(trigger, now=now)
        return "started"

    def link_changed(self, link: Link) -> None:
        """Take note of how the link is now."""
        trigger = self._watch.see(link)
        if trigger is not None:
            _log.debug("%s: %s", trigger, link)
            self._paused_until = 0.0
            self.wake(trigger)

    def link_unknown(self) -> None:
        """Forget the link: NetworkManager is gone."""
        self._watch.forget()
        self._paused_until = 0.0

    def mains_came_back(self) -> None:
        """Go on with a build that waited for mains power."""
        self.wake(Trigger.GATE)

    def resumed(self) -> None:
        """Look whether the laptop slept past its time."""
        self._paused_until = 0.0
        self.tick()

    # --- the run --------------------------------------------------------------------

    def _is_due(self) -> bool:
        return not may_skip(self._due(), self._clock.now())

    def _due(self) -> str:
        try:
            return read_bounded(work_area(self._root).asker / "due", 64).decode()
        except (OSError, ValueError):
            return ""

    def _start(self, trigger: Trigger, *, now: bool) -> None:
        post = self._timetable.post
        try:
            self._run = self._runs.begin(
                trigger,
                lambda told: post(partial(self._hear, told)),
                lambda code: post(partial(self._ended, code)),
                now=now,
            )
        except OSError as error:
            _log.warning("a run cannot be started: %s", error)
            return
        self._tell("running", f"woken by: {trigger}")

    def run_told(self, told: Told) -> None:
        """Take note of what a unit tells: of our run, if one is under way."""
        if self._run is not None:
            self._hear(told)

    def _hear(self, told: Told) -> None:
        match told:
            case Progress(done, total):
                self._news.progress(done, total)
            case Step(text):
                self._tell("running", text)
            case Ended(text):
                _log.info("%s", text)
                self._tell("running", text)

    def _ended(self, code: int) -> None:
        self._run = None
        _log.debug("the run ended with exit code %s", code)
        self._pause()
        self._tell("idle", f"the last run ended with exit code {code}")
        pending, self._pending = self._pending, None
        if pending is not None:
            self.wake(pending)

    def _pause(self) -> None:
        """Plan the next tick by what the run has left in the due file."""
        due, now = parse_due(self._due()), self._clock.now()
        if due is not None and now < due[1]:
            self._paused_until = 0.0
            if due[1] - now < ALARM:
                self._timetable.alarm(due[1] - now)
            return
        link = self._watch.link
        offline = link is not None and not link.is_usable
        pause = OFFLINE_PAUSE if offline else PAUSE
        self._paused_until = self._clock.boottime() + pause

    def _tell(self, state: str, text: str) -> None:
        notify(f"STATUS={state}: {text}")
        self._news.state(state, text)

    def close(self) -> None:
        """End the run that is under way; what it has reached is kept."""
        if self._run is not None:
            self._run.stop()


def _weightier(one: Trigger, other: Trigger | None) -> Trigger:
    """Return which of two triggers to remember while a run is under way."""
    order = (Trigger.PORTAL, Trigger.GATE, Trigger.NETWORK)
    return next((known for known in order if known in (one, other)), one)
