"""The laptop that a run is about, and the two sides that work on it.

The *asker* talks to the network, the *installer* touches what boots. Run by root they
are two processes: the asker is a child that can write nothing but its own part of the
work area, and the installer believes none of it before it has verified it again. Run
by anybody else, on a directory of his own, they are two functions in one process.
"""

import contextlib
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.ports import Clock, Transport
from olpc_update_query.report import Outcome, Report, failure
from olpc_update_query.system.files import refusal
from olpc_update_query.system.host import (
    Identity,
    SystemClock,
    draw_fraction,
    identity,
)
from olpc_update_query.system.keyring import load_keys
from olpc_update_query.system.network import proxies_for
from olpc_update_query.system.privilege import run_as
from olpc_update_query.system.settings import Settings
from olpc_update_query.system.state import StateStore
from olpc_update_query.system.work import (
    ASKER_USERS,
    WorkArea,
    area_in_memory,
    prepare,
    work_area,
)
from olpc_update_query.trust.keys import KeyRing

USER_AGENT = "olpc-update-query"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Machine:
    """The laptop that a run is about.

    Attributes:
        root: Where its file system begins.
        settings: What its administrator wants.
        ring: The keys it trusts.
        who: Who it is, or why nobody knows.
        work: Where the program keeps its things.
        clock: Its clocks.
        draw: The dice, 0 <= draw < 1.
    """

    root: Path
    settings: Settings
    ring: KeyRing
    who: Identity | errors.NoIdentity
    work: WorkArea
    clock: Clock
    draw: Callable[[], float] = draw_fraction

    @property
    def identity(self) -> Identity:
        """Who it is.

        Raises:
            NoIdentity: Nobody knows.
        """
        if isinstance(self.who, errors.NoIdentity):
            raise self.who
        return self.who

    @property
    def asker(self) -> StateStore:
        """The state that the asker keeps."""
        return StateStore(self.work.asker)

    @property
    def installer(self) -> StateStore:
        """The state that the installer keeps."""
        return StateStore(self.work.installer)

    @property
    def has_disk(self) -> bool:
        """Tell whether its work area is on a disk, where builds can be made."""
        return self.work != area_in_memory(self.root)

    def is_real(self) -> bool:
        """Tell whether this is the machine we run on, and we are its root."""
        return self.root == Path("/") and os.geteuid() == 0


def this_machine(root: Path, settings: Settings) -> Machine:
    """Find out what a run has to know about the laptop below ``root``.

    Who it is may be unknown, for then it can still go back to a build that works.
    """
    return Machine(
        root=root,
        settings=settings,
        ring=load_keys(root, threshold=settings.key_threshold),
        who=_who(root, settings),
        work=work_area(root),
        clock=SystemClock(),
    )


def with_room(machine: Machine) -> Machine:
    """Return the laptop with a work area that is there.

    A disk that is so full that none can be made must keep no lease from being renewed:
    then it is in memory. What else is wrong comes to light where it matters.

    Raises:
        TreeError: There is no room in memory either.
    """
    try:
        prepare(machine.work)
    except errors.NoSpace as full:
        machine = replace(machine, work=area_in_memory(machine.root))
        _log.warning("%s; until there is room, only the lease is looked after", full)
        prepare(machine.work)
    except errors.UpdateError as error:
        _log.debug("there is no work area yet: %s", error)
    return machine


def as_prepared(machine: Machine) -> Machine:
    """Return the laptop with the work area that there is: on the disk, or in memory."""
    spare = area_in_memory(machine.root)
    if spare.installer.is_dir() and not machine.work.installer.is_dir():
        return replace(machine, work=spare) if machine.has_disk else machine
    return machine


def _who(root: Path, settings: Settings) -> Identity | errors.NoIdentity:
    given = (settings.serial, settings.uuid)
    try:
        return identity(root, given if any(given) else None)
    except errors.NoIdentity as error:
        return error


# --- the asker's process ---------------------------------------------------------


