"""What is kept about the laptops, and how it is written.

Three small tables: the latest state of each laptop, what changed (bounded), and the
leases. Plain SQLAlchemy Core, the same for SQLite and PostgreSQL.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from olpc_update_query.errors import NoRsync, ServerFull
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json

DAY: Final = 24 * 3600
MAX_EVENTS: Final = 100_000
MAX_UNLISTED: Final = 10_000
"""Laptops that are not in laptops.csv, of which anybody can invent any number."""

FIRST_FAILURE: Final = 20
"""Exit codes below are about the network or this run, not about the build."""
BLAMELESS: Final = frozenset({ServerFull.exit_code, NoRsync.exit_code})
"""Codes above that are not about the build either."""

_FREE: Final = re.compile(r'"free":[0-9]+,?')
"""What a laptop reports that changes each time and is no news, in canonical JSON."""

METADATA: Final = sa.MetaData()

LAPTOPS: Final = sa.Table(
    "laptops",
    METADATA,
    sa.Column("serial", sa.String(64), primary_key=True),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("asked", sa.BigInteger, nullable=False, index=True),
    sa.Column("polls", sa.BigInteger, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("listed", sa.Boolean, nullable=False),
    sa.Column("build", sa.String(64)),
    sa.Column("stream", sa.String(64)),
    sa.Column("lease_expiry", sa.BigInteger),
    sa.Column("ordered", sa.String(64)),
    sa.Column("stolen", sa.Boolean, nullable=False),
    sa.Column("report", sa.String(512)),
    sa.Column("tried", sa.String(64), index=True),
    sa.Column("code", sa.BigInteger),
    sa.Column("tried_at", sa.BigInteger),
    sa.Column("ordered_at", sa.BigInteger),
)

HAS_FAILED: Final = (LAPTOPS.c.code >= FIRST_FAILURE) & LAPTOPS.c.code.not_in(BLAMELESS)
"""`is_failure`, for the database."""

EVENTS: Final = sa.Table(
    "events",
    METADATA,
    sa.Column(
        "id",
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("serial", sa.String(64), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("detail", sa.String(600), nullable=False),
)

LEASES: Final = sa.Table(
    "leases",
    METADATA,
    sa.Column("serial", sa.String(64), primary_key=True),
    sa.Column("uuid", sa.String(36), nullable=False),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("made", sa.BigInteger, nullable=False),
    sa.Column("expiry", sa.BigInteger, nullable=False),
    sa.Column("line", sa.Text, nullable=False),
)


def printable(text: str) -> str:
    """Return what a laptop tells without what a terminal or a page would obey.

    That is control characters, and those that turn the direction of what follows.
    """
    return "".join(mark if mark.isprintable() else "?" for mark in text)


class Attempt(NamedTuple):
    """What a laptop says of its last attempt to install a build.

    Attributes:
        build: The build.
        code: The exit code it ended with.
    """

    build: str
    code: int

    @property
    def failed(self) -> bool:
        """Whether the build is to blame, or may be; a bad link is not its fault."""
        return is_failure(self.code)


def is_failure(code: int | None) -> bool:
    """Tell whether an exit code may be the build's fault."""
    return code is not None and code >= FIRST_FAILURE and code not in BLAMELESS


BY_STICK: Final = "stick"
"""From where a report came that travelled home on a stick."""


class Poll(NamedTuple):
    """A query that was answered, or what a laptop has left on a stick.

    Attributes:
        serial: The laptop.
        asked: When.
        address: From where; ``BY_STICK`` if nobody has answered it.
        listed: Whether it is in laptops.csv.
        build: The build it runs.
        stream: The stream it follows.
        lease_expiry: Until when its lease is good.
        ordered: The build it was told to run, None when it was told none.
        stolen: Whether it was told that it is stolen.
        report: What it says of its last attempt.
    """

    serial: str
    asked: int
    address: str
    listed: bool = True
    build: str | None = None
    stream: str | None = None
    lease_expiry: int | None = None
    ordered: str | None = None
    stolen: bool = False
    report: Mapping[str, Json] | None = None

    @property
    def attempt(self) -> Attempt | None:
        """What the report says of the last attempt, if it says which build it was."""
        report = self.report or {}
        build, code = report.get("build"), report.get("code")
        if not isinstance(build, str) or not isinstance(code, int):
            return None
        return Attempt(build[:64], min(max(code, 0), 255))


