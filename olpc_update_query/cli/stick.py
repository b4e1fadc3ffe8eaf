"""`olpc-update --usb`: finding the stick, and saying what is on it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from olpc_update_query import errors
from olpc_update_query.cli import render
from olpc_update_query.cli.console import Console, Level
from olpc_update_query.cli.options import Common
from olpc_update_query.model.messages import BuildId

if TYPE_CHECKING:
    from olpc_update_query.run.stick import FromStick


_BARE = (
    "it holds the tree of an old build, of which nothing is signed; "
    "`olpc-update -u - {} BUILD` installs it all the same, as root"
)


def job(
    given: Common, console: Console, path: str, build: BuildId | None, *, force: bool
) -> "FromStick":
    """Find the stick, follow what it says about keys, and say what it has.

    Args:
        given: The common options.
        console: Who listens.
        path: Where the stick is mounted; empty for any that is.
        build: The build that a person names.
        force: Install it whatever happened to it here before.

    Raises:
        BuildNotFound: There is no stick, or nothing for laptops on it.
        StickFailed: It cannot be read.
    """
    from olpc_update_query.run.stick import FromStick
    from olpc_update_query.system.sticks import stick_errors

    stick, found = find(given, path)
    if not console.as_json and console.level >= Level.LINE:
        with stick_errors(stick):
            told = _contents(stick, list(found))
        console.say(told)
    _follow_keys(given, stick, console)
    return FromStick(given.machine(), console, stick, build, force=force)


def find(given: Common, path: str) -> tuple[Path, dict[BuildId, Path]]:
    """Return where the stick is, and its builds.

    Args:
        given: The common options.
        path: Where it is mounted; empty for any that is.

    Raises:
        BuildNotFound: None is mounted that has anything for laptops.
        StickFailed: The stick cannot be read.
    """
    from olpc_update_query.run.places import (
        is_bare_tree,
        mount_places,
        on_stick,
        sticks,
    )
    from olpc_update_query.system.sticks import stick_errors

    mounted = [Path(path)] if path else sticks(given.root)
    with stick_errors(Path(path)):
        if path and not Path(path).is_dir():
            raise errors.BuildNotFound(path, "there is no such directory")
    for place in mounted or mount_places(given.root):
        with stick_errors(place):
            if is_bare_tree(place) and not on_stick(place):
                raise errors.BuildNotFound(str(place), _BARE.format(place))
    if not mounted:
        reason = "no stick with builds or leases is mounted; say where: --usb PATH"
        raise errors.BuildNotFound("--usb", reason)
    with stick_errors(mounted[0]):
        return mounted[0], on_stick(mounted[0])


def _contents(stick: Path, builds: list[BuildId]) -> str:
    from olpc_update_query.run.places import has_leases, has_statements

    found = [f"build {build}" for build in sorted(builds)]
    found += ["leases"] if has_leases(stick) else []
    found += ["statements about keys"] if has_statements(stick) else []
    return f"{stick}: {', '.join(found) or 'nothing for laptops'}"


def _follow_keys(given: Common, stick: Path, console: Console) -> None:
    """Follow what a stick says about keys; what is not for us changes nothing."""
    from olpc_update_query.system.keyring import STATEMENTS, follow_path

    file = stick / STATEMENTS
    if not os.path.lexists(file):
        return
    try:
        done = follow_path(given.root, stick, threshold=given.settings().key_threshold)
    except (errors.ConfigError, errors.Malformed) as error:
        console.warn(f"{file} is of no use: {error}")
        return
    for statement in done.statements:
        console.step(render.statement(statement))
    for refused in done.refused:
        console.step(f"{file}: {refused}")
