"""Leases in genuine answers that are not good: the old lease stays."""

from collections.abc import Callable

import pytest

from olpc_update_query.server.signing import bulk_leases, make_lease
from tests.attacks.forge import (
    LATER,
    OTHER_SERIAL,
    OTHER_UUID,
    Forge,
    new_lease,
    twin_of,
)
from tests.attacks.victim import Victim
from tests.keys import SERIAL, UUID, signer
from tests.run.polled import NOW
from tests.simulator import DAY

LEASE, OATS, THIEF, REGION = map(signer, ("lease", "oats", "thief", "region"))
STRANGE = "no trusted key has signed it"
WRONG = "the signature by [0-9a-f]{64} is wrong"
NONE = f"holds none for {SERIAL}"
GRAMMAR = "lease refused: it is not an act01 line"

Case = tuple[str, Callable[[], str], str]


def by(
    sign: Callable[[bytes], str],
    serial: str = SERIAL,
    uuid: str = UUID,
    expiry: int | None = LATER,
) -> str:
    return make_lease(serial, uuid, expiry, sign)


def region(
    *, root: str = "lease", until: int = LATER, serial: str = SERIAL, ends: int = LATER
) -> str:
    chain = signer(root).delegate(REGION.public, serial=serial, expiry=until)
    return by(lambda text: REGION.sig02(text, serial=SERIAL, expiry=ends, chain=chain))


def other_date() -> str:
    """Write a later date into a genuine lease."""
    return new_lease(NOW + DAY).replace("20261119", "20991119")


def mixed() -> str:
    """Take the date of one genuine lease and the signature of another."""
    head, tail = new_lease(LATER), new_lease(NOW + DAY)
    return head[: head.index("sig01")] + tail[tail.index("sig01") :]


def for_life() -> str:
    return new_lease().replace("20270216T110640Z", "00000000T000000Z")


def tag(name: str) -> Callable[[], str]:
    return lambda: new_lease().replace("act01", name)


def overlong() -> str:
    chain = LEASE.delegate(REGION.public, serial=SERIAL, expiry=LATER)
    for _ in range(7):
        chain = REGION.delegate(REGION.public, serial=SERIAL, expiry=LATER, chain=chain)
    line = REGION.sig02(b"", serial=SERIAL, expiry=LATER, chain=chain)
    return f"act01: {SERIAL} K 20270216T110640Z {line}"


