"""Hashcash: the header lines, and the work."""

import hashlib

import pytest

from olpc_update_query.model.hashcash import (
    Challenge,
    credentials,
    mint,
    parse_challenge,
    parse_credentials,
    zero_bits,
)


def leading_zeros(stamp: str) -> int:
    """Count by the letters of the binary digest."""
    digest = hashlib.sha1(stamp.encode()).digest()
    bits = "".join(f"{byte:08b}" for byte in digest)
    return len(bits) - len(bits.lstrip("0"))


def made(bits: int, nonce: str = "abc") -> str:
    stamp = mint(
        Challenge(bits, nonce), date="261125120000", salt="77", may_go_on=lambda: True
    )
    assert stamp is not None
    return stamp


@pytest.mark.parametrize("bits", [0, 1, 7, 8, 9, 12])
def test_a_stamp_has_the_bits_it_was_asked_for(bits: int) -> None:
    stamp = made(bits)
    assert stamp.startswith(f"1:{bits}:261125120000:abc::77:")
    assert leading_zeros(stamp) >= bits
    assert zero_bits(stamp) == leading_zeros(stamp)


def test_a_published_stamp() -> None:
    """The example of hashcash's own manual page."""
    stamp = "1:20:060408:adam@cypherspace.org::1QTjaYd7niiQA/sc:ePa"
    assert zero_bits(stamp) == leading_zeros(stamp) >= 20


def test_it_stops_when_it_may_not_go_on() -> None:
    looks = iter([True, True, False])
    found = mint(
        Challenge(60, "n"), date="", salt="", may_go_on=lambda: next(looks, False)
    )
    assert found is None
    assert next(looks, None) is None


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        ('OLPC-hashcash bits="16", nonce="a/b-C"', Challenge(16, "a/b-C")),
        (' OLPC-hashcash  bits="0",nonce="x" ', Challenge(0, "x")),
        ('OLPC-hashcash bits="999", nonce="x"', Challenge(999, "x")),
        ('OLPC-hashcash bits="-1", nonce="x"', None),
        ('OLPC-hashcash bits="1000", nonce="x"', None),
        ('OLPC-hashcash bits="4", nonce="a:b"', None),
        ('OLPC-hashcash bits="4", nonce="a b"', None),
        ('OLPC-hashcash bits="4", nonce=""', None),
        ('OLPC-hashcash bits="4", nonce="' + "x" * 129 + '"', None),
        ("OLPC-hashcash bits=4, nonce=x", None),
        ('Basic realm="portal"', None),
        ("", None),
    ],
)
def test_challenges(header: str, challenge: Challenge | None) -> None:
    assert parse_challenge(header) == challenge
    if challenge is not None:
        assert parse_challenge(challenge.header()) == challenge


def test_credentials() -> None:
    assert parse_credentials(credentials("1:4:x:y::z:0")) == "1:4:x:y::z:0"
    for bad in ("", "Basic abc", 'OLPC-hashcash hc=""', 'OLPC-hashcash hc="a b"'):
        assert parse_credentials(bad) is None
