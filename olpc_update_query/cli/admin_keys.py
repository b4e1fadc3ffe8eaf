"""The keys of a site: what is trusted, how it changes, what is delegated."""

from collections.abc import Iterable
from pathlib import Path

import click

from olpc_update_query.cli.admin_console import (
    AS_JSON,
    PROGRAM,
    SITE,
    note,
    open_site,
    plain,
    print_json,
    say,
    who,
)
from olpc_update_query.errors import ConfigError, MissingKey, SiteError
from olpc_update_query.model.wire import format_time
from olpc_update_query.server.site import DAY, Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.rotation import MAX_KEYS, Statement

_SHORT = 16
_LARGEST = 64 * 1024
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ROLE = click.option(
    "--role",
    type=click.Choice([str(role) for role in Role]),
    required=True,
    help="What the keys sign: answers and orders, or leases.",
)
_NAME = click.option("--name", required=True, help="Part of the new key's file names.")


@click.group()
def keys() -> None:
    """List, replace and delegate the keys of a site."""


@keys.command("list")
@SITE
@AS_JSON
def list_(site: Path, as_json: bool) -> None:
    """List the keys, and which of them signs.

    Those that laptops trust, and those that are retired.
    """
    opened = open_site(site)
    rows = list(_rows(opened))
    if as_json:
        print_json(rows)
        return
    from olpc_update_query.cli.admin_tables import show_table

    header = ("ROLE", "ID", "FROM", "STATE")
    show_table(header, [[str(cell) for cell in row.values()][:4] for row in rows])


def _rows(site: Site) -> Iterable[dict[str, object]]:
    from olpc_update_query.server.keys import load_key, site_ring

    ring = site_ring(site)
    signing = set()
    for role in Role:
        try:
            signing.add((role, load_key(site, role).public))
        except MissingKey as error:
            note(str(error))
    for key in (*ring, *ring.retired):
        number = ring.standing(key.role).retired.get(key.digest)
        state = "trusted" if number is None else f"retired by statement {number}"
        if (key.role, key.der) in signing:
            state = "signs"
        yield {
            "role": str(key.role),
            "id": key.key_id,
            "origin": key.origin,
            "state": state,
            "sha256": key.digest,
        }


@keys.command()
@SITE
@_ROLE
@_NAME
def rotate(site: Path, role: str, name: str) -> None:
    """Replace the key that signs, and tell every laptop.

    A new one is made, and the old one is retired. For a site whose statements need one
    signature. Where several people must sign, use new, draft, sign and publish.
    """
    from olpc_update_query.server import rotating

    opened = open_site(site)
    with opened.change(who(), f"rotate the key for {role} to {name}"):
        private, statement = rotating.rotate(
            opened, Role(role), name, SystemClock().now()
        )
    say(f"{private} signs from now on. Keep a backup of it.")
    _tell_published(opened, statement)


@keys.command()
@SITE
@_ROLE
@_NAME
def new(site: Path, role: str, name: str) -> None:
    """Make one more key.

    Nobody trusts it until a statement adds it.
    """
    from olpc_update_query.server.rotating import make_pair

    opened = open_site(site)
    with opened.change(who(), f"new key {role}-{name}"):
        private, _ = make_pair(opened, Role(role), name)
    say(f"Made {private} and the .public file beside it.")
    say(f"Next: {PROGRAM} keys draft {site} --role {role} --add FILE --out DRAFT")


@keys.command()
@SITE
@_ROLE
@click.option("--add", type=_FILE, multiple=True, help="A public key to add.")
@click.option(
    "--retire",
    multiple=True,
    metavar="KEY",
    help="A trusted key to retire: its file's name, or the beginning of its id.",
)
@click.option(
    "--threshold",
    type=click.IntRange(1, MAX_KEYS),
    help="How many keys must sign the next statement; else as before.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def draft(
    site: Path,
    role: str,
    add: tuple[Path, ...],
    retire: tuple[str, ...],
    threshold: int | None,
    out: Path,
) -> None:
    """Write a statement about keys, to be signed.

    People can sign it on machines of their own.
    """
    from olpc_update_query.server import rotating
    from olpc_update_query.system.keyring import read_key

    opened, kind = open_site(site), Role(role)
    change = rotating.Change(
        kind,
        tuple(read_key(path).der for path in add),
        tuple(rotating.find_key(opened, kind, text) for text in retire),
        threshold,
    )
    raw = rotating.draft(opened, change, SystemClock().now())
    _write(out, raw)
    _tell_content(raw)
    say(f"Next, whoever has a private key: {PROGRAM} keys sign {out} --key PRIVATE")


@keys.command()
@click.argument("file", type=_FILE)
@click.option("--key", type=_FILE, required=True, help="The private key to sign with.")
def sign(file: Path, key: Path) -> None:
    """Sign a statement about keys.

    It needs no site, only FILE and your key.
    """
    from olpc_update_query.server import rotating
    from olpc_update_query.server.signing import load_private

    raw = rotating.add_signature(_read(file), load_private(key))
    _tell_content(raw)
    _write(file, raw)
    say(f"Next: {PROGRAM} keys publish SITE {file}")


