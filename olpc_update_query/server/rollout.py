"""``rollout.toml``: which laptop gets which build.

The most specific assignment decides: of the laptop's serial number, else of its
group, else of its stream, else the default. ``percent`` lets a part of the laptops
in; which ones depends on serial number and build alone, so raising the percentage
only ever adds laptops. The others keep the build that ``others`` names, if it does.
"""

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed
from olpc_update_query.model.orders import Reboot
from olpc_update_query.model.wire import BuildId, parse_build_id
from olpc_update_query.server.laptops import normal_serial, parse_group, parse_stream
from olpc_update_query.server.tables import Table, read_table

FILE: Final = "rollout.toml"
OPTED_OUT: Final = "none"
"""The stream of a laptop whose owner wants no automatic updates."""

HALT: Final = 20
"""How many percent of the laptops that tried a build may fail, if nothing is said."""


class Kind(StrEnum):
    """What an assignment is for, most specific first."""

    SERIAL = "serial"
    GROUP = "group"
    STREAM = "stream"
    DEFAULT = "default"


class Scope(NamedTuple):
    """Whom an assignment is for.

    Attributes:
        kind: Of what.
        name: Which one; empty for the default.
    """

    kind: Kind = Kind.DEFAULT
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else "every other laptop"

    @property
    def option(self) -> str:
        """How a command names it, with a space before; nothing for the default."""
        return f" --{self.kind} {shlex.quote(self.name)}" if self.name else ""


