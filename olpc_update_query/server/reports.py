"""``reports.db``: who asked when, what they run, and what they were given.

SQLite in WAL mode; with another database URL the same statements serve PostgreSQL,
shared by any number of servers.

A poll is written within half a second; one that carries a report is on the disk
before it is answered. A disk that refuses costs reports, never an answer.
"""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql.expression import Executable

from olpc_update_query.errors import DamagedSite, DiskFailed, NoSpace
from olpc_update_query.server.ownership import hand_over
from olpc_update_query.server.recorder import BATCH, Recorder
from olpc_update_query.server.records import (
    EVENTS,
    HAS_FAILED,
    LAPTOPS,
    LEASES,
    METADATA,
    Concern,
    Event,
    Poll,
    Position,
    Record,
    State,
    StoredLease,
    is_of_concern,
    newer,
    trim,
    write_leases,
    write_polls,
)
from olpc_update_query.system.files import disk_errors, free_bytes, no_space

_log = logging.getLogger(__name__)

_TRIM_AFTER: Final = 1_000
_CHECKPOINT: Final = 32 * 1024 // 4
"""After how many pages of 4 KiB the log is moved into the database: a plain copy of
both that is made meanwhile would be torn, so seldom."""
_CACHE: Final = 512
"""KiB of pages that each connection keeps; the system keeps them as well."""
_STATEMENTS: Final = 8
"""Statements that each connection keeps: one for each size of batch adds up."""
_T = TypeVar("_T")
_BESIDE: Final = 1 << 20
"""Free bytes below which an error of the disk, as SQLite calls it, is want of room."""
_TRIES: Final = 5
"""How often something is written that another server is in the way of."""


