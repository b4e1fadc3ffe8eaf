"""The laptops of a site: import, list, show, their leases, the stolen ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import click

from olpc_update_query.cli.admin_console import (
    AS_JSON,
    PROGRAM,
    SITE,
    actor,
    note,
    open_site,
    plain,
    print_json,
    say,
    suggest,
    who,
)
from olpc_update_query.errors import Malformed, UnknownLaptop
from olpc_update_query.model.wire import format_time
from olpc_update_query.server import steer
from olpc_update_query.server.laptops import (
    Laptop,
    import_rows,
    normal_serial,
    parse_group,
    read_rows,
)
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.site import DAY, Site
from olpc_update_query.system.host import SystemClock

MOST_WAITING = 1000
SERIAL = click.argument("serial", metavar="SERIAL")


def _find(site: Site, serial: str) -> Laptop:
    try:
        found = site.laptops().get(normal_serial(serial))
    except Malformed as error:
        raise click.BadParameter(error.reason, param_hint="SERIAL") from error
    if found is None:
        raise UnknownLaptop(f"laptop {plain(serial)}", "is not in laptops.csv")
    return found


@click.group()
def laptops() -> None:
    """Import, list and show laptops."""


@laptops.command("import")
@SITE
@click.argument("file", type=click.File("rb"), metavar="FILE.csv")
def import_(site: Path, file: BinaryIO) -> None:
    """Add the laptops of a list.

    Of those that are known it changes what the list says. The first line names the
    columns: serial, and any of uuid, group, stream, name, stolen. An empty cell keeps
    what was known. A list with a mistake in it changes nothing at all. FILE.csv may be
    - for the standard input.
    """
    opened = open_site(site)
    rows = read_rows(file.read(), file.name)
    with opened.change(who(), f"import {len(rows)} laptops"):
        result = import_rows(opened.laptops(), rows)
        opened.save_laptops(result.laptops)
    say(
        f"Laptops: {result.added} new, {result.changed} changed, "
        f"{len(result.laptops)} listed now."
    )
    without = sum(laptop.uuid is None for laptop in result.laptops.values())
    if without:
        note(f"{without} of them have no uuid and can get no lease.")
    suggest(opened)


@laptops.command("list")
@SITE
@click.option("--group", help="Only those of a group.")
@AS_JSON
def list_(site: Path, group: str | None, as_json: bool) -> None:
    """List the laptops of the site."""
    from olpc_update_query.cli.admin_tables import show_table

    found = sorted(open_site(site).laptops().values())
    chosen = [one for one in found if group is None or one.group == group]
    if as_json:
        print_json([one._asdict() for one in chosen])
        return
    rows = [
        [*(cell or "" for cell in one[:5]), "stolen" if one.stolen else ""]
        for one in chosen
    ]
    show_table(("SERIAL", "UUID", "GROUP", "STREAM", "NAME", "STOLEN"), rows)


@laptops.command()
@SITE
@SERIAL
@AS_JSON
def show(site: Path, serial: str, as_json: bool) -> None:
    """Tell everything about one laptop.

    What it gets and why, and what it said last.
    """
    from olpc_update_query.server.overview import look_at
    from olpc_update_query.server.reports import Reports

    opened = open_site(site)
    laptop = _find(opened, serial)
    reports = Reports(opened.reports)
    try:
        facts = look_at(opened, reports, laptop, SystemClock().now())
    finally:
        reports.close()
    if as_json:
        print_json(facts)
        return
    from olpc_update_query.cli.admin_tables import show_facts

    show_facts(facts)


@laptops.command()
@SITE
@click.argument("serials", nargs=-1, metavar="[SERIAL...]")
@click.option("--all", "everybody", is_flag=True, help="All that have asked.")
@click.option("--group", help="The group they belong to from now on.")
def approve(
    site: Path, serials: tuple[str, ...], everybody: bool, group: str | None
) -> None:
    """List laptops that have asked and are not in laptops.csv yet.

    Without a SERIAL and without --all it shows which they are. They get no lease before
    laptops.csv has their uuid, too.
    """
    from olpc_update_query.cli.admin_tables import show_table

    opened = open_site(site)
    waiting = _waiting(opened)
    if not waiting and not serials:
        say("No laptop is waiting.")
        return
    if not serials and not everybody:
        show_table(("SERIAL", "ASKED (UTC)", "FROM", "RUNS"), waiting)
        say(f"Next: {PROGRAM} laptops approve {site} SERIAL")
        return
    known = {row[0] for row in waiting}
    for serial in serials:
        if serial not in known:
            raise UnknownLaptop(
                f"laptop {plain(serial)}", "has not asked, or is listed"
            )
    chosen = sorted(known) if everybody else list(serials)
    steer.approve(opened, actor(), chosen, None if group is None else _group(group))
    for serial in chosen:
        say(f"{serial} is listed now.")
    suggest(opened)


def _group(name: str) -> str:
    try:
        return parse_group(name)
    except Malformed as error:
        raise click.BadParameter(error.reason, param_hint="--group") from error


def _waiting(site: Site) -> list[Sequence[str]]:
    """Return who asked and is not listed: serial number, when, from where, build."""
    from olpc_update_query.server.overview import moment
    from olpc_update_query.server.reports import Reports

    reports, listed = Reports(site.reports), site.laptops()
    try:
        found = reports.unlisted(MOST_WAITING)
    finally:
        reports.close()
    return [
        (state.serial, moment(state.asked), state.address, state.build or "")
        for state in found
        if state.serial not in listed
    ]


@click.command()
@SITE
@click.argument("serial", metavar="SERIAL", required=False)
@click.option("--days", type=click.IntRange(1, 3650), help="How long it lasts.")
@click.option("--all", "all_", is_flag=True, help="One file for all laptops.")
@click.option("--group", help="One file for the laptops of a group.")
def lease(
    site: Path, serial: str | None, days: int | None, all_: bool, group: str | None
) -> None:
    """Sign a lease for one laptop, or for many, and print it.

    Save it as lease.sig in the laptop's /security, or on a stick. What the server gives
    the laptop when it asks does not change. Where a higher site has delegated to this
    one, a lease lasts no longer than the delegation.
    """
    if bool(serial) == (all_ or group is not None):
        raise click.UsageError("give a SERIAL, or --all, or --group")
    opened = open_site(site)
    if serial is None:
        _lease_many(opened, days, group)
    else:
        _lease_one(opened, serial, days)


def _lease_one(site: Site, serial: str, days: int | None) -> None:
    from olpc_update_query.server.keys import load_site_key
    from olpc_update_query.server.leases import sign_lease
    from olpc_update_query.trust.keys import Role

    laptop = _find(site, serial)
    if laptop.uuid is None:
        raise UnknownLaptop(f"laptop {laptop.serial}", "has no uuid in laptops.csv")
    if laptop.stolen:
        raise UnknownLaptop(f"laptop {laptop.serial}", "is marked stolen")
    settings = site.settings()
    length = days or settings.lease_policy_for(laptop).days or LeasePolicy().days
    with site.change(who(), f"lease for {laptop.serial}, {length} days"):
        made = sign_lease(
            laptop,
            laptop.uuid,
            key=load_site_key(site, Role.LEASE),
            now=SystemClock().now(),
            days=length,
            timezone=settings.timezone,
        )
    click.echo(made.line, nl=False)
    lasts = f"{round((made.expiry - made.made) / DAY)} days"
    until = format_time(made.expiry)
    note(f"This lease lets {laptop.serial} start for {lasts}, until {until}.")
    note("Next: save it as /security/lease.sig of that laptop.")


def _lease_many(site: Site, days: int | None, group: str | None) -> None:
    from olpc_update_query.server.signing import bulk_leases
    from olpc_update_query.server.stick import all_leases

    length = f"leases of {days} days" if days else "leases"
    with site.change(who(), f"{length} for {group or 'all'}"):
        now = SystemClock().now()
        lines = all_leases(site, days=days, now=now, group=group)
    if not lines:
        raise UnknownLaptop("laptops.csv", "no laptop there may have a lease")
    click.echo(bulk_leases(lines).decode(), nl=False)
    lasts = f"{days} days" if days else "as long as site.toml says"
    note(f"These leases let {len(lines)} laptops start, {lasts} at most.")
    note("Next: save them as lease.sig on a stick.")


@click.command()
@SITE
@SERIAL
@click.option("--clear", is_flag=True, help="It was found again.")
def stolen(site: Path, serial: str, clear: bool) -> None:
    """Mark a laptop as stolen.

    It loses its lease when it next asks.
    """
    opened = open_site(site)
    known = _find(opened, serial)
    what = "no longer stolen" if clear else "stolen"
    marked = steer.mark_stolen(opened, actor(), known.serial, stolen=not clear)
    say(f"{marked.serial} is marked {what}.")
    if clear:
        say("It gets a lease again when it asks, or on a stick:")
        say(f"Next: {PROGRAM} lease {site} {marked.serial}")
    else:
        say("It is told so, and gets no lease, whenever it asks.")
        say(f"Next: `{PROGRAM} laptops show {site} {marked.serial}` tells from where.")


COMMANDS = (laptops, lease, stolen)
