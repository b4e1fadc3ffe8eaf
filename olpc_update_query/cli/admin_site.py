"""A site's own commands: make it, give it keys, look at it."""

import sys
from pathlib import Path

import click

from olpc_update_query.cli.admin_console import (
    AS_JSON,
    SITE,
    note,
    open_site,
    plain,
    print_json,
    say,
    suggest,
    who,
)
from olpc_update_query.errors import Malformed, SiteError
from olpc_update_query.model.wire import BuildId, parse_build_id
from olpc_update_query.server.keys import make_keys, public_path
from olpc_update_query.server.newsite import create_site
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role


def read_build(_context: click.Context, _option: click.Parameter, text: str) -> BuildId:
    """Check the name of a build (a click callback)."""
    try:
        return parse_build_id(text)
    except Malformed as error:
        raise click.BadParameter(error.reason) from error


@click.command()
@SITE
@click.option("--name", help="The site's name, for people; else the directory's.")
@click.option("--no-keys", is_flag=True, help="Make no keys: you bring your own.")
def init(site: Path, name: str | None, no_keys: bool) -> None:
    """Make a new site with its keys."""
    create_site(site, plain(name or site.resolve().name))
    say(f"Made a site in {site}. Look at {site / 'site.toml'}.")
    opened = open_site(site)
    if not no_keys:
        _make_keys(opened)
    suggest(opened)


@click.command()
@SITE
def keygen(site: Path) -> None:
    """Make the keys that a site lacks; those it has are kept."""
    opened = open_site(site)
    _make_keys(opened)
    suggest(opened)


def _make_keys(site: Site) -> None:
    with site.change(who(), "keygen"):
        made = make_keys(site)
    for role in Role:
        path = public_path(site, role)
        words = "Made" if role in made else "Kept"
        use = "answers and orders" if role is Role.OATS else "leases"
        say(f"{words} the key that signs {use}; laptops need {path}.")
    say("Copy the .public files to each laptop, into /etc/olpc-update-query/keys.d/.")
    if made:
        say("The .private files never leave this machine. Keep a backup of them.")


@click.command()
@SITE
@AS_JSON
def status(site: Path, as_json: bool) -> None:
    """Tell who runs what, and who asked last."""
    from olpc_update_query.server.overview import look
    from olpc_update_query.server.reports import Reports

    opened = open_site(site)
    reports = Reports(opened.reports)
    try:
        view = look(opened, reports, SystemClock().now())
    finally:
        reports.close()
    if as_json:
        print_json(view.to_json())
        return
    from olpc_update_query.cli.admin_tables import show_overview

    show_overview(view)
    if not view.latest:
        suggest(opened)


@click.command()
@SITE
@click.option("--packs", is_flag=True, help="Prove every byte of every pack, too.")
@AS_JSON
def check(site: Path, packs: bool, as_json: bool) -> None:
    """Look for everything that is wrong with a site."""
    from olpc_update_query.server.check import Weight, check_site

    opened = open_site(site)
    found = check_site(opened, SystemClock().now(), thoroughly=packs)
    errors = sum(finding.weight is Weight.ERROR for finding in found)
    if as_json:
        print_json([finding._asdict() for finding in found])
    else:
        for finding in found:
            say(plain(f"{finding.weight}: {finding.where}: {finding.text}"))
            if finding.mend:
                say(plain(f"  mend: {finding.mend}"))
        if not found:
            say(f"{site} is in order.")
    if errors:
        what = "error" if errors == 1 else "errors"
        mend = "Mend what is listed above, then check again."
        raise SiteError(str(site), f"{errors} {what} found", mend)
    if not as_json:
        suggest(opened)


@click.command()
@SITE
@click.option("--password", help="Asked for, unless it is given.")
def password(site: Path, password: str | None) -> None:
    """Set the password of the pages.

    Who knows it may change things there. Until then the pages only show. A new password
    ends every login. Where nobody can be asked it is the first line of the standard
    input.
    """
    from olpc_update_query.server.login import LONGEST, SHORTEST, set_password

    opened = open_site(site)
    password = _asked() if password is None else password
    if not SHORTEST <= len(password) <= LONGEST:
        raise click.BadParameter(f"it must have {SHORTEST} to {LONGEST} characters")
    with opened.change(who(), "set the password of the pages"):
        set_password(opened.keys, password)
    say("Whoever knows it can log in on the pages.")
    note("Over plain http others can read it: use it in a network that you trust.")


def _asked() -> str:
    """Return the password that is typed, twice, or is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))


COMMANDS = (init, keygen, password, status, check)
