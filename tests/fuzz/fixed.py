"""Keys and signatures that are the same on every machine and every day.

The corpus is signed with them, so that whoever makes it again gets the same octets.
The primes are the first ones after numbers that a hash of the key's name gives, and
the salt of a signature is a hash of what is signed. So everybody knows these private
keys: they are good for tests and for nothing else.
"""

import hashlib
import math
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from olpc_update_query.server.signing import Signer
from olpc_update_query.trust.keys import EXPONENT
from olpc_update_query.trust.signature import SALT_BYTES

_BITS: Final = 1024
_SMALL: Final = math.prod(
    number
    for number in range(3, 2000, 2)
    if all(number % low for low in range(3, math.isqrt(number) + 1, 2))
)
_WITNESSES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)


class FixedSigner(Signer):
    """A private key whose signatures hold no chance."""

    def __init__(self, p: int, q: int) -> None:
        d = pow(EXPONENT, -1, math.lcm(p - 1, q - 1))
        self._private, self._modulus = d, p * q
        numbers = rsa.RSAPrivateNumbers(
            p,
            q,
            d,
            rsa.rsa_crt_dmp1(d, p),
            rsa.rsa_crt_dmq1(d, q),
            rsa.rsa_crt_iqmp(p, q),
            rsa.RSAPublicNumbers(EXPONENT, p * q),
        )
        super().__init__(numbers.private_key())

    def sign(self, data: bytes) -> bytes:
        """Return a signature by RFC 8017 8.1.1 and 9.1.1."""
        salt = hashlib.sha256(b"salt" + data).digest()[:SALT_BYTES]
        inner = bytes(8) + hashlib.sha256(data).digest() + salt
        digest = hashlib.sha256(inner).digest()
        block = bytes(222 - SALT_BYTES) + b"\x01" + salt
        masked = bytearray(a ^ b for a, b in zip(block, _mask(digest), strict=True))
        masked[0] &= 0x7F
        number = int.from_bytes(bytes(masked) + digest + b"\xbc", "big")
        return pow(number, self._private, self._modulus).to_bytes(256, "big")


@cache
def signer(name: str) -> FixedSigner:
    """Return the key of that name."""
    return FixedSigner(_prime(f"{name} p"), _prime(f"{name} q"))


def _mask(digest: bytes) -> bytes:
    return b"".join(
        hashlib.sha256(digest + counter.to_bytes(4, "big")).digest()
        for counter in range(7)
    )[:223]


def _prime(name: str) -> int:
    start = int.from_bytes(hashlib.shake_256(name.encode()).digest(_BITS // 8), "big")
    number = start | 3 << (_BITS - 2) | 1
    while not is_prime(number) or math.gcd(number - 1, EXPONENT) != 1:
        number += 2
    return number


def is_prime(number: int) -> bool:
    """Tell, by Miller and Rabin, whether an odd number is almost certainly prime."""
    if math.gcd(number, _SMALL) != 1:
        return False
    twos = ((number - 1) & -(number - 1)).bit_length() - 1
    return all(_passes(number, twos, witness) for witness in _WITNESSES)


def _passes(number: int, twos: int, witness: int) -> bool:
    power = pow(witness, (number - 1) >> twos, number)
    if power == 1:
        return True
    for _ in range(twos):
        if power == number - 1:
            return True
        power = power * power % number
    return False
