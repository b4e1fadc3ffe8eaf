"""olpc-update: install a build by hand, go back, look after what is installed."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from olpc_update_query import errors
from olpc_update_query.cli import render
from olpc_update_query.cli.console import Console, run_command
from olpc_update_query.cli.options import Common, common
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import BuildId, parse_build_id
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.work import prepare, work_area

PROGRAM = "olpc-update"
BY_THEMSELVES = (
    "list_targets",
    "rollback",
    "confirm",
    "installed",
    "verify",
    "sticky",
    "purge",
)


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
        found = [name for name in BY_THEMSELVES if getattr(self, name)]
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
    help="Install an old build that nobody has signed, from its tree; BUILD names it.",
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
    if usb is not None and build is None and usb and not Path(usb).exists():
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
    match wanted:
        case Wanted(list_targets=True):
            return _list_targets(given, wanted, console)
        case Wanted(sticky=str(build)):
            return _mark_sticky(given, console, _build(build))
        case Wanted(purge=str(build)):
            return _purge(given, console, _build(build))
        case Wanted(unsigned=(str(), str(tree_url))):
            return _install_unsigned(given, wanted, console, tree_url)
        case Wanted(verify=True):
            return _verify(given, wanted, console)
        case Wanted(build=None, usb=None):
            return _LOOK_AFTER[wanted.chosen](given, console)
        case _:
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

    machine = given.machine()
    build, places = _places(given, wanted)
    code = ByHand(machine, console, build, places, force=wanted.force).run()
    if code == 0 and wanted.reboot and machine.is_real():
        restart()
    return code


def _install_unsigned(
    given: Common, wanted: Wanted, console: Console, tree_url: str
) -> int:
    from olpc_update_query.run.legacy import UNSIGNED, Legacy, name_of
    from olpc_update_query.system.power import restart

    if not tree_url.startswith("rsync://"):
        raise click.UsageError(f"{tree_url}: an unsigned tree comes by rsync:// only")
    build = name_of(tree_url) if wanted.build is None else _build(wanted.build)
    console.warn(UNSIGNED.format(build, tree_url))
    console.step("its old manifest is not read: nobody knows its format any more")
    machine = given.machine()
    code = Legacy(machine, console, build, tree_url, force=wanted.force).run()
    if code == 0 and wanted.reboot and machine.is_real():
        restart()
    return code


def _places(given: Common, wanted: Wanted) -> tuple[BuildId, Sequence[str]]:
    from olpc_update_query.run.places import choose, url_of

    build = None if wanted.build is None else _build(wanted.build)
    if wanted.usb is None and build is not None:
        return build, _places_of(given, wanted, build)
    path, found = _stick(given, wanted.usb or "")
    place = choose(found, build, str(path))
    return parse_build_id(place.name), [url_of(place)]


def _stick(given: Common, path: str) -> tuple[Path, dict[BuildId, Path]]:
    from olpc_update_query.run.places import on_stick, sticks

    if path:
        return Path(path), on_stick(Path(path))
    mounted = sticks(given.root)
    if not mounted:
        raise errors.BuildNotFound("--usb", "no stick with builds is mounted")
    return mounted[0], on_stick(mounted[0])


def _list_targets(given: Common, wanted: Wanted, console: Console) -> int:
    from olpc_update_query.run.places import list_builds

    if wanted.usb is not None:
        path, found = _stick(given, wanted.usb)
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


# --- what is installed -------------------------------------------------------------


def _list_installed(given: Common, console: Console) -> int:
    layout = Layout.detect(given.root)
    rows: list[dict[str, Json]] = [
        {
            "build": found.build,
            "running": found.build == layout.running(),
            "boots_next": found.build == layout.current(),
            "alternate": found.build == layout.alternate(),
            "sticky": layout.is_sticky(found.build),
        }
        for found in layout.installed()
    ]
    if console.as_json:
        console.print_json(rows)
        return 0
    for row in rows:
        console.say(render.installed(row))
    return 0


def _chosen_builds(given: Common, wanted: Wanted) -> list[BuildId]:
    if wanted.build is not None:
        return [_build(wanted.build)]
    return [found.build for found in Layout.detect(given.root).installed()]


def _verify(given: Common, wanted: Wanted, console: Console) -> int:
    if wanted.repair:
        return _repair(given, wanted, console)
    from olpc_update_query.perform_update.repair import look

    layout = Layout.detect(given.root)
    damaged: list[Json] = []
    for build in _chosen_builds(given, wanted):
        for difference in look(layout, build):
            damaged.append(f"build {build}: {difference}")
            if not console.as_json:
                console.complain(str(damaged[-1]))
    text = f"{len(damaged)} differences" if damaged else "every file is as it should be"
    if console.as_json:
        console.print_json({"differences": damaged, "text": text})
    elif console.level >= 0:
        console.say(text)
    return errors.TreeError.exit_code if damaged else 0


def _repair(given: Common, wanted: Wanted, console: Console) -> int:
    """Mend one build after the other; the first that fails gives the exit code."""
    from olpc_update_query.run.mend import Mend

    machine, codes = given.machine(), []
    for build in _chosen_builds(given, wanted):
        places = _places_of(given, wanted, build)
        codes.append(Mend(machine, console, build, places).run())
    return next((code for code in codes if code), 0)


def _places_of(given: Common, wanted: Wanted, build: BuildId) -> Sequence[str]:
    from olpc_update_query.run.places import choose, url_of

    if wanted.usb is not None:
        path, found = _stick(given, wanted.usb)
        return [url_of(choose(found, build, str(path)))]
    return [f"{server}builds/{build}/" for server in given.settings().servers]


def _rollback(given: Common, console: Console) -> int:
    from olpc_update_query.run.go_back import go_back

    return go_back(given.machine(), console)


def _confirm(given: Common, console: Console) -> int:
    from olpc_update_query.run.trial import confirm

    return confirm(given.machine(), console)


_LOOK_AFTER = {
    "confirm": _confirm,
    "installed": _list_installed,
    "rollback": _rollback,
}


def _mark_sticky(given: Common, console: Console, build: BuildId) -> int:
    Layout.detect(given.root).set_sticky(build)
    return _tell_build(console, build, f"build {build} is never deleted")


def _purge(given: Common, console: Console, build: BuildId) -> int:
    work = work_area(given.root)
    prepare(work)
    with hold_lock(work.lock, f"olpc-update --purge {build}"):
        Layout.detect(given.root).purge(build)
    return _tell_build(console, build, f"build {build} is deleted")


def _tell_build(console: Console, build: BuildId, text: str) -> int:
    if console.as_json:
        console.print_json({"build": build, "text": text})
    elif console.level >= 0:
        console.say(text)
    return 0
