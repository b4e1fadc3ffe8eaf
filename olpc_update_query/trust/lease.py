r"""Activation leases: which line of a file lets this laptop boot, and until when.

::

    act01: SERIAL K EXPIRY sig01: ...       signs SERIAL:UUID:K:EXPIRY

A file is such lines, or canonical JSON for many laptops,
``[1,{"SERIAL":"act01: ...\n","SERIAL":"..."}]``, told by its first five bytes.
The firmware obeys the first line for the laptop whose key it trusts, so that a bad
line hides a good one behind it: what is installed is therefore exactly one good line.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed, TrustError, UntrustedLease
from olpc_update_query.model.wire import format_expiry, format_time, parse_expiry
from olpc_update_query.trust.keys import KeyRing, Role
from olpc_update_query.trust.signature import verify_credential

MAX_LEASE_LINE: Final = 8192
"""Bytes of a line, newline included, that the firmware's buffer holds."""

BULK_START: Final = b'[1,{"'
"""How a file for many laptops begins."""

_MAX_TRIED: Final = 16
_LINE: Final = re.compile(r"act01: ([!-~]+) ([!-~]) ([0-9TZ]{16}) (sig[ -~]+)")


class LeaseLine(NamedTuple):
    """The fields of a line, of which nothing is proved yet.

    Attributes:
        serial: The laptop it names.
        disposition: One character, ``K`` as a rule.
        expiry: Until when it is good, None for ever.
        signature: The signature line.
    """

    serial: str
    disposition: str
    expiry: int | None
    signature: str


class Lease(NamedTuple):
    """A lease that lets this laptop boot.

    Attributes:
        line: One ``act01:`` line with its newline, ready to be installed.
        expiry: Until when it is good, None for ever.
        signers: Names of the keys that vouch for it.
    """

    line: str
    expiry: int | None
    signers: tuple[str, ...]


def lease_text(serial: str, uuid: str, disposition: str, expiry: int | None) -> bytes:
    """Return what a lease signs.

    Args:
        serial: The laptop's serial number.
        uuid: Its UUID, as the laptop spells it.
        disposition: One character.
        expiry: Until when it is good, None for ever.
    """
    return f"{serial}:{uuid}:{disposition}:{format_expiry(expiry)}".encode()


def parse_line(text: str) -> LeaseLine:
    """Read one line, without believing it.

    Args:
        text: The line, with or without its newline.

    Returns:
        Its fields.

    Raises:
        Malformed: It is not of this form, or longer than the firmware reads.
    """
    line = text.removesuffix("\n")
    found = _LINE.fullmatch(line) if len(line) < MAX_LEASE_LINE else None
    if found is None:
        raise Malformed("lease", "it is not an act01 line of at most 8192 bytes")
    serial, disposition, expiry, signature = found.groups()
    return LeaseLine(serial, disposition, parse_expiry(expiry), signature)


def find_lease(
    text: str | bytes, *, serial: str, uuid: str, ring: KeyRing, now: int
) -> Lease:
    """Find the lease of a laptop in a file, or in an answer.

    At most 16 lines for the laptop are tried. Of several good ones the one that
    lasts longest is returned, the first of equals.

    Args:
        text: The whole file.
        serial: The laptop's serial number.
        uuid: Its UUID.
        ring: The trusted keys.
        now: The present, or the greatest signed time when that is later.

    Returns:
        The lease.

    Raises:
        UntrustedLease: No line is for this laptop, current and signed.
    """
    data = text.encode(errors="replace") if isinstance(text, str) else text
    faults: list[str] = []
    good: list[Lease] = []
    for line in islice(lines_for(serial, data), _MAX_TRIED):
        try:
            good.append(_judge(line, serial=serial, uuid=uuid, ring=ring, now=now))
        except TrustError as error:
            faults.append(error.reason)
    if not good:
        raise UntrustedLease("lease", (faults or [f"it holds none for {serial}"])[0])
    return max(good, key=_lasting)


def lines_for(serial: str, data: bytes) -> Iterator[str]:
    """Yield the lines of a file that name a laptop, without believing them.

    Args:
        serial: The laptop's serial number.
        data: The whole file, of either form.
    """
    if data.startswith(BULK_START):
        # No string holds a bare quote, so this is the laptop's key and nothing else.
        key = b'"%s":"' % serial.encode()
        start = data.find(key) + len(key)
        data = data[start : data.find(b'"', start)] if start >= len(key) else b""
    prefix = re.escape(b"act01: %s " % serial.encode())
    for found in re.finditer(b"^" + prefix + rb"[^\n]*", data, re.MULTILINE):
        yield found[0].decode("ascii", errors="replace")


def _judge(line: str, *, serial: str, uuid: str, ring: KeyRing, now: int) -> Lease:
    lease = parse_line(line)
    if lease.expiry is not None and lease.expiry <= now:
        ended, today = format_time(lease.expiry), format_time(now)
        reason = f"it expired on {ended}, and here it is {today}"
        raise UntrustedLease("lease", reason)
    signed = lease_text(serial, uuid, lease.disposition, lease.expiry)
    verified = verify_credential(
        signed, [lease.signature], ring, Role.LEASE, serial=serial, now=now
    )
    return Lease(line + "\n", lease.expiry, verified.key_ids)


def _lasting(lease: Lease) -> float:
    return float("inf") if lease.expiry is None else lease.expiry
