"""Signature lines: whose counts, until when, for whom, and every way to cheat."""

from collections.abc import Callable

import pytest

from olpc_update_query.errors import (
    Malformed,
    TrustError,
    UntrustedAnswer,
    UntrustedLease,
)
from olpc_update_query.trust.keys import KeyRing, Role
from olpc_update_query.trust.signature import (
    Verified,
    delegation_text,
    parse_signature,
    sig02_prefix,
    verify_credential,
)
from tests.keys import SERIAL, line_holds, public, ring, signer

DATA = b'["oatc-resp",1,{"nonce":"1","time":"20261122T210000Z"}]'
NOW = 1_795_381_200
SOON = NOW + 3600
OATS, REGION, SCHOOL, THIEF = map(signer, ("oats", "region", "school", "thief"))


def verify(
    *lines: str,
    data: bytes = DATA,
    role: Role = Role.OATS,
    keys: KeyRing | None = None,
    serial: str | None = SERIAL,
    now: int = NOW,
) -> Verified:
    trusted = ring() if keys is None else keys
    return verify_credential(data, lines, trusted, role, serial=serial, now=now)


def to_region(expiry: int | None = SOON, serial: str = SERIAL) -> str:
    return OATS.delegate(REGION.public, serial=serial, expiry=expiry)


def by_region(chain: str, expiry: int | None = SOON, serial: str = SERIAL) -> str:
    return REGION.sig02(DATA, serial=serial, expiry=expiry, chain=chain)


def whole_key(line: str) -> str:
    """Let a line bring its first key whole instead of by name."""
    fields = line.split(" ")
    keys = {one.key_id: one for one in (OATS, REGION, THIEF)}
    fields[2] = keys[fields[2]].public.hex()
    return " ".join(fields)


def named_key(line: str) -> str:
    """Let a line name its last key instead of bringing it whole."""
    fields = line.split(" ")
    fields[-3] = fields[-3][-64:]
    return " ".join(fields)


def rmd160(line: str) -> str:
    return line.replace("sha256", "rmd160")


def chain_of(groups: int) -> str:
    chain = to_region()
    for _ in range(groups - 2):
        chain = REGION.delegate(REGION.public, serial=SERIAL, expiry=SOON, chain=chain)
    return by_region(chain)


GOOD: list[tuple[str, Callable[[], str]]] = [
    ("sig01", lambda: OATS.sig01(DATA)),
    ("sig01, whole key", lambda: whole_key(OATS.sig01(DATA))),
    ("sig01, no newline", lambda: OATS.sig01(DATA).strip()),
    ("sig02", lambda: OATS.sig02(DATA, serial=SERIAL, expiry=SOON)),
    ("sig02, for ever", lambda: OATS.sig02(DATA, serial=SERIAL, expiry=None)),
    ("sig02, one more second", lambda: OATS.sig02(DATA, serial=SERIAL, expiry=NOW + 1)),
    (
        "sig02, whole key",
        lambda: whole_key(OATS.sig02(DATA, serial=SERIAL, expiry=SOON)),
    ),
    ("one delegation", lambda: by_region(to_region())),
    ("one delegation, whole key", lambda: whole_key(by_region(to_region()))),
    ("delegation for ever", lambda: by_region(to_region(None), None)),
    ("two delegations", lambda: chain_of(3)),
    ("100 groups", lambda: chain_of(100)),
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in GOOD])
def test_good_lines(make: Callable[[], str]) -> None:
    line = make()
    assert verify(line) == Verified((public("oats", Role.OATS),))
    assert verify(line).key_ids == (OATS.key_id,)
    if line.endswith("\n"):
        assert line_holds(
            line, DATA, trusted=[OATS.public], serial=SERIAL, now="20261122T210000Z"
        )


