"""Answers that a stranger made, or changed on the way."""

import pytest

from tests.attacks.cases import (
    STRANGE,
    WRONG,
    Case,
    line,
    table,
)
from tests.attacks.forge import (
    Forge,
    delegated,
    padded,
    whole_key,
)
from tests.attacks.victim import Make, Victim
from tests.keys import SERIAL, signer
from tests.run.polled import NOW

OATS, THIEF, REGION = signer("oats"), signer("thief"), signer("region")


def changed(
    name: str, old: bytes, new: bytes, says: str = WRONG, code: int = 21
) -> Case:
    """Make a case of a genuine answer that was changed on the way."""

    def make(forge: Forge) -> bytes:
        genuine = forge.signed(forge.data(interval=3600))
        assert old in genuine
        return genuine.replace(old, new, 1)

    return name, make, code, says


def under_our_name(data: bytes) -> str:
    return THIEF.sig01(data).replace(THIEF.key_id, OATS.key_id)


def zeros(data: bytes, byte: str = "00") -> str:
    return f"sig01: sha256 {OATS.key_id} {byte * 256}\n"


ARBITRARY: list[Case] = [
    line(THIEF.sig01, 21, STRANGE, "a stranger's signature"),
    line(
        lambda d: whole_key(THIEF.sig01(d), "thief"),
        21,
        STRANGE,
        "a stranger's whole key",
    ),
    line(
        lambda d: whole_key(THIEF.sig02(d, serial=SERIAL, expiry=None), "thief"),
        21,
        STRANGE,
        "a stranger's whole key in sig02, which OpenFirmware does not look up",
    ),
    line(under_our_name, 21, WRONG, "a stranger's signature under a trusted name"),
    line(zeros, 21, WRONG, "a signature of zeros"),
    line(lambda d: zeros(d, "ff"), 21, WRONG, "a signature of ones"),
    line(lambda d: OATS.sig01(d[:-1]), 21, WRONG, "a signature of less"),
    line(lambda d: OATS.sig01(d + b"\n"), 21, WRONG, "a signature of a newline more"),
    line(lambda d: OATS.sig01(b""), 21, WRONG, "a signature of nothing"),
    line(
        lambda d: OATS.sig01(d) + THIEF.sig01(d).replace(THIEF.key_id, OATS.key_id),
        21,
        WRONG,
        "a good signature and a wrong one of the same key",
    ),
    changed("another time", b'"time":"20261118', b'"time":"20361118'),
    changed("another interval", b'"interval":3600', b'"interval":3601'),
    changed("another message", b"obey", b"abey"),
    changed("stolen is added", b'"time":', b'"stolen":true,"time":'),
    changed("an order is added", b"}],[", b',"update":"762"}],['),
    changed("the lease is renamed", b'"lease":', b'"lEase":'),
    changed(
        "a space is added",
        b'"interval":3600',
        b'"interval": 3600',
        "canonical JSON refused",
        25,
    ),
    changed(
        "a member is added twice",
        b'"interval":3600',
        b'"interval":3600,"interval":3600',
        "canonical JSON refused",
        25,
    ),
    changed(
        "a letter is escaped",
        b'"message":"obey"',
        b'"message":"\\u006fbey"',
        "wrongly escaped",
        25,
    ),
]


@table("arbitrary software", ARBITRARY)
def test_refused(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Forge.genuine, id="sig01"),
        pytest.param(lambda f: f.genuine() + b"\n", id="one newline behind it"),
        pytest.param(
            lambda f: f.with_line(lambda d: whole_key(OATS.sig01(d), "oats")),
            id="whole key",
        ),
        pytest.param(
            lambda f: f.with_line(
                lambda d: OATS.sig02(d, serial=SERIAL, expiry=NOW + 1)
            ),
            id="sig02",
        ),
        pytest.param(lambda f: f.with_line(delegated), id="a delegate"),
        pytest.param(
            lambda f: f.with_line(lambda d: THIEF.sig01(d) + OATS.sig01(d)),
            id="a stranger's line first",
        ),
        pytest.param(lambda f: f.with_line(padded), id="padded by hand as ours"),
        pytest.param(
            lambda f: f.signed(f.data(future=[1, {"a": None}])), id="an unknown member"
        ),
    ],
)
def test_obeyed(victim: Victim, make: Make) -> None:
    """The controls: what the attacks imitate is obeyed."""
    victim.obeys(make)
