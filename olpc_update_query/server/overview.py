"""What the administrator wants to see: who runs what, who asked when, what is wrong.

One value for the status page, ``/status.json`` and ``olpc-update-admin status``.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import NEVER_EXPIRES
from olpc_update_query.model.wire import format_time, parse_time
from olpc_update_query.server.changelog import Change, latest_changes
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import LeasePolicy, choose
from olpc_update_query.server.records import (
    Concern,
    Event,
    Position,
    State,
    is_failure,
    printable,
)
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Assignment, Rollout, Scope
from olpc_update_query.server.site import DAY, Settings, Site
from olpc_update_query.server.words import Speak

LATEST: Final = 200
"""How many laptops are listed."""

CHANGES: Final = 20
"""How many changes are."""

_SAID: Final = ("asked", "polls", "address", "build", "ordered", "lease")


class Progress(NamedTuple):
    """How far the laptops of an assignment are.

    Attributes:
        whole: Listed laptops that it decides for.
        running: Those that run its build.
        failed: Those that tried it and failed.
        told: Those that are told to run it and do not yet.
    """

    whole: int = 0
    running: int = 0
    failed: int = 0
    told: int = 0


class Trouble(NamedTuple):
    """Laptops that somebody should look at.

    Attributes:
        concern: Why.
        number: How many there are.
        rows: The first of them.
    """

    concern: Concern
    number: int
    rows: list["Row"]


class Share(NamedTuple):
    """How far an assignment has come.

    Attributes:
        whom: For whom it is.
        assignment: The assignment.
        published: Whether the build is there.
        progress: How many laptops it is for, and how far they are.
    """

    whom: Scope
    assignment: Assignment
    published: bool
    progress: Progress

    def told(self, say: Speak) -> str:
        """Return the assignment in words.

        Args:
            say: Says them in somebody's language.
        """
        one = self.assignment
        words = [say("build %(build)s", build=one.build)]
        if one.percent < 100:
            words.append(say("for %(percent)s percent", percent=one.percent))
            if one.others:
                words[-1] += say(", the others build %(build)s", build=one.others)
        if one.opens is not None:
            words.append(say("from %(time)s", time=moment(one.opens)))
        if one.closes is not None:
            words.append(say("until %(time)s", time=moment(one.closes)))
        if one.halted:
            words.append(say("(halted by the server: %(why)s)", why=one.halted))
        elif one.paused:
            words.append(say("(paused)"))
        if not self.published:
            words.append(say("(not published!)"))
        return " ".join(words)


class LeaseShare(NamedTuple):
    """How long leases last for some laptops.

    Attributes:
        whom: For whom.
        policy: What they get.
        laptops: How many that is.
    """

    whom: Scope
    policy: LeasePolicy
    laptops: int


class Row(NamedTuple):
    """A laptop that asked.

    Attributes:
        state: What it said last.
        laptop: The laptop, if it is listed.
        asked: When, as text; empty for never.
        lease: Until when its lease is good, as text; empty if it never said so.
    """

    state: State
    laptop: Laptop | None
    asked: str
    lease: str

    @property
    def name(self) -> str:
        """Whose it is."""
        return (self.laptop.name if self.laptop else None) or ""

    @property
    def is_stolen(self) -> bool:
        """Whether it is marked stolen, or was when it asked last."""
        return self.laptop.stolen if self.laptop else self.state.stolen

    @property
    def group(self) -> str:
        """The group it belongs to."""
        return (self.laptop.group if self.laptop else None) or ""


class Overview(NamedTuple):
    """The state of a site.

    Attributes:
        site: Its name.
        time: Of when this is.
        listed: How many laptops are in laptops.csv.
        today: How many of them asked in the last day.
        week: How many of them asked in the last seven days.
        stolen: How many are marked stolen.
        builds: The published builds.
        running: How many laptops run which build; an empty name: not said.
        paused: Whether all updates are paused.
        shares: The assignments.
        troubles: The laptops that somebody should look at.
        silent: How many listed laptops have never asked.
        latest: The laptops that asked last.
        unlisted: Laptops that asked and are not in laptops.csv, the first of them.
        strangers: How many of those there are.
        changes: What was changed last.
        problems: What is wrong.
        timezone: Where leases end in the morning.
        leases: How long they last, and for whom.
    """

    site: str
    time: int
    listed: int
    today: int
    week: int
    stolen: int
    builds: list[str]
    running: Mapping[str, int]
    paused: bool
    shares: list[Share]
    troubles: list[Trouble]
    silent: int
    latest: list[Row]
    unlisted: list[Row]
    strangers: int
    changes: list[Change]
    problems: list[str]
    timezone: str
    leases: list[LeaseShare]

    def to_json(self) -> dict[str, Json]:
        """Return what ``/status.json`` says."""
        return {
            "site": self.site,
            "time": format_time(self.time),
            "laptops": {
                "listed": self.listed,
                "asked_today": self.today,
                "asked_this_week": self.week,
                "never_asked": self.silent,
                "stolen": self.stolen,
                "unlisted": self.strangers,
            },
            "builds": list(self.builds),
            "running": dict(self.running),
            "paused": self.paused,
            "assignments": [_share_json(share) for share in self.shares],
            "concerns": {
                str(trouble.concern): {
                    "laptops": trouble.number,
                    "first": [_row_json(row) for row in trouble.rows],
                }
                for trouble in self.troubles
            },
            "latest": [_row_json(row) for row in self.latest],
            "unlisted": [_row_json(row) for row in self.unlisted],
            "changes": [_change_json(change) for change in self.changes],
            "problems": list(self.problems),
            "leases": {
                "timezone": self.timezone,
                "rules": [_lease_json(one) for one in self.leases],
            },
        }


def look(site: Site, reports: Reports, now: int, shown: int = LATEST) -> Overview:
    """Return the state of a site.

    Args:
        site: The site.
        reports: Its reports.
        now: The present.
        shown: How many laptops of each kind are listed.

    Raises:
        DamagedSite: A file of the site is malformed.
        DiskFailed: The reports cannot be read.
    """
    reports.flush()
    laptops, rollout, settings = site.laptops(), site.rollout(), site.settings()
    builds = site.build_names()
    positions = reports.positions()
    progress = _progress(rollout, laptops, positions, now)
    shares = [
        Share(scope, assignment, assignment.build in builds, progress[scope])
        for scope, assignment in sorted(rollout.assignments.items())
    ]
    troubles = []
    for concern in Concern:
        number, states = reports.of_concern(concern, now, settings.interval, shown)
        troubles.append(Trouble(concern, number, rows(states, laptops)))
    unlisted = rows(reports.unlisted(shown), laptops)
    return Overview(
        site=settings.name,
        time=now,
        listed=len(laptops),
        today=reports.asked_since(now - DAY),
        week=reports.asked_since(now - 7 * DAY),
        stolen=sum(laptop.stolen for laptop in laptops.values()),
        builds=[str(build) for build in builds],
        running=reports.running(),
        paused=rollout.paused,
        shares=shares,
        troubles=troubles,
        silent=len(laptops.keys() - positions.keys()),
        latest=rows(reports.latest(shown), laptops),
        unlisted=[row for row in unlisted if row.laptop is None],
        strangers=len(positions.keys() - laptops.keys()),
        changes=latest_changes(site.path, min(shown, CHANGES)),
        problems=site.problems(),
        timezone=settings.timezone,
        leases=lease_shares(settings, laptops),
    )


def lease_shares(settings: Settings, laptops: Mapping[str, Laptop]) -> list[LeaseShare]:
    """Return how long leases last, and for how many laptops."""
    rules, default = settings.lease_rules, settings.lease_policy
    counts = Counter(choose(one, default, rules)[0] for one in laptops.values())
    policies = {**dict(sorted(rules.items())), DEFAULT: default}
    return [
        LeaseShare(scope, policy, counts[scope]) for scope, policy in policies.items()
    ]


def _progress(
    rollout: Rollout,
    laptops: Mapping[str, Laptop],
    positions: Mapping[str, Position],
    now: int,
) -> dict[Scope, Progress]:
    """Count the listed laptops of each assignment."""
    found = dict.fromkeys(rollout.assignments, Progress())
    for laptop in laptops.values():
        choice = rollout.choose(laptop.serial, laptop.group, laptop.stream, now)
        if choice.scope is None or choice.assignment is None:
            continue
        build = choice.assignment.build
        runs, tried, code = positions.get(laptop.serial, (None, None, None))
        is_there, before = runs == build, found[choice.scope]
        failed = not is_there and tried == build and is_failure(code)
        found[choice.scope] = Progress(
            before.whole + 1,
            before.running + is_there,
            before.failed + failed,
            before.told + (choice.build == build and not is_there and not failed),
        )
    return found


def look_at(site: Site, reports: Reports, laptop: Laptop, now: int) -> dict[str, Json]:
    """Return everything about one laptop.

    Args:
        site: The site.
        reports: Its reports.
        laptop: The laptop.
        now: The present.

    Raises:
        DamagedSite: A file of the site is malformed.
        DiskFailed: The reports cannot be read.
    """
    state, lease = reports.state(laptop.serial), reports.lease(laptop.serial)
    stream = laptop.stream or (state.stream if state else None)
    choice = site.rollout().choose(laptop.serial, laptop.group, stream, now)
    settings = site.settings()
    whose, policy = choose(laptop, settings.lease_policy, settings.lease_rules)
    facts: dict[str, Json] = {
        "serial": laptop.serial,
        "name": laptop.name,
        "uuid": laptop.uuid,
        "group": laptop.group,
        "stream": stream,
        "stolen": laptop.stolen,
        "to_run": choice.build,
        "because": choice.reason,
        "leases": policy.text,
        "leases_because": f"that is said for {whose}",
        "lease_signed_until": None if lease is None else format_time(lease.expiry),
    }
    if state is not None:
        row = _row_json(row_of(state, site.laptops()))
        facts |= {f"last_{name}": row[name] for name in _SAID}
        facts["last_report"] = printable(state.report or "") or None
    facts["events"] = [
        {
            "time": moment(event.time),
            "kind": event.kind,
            "detail": _detail(event),
        }
        for event in reports.events(laptop.serial)
    ]
    return facts


def rows(states: Sequence[State], laptops: Mapping[str, Laptop]) -> list[Row]:
    """Return laptops as they are listed for people."""
    return [row_of(state, laptops) for state in states]


def row_of(state: State, laptops: Mapping[str, Laptop]) -> Row:
    """Return one of them."""
    return Row(
        state=state,
        laptop=laptops.get(state.serial),
        asked=moment(state.asked) if state.asked else "",
        lease=_lease(state.lease_expiry) if state.asked else "",
    )


def for_people(facts: Mapping[str, Json]) -> dict[str, Json]:
    """Return what is known of a laptop with its times as people read them."""
    times = {
        name: moment(parse_time(text))
        for name in ("last_asked", "lease_signed_until")
        if isinstance(text := facts.get(name), str) and text
    }
    return {**facts, **times}


def moment(seconds: int) -> str:
    """Write a time for people: ``2027-01-31 06:00`` UTC."""
    text = format_time(seconds)
    return f"{text[:4]}-{text[4:6]}-{text[6:8]} {text[9:11]}:{text[11:13]}"


def _detail(event: Event) -> str:
    """Return what happened, as people read it; a lease is told by its end."""
    if event.kind == "lease":
        with contextlib.suppress(Malformed):
            return moment(parse_time(event.detail))
    return printable(event.detail)


def _lease(expiry: int | None) -> str:
    if expiry is None:
        return "none"
    return "for ever" if expiry >= NEVER_EXPIRES else moment(expiry)


def _share_json(share: Share) -> Json:
    assignment = share.assignment
    return {
        "for": str(share.whom.kind),
        "name": share.whom.name or None,
        "build": assignment.build,
        "percent": assignment.percent,
        "others": assignment.others,
        "paused": assignment.paused,
        "halt": assignment.halt,
        "halted": assignment.halted,
        "opens": _time(assignment.opens),
        "closes": _time(assignment.closes),
        "published": share.published,
        "laptops": share.progress.whole,
        "running": share.progress.running,
        "failed": share.progress.failed,
        "changed": _time(assignment.changed),
        "by": assignment.by,
    }


def _lease_json(share: LeaseShare) -> Json:
    return {
        "for": str(share.whom.kind),
        "name": share.whom.name or None,
        "days": share.policy.days,
        "shorten": share.policy.shorten,
        "laptops": share.laptops,
    }


def _change_json(change: Change) -> Json:
    return {"time": _time(change.time), "who": change.who, "what": change.what}


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else format_time(seconds)


def _row_json(row: Row) -> dict[str, Json]:
    state = row.state
    return {
        "serial": state.serial,
        "name": row.name or None,
        "group": row.group or None,
        "listed": row.laptop is not None,
        "asked": format_time(state.asked),
        "polls": state.polls,
        "address": state.address,
        "build": state.build,
        "stream": state.stream,
        "ordered": state.ordered,
        "stolen": state.stolen,
        "lease": row.lease,
        "result": state.result or None,
    }
