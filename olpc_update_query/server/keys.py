"""The site's own keys: one signs answers and orders, one signs leases.

``keys/oats.private`` and ``keys/lease.private`` never leave the site;
``keys/oats.public`` and ``keys/lease.public`` go to the laptops, into
``/etc/olpc-update-query/keys.d``. Beside them lie keys for later or earlier, such as
``oats-2027.private``, the statements about keys, and what a higher site has delegated.
A key that is called ``new-`` is trusted by nobody yet.
"""

import logging
import os
from pathlib import Path
from typing import Final

from olpc_update_query.errors import (
    ConfigError,
    MissingKey,
    NotPermitted,
    UnsafeKey,
    UntrustedKey,
)
from olpc_update_query.server import signing
from olpc_update_query.server.delegations import (
    SiteKey,
    file_name,
    parse_delegations,
)
from olpc_update_query.server.rotations import FILE
from olpc_update_query.server.signing import Signer
from olpc_update_query.server.site import Site
from olpc_update_query.server.watch import Signature, signature
from olpc_update_query.system.files import replace_file
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role, load_public
from olpc_update_query.trust.rotation import follow

NEW: Final = "new-"
_LOST: Final = (
    "Bring it back from a backup, or work where it is. If it is lost, move its .public "
    "away and let `keygen` make another, which every laptop then needs to be given."
)

_log = logging.getLogger(__name__)


def private_path(site: Site, role: Role) -> Path:
    """Return where the private key of a role lies."""
    return site.keys / f"{role}.private"


def public_path(site: Site, role: Role) -> Path:
    """Return where the public key of a role lies."""
    return site.keys / f"{role}.public"


def above_path(site: Site, role: Role) -> Path:
    """Return where the public key of the site that delegates to this one lies."""
    return site.keys / f"above-{role}.public"


def make_keys(site: Site) -> dict[Role, Signer]:
    """Make both keys; call it inside ``site.change``.

    A key that is there is kept, because laptops trust it; a pair of which only the
    private half is there is completed.

    Returns:
        The keys that were made.

    Raises:
        MissingKey: A public key is there, and the private one is not.
        UnsafeKey: A private key that is there cannot be used.
    """
    os.makedirs(site.keys, exist_ok=True)
    os.chmod(site.keys, 0o700)
    missing = [role for role in Role if not _files(site, role, "private")]
    for role in missing:
        if _files(site, role, "public"):
            raise _missing(site, role)
    made = {}
    for role in missing:
        made[role] = signing.generate()
        signing.store_private(private_path(site, role), made[role])
    for role in Role:
        has_private = private_path(site, role).exists()
        if has_private and not public_path(site, role).exists():
            signer = made.get(role) or read_private(site, private_path(site, role))
            replace_file(public_path(site, role), signer.public)
    return made


def site_ring(site: Site) -> KeyRing:
    """Return the keys that a laptop of this site trusts, if it is up to date.

    Raises:
        DamagedSite: ``keys.sig`` is malformed.
    """
    given = [key for role in Role for key in _given(site, role)]
    return follow((one.raw for one in site.statements()), KeyRing(given)).ring


def own_keys(site: Site, role: Role) -> list[PublicKey]:
    """Return all keys that this site has or had, as far as their files are there.

    Raises:
        DamagedSite: ``keys.sig`` is malformed.
    """
    made = [one.statement for one in site.statements() if one.statement.role is role]
    added = [PublicKey(role, der, FILE) for one in made for der in one.add]
    return [*_given(site, role), *added]


def _given(site: Site, role: Role) -> list[PublicKey]:
    found = (_public(role, path) for path in _files(site, role, "public"))
    return [key for key in found if key is not None]


def _public(role: Role, path: Path) -> PublicKey | None:
    try:
        return PublicKey(role, load_public(path.read_bytes()), path.name)
    except UntrustedKey as error:
        _log.warning("%s is left out: %s", path, error)
        return None


def _files(site: Site, role: Role, kind: str) -> list[Path]:
    patterns = (f"{role}.{kind}", f"{role}-*.{kind}")
    return [path for name in patterns for path in sorted(site.keys.glob(name))]


def load_key(site: Site, role: Role) -> Signer:
    """Read the private key that signs for a role: the first that is not retired.

    Raises:
        MissingKey: There is none.
        UnsafeKey: Others can read it, or it is no RSA-2048 key.
    """
    path = private_path(site, role)
    if not site.statements():
        if not path.exists():
            raise _missing(site, role)
        return read_private(site, path)
    ring = site_ring(site)
    for path in _files(site, role, "private"):
        signer = read_private(site, path)
        if not ring.is_retired(role, signer.public):
            return signer
    for path in sorted(site.keys.glob(f"{NEW}{role}-*.private")):
        signer = read_private(site, path)  # `publish` was stopped before it renamed it
        if any(key.der == signer.public and key.role is role for key in ring):
            return signer
    raise _missing(site, role, " in use")


def _missing(site: Site, role: Role, which: str = "") -> MissingKey:
    mend = _LOST if _files(site, role, "public") else ""
    reason = f"the site has no private key for {role}{which}"
    return MissingKey(str(private_path(site, role)), reason, mend)


def load_site_key(site: Site, role: Role) -> SiteKey:
    """Read what a site signs with: the key, and what was delegated to it.

    Raises:
        MissingKey: There is no key.
        UnsafeKey: Others can read it, or it is no RSA-2048 key.
        DamagedSite: The delegations are malformed.
    """
    path = site.keys / file_name(role)
    signer = load_key(site, role)
    if not path.exists():
        return SiteKey(signer, {})
    return SiteKey(signer, parse_delegations(path.read_bytes(), path.name))


def read_private(site: Site, path: Path) -> Signer:
    """Read one private key of a site.

    Raises:
        UnsafeKey: Others can read it, or it is no RSA-2048 key.
        NotPermitted: It is somebody else's.
    """
    for place, forbidden in ((site.keys, 0o022), (path, 0o077)):
        mode = os.stat(place).st_mode & 0o7777
        if mode & forbidden:
            reason = f"its mode is {mode:04o}: others may use it"
            raise UnsafeKey(str(place), reason, is_open=True)
    try:
        return signing.load_private(path)
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError):
            raise NotPermitted(str(path)) from error
        raise UnsafeKey(error.where, error.reason) from error


class LoadedKey:
    """What a site signs with, read once, and again when its directory changes.

    The directory is looked at when the clock's second changes.

    Args:
        site: The site.
        role: Which of its keys.
    """

    def __init__(self, site: Site, role: Role) -> None:
        self._site, self._role = site, role
        self._path = private_path(site, role)
        self._held: tuple[tuple[Signature | None, ...], SiteKey] | None = None
        self._looked = 0

    def get(self, now: int) -> SiteKey:
        """Return the key.

        Args:
            now: The present.

        Raises:
            MissingKey: There is none.
            UnsafeKey: Others can read it, or it is no RSA-2048 key.
            DamagedSite: The statements or delegations beside it are malformed.
        """
        held = self._held
        if held is not None and now == self._looked:
            return held[1]
        seen = (signature(self._site.keys), signature(self._path))
        if held is None or held[0] != seen:
            self._held = held = seen, load_site_key(self._site, self._role)
        self._looked = now
        return held[1]
