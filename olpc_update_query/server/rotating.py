"""Making statements about keys: drafted on the site, signed anywhere, published."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import (
    MissingKey,
    SiteError,
    SiteExists,
    TrustError,
    UpdateError,
)
from olpc_update_query.server import signing
from olpc_update_query.server.keys import NEW, load_key, read_private, site_ring
from olpc_update_query.server.orders import sign_orders_again
from olpc_update_query.server.rotations import FILE
from olpc_update_query.server.signing import Signer
from olpc_update_query.server.site import Site
from olpc_update_query.system.files import fsync_directory, replace_file
from olpc_update_query.trust.envelope import STATEMENT, Opened, open_envelope
from olpc_update_query.trust.keys import ID_BYTES, PublicKey, Role
from olpc_update_query.trust.rotation import (
    MAX_STATEMENTS,
    Statement,
    apply,
    join_statements,
    open_statement,
    read_statement,
)
from olpc_update_query.trust.signature import parse_signature

_LISTED: Final = "`olpc-update-admin keys list SITE` shows which keys there are."


class Change(NamedTuple):
    """What a statement is to do.

    Attributes:
        role: What the keys sign.
        add: Keys to add, PKCS#1 DER.
        retire: Keys to retire, PKCS#1 DER.
        threshold: How many keys sign the next statement; None: as many as this one.
    """

    role: Role
    add: tuple[bytes, ...] = ()
    retire: tuple[bytes, ...] = ()
    threshold: int | None = None


def draft(site: Site, change: Change, now: int) -> bytes:
    """Return a statement that nobody has signed yet.

    Raises:
        SiteError: It would leave too few keys, or say nothing.
    """
    ring = site_ring(site)
    standing = ring.standing(change.role)
    statement = Statement(
        change.role,
        standing.number + 1,
        now,
        change.threshold or standing.threshold,
        change.add,
        tuple(PublicKey(change.role, der, "").digest for der in change.retire),
    )
    raw = signing.sign_statement(signing.statement_data(statement), [])
    try:
        read_statement(raw)
    except TrustError as error:
        raise SiteError("the statement", error.reason, _LISTED) from error
    left = [key for key in apply(statement, ring) if key.role is change.role]
    if len(left) < statement.threshold:
        reason = f"would leave {len(left)} keys of which {statement.threshold} sign"
        raise SiteError("the statement", reason, _LISTED)
    return raw


def add_signature(raw: bytes, signer: Signer) -> bytes:
    """Return a statement with one more signature; a second by one key replaces it.

    Raises:
        Malformed: It is no statement.
    """
    opened = _opened(raw)
    others = [line for line in opened.lines if _name(line) != signer.key_id]
    return signing.sign_statement(opened.octets, [*others, signer.sig01(opened.octets)])


def signers_of(raw: bytes) -> tuple[str, ...]:
    """Return the names of the keys that a statement says have signed it."""
    return tuple(map(_name, _opened(raw).lines))


def publish(site: Site, raw: bytes, now: int) -> Statement:
    """Hand a statement out from now on; call it inside ``site.change``.

    Orders that a retired key signed are signed again. At last a new key of this site
    that it adds loses the ``new-`` of its files' names: then all of it is done. One
    that is handed out already is followed again: that may have been cut short.

    Raises:
        Malformed: It is no statement.
        UntrustedStatement: Laptops of this site would not follow it.
        SiteExists: There are as many as a laptop looks at.
    """
    made = {one.raw: one.statement for one in site.statements()}
    if raw not in made:
        made[raw] = open_statement(raw, site_ring(site))
        if len(made) > MAX_STATEMENTS:
            reason = f"has {MAX_STATEMENTS} statements, all that a laptop reads"
            raise SiteExists(str(site.keys / FILE), reason)
        replace_file(site.keys / FILE, join_statements(made))
    _follow(site, made[raw], now)
    return made[raw]


def _follow(site: Site, statement: Statement, now: int) -> None:
    """Do on the site what a statement says that laptops are told already."""
    if statement.role is Role.OATS and statement.retire:
        with contextlib.suppress(MissingKey):  # somebody else has the one in use
            sign_orders_again(site, load_key(site, Role.OATS), now)
    for path in sorted(site.keys.glob(f"{NEW}{statement.role}-*")):
        done = path.with_name(path.name.removeprefix(NEW))
        # a power cut may have left one of the pair under either name
        publics = [one.with_suffix(".public") for one in (path, done)]
        if any(one.exists() and one.read_bytes() in statement.add for one in publics):
            path.rename(done)
    fsync_directory(site.keys)


def make_pair(site: Site, role: Role, name: str) -> tuple[Path, Signer]:
    """Make one more key; call it inside ``site.change``.

    Returns:
        Its private file, and the key. The public file lies beside it.

    Raises:
        SiteExists: There is a key of this name.
    """
    private = site.keys / f"{NEW}{role}-{name}.private"
    for path in (private, site.keys / f"{role}-{name}.private"):
        if path.exists():
            raise SiteExists(str(path), "is a key already; a key is not overwritten")
    signer = signing.generate()
    signing.store_private(private, signer)
    _complete(private, signer)
    return private, signer


def _complete(private: Path, signer: Signer) -> None:
    replace_file(private.with_suffix(".public"), signer.public)


def rotate(site: Site, role: Role, name: str, now: int) -> tuple[Path, Statement]:
    """Replace the key that signs by a new one; call it inside ``site.change``.

    What was cut short before it was done is finished, if the name is the same.

    Returns:
        The new private file, and the statement, which is published.

    Raises:
        UntrustedStatement: More than one person must sign: use draft and sign.
    """
    private = site.keys / f"{NEW}{role}-{name}.private"
    done = private.with_name(private.name.removeprefix(NEW))
    begun = _begun(site, private, done)
    for one in site.statements():
        if begun and begun.public in one.statement.add:
            _follow(site, one.statement, now)
            return done, one.statement
    old = load_key(site, role)
    if begun:
        _complete(private, new := begun)
    else:
        private, new = make_pair(site, role, name)
    change = Change(role, (new.public,), (old.public,))
    try:
        raw = add_signature(draft(site, change, now), old)
        open_statement(raw, site_ring(site))
    except UpdateError:
        if begun is None:  # nobody trusts it, and nobody has been told to
            for path in (private, private.with_suffix(".public")):
                path.unlink()
        raise
    return done, publish(site, raw, now)


def _begun(site: Site, private: Path, done: Path) -> Signer | None:
    """Return the key of a rotation that was cut short, None if none was.

    As long as one of its two files is called new-, it was.
    """
    if private.exists():
        return read_private(site, private)
    if private.with_suffix(".public").exists() and done.exists():
        return read_private(site, done)
    return None


def find_key(site: Site, role: Role, wanted: str) -> bytes:
    """Return a trusted key of the site by a file's name, or by its id's beginning.

    Raises:
        SiteError: There is none, or more than one.
    """
    found: Sequence[PublicKey] = [
        key
        for key in site_ring(site)
        if key.role is role
        and (key.origin == Path(wanted).name or key.key_id.startswith(wanted))
    ]
    if len(found) != 1:
        reason = "is no key" if not found else "is more than one key"
        raise SiteError(wanted, f"{reason} for {role} of this site", _LISTED)
    return found[0].der


def _opened(raw: bytes) -> Opened:
    read_statement(raw)
    return open_envelope(raw, STATEMENT)


def _name(line: str) -> str:
    parsed = parse_signature(line.removesuffix("\n"))
    return "" if parsed is None else parsed.groups[0].key[-2 * ID_BYTES :]
