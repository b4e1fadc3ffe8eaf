"""olpc-update: install a build by hand, go back, look after what is installed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from olpc_update_query import errors
from olpc_update_query.cli import installed, stick
from olpc_update_query.cli.console import Console, run_command
from olpc_update_query.cli.options import Common, common
from olpc_update_query.model.messages import BuildId, parse_build_id
from olpc_update_query.perform_update.activate import Layout

PROGRAM = "olpc-update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks for."""

    build: str | None
    list_targets: bool
    usb: str | None
    unsigned: tuple[str, str] | None
    rollback: bool
    confirm: bool
    installed: bool
    verify: bool
    repair: bool
    sticky: str | None
    purge: str | None
    force: bool
    reboot: bool

    @property
    def chosen(self) -> str:
        """Which of the things was asked for that need neither build nor stick."""
        found = [name for name in _BY_THEMSELVES if getattr(self, name)]
        takes_build = found in ([], ["verify"])
        if len(found) > 1 or (self.build is not None and not takes_build):
            raise click.UsageError("these options exclude each other")
        return found[0] if found else ""


def main() -> NoReturn:
    """Do what the command line says."""
    run_command(update, PROGRAM)


@click.command()
@click.argument("build", required=False)
@click.option("-r", "--reboot", is_flag=True, help="Restart into the new build.")
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="Install it even if it failed on this laptop, or before its time.",
)
@click.option("-l", "--list-targets", is_flag=True, help="List what can be installed.")
@click.option(
    "--usb",
    is_flag=False,
    flag_value="",
    metavar="[PATH]",
    help="Install from a stick, the one at PATH or any that is mounted.",
)
@click.option(
    "-u",
    "--unsigned",
    nargs=2,
    metavar="CONTENTS_URL TREE_URL",
    help="Install an old build that nobody has signed, from its tree at rsync:// or in "
    "the directory where an old stick is mounted; BUILD names it.",
)
@click.option("--rollback", is_flag=True, help="Boot the alternate build next.")
@click.option("--confirm", is_flag=True, help="The running build is up: end its trial.")
@click.option("--installed", is_flag=True, help="List what is installed.")
@click.option("--verify", is_flag=True, help="Read every file of BUILD, or of all.")
@click.option("--repair", is_flag=True, help="With --verify: mend what is damaged.")
@click.option("--sticky", metavar="BUILD", help="Never delete BUILD.")
@click.option("--purge", metavar="BUILD", help="Delete BUILD.")
@click.version_option(package_name="olpc-update-query")
@common
@click.pass_context
def update(
    context: click.Context, /, build: str | None, usb: str | None, **given: object
) -> None:
    """Install BUILD beside the one that is running, and boot it next.

    With --usb the build may be left out: the newest on the stick. --verify reads
    what is installed again, from the disk, and tells everything that differs;
    with --repair the damaged files are fetched again, from the servers or a stick.
    """
    found = context.ensure_object(Common)
    found.program = PROGRAM
    is_name = usb and "/" not in usb and not Path(usb).exists()
    if usb is not None and build is None and is_name:
        build, usb = usb, ""  # `olpc-update --usb 762`: the stick was left out
    wanted = Wanted(build=build, usb=usb, **given)  # type: ignore[arg-type]  # click's
    _require_one_thing(wanted)
    console = found.console()
    with console.guard():
        sys.exit(_do(found, wanted, console))


def _require_one_thing(wanted: Wanted) -> None:
    if wanted.repair and not wanted.verify:
        raise click.UsageError("--repair goes with --verify only")
    with_stick = {"", "list_targets", "verify" if wanted.repair else ""}
    if wanted.usb is not None and wanted.chosen not in with_stick:
        raise click.UsageError(
            "--usb goes with BUILD, --list-targets or --verify --repair only"
        )
    if wanted.unsigned is not None and (wanted.chosen or wanted.usb is not None):
        raise click.UsageError("-u goes with BUILD only")
    given = (wanted.build, wanted.usb, wanted.unsigned)
    if not wanted.chosen and not any(one is not None for one in given):
        raise click.UsageError("say which BUILD to install; -l lists them")


