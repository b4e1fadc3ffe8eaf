"""Sticks: what goes out to a school without a link, and what comes home."""

from collections.abc import Mapping
from pathlib import Path

import click

from olpc_update_query.cli.admin_builds import Teller, read_builds
from olpc_update_query.cli.admin_console import (
    PROGRAM,
    SITE,
    note,
    open_site,
    plain,
    say,
    who,
)
from olpc_update_query.errors import MissingKey, SiteError
from olpc_update_query.model.wire import BuildId
from olpc_update_query.server.site import PublishedBuild, Site
from olpc_update_query.server.stick_orders import VALID_DAYS, Share
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role

_MOUNTED = click.Path(exists=True, file_okay=False, path_type=Path)
_MOST_TOLD = 20


@click.command()
@SITE
@click.argument("stick", type=_MOUNTED, metavar="DEST")
@click.option(
    "--build",
    "names",
    callback=read_builds,
    multiple=True,
    help="Give this build instead of those that are assigned; may be repeated.",
)
@click.option("--group", help="Only for the laptops of a group.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=VALID_DAYS,
    show_default=True,
    help="How long the orders on it are good.",
)
@click.option(
    "--leases",
    type=click.IntRange(1, 3650),
    metavar="DAYS",
    help="Add a lease of that many days for every laptop.",
)
def usb(
    site: Path,
    stick: Path,
    names: tuple[BuildId, ...],
    group: str | None,
    days: int,
    leases: int | None,
) -> None:
    """Make a stick that updates laptops without a link.

    It is mounted at DEST, and holds what the laptops would be told now if they could
    ask: the assigned builds with signed orders, statements about keys, and leases if
    you like. A laptop takes them with `olpc-update --usb`, and leaves a report on the
    stick, which `reports import` brings home.
    """
    from olpc_update_query.server.stick import (
        Load,
        all_leases,
        lease_files,
        statement_files,
        write_stick,
    )
    from olpc_update_query.server.stick_orders import shares

    opened, now = open_site(site), SystemClock().now()
    found = shares(opened, names, group, now)
    builds = {opened.need_build(name): share for name, share in found.items()}
    files, signed = statement_files(opened), dict[str, str]()
    whom = f"for group {group}" if group else "for all"
    with opened.change(who(), f"a stick {whom}: builds {', '.join(sorted(found))}"):
        orders = _orders(opened, builds, now, days)
        if leases is not None:
            signed = all_leases(opened, days=leases, now=now, group=group)
            files |= lease_files(signed)
    write_stick(Load(orders, files), stick, Teller())
    _tell(builds, files)
    if leases is not None:
        say(f"{len(signed)} laptops find a lease on it.")
    if stick.is_mount():
        say(f"Next: unmount {stick}, then on each laptop: olpc-update --usb")
    else:
        note(f"{stick} is no mount point, but on a disk.")
        say("Next: copy all that is in it to the top of a stick.")
    say(f"When it is back: {PROGRAM} reports import {site} {stick}")


def _orders(
    site: Site, builds: Mapping[PublishedBuild, Share], now: int, days: int
) -> dict[PublishedBuild, bytes]:
    """Sign the orders here, or take those that came with the builds."""
    from olpc_update_query.server.keys import load_site_key
    from olpc_update_query.server.stick import published_orders
    from olpc_update_query.server.stick_orders import sign_orders

    is_limited = any(share.serials is not None for share in builds.values())
    try:
        key = load_site_key(site, Role.OATS)
        if not key.delegations:
            return sign_orders(builds, key.signer, now, days)
        reason = "signs for one laptop at a time"
        mend = "Make this stick at the site whose keys the laptops trust."
        missing: SiteError = SiteError("the key for orders", reason, mend)
    except MissingKey as error:
        missing = error
    if is_limited:
        raise missing
    note("No key that signs orders is here: they stay as they were signed when the")
    note("builds were published, for every laptop, and not for --days.")
    return published_orders(list(builds))


def _tell(builds: Mapping[PublishedBuild, Share], files: Mapping[str, bytes]) -> None:
    from olpc_update_query.system.keyring import STATEMENTS

    for build, share in builds.items():
        whom = "every laptop"
        if share.serials is not None:
            whom = f"{len(share.serials)} laptops"
        say(f"Build {build.build} is for {whom}.")
    if STATEMENTS in files:
        say(f"{STATEMENTS} tells laptops which keys have changed.")


@click.group()
def reports() -> None:
    """Bring home what laptops have left on sticks."""


@reports.command("import")
@SITE
@click.argument("stick", type=_MOUNTED, metavar="STICK")
def import_(site: Path, stick: Path) -> None:
    """Read the reports on the stick that is mounted at STICK.

    They count like polls, from `stick` instead of an address. What is known to be
    newer stays; the stick is not changed, and may be imported again. When some cannot
    be read, the others are kept, and it ends as a stick that failed.
    """
    from olpc_update_query.server.reports import Reports
    from olpc_update_query.server.stick_reports import bring_home

    opened = open_site(site)
    kept = Reports(opened.reports)
    try:
        found = bring_home(opened, kept, stick, SystemClock())
    finally:
        kept.close()
    for name, reason in found.refused[:_MOST_TOLD]:
        note(plain(f"{name}: {reason}"))
    if len(found.refused) > _MOST_TOLD:
        note(f"... and {len(found.refused) - _MOST_TOLD} more.")
    unread = f", {len(found.unread)} could not be read" if found.unread else ""
    say(
        f"Reports: {len(found.taken)} new, {found.known} known already, "
        f"{len(found.refused)} refused{unread}."
    )
    strangers = [serial for serial in found.taken if serial not in opened.laptops()]
    if strangers:
        note(
            f"Not in laptops.csv: {len(strangers)} of the new, such as {strangers[0]}."
        )
        note("  hint: is it this school's stick? `laptops approve` lists them.")
    if found.unread:
        raise found.unread[0]
    say(f"Next: {PROGRAM} status {site}")


COMMANDS = (usb, reports)