BAD: list[tuple[str, type[TrustError], Callable[[], str]]] = [
    ("by a stranger", UntrustedAnswer, lambda: THIEF.sig01(DATA)),
    ("by a stranger, whole key", UntrustedAnswer, lambda: whole_key(THIEF.sig01(DATA))),
    (
        "sig02 by a stranger, whole key (OpenFirmware does not look it up)",
        UntrustedAnswer,
        lambda: whole_key(THIEF.sig02(DATA, serial=SERIAL, expiry=None)),
    ),
    (
        "a stranger delegates",
        UntrustedAnswer,
        lambda: by_region(
            whole_key(
                "x " + THIEF.delegate(REGION.public, serial=SERIAL, expiry=None)
            ).removeprefix("x ")
        ),
    ),
    (
        "a delegate without its delegation",
        UntrustedAnswer,
        lambda: REGION.sig02(DATA, serial=SERIAL, expiry=None),
    ),
    ("of other data", UntrustedAnswer, lambda: OATS.sig01(DATA + b"\n")),
    ("of nothing", UntrustedAnswer, lambda: OATS.sig01(b"")),
    (
        "a stranger's signature under a trusted name",
        UntrustedAnswer,
        lambda: THIEF.sig01(DATA).replace(THIEF.key_id, OATS.key_id),
    ),
    (
        "sig02 read as sig01",
        UntrustedAnswer,
        lambda: (
            f"sig01: sha256 {OATS.key_id} "
            + OATS.sig02(DATA, serial=SERIAL, expiry=None).split(" ")[-1]
        ),
    ),
    (
        "sig01 read as sig02",
        UntrustedAnswer,
        lambda: (
            f"sig02: sha256 {OATS.key_id} 00000000T000000Z "
            + OATS.sig01(DATA).split(" ")[-1]
        ),
    ),
    (
        "for another laptop",
        UntrustedAnswer,
        lambda: OATS.sig02(DATA, serial="SHC12900019", expiry=None),
    ),
    (
        "delegated for another laptop",
        UntrustedAnswer,
        lambda: by_region(to_region(serial="SHC12900019")),
    ),
    (
        "by the delegate for another laptop",
        UntrustedAnswer,
        lambda: by_region(to_region(), serial="SHC12900019"),
    ),
    (
        "expired",
        UntrustedAnswer,
        lambda: OATS.sig02(DATA, serial=SERIAL, expiry=NOW - 1),
    ),
    (
        "expires now",
        UntrustedAnswer,
        lambda: OATS.sig02(DATA, serial=SERIAL, expiry=NOW),
    ),
    ("expired delegation", UntrustedAnswer, lambda: by_region(to_region(NOW))),
    (
        "expired under a good delegation",
        UntrustedAnswer,
        lambda: by_region(to_region(), NOW),
    ),
    (
        "a later expiry than was signed",
        UntrustedAnswer,
        lambda: by_region(to_region(NOW - 1)).replace(
            "20261122T205959Z", "20361122T205959Z"
        ),
    ),
    (
        "delegation to another key",
        UntrustedAnswer,
        lambda: SCHOOL.sig02(DATA, serial=SERIAL, expiry=None, chain=to_region()),
    ),
    (
        "the last link left out",
        UntrustedAnswer,
        lambda: "sig02: " + to_region() + "\n",
    ),
    (
        "the links swapped",
        Malformed,
        lambda: " ".join(
            [
                "sig02:",
                *by_region(to_region()).strip().split(" ")[5:],
                *by_region(to_region()).split(" ")[1:5],
            ]
        ),
    ),
    ("101 groups", Malformed, lambda: chain_of(100).strip() + " " + to_region()),
    ("a delegate by name", Malformed, lambda: named_key(by_region(to_region()))),
    (
        "a delegate's key that is none",
        Malformed,
        lambda: by_region(to_region()).replace(REGION.public.hex(), "00" * 270),
    ),
    (
        "a delegate's key of exponent 3",
        Malformed,
        lambda: by_region(to_region()).replace(
            REGION.public.hex(), REGION.public.hex()[:-6] + "000003"
        ),
    ),
    (
        "another digest in the chain",
        Malformed,
        lambda: (
            "sig02: sha256 " + rmd160(by_region(to_region()))[len("sig02: rmd160 ") :]
        ),
    ),
    ("only rmd160", UntrustedAnswer, lambda: rmd160(OATS.sig01(DATA))),
    ("a digest of the future", UntrustedAnswer, lambda: "sig01: sha512 abc def\n"),
    ("a kind of the future", UntrustedAnswer, lambda: "sig03: sha256 abc def\n"),
    ("nothing", Malformed, lambda: ""),
    ("a newline", Malformed, lambda: "\n"),
    ("words", Malformed, lambda: "trust me"),
    ("another tag", Malformed, lambda: OATS.sig01(DATA).replace("sig01", "act01")),
    ("no space", Malformed, lambda: OATS.sig01(DATA).replace(": ", ":")),
    ("two spaces", Malformed, lambda: OATS.sig01(DATA).replace(": ", ":  ")),
    ("a space at the end", Malformed, lambda: OATS.sig01(DATA).strip() + " "),
    ("an empty line more", Malformed, lambda: OATS.sig01(DATA) + "\n"),
    ("carriage return", Malformed, lambda: OATS.sig01(DATA).strip() + "\r\n"),
    ("a field short", Malformed, lambda: OATS.sig01(DATA).rsplit(" ", 1)[0]),
    ("a field more", Malformed, lambda: OATS.sig01(DATA).strip() + " 00"),
    ("two groups in sig01", Malformed, lambda: OATS.sig01(DATA).strip() + " a b c"),
    (
        "a delegation in sig01",
        Malformed,
        lambda: (
            f"sig01: sha256 {OATS.key_id} "
            f"{OATS.sign(delegation_text(REGION.public)).hex()} "
            f"sha256 {REGION.public.hex()} {REGION.sign(DATA).hex()}"
        ),
    ),
    ("an even shorter name", Malformed, lambda: OATS.sig01(DATA).replace("0203", "")),
    (
        "name of five bytes",
        Malformed,
        lambda: OATS.sig01(DATA).replace(OATS.key_id, "0203010001"),
    ),
    (
        "upper case",
        UntrustedAnswer,
        lambda: OATS.sig01(DATA).upper().replace("SIG", "sig"),
    ),
    (
        "upper-case signature",
        Malformed,
        lambda: "".join(
            part.upper() if len(part) > 500 else part + " "
            for part in OATS.sig01(DATA).split(" ")
        ),
    ),
    ("a signature too short", Malformed, lambda: OATS.sig01(DATA).strip()[:-2]),
    ("a signature too long", Malformed, lambda: OATS.sig01(DATA).strip() + "00"),
    (
        "an expiry that is none",
        Malformed,
        lambda: OATS.sig02(DATA, serial=SERIAL, expiry=None).replace(
            "00000000T", "00000001T"
        ),
    ),
    ("longer than any line", Malformed, lambda: "sig03: " + "a " * 64 * 1024),
]


