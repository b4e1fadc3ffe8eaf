"""Leases: which line of which file lets this laptop boot."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed, UntrustedLease
from olpc_update_query.server.signing import bulk_leases, make_lease
from olpc_update_query.trust.keys import KeyRing
from olpc_update_query.trust.lease import Lease, find_lease, lease_text, parse_line
from tests.keys import SERIAL, UUID, ring, signer

NOW = 1_795_381_200
DAY = 86400
MASTER, SCHOOL, THIEF = signer("lease"), signer("school"), signer("thief")


def lease(expiry: int | None = NOW + DAY, **changes: Any) -> str:
    facts: dict[str, Any] = {"serial": SERIAL, "uuid": UUID, "sign": MASTER.sig01}
    return make_lease(expiry=expiry, **facts | changes)


def found(text: str | bytes, **changes: Any) -> Lease:
    facts: dict[str, Any] = {"serial": SERIAL, "uuid": UUID, "ring": ring()}
    return find_lease(text, **facts | {"now": NOW} | changes)


def delegated(data: bytes) -> str:
    chain = MASTER.delegate(SCHOOL.public, serial=SERIAL, expiry=NOW + DAY)
    return SCHOOL.sig02(data, serial=SERIAL, expiry=NOW + DAY, chain=chain)


GOOD = lease()
OTHER = lease(serial="SHC12900019")
LATER = lease(NOW + 9 * DAY)
EXPIRED = lease(NOW)
STRANGE = lease(NOW + 99 * DAY, sign=THIEF.sig01)


@pytest.mark.parametrize(
    ("text", "line", "expiry"),
    [
        pytest.param(GOOD, GOOD, NOW + DAY, id="one line"),
        pytest.param(GOOD.strip(), GOOD, NOW + DAY, id="without newline"),
        pytest.param(OTHER + GOOD + OTHER, GOOD, NOW + DAY, id="among others"),
        pytest.param(EXPIRED + GOOD, GOOD, NOW + DAY, id="after an expired one"),
        pytest.param(STRANGE + GOOD, GOOD, NOW + DAY, id="after a stranger's"),
        pytest.param(GOOD[:-9] + "\n" + GOOD, GOOD, NOW + DAY, id="after a cut one"),
        pytest.param(GOOD + "x" + LATER, GOOD, NOW + DAY, id="before a damaged one"),
        pytest.param("# note\n\n" + GOOD, GOOD, NOW + DAY, id="after a comment"),
        pytest.param("\u20ac\n" + GOOD, GOOD, NOW + DAY, id="after a euro sign"),
        pytest.param(GOOD + LATER, LATER, NOW + 9 * DAY, id="the longest, last"),
        pytest.param(LATER + GOOD, LATER, NOW + 9 * DAY, id="the longest, first"),
        pytest.param(LATER + lease(None), lease(None), None, id="for ever"),
    ],
)
@pytest.mark.parametrize("kind", [str, str.encode], ids=["text", "bytes"])
def test_one_good_line_is_found(
    text: str, line: str, expiry: int | None, kind: Callable[[str], str | bytes]
) -> None:
    lease_ = found(kind(text))
    # signatures are salted, so a line that was made again differs in its last field
    assert lease_.line[:-513] == line[:-513]
    assert lease_.line in text + "\n"
    assert (lease_.expiry, lease_.signers) == (expiry, (MASTER.key_id,))


def test_the_first_of_equals_is_taken() -> None:
    again = lease()
    assert again != GOOD
    assert found(GOOD + again).line == GOOD


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(bulk_leases({SERIAL: GOOD}), id="alone"),
        pytest.param(
            bulk_leases({"SHC1": OTHER, SERIAL: GOOD, "SHC9": OTHER}), id="among others"
        ),
        pytest.param(bulk_leases({SERIAL: EXPIRED + GOOD}), id="two lines"),
        pytest.param(bulk_leases({SERIAL: GOOD}).decode(), id="as text"),
        pytest.param(bulk_leases({SERIAL: GOOD}) + b"\n", id="with a newline"),
    ],
)
def test_bulk_files(text: str | bytes) -> None:
    assert found(text).line == GOOD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", f"holds none for {SERIAL}", id="empty"),
        pytest.param("STOLEN", "holds none", id="STOLEN"),
        pytest.param("<html>", "holds none", id="portal page"),
        pytest.param(OTHER, "holds none", id="for another laptop"),
        pytest.param(" " + GOOD, "holds none", id="space before"),
        pytest.param(GOOD.replace("act01", "dev01"), "holds none", id="other tag"),
        pytest.param(bulk_leases({}), "holds none", id="empty bulk file"),
        pytest.param(bulk_leases({"SHC1": OTHER}), "holds none", id="bulk, others"),
        pytest.param(
            bulk_leases({"SHC1": GOOD}), "holds none", id="bulk, under another name"
        ),
        pytest.param(
            bulk_leases({"SHC1": OTHER + GOOD}), "holds none", id="bulk, behind another"
        ),
        pytest.param(
            bulk_leases({SERIAL: OTHER, "Z": GOOD}), "holds none", id="bulk, swapped"
        ),
        pytest.param(
            bulk_leases({SERIAL: GOOD})[:-100], "not 512", id="bulk, cut short"
        ),
        pytest.param(EXPIRED, "expired on 20261122T210000Z", id="expired"),
        pytest.param(STRANGE, "no trusted key", id="by a stranger"),
        pytest.param(lease(sign=signer("oats").sig01), "no trusted", id="OATS key"),
        pytest.param(lease(uuid=UUID.lower()), "is wrong", id="UUID of other case"),
        pytest.param(
            GOOD.replace("T210000Z", "T210001Z"), "is wrong", id="expiry changed"
        ),
        pytest.param(GOOD.replace(" K ", " A "), "is wrong", id="disposition changed"),
        pytest.param(GOOD.replace(" K ", " KK "), "not an act01 line", id="KK"),
        pytest.param(GOOD.replace(" K ", "  "), "not an act01 line", id="no K"),
        pytest.param(GOOD.replace("\n", "\r\n"), "not an act01 line", id="CR LF"),
        pytest.param(
            GOOD.replace("20261123T", "20261323T"), "is not YYYYMM", id="month 13"
        ),
        pytest.param(GOOD.replace("sig01", "sig03"), "no trusted key", id="sig03"),
        pytest.param(GOOD.replace("sha256", "rmd160"), "no trusted", id="rmd160"),
        pytest.param(GOOD[:-2] + "\u20ac\n", "not an act01 line", id="euro sign"),
        pytest.param(
            GOOD.strip() + " " * 8192, "not an act01 line", id="longer than a buffer"
        ),
        pytest.param(EXPIRED * 16 + GOOD, "expired", id="after 16 others"),
    ],
)
def test_no_good_line(text: str | bytes, reason: str) -> None:
    with pytest.raises(UntrustedLease, match=f"^lease refused: .*{reason}"):
        found(text)


def test_no_key_no_lease() -> None:
    with pytest.raises(UntrustedLease, match="no trusted key"):
        found(GOOD, ring=KeyRing())


def test_a_lease_ends_when_it_says() -> None:
    assert found(GOOD, now=NOW + DAY - 1).expiry == NOW + DAY
    with pytest.raises(UntrustedLease, match="expired"):
        found(GOOD, now=NOW + DAY)


def test_a_lease_for_ever_never_ends() -> None:
    assert found(lease(None), now=2**40).expiry is None


def test_a_delegated_lease() -> None:
    line = lease(sign=delegated)
    assert found(line) == Lease(line, NOW + DAY, (MASTER.key_id,))
    longer = lease(NOW + 9 * DAY, sign=delegated)
    with pytest.raises(UntrustedLease, match="its signature expired"):
        found(longer, now=NOW + DAY)


def test_a_serial_number_is_no_pattern() -> None:
    with pytest.raises(UntrustedLease, match="holds none"):
        found(GOOD, serial="SHC........")


def test_reading_a_line() -> None:
    line = parse_line("act01: SHC1 K 00000000T000000Z sig01: x\n")
    assert line == ("SHC1", "K", None, "sig01: x")
    with pytest.raises(Malformed):
        parse_line("act01: SHC1 K 00000000T000000Z sig01: x\n\n")


def test_the_longest_line() -> None:
    head = "act01: SHC1 K 00000000T000000Z sig02: "
    assert parse_line(head + "x" * (8191 - len(head)) + "\n")
    with pytest.raises(Malformed):
        parse_line(head + "x" * (8192 - len(head)) + "\n")


def test_what_a_lease_signs() -> None:
    assert lease_text("SN", "U", "K", None) == b"SN:U:K:00000000T000000Z"
    assert lease_text("SN", "U", "K", 0) == b"SN:U:K:19700101T000000Z"


def test_many_laptops_in_one_file() -> None:
    leases = {f"SHC{number:08}": OTHER for number in range(2000)} | {SERIAL: GOOD}
    assert found(bulk_leases(leases)).line == GOOD
    assert found("".join(leases.values())).line == GOOD


@given(st.integers(0, len(GOOD) - 2), st.integers(1, 127))
def test_every_changed_character_is_noticed(at: int, change: int) -> None:
    damaged = GOOD[:at] + chr(ord(GOOD[at]) ^ change) + GOOD[at + 1 :]
    with pytest.raises(UntrustedLease):
        found(damaged)


@given(st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    for text in (data, b'[1,{"' + data, f"act01: {SERIAL} ".encode() + data):
        with pytest.raises(UntrustedLease):
            found(text)
