"""Which laptops get which build: assign, unassign, pause, resume."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from olpc_update_query.cli.admin_console import (
    PROGRAM,
    SITE,
    actor,
    note,
    open_site,
    say,
)
from olpc_update_query.cli.admin_site import read_build
from olpc_update_query.errors import Malformed, NoAssignment
from olpc_update_query.model.orders import Reboot
from olpc_update_query.model.wire import BuildId, parse_build_id
from olpc_update_query.server import steer
from olpc_update_query.server.laptops import normal_serial, parse_group, parse_stream
from olpc_update_query.server.leasepolicy import MAX_DAYS
from olpc_update_query.server.rollout import (
    DEFAULT,
    Assignment,
    Kind,
    Rollout,
    Scope,
)
from olpc_update_query.server.site import Site

_MOMENT = click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M", "%Y-%m-%d"])
_F = TypeVar("_F", bound=Callable[..., None])


def _scoped(command: _F) -> _F:
    """Add the options that say for whom."""
    for option, text in (
        ("--serial", "Only this laptop."),
        ("--group", "Only the laptops of this group in laptops.csv."),
        ("--stream", "Only the laptops that follow this stream."),
    ):
        command = click.option(option, help=text)(command)
    return command


def _scope(stream: str | None, group: str | None, serial: str | None) -> Scope | None:
    """Return for whom; None when no option says it."""
    given = [
        (Kind.STREAM, stream, parse_stream),
        (Kind.GROUP, group, parse_group),
        (Kind.SERIAL, serial, normal_serial),
    ]
    scopes = []
    for kind, name, parse in given:
        if name is not None:
            try:
                scopes.append(Scope(kind, parse(name)))
            except Malformed as error:
                raise click.BadParameter(error.reason, param_hint=kind) from error
    if len(scopes) > 1:
        raise click.UsageError("give one of --stream, --group and --serial")
    return scopes[0] if scopes else None


@click.command()
@SITE
@click.option("--build", callback=read_build, required=True, help="The build.")
@_scoped
@click.option(
    "--percent",
    type=click.IntRange(0, 100),
    help="How many of 100 laptops; raising it only adds laptops.  [default: as before, "
    "100 for a new build]",
)
@click.option(
    "--allow-downgrade/--no-allow-downgrade",
    default=None,
    help="Whether to install it although a newer build is there.",
)
@click.option(
    "--sticky/--no-sticky",
    default=None,
    help="Whether laptops keep it when they make room.",
)
@click.option(
    "--reboot",
    type=click.Choice([str(when) for when in Reboot]),
    help="When laptops restart into it.",
)
@click.option(
    "--not-before",
    type=_MOMENT,
    help="When it may be activated, UTC.",
)
@click.option(
    "--halt",
    type=click.IntRange(0, 100),
    help="Pause it by itself when more than so many percent of those that tried the "
    "build failed; 100 for never.  [default: 20]",
)
@click.option("--opens", type=_MOMENT, help="Tell nobody before then, UTC.")
@click.option("--closes", type=_MOMENT, help="Tell nobody from then on, UTC.")
def assign(  # noqa: PLR0913, PLR0917 - one parameter for each option
    site: Path,
    build: BuildId,
    stream: str | None,
    group: str | None,
    serial: str | None,
    percent: int | None,
    allow_downgrade: bool | None,
    sticky: bool | None,
    reboot: str | None,
    not_before: datetime | None,
    halt: int | None,
    opens: datetime | None,
    closes: datetime | None,
) -> None:
    """Tell laptops which build to run.

    The most specific assignment decides: --serial, else --group, else --stream, else
    the one without any of them. What is not said stays as it was for the same build.
    """
    opened = open_site(site)
    scope = _scope(stream, group, serial) or DEFAULT
    options = {
        "allow_downgrade": allow_downgrade,
        "sticky": sticky,
        "reboot": None if reboot is None else Reboot(reboot),
        "not_before": _seconds(not_before),
        "halt": halt,
        "opens": _seconds(opens),
        "closes": _seconds(closes),
    }
    said = {name: value for name, value in options.items() if value is not None}
    new = steer.assign(opened, actor(), scope, build, percent, **said)
    _tell(opened, scope, new)


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp())


def _tell(site: Site, scope: Scope, assignment: Assignment) -> None:
    share = "" if assignment.percent == 100 else f" ({assignment.percent} percent)"
    say(f"Assigned build {assignment.build} to {scope}{share}.")
    rollout = site.rollout()
    told, whole = _count(site, rollout, scope, assignment)
    say(f"That is {told} of the {whole} listed laptops it is for.")
    if not whole and scope.kind in {Kind.GROUP, Kind.SERIAL}:
        note(f"No laptop in laptops.csv is {_nobody(scope)}: is it spelled so?")
    if assignment.percent < 100:
        others = assignment.others
        rest = f"stay with build {others}" if others else "are told nothing"
        say(f"The others {rest}.")
    if rollout.paused or assignment.paused:
        note(f"It is paused: `{PROGRAM} resume {site.path}` lets it go on.")
    if assignment.percent < 100:
        words = f"assign {site.path} --build {assignment.build}"
        say(f"Next: watch `{PROGRAM} status {site.path}`, then")
        say(f"  {PROGRAM} {words}{scope.option} --percent 100")
    else:
        say(f"Next: {PROGRAM} status {site.path}")


def _nobody(scope: Scope) -> str:
    return f"of group {scope.name}" if scope.kind == Kind.GROUP else scope.name


def _count(
    site: Site, rollout: Rollout, scope: Scope, assignment: Assignment
) -> tuple[int, int]:
    """Return how many listed laptops get the build, and how many it is for."""
    always = replace(assignment, paused=False, opens=None, closes=None)
    active = Rollout({**rollout.assignments, scope: always})
    told = whole = 0
    for laptop in site.laptops().values():
        choice = active.choose(laptop.serial, laptop.group, laptop.stream, 0)
        if choice.scope == scope:
            whole += 1
            told += choice.build == assignment.build
    return told, whole


@click.command()
@SITE
@_scoped
def unassign(
    site: Path, stream: str | None, group: str | None, serial: str | None
) -> None:
    """Take an assignment back; a less specific one decides then."""
    opened = open_site(site)
    scope = _scope(stream, group, serial) or DEFAULT
    steer.unassign(opened, actor(), scope)
    say(f"Nothing is assigned to {scope} any more.")
    say(f"Next: {PROGRAM} status {site}")


@click.command()
@SITE
@click.argument("serial", metavar="SERIAL")
@click.option("--clear", is_flag=True, help="Let it follow the others again.")
def pin(site: Path, serial: str, clear: bool) -> None:
    """Let one laptop keep the build that it runs.

    Whatever the others are told.
    """
    opened = open_site(site)
    scope = _scope(None, None, serial) or DEFAULT
    if clear:
        steer.unassign(opened, actor(), scope)
        say(f"{scope.name} follows the others again.")
        return
    build = _running(opened, scope.name)
    steer.pin(opened, actor(), scope.name, build)
    say(f"{scope.name} keeps build {build}.")
    say(f"Next: `{PROGRAM} pin {site} {scope.name} --clear` takes that back.")


def _running(site: Site, serial: str) -> BuildId:
    """Return the build that a laptop said it runs."""
    from olpc_update_query.server.reports import Reports

    reports = Reports(site.reports)
    try:
        state = reports.state(serial)
    finally:
        reports.close()
    if state is None or state.build is None:
        raise NoAssignment(f"laptop {serial}", "has not said which build it runs")
    return parse_build_id(state.build)


def _pause(site: Path, scope: Scope | None, *, paused: bool) -> None:
    opened = open_site(site)
    what = "everything" if scope is None else str(scope)
    steer.pause(opened, actor(), scope, paused=paused)
    rollout = opened.rollout()
    if paused:
        say(f"Paused {what}: no laptop is told to update; leases go on.")
        say(f"Next: `{PROGRAM} resume` with the same words lets it go on.")
        return
    say(f"Resumed {what}.")
    for other, assignment in rollout.assignments.items():
        if assignment.paused:
            words = f"{PROGRAM} resume {site}{other.option}"
            note(f"Still paused: {other}; `{words}` lets it go on.")
    if rollout.paused:
        note("Still paused: everything.")
    say(f"Next: {PROGRAM} status {site}")


@click.command()
@SITE
@_scoped
def pause(
    site: Path, stream: str | None, group: str | None, serial: str | None
) -> None:
    """Stop telling laptops to update.

    All of them, or those of one assignment. Leases go on.
    """
    _pause(site, _scope(stream, group, serial), paused=True)


@click.command()
@SITE
@_scoped
def resume(
    site: Path, stream: str | None, group: str | None, serial: str | None
) -> None:
    """Undo a pause."""
    _pause(site, _scope(stream, group, serial), paused=False)


@click.command()
@SITE
@click.option("--group", help="Only the laptops of this group in laptops.csv.")
@click.option("--stream", help="Only those of this stream in laptops.csv.")
@click.option(
    "--days", type=click.IntRange(0, MAX_DAYS), help="How long leases last; 0: none."
)
@click.option(
    "--shorten/--no-shorten",
    default=None,
    help="Whether a laptop whose lease ends later gets a shorter one.",
)
@click.option("--clear", is_flag=True, help="Let them have what all others have.")
@click.option("--timezone", help="Where the school is, such as America/Lima.")
def policy(  # noqa: PLR0913, PLR0917 - one parameter for each option
    site: Path,
    group: str | None,
    stream: str | None,
    days: int | None,
    shorten: bool | None,
    clear: bool,
    timezone: str | None,
) -> None:
    """Say how long leases last.

    For a group, a stream, or all others. A lease ends at six in the morning of a school
    day, in the school's time zone. What is not said stays as it was. Without options it
    tells how it is.
    """
    from olpc_update_query.cli.admin_tables import show_leases
    from olpc_update_query.server.overview import lease_shares

    opened = open_site(site)
    scope = _scope(stream, group, None) or DEFAULT
    says_something = days is not None or shorten is not None
    if clear and (says_something or scope == DEFAULT):
        raise click.UsageError("give --clear with --group or --stream alone")
    if timezone is not None:
        try:
            steer.set_timezone(opened, actor(), timezone)
        except Malformed as error:
            raise click.BadParameter(error.reason, param_hint="--timezone") from error
    if clear:
        steer.clear_lease_policy(opened, actor(), scope)
    elif says_something:
        steer.set_lease_policy(opened, actor(), scope, days=days, shorten=shorten)
    elif scope != DEFAULT:
        raise click.UsageError("give --days, --shorten or --clear as well")
    settings = opened.settings()
    show_leases(settings.timezone, lease_shares(settings, opened.laptops()))


COMMANDS = (assign, unassign, pin, pause, resume, policy)
