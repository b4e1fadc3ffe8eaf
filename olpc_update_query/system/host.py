"""The machine: its clocks, who it is, and chance."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.wire import parse_serial, parse_uuid
from olpc_update_query.system.files import read_bounded

MFG_DATA = ("proc/device-tree/mfg-data", "ofw/mfg-data")
DMI = "sys/class/dmi/id"
KEPT_IDENTITY = "run/olpc-update-query/identity"
"""Where root tells the asker what DMI tells only root."""
CONFIGURATION = "configuration"

_PLACEHOLDERS = {
    "00020003000400050006000700080009",  # what AMI ships as the UUID
    "03000200040005000006000700080009",  # the same, read with the other byte order
    "0123456789",
    "0123456789ABCDEF",
    "123456789",
    "1234567890",
    "BASEBOARDSERIALNUMBER",
    "CHASSISSERIALNUMBER",
    "DEFAULT",
    "DEFAULTSTRING",
    "EMPTY",
    "FILLBYOEM",
    "INVALID",
    "NA",
    "NONE",
    "NOTAPPLICABLE",
    "NOTAVAILABLE",
    "NOTPRESENT",
    "NOTSETTABLE",
    "NOTSPECIFIED",
    "NULL",
    "OEM",
    "SERIAL",
    "SERIALNUMBER",
    "SERNUM",
    "SHF00000000",  # OLPC's emulator
    "SYSTEMSERIALNUMBER",
    "TBD",
    "TOBEFILLED",
    "TOBEFILLEDBYOEM",
    "UNKNOWN",
}


class SystemClock:
    """The machine's own clocks (``ports.Clock``)."""

    def now(self) -> int:
        """Return seconds since the epoch, UTC, as the machine believes."""
        return int(time.time())

    def boottime(self) -> float:
        """Return seconds since boot, suspend included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(seconds, 0.0))


class Identity(NamedTuple):
    """Which laptop this is.

    Attributes:
        serial: Serial number, upper case when it is from manufacturing data.
        uuid: The UUID that leases name, as it was found.
        origin: Where both are from: a directory, or ``configuration``.
    """

    serial: str
    uuid: str
    origin: str


def identity(root: Path, configured: tuple[str, str] | None = None) -> Identity:
    """Find out which laptop this is.

    Manufacturing data first, then DMI, then the configuration. Serial number and
    UUID are always from the same place, and what a factory forgot to fill in
    ("To be filled by O.E.M.", zeros) counts as absent: a fleet that shares one
    serial number would share its orders and its leases.

    Args:
        root: Everything is looked for below it.
        configured: Serial number and UUID of the configuration.

    Raises:
        NoIdentity: No place has a usable pair; names what each place lacked.
    """
    refused = []
    for origin, serial, uuid in _candidates(root, configured):
        reason = _unusable(serial, uuid)
        if reason is None:
            return Identity(serial, uuid, origin)
        refused.append(f"{origin}: {reason}")
    raise errors.NoIdentity("identity of this laptop", "; ".join(refused))


def _candidates(
    root: Path, configured: tuple[str, str] | None
) -> Iterator[tuple[str, str, str]]:
    for place in MFG_DATA:
        where = root / place
        # the firmware upper-cases the serial number and takes the UUID as it is
        yield str(where), _read_tag(where / "SN").upper(), _read_tag(where / "U#")
    dmi = root / DMI
    yield str(dmi), _read_tag(dmi / "product_serial"), _read_tag(dmi / "product_uuid")
    kept = root / KEPT_IDENTITY
    if kept.is_dir():
        yield str(kept), _read_tag(kept / "SN"), _read_tag(kept / "U#")
    if configured is not None:
        yield CONFIGURATION, configured[0].strip(), configured[1].strip()


def _read_tag(path: Path) -> str:
    """Return a tag's text; what cannot be read counts as empty."""
    try:
        raw = read_bounded(path, 4096)
    except (OSError, ValueError):
        return ""
    # trac #2085: the kernel hands out the NUL, some firmware a newline as well
    return raw.rstrip(b"\0\n").decode("ascii", "replace").strip()


def _unusable(serial: str, uuid: str) -> str | None:
    if not serial and not uuid:
        return "nothing to read there"
    try:
        parse_serial(serial)
        parse_uuid(uuid)
    except errors.Malformed as error:
        return str(error)
    for text in (serial, uuid):
        if _is_placeholder(text):
            return f"{text!r} was never filled in"
    return None


def _is_placeholder(text: str) -> bool:
    plain = "".join(filter(str.isalnum, text)).upper()
    return len(set(plain)) < 2 or plain in _PLACEHOLDERS


def boot_id(root: Path) -> str:
    """Return what tells this boot from every other, or an empty string."""
    return _read_tag(root / "proc/sys/kernel/random/boot_id")


def draw_nonce() -> str:
    """Return a fresh nonce: 128 random bits in decimal."""
    return str(int.from_bytes(os.urandom(16), "big"))


def draw_fraction() -> float:
    """Return a random number, at least 0 and below 1."""
    return int.from_bytes(os.urandom(6), "big") / 2**48
