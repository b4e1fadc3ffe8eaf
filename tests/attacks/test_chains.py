"""Links of genuine chains, put together in another way."""

from olpc_update_query.server.signing import Signer
from olpc_update_query.trust.signature import delegation_text
from tests.attacks.cases import GRAMMAR, STRANGE, WRONG, Case, line, table
from tests.attacks.forge import (
    LATER,
    OTHER_SERIAL,
    Forge,
    delegated,
    groups_of,
    join,
    whole_key,
)
from tests.attacks.victim import Make, Victim
from tests.keys import SERIAL, signer
from tests.run.polled import NOW

OATS, THIEF, REGION = signer("oats"), signer("thief"), signer("region")


def spliced(data: bytes, *, keep: slice = slice(None)) -> str:
    """Three links: oats, then region, then school, of which some are kept."""
    region, school = REGION, signer("school")
    chain = OATS.delegate(region.public, serial=SERIAL, expiry=LATER)
    chain = region.delegate(school.public, serial=SERIAL, expiry=LATER, chain=chain)
    whole = school.sig02(data, serial=SERIAL, expiry=LATER, chain=chain)
    return join(*groups_of(whole)[keep])


def last_by(data: bytes, key: Signer, name: str) -> str:
    """Put the signature of another key behind a genuine delegation."""
    first = groups_of(delegated(data))[0]
    return join(
        first,
        groups_of(whole_key(key.sig02(data, serial=SERIAL, expiry=LATER), name))[0],
    )


def swapped(data: bytes) -> str:
    first, second, third = groups_of(spliced(data))
    return join(first, third, second)


def repeated(data: bytes) -> str:
    first, second = groups_of(delegated(data))
    return join(first, first.replace(OATS.key_id, OATS.public.hex()), second)


def endless_chain(data: bytes) -> str:
    first, second = groups_of(delegated(data))
    return join(first, *[second] * 100)


def delegation_as_data(data: bytes) -> str:
    """Sign the data as if it were a delegation, and the other way round."""
    return join(
        groups_of(REGION.sig02(data, serial=SERIAL, expiry=LATER))[0].replace(
            REGION.key_id, OATS.key_id
        )
    )


def from_lease_chain(data: bytes) -> str:
    """Take the delegation of a lease key, and write the trusted name before it."""
    return delegated(data, root="lease").replace(signer("lease").key_id, OATS.key_id)


SPLICED: list[Case] = [
    line(
        lambda d: spliced(d, keep=slice(0, 3, 2)), 21, WRONG, "the middle link left out"
    ),
    line(lambda d: spliced(d, keep=slice(0, 2)), 21, WRONG, "the last link left out"),
    line(
        lambda d: spliced(d, keep=slice(1, 3)), 21, STRANGE, "the first link left out"
    ),
    line(lambda d: join(groups_of(spliced(d))[0]), 21, WRONG, "a delegation alone"),
    line(swapped, 21, WRONG, "two links swapped"),
    line(repeated, 21, WRONG, "the first link twice"),
    line(
        lambda d: last_by(d, THIEF, "thief"),
        21,
        WRONG,
        "a stranger behind a genuine delegation",
    ),
    line(
        lambda d: last_by(d, signer("school"), "school"),
        21,
        WRONG,
        "a delegate of somebody else behind a genuine delegation",
    ),
    line(
        endless_chain, 11, "longer than 65537 bytes", "a chain longer than any answer"
    ),
    line(delegation_as_data, 21, WRONG, "a delegate's signature under the root's name"),
    line(
        from_lease_chain,
        21,
        WRONG,
        "the delegation of a key for leases under a trusted name",
    ),
    line(
        lambda d: (
            f"sig01: sha256 {OATS.key_id} "
            f"{OATS.sign(delegation_text(REGION.public)).hex()}"
            f" sha256 {REGION.public.hex()} {REGION.sign(d).hex()}\n"
        ),
        25,
        GRAMMAR,
        "two links in sig01, which binds nothing",
    ),
    line(
        lambda d: (
            "sig01: sha256 "
            + OATS.key_id
            + " "
            + OATS.sig02(d, serial=SERIAL, expiry=None).split(" ")[-1]
        ),
        21,
        WRONG,
        "sig02 read as sig01",
    ),
    line(
        lambda d: (
            f"sig02: sha256 {OATS.key_id} 00000000T000000Z "
            + OATS.sig01(d).split(" ")[-1]
        ),
        21,
        WRONG,
        "sig01 read as sig02, for ever",
    ),
    line(
        lambda d: delegated(d).replace(REGION.public.hex(), REGION.key_id),
        25,
        GRAMMAR,
        "a delegate by name only",
    ),
    line(
        lambda d: delegated(d, signs_for=OTHER_SERIAL),
        21,
        WRONG,
        "a delegate who signs for another laptop",
    ),
    line(
        lambda d: delegated(d, ends=NOW - 1).replace("20261118", "20991118"),
        21,
        WRONG,
        "a link's expiry moved",
    ),
]


@table("chain splicing", SPLICED)
def test_chain_splicing(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)


def test_a_whole_chain(victim: Victim) -> None:
    """The control: three links that belong together are obeyed."""
    victim.obeys(lambda forge: forge.with_line(spliced))