@pytest.mark.parametrize(
    ("refusal", "make"), [pytest.param(kind, make, id=name) for name, kind, make in BAD]
)
def test_bad_lines(refusal: type[TrustError], make: Callable[[], str]) -> None:
    with pytest.raises(refusal):
        verify(make())


# --- several lines ------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([OATS.sig01(DATA), rmd160(OATS.sig01(DATA))], id="rmd160 after"),
        pytest.param([rmd160(OATS.sig01(DATA)), OATS.sig01(DATA)], id="rmd160 before"),
        pytest.param(
            [OATS.sig01(DATA) + rmd160(OATS.sig01(DATA))], id="both in one element"
        ),
        pytest.param([THIEF.sig01(DATA), OATS.sig01(DATA)], id="a stranger as well"),
        pytest.param([THIEF.sig01(b""), OATS.sig01(DATA)], id="a stranger, wrongly"),
        pytest.param(["sig03: new x y\n", OATS.sig01(DATA)], id="of the future"),
        pytest.param([OATS.sig01(DATA)] * 16, id="16 lines"),
    ],
)
def test_lines_that_prove_nothing_do_no_harm(lines: list[str]) -> None:
    assert set(verify(*lines).key_ids) == {OATS.key_id}


def test_every_trusted_line_must_verify() -> None:
    keys = ring(oats=("oats", "region"))
    both = (OATS.sig01(DATA), REGION.sig01(DATA))
    assert verify(*both, keys=keys).key_ids == (OATS.key_id, REGION.key_id)
    for lines in (
        (OATS.sig01(DATA), REGION.sig01(b"other")),
        (REGION.sig01(b"other"), OATS.sig01(DATA)),
        (OATS.sig01(DATA), REGION.sig02(DATA, serial=SERIAL, expiry=NOW)),
    ):
        with pytest.raises(UntrustedAnswer):
            verify(*lines, keys=keys)


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        pytest.param([], UntrustedAnswer, id="no line"),
        pytest.param([THIEF.sig01(DATA)] * 3, UntrustedAnswer, id="only strangers"),
        pytest.param([OATS.sig01(DATA)] * 17, Malformed, id="17 lines"),
        pytest.param(["\n" * 70000], Malformed, id="newlines"),
        pytest.param([OATS.sig01(DATA), ""], Malformed, id="an empty element"),
        pytest.param([OATS.sig01(DATA), "x"], Malformed, id="one malformed"),
    ],
)
def test_bad_credentials(lines: list[str], refusal: type[TrustError]) -> None:
    with pytest.raises(refusal):
        verify(*lines)


