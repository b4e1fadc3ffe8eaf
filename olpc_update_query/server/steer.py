"""What an administrator changes: assignments, pauses, the list of laptops.

The commands and the pages do the same things; here is how. Each change holds the
site's lock, and is written down with who made it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from olpc_update_query.errors import NoAssignment, UnknownLaptop
from olpc_update_query.model.wire import BuildId, format_time
from olpc_update_query.server.laptops import Laptop, import_rows
from olpc_update_query.server.leasepolicy import LeasePolicy, parse_timezone
from olpc_update_query.server.rollout import (
    DEFAULT,
    Assignment,
    Kind,
    Scope,
    succeed,
)
from olpc_update_query.server.rollout_text import with_assignment, with_pause
from olpc_update_query.server.site import Site
from olpc_update_query.server.site_text import with_lease_policy, with_timezone


class Actor(NamedTuple):
    """Who changes something, and when.

    Attributes:
        name: For the log of changes.
        now: The present.
    """

    name: str
    now: int


def assign(
    site: Site,
    actor: Actor,
    scope: Scope,
    build: BuildId,
    percent: int | None,
    **wanted: object,
) -> Assignment:
    """Let laptops run a build.

    Args:
        site: The site.
        actor: Who says so.
        scope: For whom.
        build: The build; it must be published.
        percent: How many of 100 laptops; None: as before, and all where the build is
            new.
        **wanted: Other attributes of the assignment; what is not given stays as it was.

    Returns:
        The assignment.

    Raises:
        UnknownBuild: It is not published.
        NoAssignment: It would close before it opens.
        DamagedSite: rollout.toml cannot be edited by a program.
    """
    site.need_build(build)
    if percent is None:
        old = site.rollout().assignments.get(scope)
        percent = 100 if old is None or old.build != build else old.percent
    what = f"assign build {build} to {scope}, {percent} percent{_window(wanted)}"
    with site.change(actor.name, what):
        new = succeed(site.rollout().assignments.get(scope), build, percent)
        said = {**wanted, "changed": actor.now, "by": actor.name}
        new = replace(new, **said)  # type: ignore[arg-type]  # names of attributes
        if new.never_open:
            raise NoAssignment(str(scope), "it must close after it opens")
        site.save_rollout(with_assignment(site.rollout_text(), scope, new))
    return new


def _window(wanted: Mapping[str, object]) -> str:
    """Return how a change of when laptops are told is written down."""
    return "".join(
        f", {name} {format_time(seconds)}"
        for name in ("opens", "closes")
        if isinstance(seconds := wanted.get(name), int)
    )


def unassign(site: Site, actor: Actor, scope: Scope) -> None:
    """Take an assignment back.

    Raises:
        NoAssignment: There is none.
        DamagedSite: rollout.toml cannot be edited by a program.
    """
    with site.change(actor.name, f"unassign {scope}"):
        site.save_rollout(with_assignment(site.rollout_text(), scope, None))


def pin(site: Site, actor: Actor, serial: str, build: BuildId) -> None:
    """Let one laptop keep a build, published or not.

    Raises:
        DamagedSite: rollout.toml cannot be edited by a program.
    """
    scope = Scope(Kind.SERIAL, serial)
    kept = Assignment(build, changed=actor.now, by=actor.name)
    with site.change(actor.name, f"pin {serial} to build {build}"):
        site.save_rollout(with_assignment(site.rollout_text(), scope, kept))


def pause(site: Site, actor: Actor, scope: Scope | None, *, paused: bool) -> None:
    """Pause or resume an assignment, or everything.

    Whoever resumes everything resumes the default as well, which has no name by which
    it could be resumed alone.

    Raises:
        NoAssignment: Nothing is assigned there.
        DamagedSite: rollout.toml cannot be edited by a program.
    """
    what = "everything" if scope is None else str(scope)
    with site.change(actor.name, f"{'pause' if paused else 'resume'} {what}"):
        text = site.rollout_text()
        text = with_pause(text, scope, paused=paused, now=actor.now, by=actor.name)
        default = site.rollout().assignments.get(DEFAULT)
        if scope is None and not paused and default is not None and default.paused:
            text = with_pause(text, DEFAULT, paused=False, now=actor.now, by=actor.name)
        site.save_rollout(text)


def mark_stolen(site: Site, actor: Actor, serial: str, *, stolen: bool) -> Laptop:
    """Mark a laptop as stolen, or as found again.

    Raises:
        UnknownLaptop: It is not in laptops.csv.
    """
    what = "stolen" if stolen else "no longer stolen"
    with site.change(actor.name, f"{serial} is {what}"):
        known = site.laptops()
        if serial not in known:
            raise UnknownLaptop(f"laptop {serial}", "is not in laptops.csv")
        marked = known[serial]._replace(stolen=stolen)
        site.save_laptops({**known, serial: marked})
    return marked


def set_lease_policy(
    site: Site,
    actor: Actor,
    scope: Scope,
    *,
    days: int | None = None,
    shorten: bool | None = None,
) -> None:
    """Say how long leases last for a group, a stream or everybody else.

    Args:
        site: The site.
        actor: Who says so.
        scope: For whom.
        days: How many days, 0 for no leases; None: as before.
        shorten: Whether longer leases are shortened; None: as before.

    Raises:
        DamagedSite: site.toml cannot be edited by a program.
    """
    said = {"days": days, "shorten": shorten}
    words = [f"{name} {value}" for name, value in said.items() if value is not None]
    with site.change(actor.name, f"leases for {scope}: {', '.join(words)}"):
        settings = site.settings()
        old = settings.lease_rules.get(scope, settings.lease_policy)
        new = LeasePolicy(
            old.days if days is None else days,
            old.shorten if shorten is None else shorten,
        )
        site.save_settings(with_lease_policy(site.settings_text(), scope, new))


def clear_lease_policy(site: Site, actor: Actor, scope: Scope) -> None:
    """Give a group or a stream the leases that everybody else gets.

    Raises:
        NoAssignment: They have them.
        DamagedSite: site.toml cannot be edited by a program.
    """
    with site.change(actor.name, f"leases for {scope}: as for every other laptop"):
        site.save_settings(with_lease_policy(site.settings_text(), scope, None))


def set_timezone(site: Site, actor: Actor, timezone: str) -> None:
    """Say where the school is.

    Raises:
        Malformed: This machine does not know the time zone.
        DamagedSite: site.toml cannot be edited by a program.
    """
    parse_timezone(timezone)
    with site.change(actor.name, f"the time zone is {timezone}"):
        site.save_settings(with_timezone(site.settings_text(), timezone))


def approve(
    site: Site, actor: Actor, serials: Sequence[str], group: str | None = None
) -> None:
    """List laptops that have asked.

    Args:
        site: The site.
        actor: Who says so.
        serials: Their serial numbers.
        group: The group they belong to from now on; None leaves it open.
    """
    cells = {} if group is None else {"group": group}
    with site.change(actor.name, f"approve {', '.join(serials)}"):
        rows = dict.fromkeys(serials, cells)
        site.save_laptops(import_rows(site.laptops(), rows).laptops)
