"""Signature lines: their grammar, and whether they prove anything.

::

    sig01: sha256 KEY SIGNATURE
    sig02: sha256 KEY EXPIRY SIGNATURE[ sha256 KEY EXPIRY SIGNATURE]...

RSASSA-PSS with MGF1, SHA-256 for both, a salt of 8 bytes. ``sig01`` signs the data.
In ``sig02`` each group but the last delegates to the key of the next group, the last
signs the data, and all of that is bound to one laptop and to an expiry.

What counts when there are several lines: a line whose first key is not trusted, or
whose digest is not SHA-256 (firmware images carry a ``rmd160`` line as well), proves
nothing and is passed over. Every other line must verify, and there must be one.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from olpc_update_query.errors import (
    Malformed,
    TrustError,
    UntrustedAnswer,
    UntrustedKey,
    UntrustedLease,
)
from olpc_update_query.model.wire import format_expiry, format_time, parse_expiry
from olpc_update_query.trust.keys import (
    EXPONENT,
    ID_BYTES,
    KEY_BYTES,
    KeyRing,
    PublicKey,
    Role,
    modulus,
)

SALT_BYTES: Final = 8
SIGNATURE_BYTES: Final = 256
MAX_GROUPS: Final = 100
MAX_LINES: Final = 16
MAX_LINE: Final = 128 * 1024

_TAGGED: Final = re.compile(r"(sig[0-9]{2}): (\S+) .+", re.ASCII)
_NAME: Final = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}|[0-9a-f]{{{2 * KEY_BYTES}}}")
_SIGNATURE: Final = re.compile(f"[0-9a-f]{{{2 * SIGNATURE_BYTES}}}")
_REFUSED: Final[dict[Role, type[TrustError]]] = {
    Role.OATS: UntrustedAnswer,
    Role.LEASE: UntrustedLease,
}


class Group(NamedTuple):
    """One link of a line.

    Attributes:
        key: The signer: its name, or the whole key, in hex.
        expiry: Until when the signature is good, None for ever.
        signature: 256 bytes.
    """

    key: str
    expiry: int | None
    signature: bytes


class SignatureLine(NamedTuple):
    """A line that can be checked.

    Attributes:
        bound: Whether it is a ``sig02`` line, made for one laptop.
        groups: The delegations, then the signature of the data.
    """

    bound: bool
    groups: tuple[Group, ...]


class Verified(NamedTuple):
    """What a credential proved.

    Attributes:
        keys: The trusted key that vouches for each line that counted.
    """

    keys: tuple[PublicKey, ...]

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The names of the keys."""
        return tuple(key.key_id for key in self.keys)


def sig02_prefix(serial: str, expiry: int | None) -> bytes:
    """Return what stands before the signed text in a ``sig02`` group.

    Args:
        serial: The laptop's serial number.
        expiry: The group's own expiry, None for ever.
    """
    return f"{serial}:{format_expiry(expiry)}:".encode()


def delegation_text(key: bytes) -> bytes:
    """Return what a group signs to let another key sign in its place.

    Args:
        key: The other key, PKCS#1 DER.
    """
    return b"key01: " + key.hex().encode() + b"\n"


def parse_signature(text: str) -> SignatureLine | None:
    """Read one line of a credential.

    Only the first group may name its key; the others must bring theirs whole.

    Args:
        text: The line without its newline.

    Returns:
        Its groups; None when it is of a kind or with a digest that is not known here,
        and so cannot be checked.

    Raises:
        Malformed: It breaks the grammar.
    """
    tagged = _TAGGED.fullmatch(text) if len(text) <= MAX_LINE else None
    if tagged is None:
        raise _malformed("it is no signature line")
    if tagged[1] not in {"sig01", "sig02"} or tagged[2] != "sha256":
        return None
    bound, fields = tagged[1] == "sig02", text.split(" ")[1:]
    width = 4 if bound else 3
    count, rest = divmod(len(fields), width)
    if rest or count > (MAX_GROUPS if bound else 1):
        raise _malformed("it has a wrong number of fields")
    groups = (fields[at : at + width] for at in range(0, len(fields), width))
    line = SignatureLine(bound, tuple(map(_parse_group, groups)))
    for group in line.groups[1:]:
        _check_delegate(group.key)
    return line