@keys.command()
@SITE
@click.argument("file", type=_FILE)
def publish(site: Path, file: Path) -> None:
    """Hand a statement to every laptop that lacks it.

    A laptop is told when it asks. What was cut short is finished by saying it again.
    """
    from olpc_update_query.server import rotating

    opened, raw = open_site(site), _read(file)
    with opened.change(who(), f"publish a statement about keys, {file.name}"):
        statement = rotating.publish(opened, raw, SystemClock().now())
    _tell_published(opened, statement)


def _tell_orders(site: Site, statement: Statement) -> None:
    from olpc_update_query.server.keys import load_key
    from olpc_update_query.server.orders import own_orders

    if statement.role is not Role.OATS or not statement.retire:
        return
    try:
        signer = load_key(site, Role.OATS)
    except MissingKey:
        note("No key of this site is left to sign orders and answers with.")
        return
    count, name = len(own_orders(site)), signer.key_id[:_SHORT]
    say(f"The orders beside {count} builds are signed by {name} now.")


def _tell_published(site: Site, statement: Statement) -> None:
    _tell_orders(site, statement)
    say(f"Statement {statement.number} about {statement.role} keys is published.")
    say("A laptop is told when it asks; sticks carry it as keys.sig.")
    say("New images need the public keys that are in use:")
    say(f"Next: {PROGRAM} keys list {site.path}")


def _tell_content(raw: bytes) -> None:
    from olpc_update_query.server.rotating import signers_of
    from olpc_update_query.trust.keys import digest_of
    from olpc_update_query.trust.rotation import read_statement

    found = read_statement(raw)
    say(f"Statement {found.number} about {found.role} keys, {format_time(found.time)}:")
    for der in found.add:
        say(f"  adds    sha256 {digest_of(der)}")
    for digest in found.retire:
        say(f"  retires sha256 {digest}")
    say(f"  the next statement needs {found.threshold} signatures")
    for name in signers_of(raw):
        say(f"  signed by key {name[:_SHORT]}")


def _read(file: Path) -> bytes:
    from olpc_update_query.system.files import read_bounded

    try:
        return read_bounded(file.resolve(), _LARGEST)
    except (OSError, ValueError) as error:
        raise ConfigError(str(file), str(error)) from None


def _write(path: Path, data: bytes) -> None:
    from olpc_update_query.system.files import disk_errors, replace_file

    with disk_errors(path):
        replace_file(path, data)


# --- delegations ---------------------------------------------------------------------


@keys.command()
@SITE
@click.option(
    "--to",
    "public",
    type=_FILE,
    required=True,
    help="The other site's public key: its oats.public or lease.public.",
)
@click.option("--role", type=click.Choice([str(role) for role in Role]))
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True)
@click.option("--group", help="Only for the laptops of a group.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def delegate(
    site: Path, public: Path, role: str | None, days: int, group: str | None, out: Path
) -> None:
    """Let a school's server sign for laptops of this site.

    What lets it is written to a file, d-lease.sig or d-oats.sig.
    """
    from olpc_update_query.server.delegating import delegate_laptops
    from olpc_update_query.system.keyring import read_key

    opened, found = open_site(site), read_key(public)
    if role is None and found.role is None:
        raise click.UsageError("the file's name tells no role: give --role")
    kind = Role(role) if role else found.role or Role.OATS
    now = SystemClock().now()
    with opened.change(who(), f"delegate {kind} to {public.name}, {days} days"):
        lines = delegate_laptops(
            opened, kind, found.der, group=group, now=now, expiry=now + days * DAY
        )
        if not lines:
            reason = "no laptop that may have one has a uuid"
            mend = f"Import a list with their uuid: {PROGRAM} laptops import SITE FILE"
            raise SiteError("laptops.csv", reason, mend)
        from olpc_update_query.server.signing import bulk_leases

        _write(out, bulk_leases(lines))
    say(f"{len(lines)} laptops may be signed for by that key, for {days} days.")
    say(f"Next, at the school: {PROGRAM} keys accept SITE {plain(out.name)}")
    say("  and the first time --from the public key that its laptops trust.")


@keys.command()
@SITE
@click.argument("file", type=_FILE)
@click.option("--role", type=click.Choice([str(role) for role in Role]))
@click.option(
    "--from",
    "given_by",
    type=_FILE,
    help="The public key of the site that delegates; it is kept.",
)
def accept(site: Path, file: Path, role: str | None, given_by: Path | None) -> None:
    """Sign by what a higher site has delegated.

    FILE is d-lease.sig or d-oats.sig, as `keys delegate` wrote it there.
    """
    from olpc_update_query.server.delegating import accept_delegations
    from olpc_update_query.system.keyring import read_key

    kinds = {f"d-{one}.sig": one for one in Role}
    kind = Role(role) if role else kinds.get(file.name)
    if kind is None:
        raise click.UsageError("the file's name tells no role: give --role")
    opened, raw = open_site(site), file.read_bytes()
    above = None if given_by is None else read_key(given_by).der
    with opened.change(who(), f"accept {file.name}"):
        done = accept_delegations(opened, kind, raw, above, SystemClock().now())
    say(f"{done.laptops} laptops are signed for by delegation until {done.end}.")
    if not done.proved:
        note("Not proved: give --from the public key of the site that made them.")


COMMANDS = (keys,)
