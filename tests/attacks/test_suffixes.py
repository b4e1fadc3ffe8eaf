"""Names of keys, which are only their last bytes."""

import hashlib

from tests.attacks.cases import (
    GRAMMAR,
    STRANGE,
    WRONG,
    Case,
    line,
    table,
)
from tests.attacks.forge import (
    Forge,
    twin_of,
)
from tests.attacks.victim import Make, Victim
from tests.keys import SERIAL, signer

OATS, THIEF, REGION = signer("oats"), signer("thief"), signer("region")


def named(name: str) -> Make:
    def make(forge: Forge) -> bytes:
        data = forge.data()
        return forge.wrap(data, THIEF.sig01(data).replace(THIEF.key_id, name))

    return make


PUBLIC = OATS.public.hex()
SUFFIXES: list[Case] = [
    line(lambda d: twin_of("oats").sig01(d), 21, WRONG, "another key of the same name"),
    line(
        lambda d: (
            twin_of("oats").sig01(d).replace(OATS.key_id, twin_of("oats").public.hex())
        ),
        21,
        STRANGE,
        "another key of the same name, whole",
    ),
    line(
        lambda d: twin_of("oats").sig02(d, serial=SERIAL, expiry=None),
        21,
        WRONG,
        "another key of the same name, in sig02",
    ),
    ("a name of 31 bytes", named(PUBLIC[-62:]), 25, "neither 64 nor 540"),
    ("a name of 33 bytes", named(PUBLIC[-66:]), 25, "neither 64 nor 540"),
    (
        "a name of 5 bytes, which all keys share",
        named("0203010001"),
        25,
        "neither 64 nor 540",
    ),
    ("a name of one digit", named("1"), 25, "neither 64 nor 540"),
    ("no name", named(""), 25, GRAMMAR),
    ("a name in capitals", named(OATS.key_id.upper()), 25, "neither 64 nor 540"),
    ("a whole key without its head", named(PUBLIC[2:]), 25, "neither 64 nor 540"),
    ("a whole key with another head", named("31" + PUBLIC[2:]), 21, STRANGE),
    ("the first bytes of the key", named(PUBLIC[:64]), 21, STRANGE),
    (
        "the hash of the key",
        named(hashlib.sha256(OATS.public).hexdigest()),
        21,
        STRANGE,
    ),
    ("a pattern", named(OATS.key_id[:-2] + ".."), 25, "neither 64 nor 540"),
]


@table("suffix collisions", SUFFIXES)
def test_suffix_collisions(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)
