"""The leases that the server hands out.

A lease is signed once, kept in the reports, and handed out until half of its time is
over. A laptop that has it already is not given it again.
"""

from collections import OrderedDict
from typing import Final

from olpc_update_query.errors import DiskFailed, Malformed
from olpc_update_query.model.messages import NEVER_EXPIRES, Query
from olpc_update_query.model.wire import format_time
from olpc_update_query.server import signing
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.records import Event, StoredLease
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.signing import Signer
from olpc_update_query.server.site import DAY, Settings
from olpc_update_query.trust.lease import parse_line

EARLIEST: Final = 1_767_225_600
"""2026-01-01: a clock that shows less was never set, and signs no leases."""

_HELD: Final = 20_000


def sign_lease(
    laptop: Laptop, uuid: str, *, signer: Signer, now: int, days: int
) -> StoredLease:
    """Sign a lease.

    Args:
        laptop: Whose.
        uuid: The UUID it names.
        signer: The site's lease key.
        now: The present.
        days: How long it lasts.
    """
    expiry = now + days * DAY
    line = signing.make_lease(laptop.serial, uuid, expiry, signer.sig01)
    return StoredLease(laptop.serial, uuid, signer.key_id, now, expiry, line)


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
        self, laptop: Laptop, query: Query, settings: Settings, signer: Signer, now: int
    ) -> StoredLease | None:
        """Return the lease that a laptop should be given.

        Args:
            laptop: The laptop, which is not stolen.
            query: What it says.
            settings: How long leases last here.
            signer: The site's lease key.
            now: The present.

        Returns:
            The lease; None when it has a good one, or this site gives it none.
        """
        if laptop.uuid is None or not settings.lease_days or now < EARLIEST:
            return None
        lease = self._find(laptop.serial)
        if lease is None or not _usable(lease, laptop.uuid, signer, settings, now):
            lease = sign_lease(
                laptop, laptop.uuid, signer=signer, now=now, days=settings.lease_days
            )
            self._hold(lease)
            until = format_time(lease.expiry)
            self._reports.record(lease)
            self._reports.record(Event(now, laptop.serial, "lease", until))
        return lease if _wanted(lease, query, settings) else None

    def _find(self, serial: str) -> StoredLease | None:
        lease = self._held.get(serial)
        if lease is None:
            try:
                lease = self._reports.lease(serial)
            except DiskFailed:
                return None
            if lease is not None:
                self._hold(lease)
        return lease

    def _hold(self, lease: StoredLease) -> None:
        self._held[lease.serial] = lease
        if len(self._held) > _HELD:
            self._held.popitem(last=False)


def _usable(
    lease: StoredLease, uuid: str, signer: Signer, settings: Settings, now: int
) -> bool:
    """Tell whether a lease may still be handed out, or a new one is to be signed."""
    half = lease.made + (lease.expiry - lease.made) // 2
    whole = lease.expiry - lease.made == settings.lease_days * DAY
    same = lease.uuid == uuid and lease.key_id == signer.key_id
    return same and whole and lease.made <= now < half


def _wanted(lease: StoredLease, query: Query, settings: Settings) -> bool:
    """Tell whether the laptop should have this lease instead of what it says it has."""
    if query.lease is not None and query.lease.strip() == lease.line.strip():
        return False
    expiry = reported_expiry(query)
    if expiry is None or expiry < lease.expiry:
        return True
    if query.lease is not None and lease.key_id not in query.lease:
        return True
    return settings.shorten and expiry > lease.expiry
