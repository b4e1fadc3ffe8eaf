"""Keys that were lost, retired, lent for a time, or for something else."""

from olpc_update_query.model import canonical
from tests.attacks.cases import (
    EXPIRED,
    FORM,
    GRAMMAR,
    STRANGE,
    WRONG,
    Case,
    line,
    table,
)
from tests.attacks.forge import (
    OTHER_SERIAL,
    Forge,
    delegated,
    weak_key,
    whole_key,
)
from tests.attacks.victim import Make, Victim
from tests.keys import SERIAL, signer
from tests.run.polled import NOW
from tests.simulator import DAY

OATS, THIEF, REGION = signer("oats"), signer("thief"), signer("region")

COMPROMISED: list[Case] = [
    line(signer("retired").sig01, 21, STRANGE, "a key that was taken out of keys.d"),
    line(lambda d: delegated(d, until=NOW - 1), 21, EXPIRED, "a delegation that ended"),
    line(lambda d: delegated(d, until=NOW), 21, EXPIRED, "a delegation that ends now"),
    line(
        lambda d: delegated(d, ends=NOW - 1),
        21,
        EXPIRED,
        "a delegate's signature that ended",
    ),
    line(
        lambda d: delegated(d, until=NOW - DAY).replace("20261117", "20361117"),
        21,
        WRONG,
        "an ended delegation with a later date",
    ),
    line(
        lambda d: delegated(d, serial=OTHER_SERIAL),
        21,
        WRONG,
        "a key delegated for another laptop",
    ),
    line(
        lambda d: delegated(d, root="thief"),
        21,
        STRANGE,
        "a key that a stranger delegates",
    ),
    line(
        lambda d: REGION.sig02(d, serial=SERIAL, expiry=None),
        21,
        STRANGE,
        "a delegate without its delegation",
    ),
    line(REGION.sig01, 21, STRANGE, "a delegate who signs as if trusted"),
    line(
        lambda d: delegated(d).replace(REGION.public.hex(), "00" * 270),
        25,
        GRAMMAR,
        "a delegate without a key",
    ),
    line(
        lambda d: delegated(d).replace(
            REGION.public.hex(), REGION.public.hex()[:-6] + "000003"
        ),
        25,
        GRAMMAR,
        "a delegate of exponent 3",
    ),
    line(
        lambda d: delegated(d).replace(REGION.public.hex(), small_key()),
        25,
        GRAMMAR,
        "a delegate of 1024 bits",
    ),
    line(
        lambda d: delegated(d).replace(REGION.public.hex()[16:20], "0000"),
        25,
        GRAMMAR,
        "a delegate with a small modulus",
    ),
]


def small_key() -> str:
    from cryptography.hazmat.primitives import serialization as form

    public = weak_key(1024).public_key()
    return public.public_bytes(form.Encoding.DER, form.PublicFormat.PKCS1).hex()


@table("key compromise", COMPROMISED)
def test_key_compromise(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)


def order_envelope(forge: Forge) -> bytes:
    order = canonical.encode(["olpc-update-order", 1, {"time": "20261118T000000Z"}])
    return b'["olpc-update-signed-order",1,[%s,%s]]' % (
        order,
        canonical.encode(["sig", 1, [OATS.sig01(order)]]),
    )


ROLES: list[Case] = [
    line(signer("lease").sig01, 21, STRANGE, "the key for leases"),
    line(
        lambda d: whole_key(signer("lease").sig01(d), "lease"),
        21,
        STRANGE,
        "the whole key for leases",
    ),
    line(
        lambda d: signer("lease").sig02(d, serial=SERIAL, expiry=None),
        21,
        STRANGE,
        "the key for leases in sig02",
    ),
    line(
        lambda d: delegated(d, root="lease"),
        21,
        STRANGE,
        "a delegate of the key for leases",
    ),
    line(
        lambda d: signer("lease").sig01(d) + OATS.sig01(d).replace("sha256", "rmd160"),
        21,
        STRANGE,
        "the key for leases beside a trusted name that is not checked",
    ),
    ("an order that the right key signed", order_envelope, 25, FORM),
    (
        "a lease in the place of the answer",
        lambda forge: canonical.encode([signer("lease").sig01(forge.data())]),
        25,
        FORM,
    ),
    (
        "data of an order in an answer's envelope",
        lambda forge: forge.signed(
            forge.data().replace(b"oatc-resp", b"olpc-update-order")
        ),
        25,
        FORM,
    ),
]


@table("key-role confusion", ROLES)
def test_key_roles(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)