class AskerEndedError(Exception):
    """The asker ended in an error, which it has told and written down itself."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def as_asker(
    machine: Machine,
    function: Callable[[], None],
    report: Report,
    facts: Mapping[str, Json] | None = None,
    *,
    reads_all: bool = False,
) -> None:
    """Do something as the asker.

    Args:
        machine: The laptop.
        function: What to do; what it returns is lost, see ``Slip``.
        report: The asker's, which is told when it fails.
        facts: What else the outcome tells then.
        reads_all: Let it read every file, whoever owns it.

    Raises:
        AskerEndedError: It failed and said so.
    """

    def guarded() -> int:
        try:
            function()
        except (errors.UpdateError, OSError) as found:
            error = refusal(found) if isinstance(found, OSError) else found
            outcome = with_next_due(failure(error), machine)
            report.end(replace(outcome, facts={**outcome.facts, **(facts or {})}))
            return error.exit_code
        return 0

    if is_separate(machine):
        code = run_as(ASKER_USERS, guarded, reads_all=reads_all)
    else:
        code = guarded()
    if code:
        raise AskerEndedError(code)


def is_separate(machine: Machine) -> bool:
    """Tell whether asker and installer are two processes.

    They are whenever root runs the program, unless ``--root`` names a directory that
    is closed to the asker's user: what lies there is root's own experiment.
    """
    if os.geteuid() != 0:
        return False
    return machine.root == Path("/") or _is_open(machine.work.asker)


def _is_open(path: Path) -> bool:
    places = (place for place in (path, *path.parents) if place.exists())
    return all(place.stat().st_mode & 0o001 for place in places)


def with_next_due(outcome: Outcome, machine: Machine) -> Outcome:
    """Add to an outcome when the next query is due."""
    due = machine.asker.read_due()
    if due is None:
        return outcome
    return replace(outcome, facts={**outcome.facts, "next_due": due[1]})


def set_clock(seconds: int) -> None:
    """Set the system clock; a clock that cannot be set is only a warning."""
    try:
        time.clock_settime(time.CLOCK_REALTIME, seconds)
    except OSError as error:
        _log.warning("the clock cannot be set: %s", error.strerror)


# --- the asker's network ----------------------------------------------------------


@contextlib.contextmanager
def network(machine: Machine) -> Iterator[Transport]:
    """Lend the way to the network, until the block ends.

    Raises:
        ConfigError: A proxy's address in the environment cannot be used.
    """
    from olpc_update_query.system.http import HttpTransport
    from olpc_update_query.system.throttle import ThrottledTransport

    proxies = proxies_for(machine.settings.proxy, os.environ)
    limit = machine.settings.bandwidth_limit
    if limit:
        transport: HttpTransport = ThrottledTransport(
            USER_AGENT, proxies, machine.clock, limit
        )
    else:
        transport = HttpTransport(USER_AGENT, proxies)
    with contextlib.closing(transport):
        yield transport


# --- what the asker may say to the installer ---------------------------------------


class Numbers(NamedTuple):
    """What the asker tells the installer, for the report only."""

    server: int = 0
    sent: int = 0
    received: int = 0
    requests: int = 0

    def pack(self) -> bytes:
        """Return them as octets of a fixed length."""
        return _NUMBERS.pack(*self)

    @classmethod
    def unpack(cls, octets: bytes) -> "Numbers":
        """Return what ``pack`` packed, or somebody made up: nothing negative."""
        return cls(*(max(number, 0) for number in _NUMBERS.unpack(octets)))


_NUMBERS = struct.Struct(f"<{len(Numbers._fields)}q")
NUMBERS_SIZE = _NUMBERS.size
"""Octets of packed numbers."""


class Parcel:
    """Memory that asker and installer share, for octets that are verified again.

    No file, because a full disk must keep no lease from being renewed.

    Args:
        limit: How many octets it holds.
    """

    _LENGTH = struct.Struct("<q")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shared = mmap.mmap(-1, self._LENGTH.size + limit)

    def put(self, octets: bytes) -> None:
        """Leave octets for the other side.

        Raises:
            ValueError: They are more than it holds.
        """
        if len(octets) > self._limit:
            raise ValueError(f"{len(octets)} octets do not fit into {self._limit}")
        start = self._LENGTH.size
        self._shared[start : start + len(octets)] = octets
        self._LENGTH.pack_into(self._shared, 0, len(octets))

    def take(self) -> bytes:
        """Return what the other side left, whatever it claims about the length."""
        start = self._LENGTH.size
        (length,) = self._LENGTH.unpack_from(self._shared, 0)
        return self._shared[start : start + min(max(length, 0), self._limit)]


class Slip:
    """Memory that asker and installer share, for whole numbers and nothing else."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, NUMBERS_SIZE)

    def write(self, numbers: Numbers) -> None:
        """Leave the numbers for the other side."""
        self._shared[:NUMBERS_SIZE] = numbers.pack()

    def read(self) -> Numbers:
        """Return what the other side left, nothing of it negative."""
        return Numbers.unpack(self._shared[:NUMBERS_SIZE])