def verify_credential(
    data: bytes,
    lines: Sequence[str],
    ring: KeyRing,
    role: Role,
    *,
    serial: str | None,
    now: int,
) -> Verified:
    """Check that a trusted key vouches for data.

    1. The credential is split into at most 16 lines, each of which is parsed.
    2. Lines that cannot be checked here are passed over.
    3. The first key of each line is looked up among the trusted keys of the role,
       also when the line brings the whole key; a line without one is passed over.
    4. No link has expired.
       Neither is a key that a link delegates to retired.
    5. Every link's signature holds under the key that the link before it named.
    6. At least one line came this far, and none that came to step 4 failed.

    Args:
        data: The octets that were signed, as they came.
        lines: The credential. An element may hold several lines.
        ring: The trusted keys.
        role: What the key must be allowed to sign.
        serial: The laptop's serial number, which ``sig02`` lines are made for; None
            when there is none, which refuses them.
        now: The present, or the greatest signed time when that is later.

    Returns:
        The trusted keys.

    Raises:
        Malformed: A line breaks the grammar.
        UntrustedAnswer: It is not proved, and the role is OATS.
        UntrustedLease: It is not proved, and the role is LEASE.
    """
    keys = []
    for line in filter(None, map(parse_signature, _split(lines))):
        trusted = ring.find(role, line.groups[0].key)
        if trusted:
            _refuse_retired(line, ring, role)
            keys.append(_check_line(line, data, trusted, serial=serial, now=now))
    if not keys:
        _refuse(role, "no trusted key has signed it")
    return Verified(tuple(keys))


def signed_directly(lines: Sequence[str], ring: KeyRing, role: Role) -> bool:
    """Tell whether a trusted key signed by itself, in a credential that has verified.

    Otherwise only keys that it lent its name have signed.
    """
    parsed = filter(None, map(parse_signature, _split(lines)))
    return any(
        len(line.groups) == 1 and ring.find(role, line.groups[0].key) for line in parsed
    )


def _split(lines: Sequence[str]) -> list[str]:
    parts = [part for line in lines for part in line.removesuffix("\n").split("\n")]
    if len(parts) > MAX_LINES:
        raise _malformed(f"there are more than {MAX_LINES} lines")
    return parts


def _parse_group(fields: list[str]) -> Group:
    digest, key, *expiry, signature = fields
    if digest != "sha256":
        raise _malformed("a delegation is not by sha256")
    if not _NAME.fullmatch(key):
        raise _malformed("a key is neither 64 nor 540 lower-case hex digits")
    if not _SIGNATURE.fullmatch(signature):
        raise _malformed("a signature is not 512 lower-case hex digits")
    until = parse_expiry(expiry[0]) if expiry else None
    return Group(key, until, bytes.fromhex(signature))


def _check_delegate(key: str) -> None:
    try:
        modulus(bytes.fromhex(key))
    except UntrustedKey as error:
        raise _malformed(f"the key of a delegation: {error.reason}") from error


def _refuse_retired(line: SignatureLine, ring: KeyRing, role: Role) -> None:
    if any(
        ring.is_retired(role, bytes.fromhex(group.key)) for group in line.groups[1:]
    ):
        _refuse(role, "it delegates to a key that is retired")


def _check_line(
    line: SignatureLine,
    data: bytes,
    trusted: tuple[PublicKey, ...],
    *,
    serial: str | None,
    now: int,
) -> PublicKey:
    role = trusted[0].role
    if line.bound and serial is None:
        _refuse(role, "its signature is made for one laptop")
    for group in line.groups:
        if group.expiry is not None and group.expiry <= now:
            ended, today = format_time(group.expiry), format_time(now)
            _refuse(role, f"its signature expired on {ended}, and here it is {today}")
    signer = _signer(line, data, trusted, serial or "")
    if signer is None:
        _refuse(role, f"the signature by {trusted[0].key_id} is wrong")
    return signer


def _signer(
    line: SignatureLine, data: bytes, trusted: tuple[PublicKey, ...], serial: str
) -> PublicKey | None:
    delegates = [bytes.fromhex(group.key) for group in line.groups[1:]]
    texts = [*map(delegation_text, delegates), data]
    if line.bound:
        prefixes = (sig02_prefix(serial, group.expiry) for group in line.groups)
        texts = [prefix + text for prefix, text in zip(prefixes, texts, strict=True)]
    first, *later = zip((group.signature for group in line.groups), texts, strict=True)
    signer = next((key for key in trusted if _holds(key.der, *first)), None)
    good = all(_holds(der, *link) for der, link in zip(delegates, later, strict=True))
    return signer if good else None


def _holds(der: bytes, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
    from cryptography.hazmat.primitives.hashes import SHA256

    key = RSAPublicNumbers(EXPONENT, modulus(der)).public_key()
    padding = PSS(mgf=MGF1(SHA256()), salt_length=SALT_BYTES)
    try:
        key.verify(signature, text, padding, SHA256())
    except InvalidSignature:
        return False
    return True


def _malformed(reason: str) -> Malformed:
    return Malformed("signature", reason)


def _refuse(role: Role, reason: str) -> NoReturn:
    raise _REFUSED[role]("signature", reason)
