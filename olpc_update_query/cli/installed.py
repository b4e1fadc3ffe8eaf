"""What `olpc-update` does to the builds that are installed: list, verify, go back."""

from collections.abc import Sequence

from olpc_update_query import errors
from olpc_update_query.cli import render
from olpc_update_query.cli.console import Console
from olpc_update_query.cli.options import Common
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.work import prepare, work_area


def list_installed(given: Common, console: Console) -> int:
    """List the installed builds."""
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


def verify(given: Common, console: Console, builds: Sequence[BuildId]) -> int:
    """Read every file of builds again, and tell what differs from their manifests."""
    from olpc_update_query.perform_update.repair import look

    layout = Layout.detect(given.root)
    damaged: list[Json] = []
    for build in [] if builds else layout.unknown():
        console.warn(
            f"build {build} is left out: {layout.contents(build)} is not the manifest "
            "that `olpc-update-admin publish` makes"
        )
    for build in builds or [found.build for found in layout.known()]:
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


def roll_back(given: Common, console: Console) -> int:
    """Let the alternate boot next."""
    from olpc_update_query.run.go_back import go_back

    return go_back(given.machine(), console)


def confirm(given: Common, console: Console) -> int:
    """End the trial of the running build."""
    from olpc_update_query.run import trial

    return trial.confirm(given.machine(), console)


def mark_sticky(given: Common, console: Console, build: BuildId) -> int:
    """Never delete a build."""
    Layout.detect(given.root).set_sticky(build)
    return _tell_build(console, build, f"build {build} is never deleted")


def purge(given: Common, console: Console, build: BuildId) -> int:
    """Delete a build."""
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
