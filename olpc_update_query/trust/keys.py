"""Public keys: what a key is, what it may sign, and which ones are trusted.

A key is RSA-2048 with exponent 65537, as PKCS#1 ``RSAPublicKey`` DER: always 270
bytes that differ in the modulus only. It is named by its last 32 bytes, in lower-case
hex; that is no digest, and anybody can make another key with the same name, so a name
only ever selects among keys that are trusted already.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from olpc_update_query.errors import UntrustedKey

KEY_BYTES: Final = 270
ID_BYTES: Final = 32
EXPONENT: Final = 65537
SHORT_DIGEST: Final = 8

_HEAD: Final = bytes.fromhex("3082010a0282010100")
_TAIL: Final = bytes.fromhex("0203010001")
_PRIVATE: Final = "it is a private key, which belongs on the server"
_SPKI_HEAD: Final = 24  # bytes before the key in a SubjectPublicKeyInfo


class Role(StrEnum):
    """What a key may sign: answers and orders, or leases."""

    OATS = "oats"
    LEASE = "lease"

    @property
    def tag(self) -> str:
        """The letter of its tags in the manufacturing data."""
        return {Role.OATS: "t", Role.LEASE: "a"}[self]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A trusted key.

    Attributes:
        role: What it may sign.
        der: Its 270 bytes.
        origin: Where it was found, for people.

    Raises:
        UntrustedKey: ``der`` is not an RSA-2048 key.
    """

    role: Role
    der: bytes
    origin: str

    def __post_init__(self) -> None:
        modulus(self.der)

    @property
    def key_id(self) -> str:
        """Its name: the last 32 bytes in hex."""
        return self.der[-ID_BYTES:].hex()

    @property
    def digest(self) -> str:
        """Its SHA-256 in hex, which no other key has."""
        return digest_of(self.der)


@dataclass(frozen=True, slots=True)
class Standing:
    """What signed statements have made of the keys of a role; see ``rotation``.

    Attributes:
        number: Of the last statement that was followed, 0 before the first.
        threshold: How many keys must sign the next one.
        added: Keys as PKCS#1 DER, with the number of the statement that added them.
        retired: Digests of keys, with the number of the statement that retired them.
    """

    number: int = 0
    threshold: int = 1
    added: Mapping[bytes, int] = field(default_factory=dict)
    retired: Mapping[str, int] = field(default_factory=dict)


class Merged(NamedTuple):
    """Keys, and what was left out while they were put together.

    Attributes:
        keys: The keys.
        warnings: One sentence for each key that was not usable.
    """

    keys: tuple[PublicKey, ...]
    warnings: tuple[str, ...]


class KeyRing:
    """The keys that are trusted.

    Args:
        keys: Any number of keys; one that is given twice counts once, where it was
            given first.
        standings: What statements have added to them and taken away from them.
    """

    def __init__(
        self,
        keys: Iterable[PublicKey] = (),
        standings: Mapping[Role, Standing] | None = None,
    ) -> None:
        self._given, self._standings = tuple(keys), dict(standings or {})
        known = (*self._given, *self._added())
        first = {(key.role, key.der): key for key in reversed(known)}
        self._known = tuple(reversed(first.values()))
        self._keys = tuple(
            key for key in self._known if not self.is_retired(key.role, key.der)
        )

    def __iter__(self) -> Iterator[PublicKey]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def _added(self) -> Iterator[PublicKey]:
        for role, standing in self._standings.items():
            for der, number in standing.added.items():
                yield PublicKey(role, der, f"statement {number}")

    @property
    def retired(self) -> tuple[PublicKey, ...]:
        """The keys that would be trusted if no statement had retired them."""
        return tuple(key for key in self._known if self.is_retired(key.role, key.der))

    def is_retired(self, role: Role, der: bytes) -> bool:
        """Tell whether a statement has taken a key out of use, known here or not."""
        retired = self.standing(role).retired
        return bool(retired) and digest_of(der) in retired

    def standing(self, role: Role) -> Standing:
        """Return what statements have made of the keys of a role."""
        return self._standings.get(role) or Standing()

    def with_standing(self, role: Role, standing: Standing) -> "KeyRing":
        """Return a ring of the same keys in which a role stands otherwise."""
        return KeyRing(self._given, {**self._standings, role: standing})

    def fingerprints(self) -> str:
        """Return which keys are trusted, briefly, for the query.

        Returns:
            The first 8 digits of each key's digest, joined by dots; those for
            answers, a hyphen, those for leases.
        """
        return "-".join(
            ".".join(
                sorted(key.digest[:SHORT_DIGEST] for key in self if key.role is role)
            )
            for role in Role
        )

    def find(self, role: Role, name: str) -> tuple[PublicKey, ...]:
        """Return the keys that a signature line names.

        OpenFirmware takes any suffix of a key for its name; here it is 32 bytes or
        the whole key, nothing else.

        Args:
            role: What the key must be allowed to sign.
            name: 64 or 540 lower-case hex digits.

        Returns:
            The keys, none when no trusted key has that name and role.
        """
        return tuple(
            key
            for key in self
            if key.role is role and name in {key.key_id, key.der.hex()}
        )