CLASSES: dict[str, list[Case]] = {
    "arbitrary software": [
        ("a stranger's lease", lambda: by(THIEF.sig01), STRANGE),
        ("a lease with a later date", other_date, WRONG),
        ("a lease for ever", for_life, WRONG),
        (
            "another disposition",
            lambda: new_lease().replace(" K ", " A "),
            WRONG,
        ),
        ("a cut lease", lambda: new_lease()[:-9], "512 lower-case hex digits"),
        ("the word STOLEN", lambda: "STOLEN", NONE),
        ("nothing", lambda: "", NONE),
        ("a lease in JSON", lambda: '{"lease":"' + new_lease() + '"}', NONE),
    ],
    "rollback": [
        ("an old lease", lambda: by(LEASE.sig01, expiry=NOW - DAY), "it expired on"),
        ("a lease that ends now", lambda: by(LEASE.sig01, expiry=NOW), "it expired on"),
        ("a lease of 2007", lambda: by(LEASE.sig01, expiry=1_190_000_000), "expired"),
    ],
    "key compromise": [
        ("an ended delegation", lambda: region(until=NOW - 1), "signature expired"),
        ("a delegate's ended lease", lambda: region(ends=NOW - 1), "signature expired"),
        ("a delegate without delegation", lambda: by(REGION.sig01), STRANGE),
        ("a retired key", lambda: by(signer("retired").sig01), STRANGE),
    ],
    "replay between laptops": [
        ("another serial number", lambda: by(LEASE.sig01, OTHER_SERIAL), NONE),
        ("another UUID", lambda: by(LEASE.sig01, uuid=OTHER_UUID), WRONG),
        (
            "our UUID in small letters",
            lambda: by(LEASE.sig01, uuid=UUID.lower()),
            WRONG,
        ),
        (
            "a serial number that ours begins with",
            lambda: by(LEASE.sig01, SERIAL[:-1]),
            NONE,
        ),
        (
            "a serial number that begins with ours",
            lambda: by(LEASE.sig01, SERIAL + "0"),
            NONE,
        ),
        (
            "our serial number in small letters",
            lambda: by(LEASE.sig01, SERIAL.lower()),
            NONE,
        ),
        (
            "another's lease under our name",
            lambda: by(LEASE.sig01, OTHER_SERIAL).replace(OTHER_SERIAL, SERIAL),
            WRONG,
        ),
        (
            "another's lease under our name, in a bulk file",
            lambda: bulk_leases({SERIAL: by(LEASE.sig01, OTHER_SERIAL)}).decode(),
            NONE,
        ),
        (
            "a bulk file without us",
            lambda: bulk_leases({OTHER_SERIAL: by(LEASE.sig01, OTHER_SERIAL)}).decode(),
            NONE,
        ),
        ("a delegation for another laptop", lambda: region(serial=OTHER_SERIAL), WRONG),
    ],
    "key-role confusion": [
        ("a lease by the key for answers", lambda: by(OATS.sig01), STRANGE),
        ("a delegate of the key for answers", lambda: region(root="oats"), STRANGE),
        ("a developer's key", tag("dev01"), NONE),
        ("a clock's reset", tag("rtc01"), NONE),
        ("a delegation to a school server", tag("del01"), NONE),
        ("a time stamp", tag("time01"), NONE),
        ("a lease of another version", tag("act02"), NONE),
    ],
    "mix-and-match": [
        ("the date of one, the signature of another", mixed, WRONG),
        ("a space before it", lambda: " " + new_lease(), NONE),
        ("two spaces", lambda: new_lease().replace(" K", "  K"), GRAMMAR),
        ("a carriage return", lambda: new_lease().replace("\n", "\r\n"), GRAMMAR),
    ],
    "suffix collisions": [
        ("a key of the same name", lambda: by(twin_of("lease").sig01), WRONG),
        (
            "a name that all keys share",
            lambda: new_lease().replace(LEASE.key_id, "0203010001"),
            "neither 64 nor 540",
        ),
    ],
    "endless data": [
        ("a line longer than the firmware reads", overlong, GRAMMAR),
        (
            "a good line behind sixteen bad ones",
            lambda: by(THIEF.sig01) * 16 + new_lease(),
            STRANGE,
        ),
    ],
    "algorithm substitution": [
        (
            "rmd160",
            lambda: new_lease().replace("sha256", "rmd160"),
            STRANGE,
        ),
        ("sig03", lambda: new_lease().replace("sig01", "sig03"), STRANGE),
    ],
    "downgrade to unsigned": [
        (
            "a signature of no digits",
            lambda: new_lease()[:-513],
            "512 lower-case hex digits",
        ),
        (
            "no signature",
            lambda: new_lease().partition("sig01")[0] + "\n",
            GRAMMAR,
        ),
    ],
}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(make, says, id=f"{kind}: {name}")
        for kind, cases in CLASSES.items()
        for name, make, says in cases
    ],
)
def test_refused(victim: Victim, make: Callable[[], str], says: str) -> None:
    """The answer is genuine, so only its lease is refused, and told."""

    def answer(forge: Forge) -> bytes:
        return forge.signed(forge.data(lease=make(), message=None))

    victim.is_unmoved_by(answer, 22, says, answered=True)
    victim.obeys(Forge.genuine)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(new_lease, id="a later one"),
        pytest.param(lambda: new_lease(NOW + DAY), id="a shorter one"),
        pytest.param(lambda: new_lease(None), id="one for ever"),
        pytest.param(region, id="a delegate's"),
        pytest.param(
            lambda: by(LEASE.sig01, OTHER_SERIAL) + new_lease(), id="among others"
        ),
        pytest.param(
            lambda: by(THIEF.sig01) * 15 + new_lease(), id="behind fifteen bad ones"
        ),
        pytest.param(
            lambda: bulk_leases({SERIAL: new_lease()}).decode(), id="in a bulk file"
        ),
    ],
)
def test_obeyed(victim: Victim, make: Callable[[], str]) -> None:
    """The controls: what is good is installed, as exactly one line."""
    victim.obeys(lambda forge: forge.signed(forge.data(lease=make())))
    lines = (victim.laptop.lease() or "").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"act01: {SERIAL} K ")


def test_rollback_by_a_clock_that_is_set_back(victim: Victim) -> None:
    """A lease that ended before the greatest signed time stays ended."""
    victim.laptop.clock.time = 0
    victim.is_unmoved_by(
        lambda forge: forge.signed(
            forge.data(lease=by(LEASE.sig01, expiry=NOW - DAY), message=None)
        ),
        22,
        "it expired on",
        answered=True,
    )