class Reports:
    """The reports of a site.

    Args:
        where: The SQLite file, or the URL of another database.
        patient: Whether a file that cannot be opened now, because the disk is full or
            fails, is tried again whenever it is needed, as other databases are.

    Raises:
        DiskFailed: It cannot be opened.
        NoSpace: The disk is full.
        DamagedSite: The URL is none of a database.
    """

    def __init__(self, where: Path | str, *, patient: bool = False) -> None:
        self._where, self._name = where, _named(where)
        self._engine: Engine | None = None
        self._is_open, self._opening = False, threading.Lock()
        self._recorder: Recorder[Record] = Recorder(self._write)
        self._unkept = _TRIM_AFTER
        if isinstance(where, str):
            self._engine, patient = _create(where), True
        try:
            self._opened()
        except (DiskFailed, NoSpace) as error:
            if not patient:
                raise
            _log.warning("%s; laptops are answered without reports", error)

    def record(self, record: Record, *, confirm: bool = False) -> int:
        """Queue something to be written.

        Args:
            record: A poll, a lease or an event.
            confirm: Whether the caller will ``wait`` for it.

        Returns:
            A ticket for ``wait``.
        """
        return self._recorder.add(record, urgent=confirm)

    def wait(self, ticket: int) -> None:
        """Wait until a record is on the disk, or the disk has refused it."""
        self._recorder.wait(ticket)

    def flush(self) -> None:
        """Wait until everything recorded so far is on the disk."""
        self._recorder.flush()

    def close(self) -> None:
        """Write what is queued and close the database."""
        self._recorder.close()
        if self._engine is not None:
            self._engine.dispose()

    def bring(self, polls: Sequence[Poll], now: int) -> list[Poll]:
        """Write what laptops have told elsewhere, all of it or nothing.

        Args:
            polls: One a laptop; see ``records.newer``.
            now: The present.

        Returns:
            Those that were news.

        Raises:
            DiskFailed, NoSpace: Nothing was written.
        """
        self.flush()
        return self._transact(partial(_bring, polls=polls, now=now))

    # --- reading ---

    def lease(self, serial: str) -> StoredLease | None:
        """Return the lease that was signed last for a laptop."""
        query = sa.select(LEASES).where(LEASES.c.serial == serial)
        for row in self._rows(query):
            return StoredLease(*row)
        return None

    def state(self, serial: str) -> State | None:
        """Return the latest that is known of a laptop."""
        query = sa.select(LAPTOPS).where(LAPTOPS.c.serial == serial)
        for row in self._rows(query):
            return State(*row)
        return None

    def latest(self, limit: int) -> list[State]:
        """Return the laptops that asked last, newest first."""
        query = sa.select(LAPTOPS).order_by(LAPTOPS.c.asked.desc()).limit(limit)
        return [State(*row) for row in self._rows(query)]

    def running(self) -> dict[str, int]:
        """Return how many listed laptops run which build."""
        query = (
            sa.select(LAPTOPS.c.build, sa.func.count())
            .where(LAPTOPS.c.listed)
            .group_by(LAPTOPS.c.build)
        )
        return {build or "": count for build, count in self._rows(query)}

    def asked_since(self, time: int) -> int:
        """Return how many listed laptops asked at or after a time."""
        query = sa.select(sa.func.count()).where(
            LAPTOPS.c.listed, LAPTOPS.c.asked >= time
        )
        return sum(count for (count,) in self._rows(query))

    def of_concern(
        self, concern: Concern, now: int, interval: int, limit: int
    ) -> tuple[int, list[State]]:
        """Return how many laptops somebody should look at, and the first of them."""
        wanted = is_of_concern(concern, now, interval)
        query = sa.select(LAPTOPS).where(wanted).order_by(LAPTOPS.c.asked.desc())
        ((count,),) = self._rows(
            sa.select(sa.func.count()).select_from(LAPTOPS).where(wanted)
        )
        return count, [State(*row) for row in self._rows(query.limit(limit))]

    def positions(self) -> dict[str, Position]:
        """Return by serial number what each runs, what it tried last, and its code."""
        columns = (LAPTOPS.c[name] for name in ("serial", "build", "tried", "code"))
        found: dict[str, Position] = {}
        alike: dict[Position, Position] = {}  # most are: one is kept for all
        for serial, *rest in self._rows(sa.select(*columns)):
            position = rest[0], rest[1], rest[2]
            found[serial] = alike.setdefault(position, position)
        return found

    def every(self) -> Iterator[State]:
        """Return all laptops by serial number, a few hundred at a time."""
        last = ""
        while True:
            query = sa.select(LAPTOPS).where(LAPTOPS.c.serial > last)
            rows = self._rows(query.order_by(LAPTOPS.c.serial).limit(BATCH))
            yield from (State(*row) for row in rows)
            if len(rows) < BATCH:
                return
            last = rows[-1][0]

    def asked(
        self, concern: Concern | None = None, now: int = 0, interval: int = 0
    ) -> dict[str, int]:
        """Return when each laptop asked last, of all or of those of a concern."""
        query = sa.select(LAPTOPS.c.serial, LAPTOPS.c.asked)
        if concern is not None:
            query = query.where(is_of_concern(concern, now, interval))
        return dict(self._rows(query))

    def states(self, serials: Sequence[str]) -> dict[str, State]:
        """Return the latest that is known of a few laptops, by serial number."""
        query = sa.select(LAPTOPS).where(LAPTOPS.c.serial.in_(serials))
        return {row[0]: State(*row) for row in self._rows(query)}

    def attempts(self, build: str, since: int) -> tuple[int, int]:
        """Return how many listed laptops tried a build, and how many of them failed.

        Args:
            build: The build.
            since: When they told it first, at the earliest.
        """
        failed = sa.case((HAS_FAILED, 1), else_=0)
        query = sa.select(sa.func.count(), sa.func.sum(failed)).where(
            LAPTOPS.c.listed, LAPTOPS.c.tried == build, LAPTOPS.c.tried_at >= since
        )
        ((tried, bad),) = self._rows(query)
        return tried, bad or 0

    def unlisted(self, limit: int) -> list[State]:
        """Return laptops that are not in laptops.csv, newest first."""
        query = sa.select(LAPTOPS).where(sa.not_(LAPTOPS.c.listed))
        query = query.order_by(LAPTOPS.c.asked.desc()).limit(limit)
        return [State(*row) for row in self._rows(query)]

    def events(self, serial: str | None = None, limit: int = 20) -> list[Event]:
        """Return what changed last, newest first."""
        columns = [EVENTS.c[name] for name in Event._fields]
        query = sa.select(*columns).order_by(EVENTS.c.id.desc()).limit(limit)
        if serial is not None:
            query = query.where(EVENTS.c.serial == serial)
        return [Event(*row) for row in self._rows(query)]

    def _rows(self, query: Executable) -> list[tuple[Any, ...]]:
        try:
            with self._opened().connect() as connection:
                return [tuple(row) for row in connection.execute(query)]
        except DatabaseError as error:
            raise _failure(self._name, error) from error

    def _opened(self) -> Engine:
        """Open the database and make its tables, if that was not possible before."""
        with self._opening:
            if self._engine is None or not self._is_open:
                self._engine = self._open()
                self._is_open = True
            return self._engine

    def _open(self) -> Engine:
        if isinstance(self._where, Path):
            return _open_file(self._where)
        engine = self._engine or _create(self._where)
        try:
            _make_tables(engine)
        except OperationalError as error:
            raise DiskFailed(self._name, _plain(error)) from error
        return engine

    # --- writing, in the recorder's thread ---

    def _write(self, batch: Sequence[Record]) -> None:
        self._transact(partial(self._write_batch, batch))

    def _write_batch(self, batch: Sequence[Record], connection: Connection) -> None:
        polls = [record for record in batch if isinstance(record, Poll)]
        leases = [record for record in batch if isinstance(record, StoredLease)]
        events = [record for record in batch if isinstance(record, Event)]
        events += write_polls(connection, polls)
        write_leases(connection, leases)
        _insert(connection, events)
        self._unkept += len(events)
        if self._unkept >= _TRIM_AFTER:
            trim(connection)
            self._unkept = 0

    # --- writing, in any thread ---

    def _transact(self, work: Callable[[Connection], _T]) -> _T:
        """Do work in one transaction, again where another server is in the way.

        Raises:
            DiskFailed, NoSpace: Nothing was written.
        """
        engine = self._opened()
        for attempt in range(_TRIES):
            try:
                return self._transact_once(engine, work)
            except DatabaseError as error:
                # another server wrote about the same laptop just now, or held the
                # lock; or the database was started anew, and is asked by a new line
                may_pass = isinstance(error, IntegrityError | OperationalError)
                if not may_pass or attempt == _TRIES - 1:
                    raise _failure(self._name, error) from error
        raise RuntimeError("nothing was tried")

    def _transact_once(self, engine: Engine, work: Callable[[Connection], _T]) -> _T:
        with engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                # what is read below must not change until it is written
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            return work(connection)


