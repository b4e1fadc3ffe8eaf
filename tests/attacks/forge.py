"""What attackers can make: answers, orders and leases that are nearly right."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm

from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Query, format_time
from olpc_update_query.server.signing import Signer, make_lease
from olpc_update_query.trust.keys import EXPONENT, ID_BYTES
from olpc_update_query.trust.signature import SALT_BYTES
from tests.fuzz.fixed import FixedSigner, is_prime
from tests.keys import SERIAL, UUID, signer
from tests.run.polled import NOW
from tests.simulator import DAY

LATER: Final = NOW + 90 * DAY
OTHER_SERIAL: Final = "SHC12900019"
OTHER_UUID: Final = "1273E0EC-AEF1-9FF6-45B2-FB706DC24B8E"
TEXT: Final = "obey"


@cache
def new_lease(expiry: int | None = LATER) -> str:
    """Return a lease that anybody would like to have."""
    return make_lease(SERIAL, UUID, expiry, signer("lease").sig01)


@dataclass
class Forge:
    """What somebody on the path has in hand when a query comes by.

    Attributes:
        query: The query.
        earlier: The query before it.
        overheard: The genuine answer to that one.
        members: What the answer is to say.
    """

    query: Query
    earlier: Query
    overheard: bytes
    members: dict[str, Json] = field(default_factory=dict)

    def data(self, **changes: Json) -> bytes:
        """Return the part of an answer that is signed; None leaves a member out."""
        said: dict[str, Json] = {
            "lease": new_lease(),
            "message": TEXT,
            "nonce": self.query.nonce,
            "time": format_time(NOW),
            **self.members,
            **changes,
        }
        kept: dict[str, Json] = {
            name: value for name, value in said.items() if value is not None
        }
        return canonical.encode(["oatc-resp", 1, kept])

    def wrap(self, data: bytes, *lines: str) -> bytes:
        """Return an answer of any octets and any credential."""
        credential = canonical.encode(["sig", 1, list(lines)])
        return b'["oatc-signed-resp",1,[%s,%s]]' % (data, credential)

    def signed(self, data: bytes | None = None, by: str = "oats") -> bytes:
        """Return an answer that a key signed."""
        data = self.data() if data is None else data
        return self.wrap(data, signer(by).sig01(data))

    def with_line(self, make: Callable[[bytes], str]) -> bytes:
        """Return the answer with the line that somebody makes for it."""
        data = self.data()
        return self.wrap(data, make(data))

    def genuine(self) -> bytes:
        """Return what the attack says, signed as it should be: the control."""
        return self.signed()


# --- lines ------------------------------------------------------------------------


def delegated(
    data: bytes,
    *,
    root: str = "oats",
    until: int | None = LATER,
    serial: str = SERIAL,
    ends: int | None = LATER,
    signs_for: str = SERIAL,
) -> str:
    """Return a line by a region's key, which a trusted key let sign."""
    region = signer("region")
    chain = signer(root).delegate(region.public, serial=serial, expiry=until)
    return region.sig02(data, serial=signs_for, expiry=ends, chain=chain)


def groups_of(line: str) -> list[str]:
    """Return the groups of a sig02 line."""
    fields = line.strip().removeprefix("sig02: ").split(" ")
    return [" ".join(fields[at : at + 4]) for at in range(0, len(fields), 4)]


def join(*groups: str) -> str:
    """Return a sig02 line of groups."""
    return "sig02: " + " ".join(groups) + "\n"


def whole_key(line: str, name: str) -> str:
    """Let a line bring a key whole, instead of by its name."""
    return line.replace(signer(name).key_id, signer(name).public.hex(), 1)


def padded(
    data: bytes,
    *,
    salt: int = SALT_BYTES,
    digest: HashAlgorithm | None = None,
    mask: HashAlgorithm | None = None,
    old: bool = False,
) -> str:
    """Return a line by the trusted key with other parameters than ours."""
    digest = digest or SHA256()
    how = padding.PKCS1v15() if old else padding.PSS(padding.MGF1(mask or digest), salt)
    made = signer("oats")._key.sign(data, how, digest)
    return f"sig01: sha256 {signer('oats').key_id} {made.hex()}\n"


@cache
def twin_of(name: str) -> Signer:
    """Return another key with the same name: the last 32 bytes are the same.

    The last 27 bytes of the modulus are ours to choose: whatever one prime is, the
    other is made to fit.
    """
    bits = 8 * (ID_BYTES - 5)  # five bytes are the exponent and its head
    wanted = int.from_bytes(signer(name).public[-ID_BYTES:-5], "big")
    while True:
        p = secrets.randbits(1024) | 3 << 1022 | 1
        while not is_prime(p):
            p += 2
        low = wanted * pow(p, -1, 1 << bits) % (1 << bits)
        high = 3 << 1022 | secrets.randbits(1022 - bits) << bits
        for number in range(20_000):
            q = high + (number << bits) + low
            if q.bit_length() == 1024 and (p - 1) % EXPONENT and is_prime(q):
                return FixedSigner(p, q)


def weak_key(size: int, exponent: int = EXPONENT) -> rsa.RSAPrivateKey:
    """Return a key that is too small, or with another exponent."""
    return rsa.generate_private_key(exponent, size)
