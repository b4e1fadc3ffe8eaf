"""What laptops have left on a stick, brought home: one file each, the form of a poll.

Anybody who had the stick may have written them, as anybody may poll: they are bounded,
read like queries, and never put in the place of what is known to be newer.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import (
    Malformed,
    SiteError,
    StickFailed,
    StickForbidden,
)
from olpc_update_query.model.messages import MAX_QUERY, Query
from olpc_update_query.model.stick import REPORTS, report_name
from olpc_update_query.model.wire import parse_time, shown
from olpc_update_query.ports import Clock
from olpc_update_query.server.halt import Brake
from olpc_update_query.server.laptops import normal_serial
from olpc_update_query.server.leases import reported_expiry
from olpc_update_query.server.records import BY_STICK, DAY, Poll
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.site import Site, Unknown, View
from olpc_update_query.system.files import read_bounded
from olpc_update_query.system.sticks import stick_errors

MOST: Final = 20_000
"""Reports that are read of one stick."""


class Brought(NamedTuple):
    """What became of the reports on a stick.

    Attributes:
        taken: Of which laptops there was news.
        known: How many told nothing that is newer than what is known.
        refused: Which files were of no use, and why.
        unread: Why files could not be read; the next try may bring them.
    """

    taken: Sequence[str]
    known: int
    refused: Sequence[tuple[str, str]]
    unread: Sequence[StickFailed | StickForbidden] = ()


def bring_home(site: Site, reports: Reports, stick: Path, clock: Clock) -> Brought:
    """Import the reports of a stick.

    Args:
        site: The site.
        reports: Its reports.
        stick: Where the stick is mounted, or the directory with the reports.
        clock: The present. A report of a time to come is of a laptop whose clock is
            wrong: it counts only for one that has never told anything.

    Raises:
        SiteError: There is no directory of reports, or too many files are in it.
        StickFailed, StickForbidden: The stick cannot be read.
        DiskFailed: The database cannot.
        DamagedSite: A file of the site is malformed.
    """
    now = clock.now()
    view, place = site.view(now), _directory(stick)
    latest: dict[str, Poll] = {}
    refused: list[tuple[str, str]] = []
    unread: list[StickFailed | StickForbidden] = []
    for name in _names(place):
        try:
            poll = _read(place, name, view, now)
        except Malformed as error:
            refused.append((shown(name), str(error)))
            continue
        except (StickFailed, StickForbidden) as error:
            unread.append(error)
            continue
        before = latest.get(poll.serial, poll)
        latest[poll.serial] = max(before, poll, key=lambda one: one.asked)
    taken = reports.bring(list(latest.values()), now)
    brake = Brake(site, reports, clock)
    for attempt in {poll.attempt for poll in taken if poll.listed}:
        if attempt is not None:
            brake.consider(attempt)
    return Brought(
        [poll.serial for poll in taken],
        len(latest) - len(taken),
        tuple(refused),
        tuple(unread),
    )


def _directory(stick: Path) -> Path:
    place = stick if stick.name == REPORTS else stick / REPORTS
    with stick_errors(place):
        is_there = place.is_dir() and not place.is_symlink()
    if not is_there:
        mend = "Is it the stick that laptops had, and could they write on it?"
        raise SiteError(str(place), "no laptop has left a report there", mend)
    return place


def _names(place: Path) -> Iterator[str]:
    with stick_errors(place), os.scandir(place) as found:
        names = []
        for entry in found:
            if not entry.name.startswith("."):
                names.append(entry.name)
            if len(names) > MOST:
                reason = f"more than {MOST:,} files are in it"
                raise SiteError(str(place), reason, "Is it the stick that laptops had?")
    yield from sorted(names)


def _read(place: Path, name: str, view: View, now: int) -> Poll:
    """Read one file.

    Raises:
        Malformed: It is no report, or not that of the laptop it is named after.
        StickFailed, StickForbidden: It cannot be read.
    """
    try:
        with stick_errors(place / name):
            query = Query.decode(_read_file(place / name))
    except ValueError:
        raise Malformed("report", f"it is larger than {MAX_QUERY} bytes") from None
    if name.upper() != report_name(query.serial).upper():
        raise Malformed("report", f"it is of laptop {query.serial}")
    laptop = view.laptops.get(normal_serial(query.serial))
    if laptop is None and view.settings.unknown is Unknown.IGNORE:
        raise Malformed("report", f"laptop {query.serial} is not listed")
    return Poll(
        serial=query.serial if laptop is None else laptop.serial,
        asked=_time_of(query, now),
        address=BY_STICK,
        listed=laptop is not None,
        build=query.build,
        stream=query.stream,
        lease_expiry=reported_expiry(query),
        stolen=laptop is not None and laptop.stolen,
        report=query.report,
    )


def _read_file(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_QUERY)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EINVAL}:
            raise
        raise Malformed("report", error.strerror or "no file") from None


def _time_of(query: Query, now: int) -> int:
    """Return when a report was left, 0 if that cannot be: the clock there is wrong."""
    text = (query.report or {}).get("time")
    if not isinstance(text, str):
        raise Malformed("report", "it does not tell its time")
    time = parse_time(text)
    return min(time, now) if 0 < time <= now + DAY else 0
