"""What a run tells: to whoever listens, to `status`, to the history, to the shell.

A run emits *events*, which are facts; only ``cli.render`` turns them into words for
people. What a run came to is an ``Outcome``: one log line, one exit code, one event of
the history. The status file follows the run while it is at work, so that a run that
was killed can be told from one that ended.

Nothing here may stop a run: a status or a history that cannot be written is a warning.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import format_time
from olpc_update_query.policy.decide import Decision
from olpc_update_query.policy.due import Due
from olpc_update_query.policy.pace import Pace
from olpc_update_query.policy.schedule import Trigger, Verdict
from olpc_update_query.ports import Clock
from olpc_update_query.system.host import boot_id
from olpc_update_query.system.state import StateStore
from olpc_update_query.trust.answer import TrustedAnswer
from olpc_update_query.trust.rotation import Statement

STATUS = "status"
PROGRESS_SECONDS = 5.0
"""How often the status file follows a download."""

_log = logging.getLogger(__name__)
_full: set[str] = set()
"""Directories of which it has been told that nothing can be written there any more."""


# --- events ----------------------------------------------------------------------


class Woken(NamedTuple):
    """A trigger came, and the schedule was asked."""

    trigger: Trigger
    now: int
    due: Due | None
    verdict: Verdict
    forced: bool


class Sleeps(NamedTuple):
    """An overdue laptop waits for its slot."""

    until: int


class Asking(NamedTuple):
    """A query is on its way."""

    server: str
    form: bytes


class Unanswered(NamedTuple):
    """A server gave no answer that counts; the next one is asked."""

    server: str
    error: errors.UpdateError


class Answered(NamedTuple):
    """A server gave an answer that verifies.

    Attributes:
        server: Which.
        trusted: The answer.
        keys: Who signed it: each key's name, and where that key was found.
    """

    server: str
    trusted: TrustedAnswer
    keys: tuple[tuple[str, str], ...]


class KeysChanged(NamedTuple):
    """The trusted keys are others now."""

    statements: tuple[Statement, ...]


class LeaseKept(NamedTuple):
    """The lease on the disk after this answer.

    Attributes:
        changed: Whether it was just installed.
        expiry: Until when it is good, None for ever.
    """

    changed: bool
    expiry: int | None


class LeaseRefused(NamedTuple):
    """The answer is good, its lease is not; the old one stays."""

    error: errors.UpdateError


class ClockSet(NamedTuple):
    """The system clock was set from a signed time."""

    before: int
    after: int


class Decided(NamedTuple):
    """What is done about the order, and why."""

    decision: Decision


Event = (
    Woken
    | Sleeps
    | Asking
    | Unanswered
    | Answered
    | KeysChanged
    | LeaseKept
    | LeaseRefused
    | ClockSet
    | Decided
)


class Audience(Protocol):
    """Who listens to a run."""

    def tell(self, event: Event) -> None:
        """Tell what has happened."""

    def step(self, text: str) -> None:
        """Tell one step of the installation, a plain sentence."""

    def transferred(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived."""

    def end(self, outcome: "Outcome") -> None:
        """Tell what it came to."""


# --- outcomes --------------------------------------------------------------------


class Result(StrEnum):
    """What a run came to."""

    NOT_DUE = "not-due"
    NOTHING = "nothing-to-do"
    WAITING = "waiting"
    DRY_RUN = "dry-run"
    HANDED_OVER = "handed-over"
    INSTALLED = "installed"
    ROLLED_BACK = "rolled-back"
    CONFIRMED = "confirmed"
    REPAIRED = "repaired"
    REFUSED = "refused"
    STOLEN = "stolen"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, for people, the shell and the history.

    Attributes:
        result: The kind.
        text: One plain line.
        exit_code: Of the process.
        hint: What a person should do, if anything.
        facts: What else the history and `--json` hold.
    """

    result: Result
    text: str
    exit_code: int = 0
    hint: str = ""
    facts: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return it as the object that `--json` prints and the history keeps."""
        found: dict[str, Json] = {
            **self.facts,
            "result": str(self.result),
            "text": self.text,
            "exit_code": self.exit_code,
        }
        return found | {"hint": self.hint} if self.hint else found


def failure(error: errors.UpdateError) -> Outcome:
    """Return what a run came to that ended in an error."""
    facts: dict[str, Json] = {"error": type(error).__name__, "retry": error.retry}
    return Outcome(
        Result.FAILED, str(error), error.exit_code, hint=error.hint(), facts=facts
    )


# --- the report of one side ------------------------------------------------------