# --- roles and laptops ----------------------------------------------------------------


def test_a_key_signs_for_its_role_only() -> None:
    lease_line = signer("lease").sig01(DATA)
    assert verify(lease_line, role=Role.LEASE).key_ids == (signer("lease").key_id,)
    with pytest.raises(UntrustedAnswer, match="no trusted key"):
        verify(lease_line)
    with pytest.raises(UntrustedLease, match="no trusted key"):
        verify(OATS.sig01(DATA), role=Role.LEASE)


def test_nothing_is_trusted_by_an_empty_ring() -> None:
    with pytest.raises(UntrustedAnswer):
        verify(OATS.sig01(DATA), keys=KeyRing())


def test_without_a_laptop_only_sig01_counts() -> None:
    assert verify(OATS.sig01(DATA), serial=None)
    with pytest.raises(UntrustedAnswer, match="one laptop"):
        verify(OATS.sig02(DATA, serial="", expiry=None), serial=None)


def test_twins_by_name_are_told_apart_by_the_signature() -> None:
    twin = bytearray(OATS.public)
    twin[20] ^= 1
    fake = type(public("oats", Role.OATS))(Role.OATS, bytes(twin), "twin")
    for keys in ([fake, public("oats", Role.OATS)], [public("oats", Role.OATS), fake]):
        verified = verify(OATS.sig01(DATA), keys=KeyRing(keys))
        assert verified.keys == (public("oats", Role.OATS),)


def test_the_refusal_names_the_key_and_the_time() -> None:
    with pytest.raises(
        UntrustedAnswer, match=f"the signature by {OATS.key_id} is wrong"
    ):
        verify(OATS.sig01(b""))
    with pytest.raises(UntrustedAnswer, match="expired on 20261122T210000Z"):
        verify(OATS.sig02(DATA, serial=SERIAL, expiry=NOW))


def test_layout() -> None:
    assert sig02_prefix("SN", 0) == b"SN:19700101T000000Z:"
    assert sig02_prefix("SN", None) == b"SN:00000000T000000Z:"
    assert delegation_text(b"\x01\xab") == b"key01: 01ab\n"


def test_parsing_keeps_every_field() -> None:
    line = by_region(to_region(None)).strip()
    parsed = parse_signature(line)
    assert parsed is not None
    assert parsed.bound
    first, last = parsed.groups
    assert (first.key, first.expiry) == (OATS.key_id, None)
    assert (last.key, last.expiry) == (REGION.public.hex(), SOON)
    assert line.endswith(last.signature.hex())
