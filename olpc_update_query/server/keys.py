"""The site's own keys: one signs answers and orders, one signs leases.

``keys/oats.private`` and ``keys/lease.private`` never leave the site;
``keys/oats.public`` and ``keys/lease.public`` go to the laptops, into
``/etc/olpc-update-query/keys.d``.
"""

import os
from pathlib import Path

from olpc_update_query.errors import ConfigError, MissingKey, UnsafeKey
from olpc_update_query.server import signing
from olpc_update_query.server.signing import Signer
from olpc_update_query.server.site import Site
from olpc_update_query.server.watch import Signature, signature
from olpc_update_query.system.files import replace_file
from olpc_update_query.trust.keys import Role


def private_path(site: Site, role: Role) -> Path:
    """Return where the private key of a role lies."""
    return site.keys / f"{role}.private"


def public_path(site: Site, role: Role) -> Path:
    """Return where the public key of a role lies."""
    return site.keys / f"{role}.public"


def make_keys(site: Site) -> dict[Role, Signer]:
    """Make both keys; call it inside ``site.change``.

    A key that is there is kept, because laptops trust it; a pair of which only the
    private half is there is completed.

    Returns:
        The keys that were made.

    Raises:
        UnsafeKey: A private key that is there cannot be used.
    """
    os.makedirs(site.keys, exist_ok=True)
    os.chmod(site.keys, 0o700)
    missing = [role for role in Role if not private_path(site, role).exists()]
    made = {}
    for role in missing:
        made[role] = signing.generate()
        signing.store_private(private_path(site, role), made[role])
    for role in Role:
        if not public_path(site, role).exists():
            signer = made.get(role) or load_key(site, role)
            replace_file(public_path(site, role), signer.public)
    return made


def load_key(site: Site, role: Role) -> Signer:
    """Read the private key of a role.

    Raises:
        MissingKey: There is none.
        UnsafeKey: Others can read it, or it is no RSA-2048 key.
    """
    path = private_path(site, role)
    if not path.exists():
        raise MissingKey(str(path), f"the site has no private key for {role}")
    for place, forbidden in ((site.keys, 0o022), (path, 0o077)):
        mode = os.stat(place).st_mode & 0o7777
        if mode & forbidden:
            raise UnsafeKey(str(place), f"its mode is {mode:04o}: others may use it")
    try:
        return signing.load_private(path)
    except ConfigError as error:
        raise UnsafeKey(error.where, error.reason) from error


class LoadedKey:
    """A private key that is read once, and again when its file changes.

    Its file is looked at when the clock's second changes.

    Args:
        site: The site.
        role: Which of its keys.
    """

    def __init__(self, site: Site, role: Role) -> None:
        self._site, self._role = site, role
        self._path = private_path(site, role)
        self._held: tuple[Signature | None, Signer] | None = None
        self._looked = 0

    def get(self, now: int) -> Signer:
        """Return the key.

        Args:
            now: The present.

        Raises:
            MissingKey: There is none.
            UnsafeKey: Others can read it, or it is no RSA-2048 key.
        """
        held = self._held
        if held is not None and now == self._looked:
            return held[1]
        seen = signature(self._path)
        if held is None or held[0] != seen:
            self._held = held = seen, load_key(self._site, self._role)
        self._looked = now
        return held[1]