class State(NamedTuple):
    """The latest that is known of a laptop: its last poll, and since when how many."""

    serial: str
    first: int
    asked: int
    polls: int
    address: str
    listed: bool
    build: str | None
    stream: str | None
    lease_expiry: int | None
    ordered: str | None
    stolen: bool
    report: str | None
    tried: str | None
    code: int | None
    tried_at: int | None
    ordered_at: int | None

    @classmethod
    def silent(cls, serial: str) -> "State":
        """Return what is known of a listed laptop that has never asked."""
        nothing = (None,) * 4
        return cls(serial, 0, 0, 0, "", True, *nothing, False, None, *nothing)

    @property
    def result(self) -> str:
        """What became of its last attempt, in a word or a sentence."""
        result = self._reported("result")
        return printable(result) if isinstance(result, str) else ""

    @property
    def exit_code(self) -> int | None:
        """The exit code of its last attempt, None if it told none."""
        code = self._reported("code")
        return code if isinstance(code, int) else None

    def _reported(self, name: str) -> object:
        if self.report is None:
            return None
        return json.loads(self.report, strict=False).get(name)


class Concern(StrEnum):
    """Why somebody should look at a laptop, the worst first.

    ``failing``: its last attempt to update failed. ``stuck``: it has been told for
    days to run a build and does not. ``ending``: its lease ends within days, or has.
    ``overdue``: it has not asked for days.
    """

    FAILING = "failing"
    STUCK = "stuck"
    ENDING = "ending"
    OVERDUE = "overdue"


STUCK_AFTER: Final = 3 * DAY
OVERDUE_AFTER: Final = 4 * DAY
"""A long weekend; at least three times the interval as well."""
ENDING_BEFORE: Final = 7 * DAY


def is_of_concern(
    concern: Concern, now: int, interval: int
) -> "sa.ColumnElement[bool]":
    """Return the condition of a concern.

    Args:
        concern: Which.
        now: The present.
        interval: How often laptops ask, in seconds.
    """
    of, patience = LAPTOPS.c, max(OVERDUE_AFTER, 3 * interval)
    match concern:
        case Concern.FAILING:
            return of.listed & HAS_FAILED
        case Concern.STUCK:
            late = of.ordered_at <= now - STUCK_AFTER
            return of.listed & of.ordered.is_not(None) & late
        case Concern.ENDING:
            return of.listed & (of.lease_expiry < now + ENDING_BEFORE)
        case Concern.OVERDUE:
            return of.listed & (of.asked < now - patience)


class Event(NamedTuple):
    """Something that changed.

    Attributes:
        time: When.
        serial: Of which laptop.
        kind: What: ``new``, ``build``, ``report``, ``ordered``, ``stolen``, ``lease``.
        detail: The new value.
    """

    time: int
    serial: str
    kind: str
    detail: str


class StoredLease(NamedTuple):
    """A lease that was signed.

    Attributes:
        serial: For which laptop.
        uuid: The UUID it names.
        key_id: The key that signed it.
        made: When.
        expiry: Until when it is good.
        line: The ``act01:`` line, with its newline.
    """

    serial: str
    uuid: str
    key_id: str
    made: int
    expiry: int
    line: str


Position: TypeAlias = tuple[str | None, str | None, int | None]
"""The build a laptop runs, the one it tried last, and the exit code of that."""

Record: TypeAlias = Poll | StoredLease | Event


def write_polls(connection: Connection, polls: Sequence[Poll]) -> list[Event]:
    """Write the latest state of each laptop, and return what changed."""
    serials = {poll.serial for poll in polls}
    query = sa.select(LAPTOPS).where(LAPTOPS.c.serial.in_(serials))
    # no other server may count on what is about to change; locked in one order by all
    query = query.order_by(LAPTOPS.c.serial).with_for_update()
    known = {row[0]: State(*row) for row in connection.execute(query)} if polls else {}
    after = dict(known)
    events: list[Event] = []
    for poll in polls:
        before = after.get(poll.serial)
        after[poll.serial] = _advance(before, poll)
        events += _changes(before, after[poll.serial])
    new = [after[serial]._asdict() for serial in sorted(serials - known.keys())]
    old = [
        {f"to_{name}": value for name, value in after[serial]._asdict().items()}
        for serial in sorted(known)
    ]
    if new:
        connection.execute(sa.insert(LAPTOPS), new)
    if old:
        connection.execute(_UPDATE, old)
    return events