DEFAULT: Final = Scope()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A build for some laptops.

    Attributes:
        build: The build.
        percent: How many of 100 laptops get it.
        others: The build for those that ``percent`` leaves out, None for no order.
        paused: Whether nobody is told anything for now.
        allow_downgrade: Whether to install it although a newer one is there.
        opens: From when on laptops are told, None for at once.
        closes: Until when, None for ever.
        not_before: When it may be activated, None for at once.
        reboot: When the laptops restart into it.
        sticky: Whether they keep it when they make room.
        halt: How many percent of those that tried the build may fail before the
            server pauses it; 100 for never.
        halted: Why the server has paused it.
        changed: When this was last changed.
        by: Who did.
    """

    build: BuildId
    percent: int = 100
    others: BuildId | None = None
    paused: bool = False
    allow_downgrade: bool = False
    opens: int | None = None
    closes: int | None = None
    not_before: int | None = None
    reboot: Reboot = Reboot.NEVER
    sticky: bool = False
    halt: int = HALT
    halted: str | None = None
    changed: int | None = None
    by: str | None = None

    @property
    def never_open(self) -> bool:
        """Whether it closes before it opens."""
        opens, closes = self.opens, self.closes
        return opens is not None and closes is not None and closes <= opens


class Choice(NamedTuple):
    """What a laptop is to run, and why.

    Attributes:
        build: The build to order, None for no order.
        reason: Why, in plain words.
        scope: Whose assignment decided, None when there is none.
        assignment: That assignment.
    """

    build: BuildId | None
    reason: str
    scope: Scope | None = None
    assignment: Assignment | None = None


def succeed(old: Assignment | None, build: BuildId, percent: int) -> Assignment:
    """Return the assignment that follows another one for the same laptops.

    Raising the percentage of the same build keeps everything else. For another build
    the others keep what all had so far: the old build if it had reached everybody
    and was not stopped, else what the others had then.

    Args:
        old: What was assigned before, if anything.
        build: The build to assign.
        percent: How many of 100 laptops get it.
    """
    if old is None:
        return Assignment(build, percent)
    if old.build == build:
        return replace(old, percent=percent)
    reached_all = old.percent == 100 and not old.paused
    return Assignment(build, percent, others=old.build if reached_all else old.others)


def admitted(serial: str, build: str, percent: int) -> bool:
    """Tell whether a laptop is among the first ``percent`` of 100 for a build.

    The share is drawn from SHA-256 of ``serial:build``, so it is the same on every
    server, and another one for the next build.
    """
    drawn = hashlib.sha256(f"{serial}:{build}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") * 100 < percent << 64


@dataclass(frozen=True, slots=True)
class Rollout:
    """All assignments of a site.

    Attributes:
        assignments: By whom they are for.
        paused: Whether nobody is told anything for now.
    """

    assignments: Mapping[Scope, Assignment]
    paused: bool = False

    def choose(
        self, serial: str, group: str | None, stream: str | None, now: int
    ) -> Choice:
        """Decide what a laptop is to run.

        Args:
            serial: Its serial number.
            group: Its group in laptops.csv.
            stream: The stream it follows.
            now: The present, for assignments that open or close.
        """
        if self.paused:
            return Choice(None, "all updates are paused")
        scope = self._scope(serial, group, stream)
        if scope is None and stream == OPTED_OUT:
            return Choice(None, 'its stream is "none": it wants no updates')
        if scope is None:
            return Choice(None, "nothing is assigned to it")
        return _apply(scope, self.assignments[scope], serial, now)

    def _scope(
        self, serial: str, group: str | None, stream: str | None
    ) -> Scope | None:
        scopes = [Scope(Kind.SERIAL, serial)]
        if stream != OPTED_OUT:
            scopes.append(Scope(Kind.GROUP, group or ""))
            scopes.append(Scope(Kind.STREAM, stream or ""))
            scopes.append(DEFAULT)
        return next((scope for scope in scopes if scope in self.assignments), None)

    def builds(self) -> set[BuildId]:
        """Return every build that some laptop may be told."""
        found = set()
        for one in self.assignments.values():
            found.add(one.build)
            if one.others is not None and one.percent < 100:
                found.add(one.others)
        return found


def _apply(scope: Scope, assignment: Assignment, serial: str, now: int) -> Choice:
    build: BuildId | None = assignment.build
    reason = f"assigned to {scope}"
    opens, closes = assignment.opens, assignment.closes
    if assignment.paused:
        why = f": {assignment.halted}" if assignment.halted else ""
        build, reason = None, f"the assignment to {scope} is paused{why}"
    elif opens is not None and now < opens:
        build, reason = None, f"the assignment to {scope} is not open yet"
    elif closes is not None and now >= closes:
        build, reason = None, f"the assignment to {scope} has closed"
    elif not admitted(serial, assignment.build, assignment.percent):
        share = f"the {assignment.percent} percent of {scope}"
        build, reason = assignment.others, f"not yet among {share}"
    return Choice(build, reason, scope, assignment)


# --- reading ----------------------------------------------------------------------

PARSERS: Final = {
    Kind.SERIAL: normal_serial,
    Kind.GROUP: parse_group,
    Kind.STREAM: parse_stream,
}
"""What reads the name of a scope, by its kind."""


def parse_rollout(data: bytes) -> Rollout:
    """Read rollout.toml.

    Args:
        data: Its bytes.

    Raises:
        DamagedSite: It does not follow the format; the key is named.
    """
    top = read_table(data, FILE)
    paused = top.flag("paused")
    found: dict[Scope, Assignment] = {}
    if (table := top.table(Kind.DEFAULT)) is not None:
        found[DEFAULT] = _read_assignment(table)
    for kind, parse in PARSERS.items():
        for name, table in _named_tables(top, kind).items():
            try:
                scope = Scope(kind, parse(name))
            except Malformed as error:
                raise top.fault(f"{kind}.{name}", error.reason) from error
            found[scope] = _read_assignment(table)
    top.end()
    return Rollout(found, paused)


def _named_tables(top: Table, kind: Kind) -> dict[str, Table]:
    table = top.table(kind)
    return {} if table is None else table.tables()


def _read_assignment(table: Table) -> Assignment:
    build = table.parsed("build", parse_build_id)
    if build is None:
        raise table.fault("build", "is missing")
    percent, halt = (table.integer(key, 0, 100) for key in ("percent", "halt"))
    found = Assignment(
        build=build,
        percent=100 if percent is None else percent,
        others=table.parsed("others", parse_build_id),
        paused=table.flag("paused"),
        allow_downgrade=table.flag("allow_downgrade"),
        opens=table.moment("opens"),
        closes=table.moment("closes"),
        not_before=table.moment("not_before"),
        reboot=table.choice("reboot", Reboot, Reboot.NEVER),
        sticky=table.flag("sticky"),
        halt=HALT if halt is None else halt,
        halted=table.text("halted"),
        changed=table.moment("changed"),
        by=table.text("by"),
    )
    if found.never_open:
        raise table.fault("closes", "is not after opens")
    table.end()
    return found