def _do(given: Common, wanted: Wanted, console: Console) -> int:
    if wanted.chosen:
        return _BY_THEMSELVES[wanted.chosen](given, wanted, console)
    if wanted.unsigned is not None:
        return _install_unsigned(given, wanted, console, wanted.unsigned[1])
    return _install(given, wanted, console)


def _build(text: str) -> BuildId:
    try:
        return parse_build_id(text)
    except errors.Malformed as error:
        raise click.BadParameter(str(error)) from None


# --- installing --------------------------------------------------------------------


def _install(given: Common, wanted: Wanted, console: Console) -> int:
    from olpc_update_query.run.by_hand import ByHand
    from olpc_update_query.system.power import restart

    build = None if wanted.build is None else _build(wanted.build)
    job: ByHand
    if wanted.usb is not None or build is None:
        job = stick.job(given, console, wanted.usb or "", build, force=wanted.force)
    else:
        places = _places_of(given, wanted, build)
        job = ByHand(given.machine(), console, build, places, force=wanted.force)
    code, machine = job.run(), given.machine()
    if code == 0 and wanted.reboot and machine.is_real():
        restart()
    return code


def _install_unsigned(
    given: Common, wanted: Wanted, console: Console, tree_url: str
) -> int:
    from olpc_update_query.run.legacy import UNSIGNED, Legacy, is_remote, name_of
    from olpc_update_query.system.power import restart

    if not is_remote(tree_url) and not tree_url.startswith(("/", "file:///")):
        reason = "an unsigned tree comes by rsync://, or from a directory, as /PATH"
        raise click.UsageError(f"{tree_url}: {reason}")
    build = name_of(tree_url) if wanted.build is None else _build(wanted.build)
    console.warn(UNSIGNED.format(build, tree_url))
    console.step("its old manifest is not read: nobody knows its format any more")
    machine = given.machine()
    code = Legacy(machine, console, build, tree_url, force=wanted.force).run()
    if code == 0 and wanted.reboot and machine.is_real():
        restart()
    return code


def _list_targets(given: Common, wanted: Wanted, console: Console) -> int:
    from olpc_update_query.run.places import list_builds

    if wanted.usb is not None:
        path, found = stick.find(given, wanted.usb)
        rows = [(str(path), sorted(found))]
    else:
        rows = list(list_builds(given.machine()))
    if console.as_json:
        console.print_json(dict(rows))
        return 0
    for where, builds in rows:
        for build in builds:
            console.say(f"{build:<20} {where}")
    return 0


def _verify(given: Common, wanted: Wanted, console: Console) -> int:
    builds = [] if wanted.build is None else [_build(wanted.build)]
    if not wanted.repair:
        return installed.verify(given, console, builds)
    from olpc_update_query.run.mend import Mend

    machine, codes = given.machine(), []
    for build in builds or [one.build for one in Layout.detect(given.root).installed()]:
        places = _places_of(given, wanted, build)
        codes.append(Mend(machine, console, build, places).run())
    return next((code for code in codes if code), 0)


def _places_of(given: Common, wanted: Wanted, build: BuildId) -> Sequence[str]:
    from olpc_update_query.run.places import choose, url_of

    if wanted.usb is not None:
        path, found = stick.find(given, wanted.usb)
        return [url_of(choose(found, build, str(path)))]
    return [f"{server}builds/{build}/" for server in given.settings().servers]


_BY_THEMSELVES: Mapping[str, Callable[[Common, Wanted, Console], int]] = {
    "list_targets": _list_targets,
    "rollback": lambda given, _, console: installed.roll_back(given, console),
    "confirm": lambda given, _, console: installed.confirm(given, console),
    "installed": lambda given, _, console: installed.list_installed(given, console),
    "verify": _verify,
    "sticky": lambda given, wanted, console: installed.mark_sticky(
        given, console, _build(wanted.sticky or "")
    ),
    "purge": lambda given, wanted, console: installed.purge(
        given, console, _build(wanted.purge or "")
    ),
}
"""What is done without installing anything, by the name of its option."""