def newer(connection: Connection, polls: Sequence[Poll], now: int) -> list[Poll]:
    """Return those of several laptops' polls that nobody has answered which are news.

    Args:
        connection: The database.
        polls: One a laptop; ``asked`` is 0 where nobody knows when that was, which is
            news only of a laptop that has never told anything.
        now: The present.
    """
    columns = (LAPTOPS.c[name] for name in ("serial", "asked", "ordered"))
    serials = [poll.serial for poll in polls]
    query = sa.select(*columns).where(LAPTOPS.c.serial.in_(serials))
    known = {row[0]: (row[1], row[2]) for row in connection.execute(query)}
    news = []
    for poll in polls:
        asked, ordered = known.get(poll.serial, (-1, None))
        if poll.asked > asked:
            still = None if ordered == poll.build else ordered
            news.append(poll._replace(asked=poll.asked or now, ordered=still))
    return news


_UPDATE: Final = (
    sa.update(LAPTOPS)
    .where(LAPTOPS.c.serial == sa.bindparam("to_serial"))
    .values({name: sa.bindparam(f"to_{name}") for name in State._fields[1:]})
)


def _advance(before: State | None, poll: Poll) -> State:
    report = before.report if before is not None else None
    if poll.report is not None:
        # PostgreSQL keeps no NUL in a text
        report = canonical.encode(dict(poll.report)).decode().replace("\0", "")
    tried = _last_attempt(before, poll, report)
    return State(
        serial=poll.serial,
        first=poll.asked if before is None else before.first,
        asked=poll.asked,
        polls=1 if before is None else before.polls + 1,
        address=poll.address[:64],
        listed=poll.listed,
        build=poll.build,
        stream=poll.stream,
        lease_expiry=poll.lease_expiry,
        ordered=poll.ordered,
        stolen=poll.stolen,
        report=report,
        tried=tried[0],
        code=tried[1],
        tried_at=tried[2],
        ordered_at=before.ordered_at
        if before is not None and before.ordered == poll.ordered
        else poll.asked,
    )


def _last_attempt(
    before: State | None, poll: Poll, report: str | None
) -> tuple[str | None, int | None, int | None]:
    """Return the last attempt and when it was told first."""
    if before is not None and (poll.attempt is None or _same(before.report, report)):
        return before.tried, before.code, before.tried_at
    if poll.attempt is None:
        return None, None, None
    build = poll.attempt.build.replace("\0", "")
    return build, poll.attempt.code, poll.asked


def _changes(before: State | None, now: State) -> Iterator[Event]:
    if before is None:
        yield Event(now.asked, now.serial, "new", now.address)
    if now.stolen:
        yield Event(now.asked, now.serial, "stolen", now.address)
    for kind in ("build", "ordered", "report"):
        value = getattr(now, kind)
        if value is not None and not _same(getattr(before, kind, None), value):
            yield Event(now.asked, now.serial, kind, value)


def _same(before: str | None, now: str | None) -> bool:
    """Tell whether two values are alike, of reports all but the free space."""
    return before == now or (_but_free(before) == _but_free(now))


def _but_free(value: str | None) -> str:
    return _FREE.sub("", value or "", count=1)


def write_leases(connection: Connection, leases: Sequence[StoredLease]) -> None:
    """Write the lease of each laptop over the one before."""
    latest = {lease.serial: lease for lease in leases}
    if latest:
        stale = sa.delete(LEASES).where(LEASES.c.serial.in_(sorted(latest)))
        connection.execute(stale)
        rows = [lease._asdict() for lease in latest.values()]
        connection.execute(sa.insert(LEASES), rows)


def trim(connection: Connection) -> None:
    """Forget the oldest events, and the unlisted laptops that asked longest ago."""
    newest = connection.execute(sa.select(sa.func.max(EVENTS.c.id))).scalar()
    if newest is not None:
        stale = sa.delete(EVENTS).where(EVENTS.c.id <= newest - MAX_EVENTS)
        connection.execute(stale)
    unlisted = sa.not_(LAPTOPS.c.listed)
    query = sa.select(LAPTOPS.c.asked).where(unlisted)
    query = query.order_by(LAPTOPS.c.asked.desc()).offset(MAX_UNLISTED).limit(1)
    cut = connection.execute(query).scalar()
    if cut is not None:
        connection.execute(sa.delete(LAPTOPS).where(unlisted, LAPTOPS.c.asked <= cut))
