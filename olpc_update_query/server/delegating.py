"""Giving and taking delegations between sites."""

from typing import NamedTuple

from olpc_update_query.errors import TrustError, UntrustedDelegation
from olpc_update_query.model.wire import format_expiry
from olpc_update_query.server.above import above_ring
from olpc_update_query.server.delegations import (
    FOREVER,
    Delegation,
    file_name,
    make_delegation,
    parse_delegations,
)
from olpc_update_query.server.keys import above_path, load_key, load_site_key
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.site import Site
from olpc_update_query.system.files import replace_file
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role
from olpc_update_query.trust.signature import delegation_text, verify_credential


class Accepted(NamedTuple):
    """Delegations that a site signs by.

    Attributes:
        laptops: For how many laptops.
        end: When the first of them ends, as in a lease.
        proved: Whether their signatures were checked.
    """

    laptops: int
    end: str
    proved: bool


def delegate_laptops(
    site: Site,
    role: Role,
    key: bytes,
    *,
    group: str | None,
    now: int,
    expiry: int,
) -> dict[str, str]:
    """Let another key sign for the laptops of a site.

    A site that is itself a delegate hands on no more than it has: only laptops that
    were delegated to it, and no longer.

    Args:
        site: The site.
        role: What the key may sign.
        key: The key, PKCS#1 DER.
        group: Only for those of a group.
        now: The present.
        expiry: Until when.

    Returns:
        ``del01:`` lines by serial number; stolen laptops have none.

    Raises:
        MissingKey, UnsafeKey, DamagedSite: Nothing can be signed.
    """
    own = load_site_key(site, role)

    def line(laptop: Laptop, uuid: str) -> str:
        above = own.delegations.get(laptop.serial)
        return make_delegation(
            key,
            serial=laptop.serial,
            uuid=uuid,
            expiry=int(min(expiry, own.end_for(laptop.serial, now))),
            signer=own.signer,
            chain=above.chain if above is not None else "",
        )

    return {
        laptop.serial: line(laptop, laptop.uuid)
        for laptop in site.laptops().values()
        if laptop.uuid is not None and not laptop.stolen
        if group is None or laptop.group == group
        if own.can_sign_for(laptop.serial, now)
    }


def accept_delegations(
    site: Site, role: Role, raw: bytes, above: bytes | None, now: int
) -> Accepted:
    """Keep the delegations of a higher site; call it inside ``site.change``.

    Args:
        site: The site.
        role: What they let it sign.
        raw: ``d-lease.sig`` or ``d-oats.sig``.
        above: The key of the higher site, PKCS#1 DER; None: as before, if known.
        now: The present.

    Raises:
        DamagedSite: They are malformed.
        UntrustedDelegation: They are not for this site's key, or have ended.
    """
    found = parse_delegations(raw, file_name(role))
    kept = above_path(site, role)
    current = {name: one for name, one in found.items() if one.expiry > now}
    if not current:
        raise UntrustedDelegation(file_name(role), "it holds none that is current")
    key = load_key(site, role).public
    ring = above_ring(site)
    if above is not None:
        ring = KeyRing([PublicKey(role, above, "above")])
    is_known = above is not None or kept.exists()
    if is_known:
        for one in current.values():
            prove(one, role, key, ring, now)
    if above is not None:
        replace_file(kept, above)
    replace_file(site.keys / file_name(role), raw)
    first = min(one.expiry for one in current.values())
    end = format_expiry(None if first == FOREVER else int(first))
    return Accepted(len(current), end, is_known)


def prove(one: Delegation, role: Role, key: bytes, ring: KeyRing, now: int) -> None:
    """Check that a delegation lets a key sign.

    Args:
        one: The delegation.
        role: What it is for.
        key: The key, PKCS#1 DER.
        ring: The keys that laptops trust.
        now: The present.

    Raises:
        UntrustedDelegation: It does not.
    """
    line = f"sig02: {one.chain}"
    try:
        verify_credential(
            delegation_text(key), [line], ring, role, serial=one.serial, now=now
        )
    except TrustError as error:
        raise UntrustedDelegation(
            f"delegation for {one.serial}", error.reason
        ) from error
