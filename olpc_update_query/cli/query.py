"""olpc-update-query: ask, look, hold."""

import os
import re
import sys
from typing import NoReturn

import click

from olpc_update_query.cli import render
from olpc_update_query.cli.console import run_command
from olpc_update_query.cli.keys import keys
from olpc_update_query.cli.options import Common, common
from olpc_update_query.cli.wire import Wire
from olpc_update_query.policy.gates import LONGEST_HOLD
from olpc_update_query.policy.schedule import DAY, HOUR, MINUTE, Trigger

PROGRAM = "olpc-update-query"
UNITS = {"m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}

_pass = click.make_pass_decorator(Common, ensure=True)


def main() -> NoReturn:
    """Do what the command line says."""
    run_command(query, PROGRAM)


@click.group(invoke_without_command=True)
@click.option(
    "--trigger",
    type=click.Choice([str(trigger) for trigger in Trigger]),
    default=str(Trigger.MANUAL),
    show_default=True,
    help="What woke this run.",
)
@click.option("--now", is_flag=True, help="Ask even if no query is due.")
@click.option("--dry-run", is_flag=True, help="Ask and verify, but change nothing.")
@click.option(
    "--hand-over",
    is_flag=True,
    help="Only ask and fetch; leave to the installer's unit what needs root.",
)
@click.option("--for-daemon", is_flag=True, hidden=True)
@click.version_option(package_name=PROGRAM)
@common
@click.pass_context
def query(
    context: click.Context,
    trigger: str,
    now: bool,
    dry_run: bool,
    hand_over: bool,
    for_daemon: bool,
) -> None:
    """Ask the school server whether to renew the lease and which build to run.

    Without a subcommand it polls once, if a query is due.
    """
    if context.invoked_subcommand is None:
        given, options = context.ensure_object(Common), (now, dry_run, not for_daemon)
        _poll(given, Trigger(trigger), *options, hand_over=hand_over)


def _poll(given: Common, trigger: Trigger, *options: bool, hand_over: bool) -> NoReturn:
    from olpc_update_query.run.poll import Poll, Wish
    from olpc_update_query.run.two_units import AskerHalf

    kind, wish = AskerHalf if hand_over else Poll, Wish(trigger, *options)
    as_child = not (wish.waits or hand_over)
    console = Wire(given.program) if as_child else given.console()
    with console.guard():
        machine = given.machine()
        if machine.settings.ignore_signature:
            console.warn(render.UNSIGNED)
        sys.exit(kind(machine, console, wish).run())


@query.command()
@common
@_pass
def install(given: Common) -> NoReturn:
    """Do what the asker handed over: what needs root, and no network.

    The installer's unit runs this. Without anything handed over it only prepares
    what the asker needs.
    """
    from olpc_update_query.run.two_units import InstallerHalf

    console = given.console()
    with console.guard():
        sys.exit(InstallerHalf(given.machine(), console).run())


@query.command()
@common
@_pass
def status(given: Common) -> None:
    """Show what the laptop runs, knows and waits for."""
    from olpc_update_query.run.facts import look
    from olpc_update_query.run.machine import as_prepared
    from olpc_update_query.run.status import gather, show_as_asker

    console = given.console()
    with console.guard():
        machine = as_prepared(given.machine())
        facts = look(machine)

        def show() -> None:
            found = gather(machine, facts)
            if console.as_json:
                console.print_json(found)
                return
            for line in render.status(found, machine.clock.now()):
                console.say(line)

        sys.exit(show_as_asker(machine, show))


@query.command()
@click.option(
    "-n", "--lines", default=20, show_default=True, help="How many events to show."
)
@common
@_pass
def history(given: Common, lines: int) -> None:
    """Show what the last runs came to."""
    from olpc_update_query.run.machine import as_prepared
    from olpc_update_query.run.status import events, show_as_asker

    console = given.console()
    with console.guard():
        machine = as_prepared(given.machine())

        def show() -> None:
            found = events(machine, lines)
            if console.as_json:
                console.print_json(list(found))
                return
            for event in found:
                console.say(render.event(event))

        sys.exit(show_as_asker(machine, show))


@query.command()
@click.argument("duration", required=False)
@common
@_pass
def hold(given: Common, duration: str | None) -> None:
    """Hold updates for a time, or until `release`.

    DURATION is such as 12h, 3d or 2w. Leases are never held. A hold ends by itself,
    after 90 days at the latest.
    """
    from olpc_update_query.run.facts import floor
    from olpc_update_query.run.waiting import set_hold

    console = given.console()
    with console.guard():
        machine = given.machine()
        now = max(machine.clock.now(), floor(machine))
        until = None if duration is None else now + _seconds(duration)
        held = set_hold(machine, since=now, until=until)
        if console.as_json:
            console.print_json({"held": True, "until": held.until})
        elif not given.quiet:
            console.say(f"updates are held {render.until(held.until, now)}")


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,4})([mhdw])", text.strip())
    if found is None or not int(found[1]):
        raise click.BadParameter(f"{text!r} is not a duration such as 12h, 3d or 2w")
    seconds = int(found[1]) * UNITS[found[2]]
    if seconds > LONGEST_HOLD:
        raise click.BadParameter(
            f"a hold lasts {LONGEST_HOLD // DAY} days at most; "
            'stream = "none" in the configuration means: no updates at all'
        )
    return seconds


@query.command()
@common
@_pass
def release(given: Common) -> None:
    """Let updates go on."""
    from olpc_update_query.run.waiting import release_hold

    console = given.console()
    with console.guard():
        was_held = release_hold(given.machine())
        if console.as_json:
            console.print_json({"held": False})
        elif not given.quiet:
            console.say(f"updates {'go on' if was_held else 'were not held'}")


@query.command()
@click.option(
    "--tick",
    default=60,
    show_default=True,
    type=click.IntRange(min=1),
    help="Seconds between two looks at the due time.",
)
@common
@_pass
def daemon(given: Common, tick: int) -> NoReturn:
    """Stay, and start a run whenever a query is due."""
    command = [sys.executable, "-m", "olpc_update_query.daemon"]
    command += ["--tick", str(tick), "--root", str(given.root)]
    if given.config is not None:
        command += ["--config", str(given.config)]
    os.execv(sys.executable, command)  # noqa: S606 - the same interpreter, a list


query.add_command(keys)