def merge_tags(built_in: Iterable[PublicKey], tags: Mapping[str, bytes]) -> Merged:
    """Put built-in keys together with those of the manufacturing data.

    For each role the tag with digit 0 replaces the built-in keys, 1 to 9 add. A tag
    that holds no usable key is skipped with a warning, as OpenFirmware does.

    Args:
        built_in: The keys shipped with the program.
        tags: Manufacturing data by tag name: ``t0``..``t9`` sign answers, ``a0``..
            ``a9`` sign leases. Other tags are not looked at.

    Returns:
        Keys and warnings.
    """
    built_in = list(built_in)
    keys: list[PublicKey] = []
    warnings: list[str] = []
    for role in Role:
        found: dict[str, PublicKey] = {}
        for name in (f"{role.tag}{digit}" for digit in range(10)):
            if name not in tags:
                continue
            try:
                found[name] = PublicKey(role, tags[name], f"manufacturing data {name}")
            except UntrustedKey as error:
                warnings.append(f"manufacturing data {name}: {error.reason}")
        if f"{role.tag}0" not in found:
            keys += [key for key in built_in if key.role is role]
        keys += found.values()
    return Merged(tuple(keys), tuple(warnings))


def digest_of(der: bytes) -> str:
    """Return the SHA-256 of a key in hex, as ``sha256sum oats.public`` prints it."""
    return hashlib.sha256(der).hexdigest()


def modulus(der: bytes) -> int:
    """Return the modulus of a key.

    Args:
        der: PKCS#1 ``RSAPublicKey``.

    Returns:
        An odd number of exactly 2048 bits.

    Raises:
        UntrustedKey: The bytes are anything but such a key with exponent 65537.
    """
    if len(der) != KEY_BYTES:
        raise UntrustedKey("key", f"it has {len(der)} bytes, not {KEY_BYTES}")
    number = int.from_bytes(der[len(_HEAD) : -len(_TAIL)], "big")
    framed = der.startswith(_HEAD) and der.endswith(_TAIL)
    if not framed or number.bit_length() != 2048 or number % 2 == 0:
        raise UntrustedKey("key", "it is not RSA-2048 with exponent 65537")
    return number


def load_public(data: bytes) -> bytes:
    """Read a public key file.

    Args:
        data: PKCS#1 or SubjectPublicKeyInfo, DER or PEM.

    Returns:
        PKCS#1 DER, 270 bytes.

    Raises:
        UntrustedKey: It is no RSA-2048 public key.
    """
    if len(data) == KEY_BYTES and data.startswith(_HEAD):
        modulus(data)
        return data
    if b"PRIVATE KEY-----" in data:
        raise UntrustedKey("key", _PRIVATE)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    load = form.load_pem_public_key if b"-----" in data else form.load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        if _is_private(data):
            raise UntrustedKey("key", _PRIVATE) from None
        raise UntrustedKey("key", "it is neither DER nor PEM of a public key") from None
    if not isinstance(key, RSAPublicKey):
        raise UntrustedKey("key", "it is not an RSA key")
    der = key.public_bytes(form.Encoding.DER, form.PublicFormat.PKCS1)
    modulus(der)
    if b"-----" not in data and data[_SPKI_HEAD:] != der:
        raise UntrustedKey("key", "something follows it in the file")
    return der


def _is_private(data: bytes) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        load_der_private_key(data, None)
    except TypeError:  # it has a pass phrase
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True