def _bring(connection: Connection, polls: Sequence[Poll], now: int) -> list[Poll]:
    taken: list[Poll] = []
    for start in range(0, len(polls), BATCH):
        news = newer(connection, polls[start : start + BATCH], now)
        _insert(connection, write_polls(connection, news))
        taken += news
    trim(connection)
    return taken


def _insert(connection: Connection, events: Sequence[Event]) -> None:
    if events:
        rows = [event._asdict() for event in events]
        connection.execute(sa.insert(EVENTS), rows)


# --- opening ------------------------------------------------------------------------


def _named(where: Path | str) -> str:
    """Return what to call the reports, without a password."""
    if isinstance(where, Path):
        return str(where)
    try:
        return make_url(where).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return "the reports"


def _create(where: str) -> Engine:
    try:
        return sa.create_engine(where, future=True, pool_pre_ping=True)
    except (sa.exc.ArgumentError, ValueError) as error:
        reason = "reports_url is no URL of a database, in SQLAlchemy's words"
        raise DamagedSite("site.toml", reason) from error


def _open_file(where: Path) -> Engine:
    try:
        return _connect(where)
    except DatabaseError as error:
        if _is_full(error, where):
            raise no_space(where, 1) from error
        if isinstance(error, OperationalError):
            raise DiskFailed(str(where), _plain(error)) from error
        # Leases matter more than reports: go on with an empty file.
        aside = where.with_name(f"{where.name}.damaged")
        _log.warning("%s is damaged (%s); it is now %s", where, error.orig, aside)
        _move_aside(where, aside)
        return _connect(where)


def _is_full(error: DatabaseError, where: Path) -> bool:
    """Tell whether it is room that lacks, also for the files beside SQLite's own."""
    said = str(error.orig)
    return "is full" in said or (
        "disk I/O error" in said and free_bytes(where) < _BESIDE
    )


def _failure(name: str, error: DatabaseError) -> DiskFailed | NoSpace:
    """Return what to tell of a database that refuses."""
    if _is_full(error, Path(name)):
        return NoSpace(name, 1, 0)
    return DiskFailed(name, _plain(error))


def _plain(error: DatabaseError) -> str:
    """Return what a database says, in one line."""
    return " ".join(str(error.orig).split())


def _move_aside(where: Path, aside: Path) -> None:
    os.replace(where, aside)
    for suffix in ("-wal", "-shm"):
        where.with_name(where.name + suffix).unlink(missing_ok=True)


def _connect(where: Path) -> Engine:
    with disk_errors(where):
        # it tells where children are; SQLite gives its other files the same mode
        os.close(os.open(where, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        hand_over(where.parent, [where])
    engine = sa.create_engine(
        URL.create("sqlite", database=str(where)),
        future=True,
        poolclass=QueuePool,
        connect_args={
            "check_same_thread": False,
            "timeout": 10,
            "cached_statements": _STATEMENTS,
        },
    )
    event.listen(engine, "connect", _prepare)
    _make_tables(engine)
    _insist_on_whole(engine)
    return engine


def _insist_on_whole(engine: Engine) -> None:
    """Look for what a copy that was made in a bad moment would lack."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    engine.dispose()
    if found != "ok":
        raise DatabaseError("quick_check", None, sqlite3.DatabaseError(str(found)))


def _make_tables(engine: Engine) -> None:
    try:
        for _ in METADATA.tables:
            with contextlib.suppress(DatabaseError):
                # another server may be making them just now
                return METADATA.create_all(engine)
        return METADATA.create_all(engine)
    finally:
        # a server may fork now; its children open connections of their own
        engine.dispose()


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT}")
    connection.execute(f"PRAGMA cache_size=-{_CACHE}")
