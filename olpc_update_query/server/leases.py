"""The leases that the server hands out.

A lease is signed once, kept in the reports, and handed out until half of its time is
over. A laptop that has it already is not given it again.
"""

from collections import OrderedDict
from typing import Final

from olpc_update_query.errors import (
    DiskFailed,
    Malformed,
    NoSpace,
    UntrustedDelegation,
)
from olpc_update_query.model.messages import NEVER_EXPIRES, Query
from olpc_update_query.model.wire import format_time
from olpc_update_query.server import signing
from olpc_update_query.server.delegations import SiteKey
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import lease_end
from olpc_update_query.server.records import Event, StoredLease
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.site import Settings
from olpc_update_query.trust.lease import parse_line

EARLIEST: Final = 1_767_225_600
"""2026-01-01: a clock that shows less was never set, and signs no leases."""

_HELD: Final = 2_000
"""Leases kept in memory, about 1 KiB each; the others are in the reports."""


def sign_lease(
    laptop: Laptop, uuid: str, *, key: SiteKey, now: int, days: int, timezone: str
) -> StoredLease:
    """Sign a lease.

    Args:
        laptop: Whose.
        uuid: The UUID it names.
        key: The site's lease key.
        now: The present.
        days: How long it lasts; no longer than what was delegated to the key.
        timezone: Where it ends in the morning, see ``leasepolicy``.

    Raises:
        UntrustedDelegation: The site signs by delegation, and has none for the laptop.
    """
    if not key.can_sign_for(laptop.serial, now):
        reason = "there is none, or it has ended"
        raise UntrustedDelegation(f"delegation for {laptop.serial}", reason)
    expiry = int(min(lease_end(now, days, timezone), key.end_for(laptop.serial, now)))
    sign = key.sign_for(laptop.serial, now, expiry)
    line = signing.make_lease(laptop.serial, uuid, expiry, sign)
    return StoredLease(laptop.serial, uuid, key.signer.key_id, now, expiry, line)


def reported_expiry(query: Query) -> int | None:
    """Return until when the laptop says that its lease is good; None: it has none."""
    if query.lease is None:
        return query.lease_expiry
    try:
        expiry = parse_line(query.lease).expiry
    except Malformed:
        return None
    return NEVER_EXPIRES if expiry is None else expiry


class Leases:
    """Leases by laptop, in memory and in the reports.

    Args:
        reports: Where they are kept.
    """

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._held: OrderedDict[str, StoredLease] = OrderedDict()

    def due(
        self, laptop: Laptop, query: Query, settings: Settings, key: SiteKey, now: int
    ) -> StoredLease | None:
        """Return the lease that a laptop should be given.

        Args:
            laptop: The laptop, which is not stolen.
            query: What it says.
            settings: How long leases last here.
            key: The site's lease key.
            now: The present.

        Returns:
            The lease; None when it has a good one, or this site gives it none.
        """
        lease = self.current(laptop, settings, key, now)
        shorten = settings.lease_policy_for(laptop).shorten
        return lease if lease and _wanted(lease, query, shorten=shorten) else None

    def current(
        self, laptop: Laptop, settings: Settings, key: SiteKey, now: int
    ) -> StoredLease | None:
        """Return the lease that a laptop may be given now, signed anew if need be.

        Args:
            laptop: The laptop, which is not stolen.
            settings: How long leases last here.
            key: The site's lease key.
            now: The present.

        Returns:
            The lease; None when this site gives it none.
        """
        days = settings.lease_policy_for(laptop).days
        if laptop.uuid is None or not days or now < EARLIEST:
            return None
        if not key.can_sign_for(laptop.serial, now):
            return None
        lease = self._find(laptop.serial)
        zone = settings.timezone
        if (
            lease is None
            or not _usable(lease, laptop.uuid, key, now)
            or lease.expiry != _end(lease, key, days, zone)
        ):
            lease = sign_lease(
                laptop, laptop.uuid, key=key, now=now, days=days, timezone=zone
            )
            self._hold(lease)
            until = format_time(lease.expiry)
            self._reports.record(lease)
            self._reports.record(Event(now, laptop.serial, "lease", until))
        return lease

    def _find(self, serial: str) -> StoredLease | None:
        lease = self._held.get(serial)
        if lease is None:
            try:
                lease = self._reports.lease(serial)
            except (DiskFailed, NoSpace):
                return None
            if lease is not None:
                self._hold(lease)
        return lease

    def _hold(self, lease: StoredLease) -> None:
        self._held[lease.serial] = lease
        if len(self._held) > _HELD:
            self._held.popitem(last=False)


def _usable(lease: StoredLease, uuid: str, key: SiteKey, now: int) -> bool:
    """Tell whether a lease may still be handed out, or a new one is to be signed."""
    half = lease.made + (lease.expiry - lease.made) // 2
    same = lease.uuid == uuid and lease.key_id == key.signer.key_id
    return same and lease.made <= now < half


def _end(lease: StoredLease, key: SiteKey, days: int, timezone: str) -> int:
    """Return when a lease that was signed then would end by what is said now."""
    end = lease_end(lease.made, days, timezone)
    return int(min(end, key.end_for(lease.serial, lease.made)))


def _wanted(lease: StoredLease, query: Query, *, shorten: bool) -> bool:
    """Tell whether the laptop should have this lease instead of what it says it has."""
    if query.lease is not None and query.lease.strip() == lease.line.strip():
        return False
    expiry = reported_expiry(query)
    if expiry is None or expiry < lease.expiry:
        return True
    if query.lease is not None and lease.key_id not in query.lease:
        return True
    return shorten and expiry > lease.expiry
