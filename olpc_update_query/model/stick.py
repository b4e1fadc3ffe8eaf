"""What lies where on a stick, beside ``builds/`` and ``keys.sig``."""

from typing import Final

LEASES: Final = ("lease.sig", "security/lease.sig")
"""Leases for many laptops: where the initramfs looks, and where the firmware does."""

MAX_LEASES: Final = 32 * 1024 * 1024
"""Bytes that are read of one: leases for 40,000 laptops."""

REPORTS: Final = "reports"
"""What each laptop leaves, one file each: the form of a query, as it would poll."""


def report_name(serial: str) -> str:
    """Return the name of a laptop's report: one that FAT can keep as well.

    Args:
        serial: Its serial number, letters, digits and ``._+-``.
    """
    return f"{serial.upper()}.txt"
