"""Throw-away keys, made once per session, and a verifier that shares no code with us.

The verifier is written from the description of the format alone: RSA by ``pow``,
RSASSA-PSS by RFC 8017, times compared as text.
"""

import hashlib
from collections.abc import Iterable
from functools import cache

from olpc_update_query.server.signing import Signer, generate
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role

SERIAL = "SHC12900018"
UUID = "1273E0EC-AEF1-9FF6-45B2-FB706DC24B8D"


@cache
def signer(name: str) -> Signer:
    """Return the key of that name, made when it is first asked for."""
    return generate()


def public(name: str, role: Role) -> PublicKey:
    """Return the public half of a key, trusted for a role."""
    return PublicKey(role, signer(name).public, f"test key {name}")


def ring(
    *, oats: Iterable[str] = ("oats",), lease: Iterable[str] = ("lease",)
) -> KeyRing:
    """Return a ring of the keys of these names."""
    answers = [public(name, Role.OATS) for name in oats]
    return KeyRing([*answers, *(public(name, Role.LEASE) for name in lease)])


def pss_holds(der: bytes, message: bytes, signature: bytes, *, salt: int = 8) -> bool:
    """Check RSASSA-PSS by RFC 8017 8.1.2 and 9.1.2, SHA-256 throughout."""
    modulus = int.from_bytes(der[9:265], "big")
    number = int.from_bytes(signature, "big")
    if len(signature) != 256 or number >= modulus:
        return False
    block = pow(number, 65537, modulus).to_bytes(256, "big")
    masked, digest, trailer = block[:223], block[223:255], block[255]
    if trailer != 0xBC or masked[0] & 0x80:
        return False
    mask = b"".join(
        hashlib.sha256(digest + counter.to_bytes(4, "big")).digest()
        for counter in range(7)
    )[:223]
    opened = bytearray(a ^ b for a, b in zip(masked, mask, strict=True))
    opened[0] &= 0x7F
    padding = bytes(222 - salt) + b"\x01"
    if not opened.startswith(padding):
        return False
    inner = bytes(8) + hashlib.sha256(message).digest() + opened[len(padding) :]
    return hashlib.sha256(inner).digest() == digest


def line_holds(
    line: str, data: bytes, *, trusted: Iterable[bytes], serial: str, now: str
) -> bool:
    """Check one signature line, ``now`` as ``YYYYMMDDTHHMMSSZ``."""
    if not line.endswith("\n") or line.count("\n") != 1:
        return False
    tag, *fields = line[:-1].split(" ")
    keys = [der for der in trusted if der.hex() == fields[1] or ends(der, fields[1])]
    if tag == "sig01:":
        digest, _, signature = fields
        return digest == "sha256" and any(
            pss_holds(der, data, bytes.fromhex(signature)) for der in keys
        )
    groups = [fields[at : at + 4] for at in range(0, len(fields), 4)]
    for index, (digest, _, expiry, signature) in enumerate(groups):
        following = groups[index + 1 :]
        text = b"key01: " + following[0][1].encode() + b"\n" if following else data
        signed = f"{serial}:{expiry}:".encode() + text
        current = expiry == "00000000T000000Z" or expiry > now
        if digest != "sha256" or not current:
            return False
        if not any(pss_holds(der, signed, bytes.fromhex(signature)) for der in keys):
            return False
        keys = [bytes.fromhex(following[0][1])] if following else []
    return tag == "sig02:"


def ends(der: bytes, name: str) -> bool:
    """Return whether 64 hex digits name a key."""
    return len(name) == 64 and der[-32:].hex() == name
