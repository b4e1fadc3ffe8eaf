"""What the firmware and the initramfs make of a file of leases or delegations.

Written from the description of OpenFirmware's ``security.fth`` and the initramfs'
``activate.py`` and ``greplease.py``, with the verifier of ``keys`` that shares no code
with the product.
"""

import re
from collections.abc import Sequence

from tests.keys import line_holds

LONGEST_LINE = 8192
NEVER = "00000000T000000Z"


def boots(
    file: str, serial: str, uuid: str, *, trusted: Sequence[bytes], now: str
) -> bool:
    """Tell whether a ``lease.sig`` lets a laptop start.

    Any line that is no lease spoils the file; the first line for this laptop whose key
    is trusted decides.

    Args:
        file: The file.
        serial: The laptop.
        uuid: Its UUID.
        trusted: Keys, PKCS#1 DER.
        now: ``YYYYMMDDTHHMMSSZ``.
    """
    lines = [line + "\n" for line in file.split("\n")[:-1]]
    if not file.endswith("\n"):
        return False
    if any(len(line) > LONGEST_LINE or line[:7] != "act01: " for line in lines):
        return False
    for line in lines:
        _, named, disposition, expiry, signature = line.split(" ", 4)
        key = signature.split(" ")[2]
        if named != serial or not any(der.hex().endswith(key) for der in trusted):
            continue
        current = expiry == NEVER or expiry > now
        data = f"{serial}:{uuid}:{disposition}:{expiry}".encode()
        return (
            len(disposition) == 1
            and re.fullmatch(r"\d{8}T\d{6}Z", expiry) is not None
            and current
            and line_holds(signature, data, trusted=trusted, serial=serial, now=now)
        )
    return False


def grep_lease(file: str, serial: str) -> str:
    """Take a laptop's lease out of a file for many, as the initramfs does."""
    assert file.startswith('[1,{"')
    _, _, rest = file.partition(f'"{serial}":"')
    return rest.partition('"')[0]


def delegates(
    line: str, key: bytes, serial: str, uuid: str, *, trusted: Sequence[bytes], now: str
) -> bool:
    """Tell whether a ``del01`` line lets a key sign for a laptop."""
    tag, named, named_uuid, signature = line.split(" ", 3)
    return (
        (tag, named, named_uuid) == ("del01:", serial, uuid)
        and signature.startswith("sig02: ")
        and line_holds(
            signature,
            b"key01: " + key.hex().encode() + b"\n",
            trusted=trusted,
            serial=serial,
            now=now,
        )
    )