class Report:
    """Where one side of a run, asker or installer, tells what it does.

    Args:
        store: The state of that side.
        audience: Who listens.
        clock: The machine's clocks.
        trigger: What woke the run.
        keeps: Whether anything is written down.
    """

    def __init__(
        self,
        store: StateStore,
        audience: Audience,
        clock: Clock,
        trigger: str,
        *,
        keeps: bool = True,
    ) -> None:
        self._store, self._audience, self._clock = store, audience, clock
        self._trigger, self._keeps = trigger, keeps
        self._run: dict[str, Json] = {}
        self._written = float("-inf")
        self._pace = Pace()

    def tell(self, event: Event) -> None:
        """Pass an event on."""
        self._audience.tell(event)

    def note(self, text: str) -> None:
        """Tell something that is over as soon as it is told."""
        self._audience.step(text)

    def begin(self, text: str) -> None:
        """Say that this side is at work from now on."""
        self._run = {
            **_this_process(),
            "trigger": self._trigger,
            "since": self._clock.now(),
            "step": text,
        }
        self._write_status()

    def step(self, text: str) -> None:
        """Tell one step of the installation (``ports.Progress``)."""
        self._audience.step(text)
        self._run["step"] = text
        for name in ("done", "total", "rate", "remaining"):
            self._run.pop(name, None)
        self._write_status()

    def transferred(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived (``ports.Progress``)."""
        self._audience.transferred(done, total)
        now = self._clock.boottime()
        self._pace.note(done, now)
        if now - self._written < PROGRESS_SECONDS:
            return
        self._run |= {"done": done, "total": total, "rate": self._pace.rate}
        self._run["remaining"] = self._pace.remaining(total)
        self._write_status()

    def record(self, outcome: Outcome) -> None:
        """Write down, and tell, what happened before this run."""
        self.note(outcome.text)
        if self._keeps:
            self._keep(outcome)

    def end(self, outcome: Outcome) -> None:
        """Say what this side came to, and that it is at work no longer."""
        if outcome.result is Result.HANDED_OVER:
            self.rest()  # what becomes of it the installer tells
        elif self._keeps:
            self._keep(outcome)
        self._audience.end(outcome)

    def _keep(self, outcome: Outcome) -> None:
        event = {"time": format_time(self._clock.now()), "trigger": self._trigger}
        event_json: dict[str, Json] = {**outcome.to_json(), **event}
        last = read_status(self._store).last
        with never_in_the_way("status"):
            self._store.save(STATUS, {"last": event_json})
        if not _is_repeated(outcome, last):
            with never_in_the_way("history"):
                self._store.append_history(event_json)

    def rest(self) -> None:
        """Say that this side is at work no longer, and leave the word to the other."""
        if not read_status(self._store).run:
            return
        with never_in_the_way("status"):
            self._store.save(STATUS, self._last())

    def _write_status(self) -> None:
        if not self._keeps:
            return
        self._written = self._clock.boottime()
        with never_in_the_way("status"):
            self._store.save(STATUS, self._last() | {"run": dict(self._run)})

    def _last(self) -> dict[str, Json]:
        last = read_status(self._store).last
        return {"last": dict(last)} if last else {}


def _is_repeated(outcome: Outcome, last: Mapping[str, Json]) -> bool:
    """Tell whether the history would say the same failure again, tick after tick."""
    same = outcome.text == last.get("text") and outcome.result == last.get("result")
    return same and outcome.result is Result.FAILED


@contextlib.contextmanager
def never_in_the_way(what: str) -> Iterator[None]:
    """Turn a disk that refuses to keep something into a warning.

    That a directory has no room for anything is told once.

    Args:
        what: What it refuses to keep.
    """
    try:
        yield
    except errors.UpdateError as error:
        level = logging.WARNING
        if isinstance(error, errors.NoSpace):
            place = str(Path(error.path).parent)
            level = logging.DEBUG if place in _full else level
            _full.add(place)
        _log.log(level, "the %s could not be written: %s", what, error)


# --- who is at work --------------------------------------------------------------


class Status(NamedTuple):
    """What the status file of one side says.

    Attributes:
        run: The run that is or was at work, empty when it ended.
        last: What the last run that ended came to.
        alive: Whether the process of ``run`` still exists; if not, the run was
            interrupted.
    """

    run: Mapping[str, Json]
    last: Mapping[str, Json]
    alive: bool


def read_status(store: StateStore) -> Status:
    """Read the status file; a process is known by its number and its start."""
    found = store.load(STATUS)
    run, last = found.get("run"), found.get("last")
    run = run if isinstance(run, dict) else {}
    return Status(run, last if isinstance(last, dict) else {}, _is_alive(run))


def _this_process() -> dict[str, Json]:
    pid = os.getpid()
    return {"pid": pid, "started": process_start(pid), "boot": boot_id(Path("/"))}


def _is_alive(run: Mapping[str, Json]) -> bool:
    pid = run.get("pid")
    if not isinstance(pid, int) or run.get("boot") != boot_id(Path("/")):
        return False
    started = process_start(pid)
    return started > 0 and run.get("started") == started


def process_start(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; 0 for none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The name stands in parentheses and may hold anything; 20 fields on is the start.
    fields = stat.rpartition(b")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] != b"Z" else 0
