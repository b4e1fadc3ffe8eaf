"""Answers and orders: only the signed, fresh and well-formed are obeyed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed, TrustError, UntrustedAnswer
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Answer
from olpc_update_query.model.orders import Order, OrderFile
from olpc_update_query.model.wire import parse_build_id, parse_sha256
from olpc_update_query.server.signing import make_answer, make_order
from olpc_update_query.trust.answer import (
    TrustedAnswer,
    TrustedOrder,
    open_answer,
    open_order,
)
from olpc_update_query.trust.keys import KeyRing
from tests.keys import SERIAL, ring, signer

NOW = 1_795_381_200
NONCE = "314159"
OATS, THIEF = signer("oats"), signer("thief")
ORDER = Order(parse_build_id("762"), parse_sha256("ab" * 32), 99, ("http://h/762/",))
ANSWER = Answer(
    NONCE,
    NOW,
    lease="act01: ...\n",
    stolen=True,
    interval=3600,
    update=ORDER,
    message='It said "hello"\n',
)
RAW = make_answer(ANSWER, OATS.sig01)
FILE = OrderFile(ORDER, NOW)
ORDER_TYPES = ("olpc-update-order", "olpc-update-signed-order")


def opened(raw: bytes = RAW, **changes: Any) -> TrustedAnswer:
    facts: dict[str, Any] = {"nonce": NONCE, "ring": ring(), "serial": SERIAL}
    return open_answer(raw, **facts | {"now": NOW, "floor": 0} | changes)


def signed(
    data: Json, sign_as: str = "oatc-resp", outer: Json = "oatc-signed-resp"
) -> bytes:
    """Sign any data, as make_answer would not."""
    inner: list[Json] = [sign_as, 1, data]
    line = OATS.sig01(canonical.encode(inner))
    return canonical.encode([outer, 1, [inner, ["sig", 1, [line]]]])


def changed(old: bytes, new: bytes) -> bytes:
    assert RAW.count(old) == 1
    return RAW.replace(old, new)


def test_a_good_answer() -> None:
    assert opened() == TrustedAnswer(
        ANSWER, RAW, signers=(OATS.key_id,), signed=True, floor=NOW
    )


def test_one_newline_after_the_last_bracket_is_tolerated() -> None:
    assert opened(RAW + b"\n").answer == ANSWER
    assert opened(RAW + b"\n").raw == RAW + b"\n"


def test_an_answer_has_at_most_64_kib() -> None:
    padding = 65536 - len(signed(ANSWER.to_json() | {"zz": ""}))
    assert opened(signed(ANSWER.to_json() | {"zz": "x" * padding})).signed
    with pytest.raises(Malformed, match="larger than 65536 bytes"):
        opened(signed(ANSWER.to_json() | {"zz": "x" * (padding + 1)}))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\n", id="a newline"),
        pytest.param(b"<!DOCTYPE html><html>Please log in</html>", id="portal page"),
        pytest.param(RAW + b"\n\n", id="two newlines"),
        pytest.param(RAW + b" ", id="space after"),
        pytest.param(RAW + b"\r\n", id="carriage return"),
        pytest.param(RAW + b"]", id="bracket after"),
        pytest.param(RAW + RAW, id="twice"),
        pytest.param(b"\n" + RAW, id="newline before"),
        pytest.param(RAW[:-1], id="cut by one byte"),
        pytest.param(RAW[:700], id="cut in the middle"),
        pytest.param(RAW + b"\n" * 65536, id="over 64 KiB"),
        pytest.param(b"[" * 65536, id="64 KiB of brackets"),
        pytest.param(changed(b"oatc-signed-resp", b"oatc-signed-rest"), id="type"),
        pytest.param(changed(b"oatc-signed-resp", b"oatc-resp"), id="inner type"),
        pytest.param(changed(b'-signed-resp",1', b'-signed-resp",2'), id="version 2"),
        pytest.param(changed(b'-signed-resp",1', b'-signed-resp",true'), id="true"),
        pytest.param(changed(b'-signed-resp",1', b'-signed-resp","1"'), id="text"),
        pytest.param(changed(b'["sig",1', b'["sig",2'), id="sig version 2"),
        pytest.param(changed(b'["sig",1', b'["sig",true'), id="sig version true"),
        pytest.param(changed(b'["sig",1', b'["gis",1'), id="sig type"),
        pytest.param(changed(b'["sig",1,[', b'["sig",1,[1,'), id="sig holds 1"),
        pytest.param(changed(b"]]]]", b"],1]]]"), id="sig of four"),
        pytest.param(changed(b"]]]]", b"]],1]]"), id="three parts"),
        pytest.param(changed(b"]]]]", b"]]],1]"), id="envelope of four"),
        pytest.param(b'["oatc-signed-resp",1]', id="envelope of two"),
        pytest.param(b'["oatc-signed-resp",1,[]]', id="no parts"),
        pytest.param(b'["oatc-signed-resp",1,{}]', id="parts are an object"),
        pytest.param(b'["oatc-signed-resp",1,[1,2]]', id="parts are numbers"),
        pytest.param(b'["oatc-signed-resp",1,[["sig",1,[]],["sig",1,[]]]]', id="sigs"),
        pytest.param(b'["oatc-resp",1,{"nonce":"314159","time":"x"}]', id="bare data"),
        pytest.param(b"{}", id="object"),
        pytest.param(b"null", id="null"),
        pytest.param(signed([]), id="data is a list"),
        pytest.param(signed({"time": "20261122T210000Z"}), id="no nonce"),
        pytest.param(signed({"nonce": NONCE}), id="no time"),
        pytest.param(signed({"nonce": NONCE, "time": "x"}), id="bad time"),
        pytest.param(signed(ANSWER.to_json(), "olpc-update-order"), id="not an answer"),
        pytest.param(make_order(FILE, OATS.sig01), id="an order file"),
    ],
)
@pytest.mark.parametrize("check_signature", [True, False], ids=["checked", "ignored"])
def test_what_is_not_an_answer(raw: bytes, check_signature: bool) -> None:
    with pytest.raises(Malformed):
        opened(raw, check_signature=check_signature)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(make_answer(ANSWER, THIEF.sig01), "no trusted key", id="stranger"),
        pytest.param(changed(b"hello", b"jello"), "is wrong", id="data changed"),
        pytest.param(
            changed(b'"sig",1,["', b'"sig",1,["sig01: rmd160 x y\n","').replace(
                b"hello", b"jello"
            ),
            "is wrong",
            id="data changed, rmd160 line added",
        ),
        pytest.param(
            canonical.encode(
                [
                    "oatc-signed-resp",
                    1,
                    [["oatc-resp", 1, ANSWER.to_json()], ["sig", 1, []]],
                ]
            ),
            "no trusted key",
            id="no lines",
        ),
        pytest.param(
            make_answer(replace(ANSWER, nonce=NONCE + "0"), OATS.sig01),
            "nonce",
            id="replayed for another nonce",
        ),
        pytest.param(
            make_answer(replace(ANSWER, nonce=""), OATS.sig01),
            "nonce",
            id="empty nonce",
        ),
        pytest.param(
            make_answer(replace(ANSWER, nonce=NONCE + "\n"), OATS.sig01),
            "nonce",
            id="nonce and a newline",
        ),
        pytest.param(
            make_answer(replace(ANSWER, nonce="３14159"), OATS.sig01),  # noqa: RUF001
            "nonce",
            id="nonce that looks alike",
        ),
    ],
)
def test_what_is_not_the_answer_to_our_query(raw: bytes, reason: str) -> None:
    with pytest.raises(UntrustedAnswer, match=reason):
        opened(raw)


def test_no_key_is_trusted_by_default() -> None:
    with pytest.raises(UntrustedAnswer, match="no trusted key"):
        opened(ring=KeyRing())


# --- time ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "floor", "good"),
    [
        pytest.param(NOW, 0, True, id="in time"),
        pytest.param(0, NOW, True, id="clock at 1970, floor in time"),
        pytest.param(NOW + 1, 0, False, id="late"),
        pytest.param(0, NOW + 1, False, id="clock set back, the floor knows"),
        pytest.param(NOW, NOW + 1, False, id="clock a little back"),
    ],
)
def test_expiry_is_judged_by_the_later_of_clock_and_floor(
    now: int, floor: int, good: bool
) -> None:
    def sig02(data: bytes) -> str:
        return OATS.sig02(data, serial=SERIAL, expiry=NOW + 1)

    raw = make_answer(ANSWER, sig02)
    if good:
        assert opened(raw, now=now, floor=floor).signed
        return
    with pytest.raises(UntrustedAnswer, match="expired"):
        opened(raw, now=now, floor=floor)


def test_a_laptop_at_1970_believes_a_signed_answer() -> None:
    assert opened(now=0, floor=0).floor == NOW


def test_a_server_whose_clock_is_behind_is_believed_but_lowers_nothing() -> None:
    trusted = opened(floor=NOW + 999)
    assert trusted.answer.time == NOW
    assert trusted.floor == NOW + 999


# --- signatures ignored ------------------------------------------------------------

DATA = canonical.encode(["oatc-resp", 1, ANSWER.to_json()])


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(RAW, id="signed"),
        pytest.param(make_answer(ANSWER, THIEF.sig01), id="by a stranger"),
        pytest.param(make_answer(ANSWER, lambda _: "not a signature"), id="nonsense"),
        pytest.param(
            b'["oatc-signed-resp",1,[' + DATA + b',["sig",1,[]]]]\n', id="no lines"
        ),
        pytest.param(DATA, id="bare data"),
        pytest.param(DATA + b"\n", id="bare data, newline"),
    ],
)
def test_unsigned_answers_where_signatures_are_ignored(raw: bytes) -> None:
    assert opened(raw, check_signature=False, ring=KeyRing(), floor=5) == TrustedAnswer(
        replace(ANSWER, stolen=False), raw, signers=(), signed=False, floor=5
    )


def test_bare_data_is_no_answer_where_signatures_count() -> None:
    with pytest.raises(Malformed, match="oatc-signed-resp"):
        opened(DATA)


def test_the_nonce_counts_although_signatures_are_ignored() -> None:
    with pytest.raises(UntrustedAnswer, match="nonce"):
        opened(check_signature=False, nonce="271828")


# --- orders ------------------------------------------------------------------------


def order_opened(raw: bytes, now: int = NOW) -> TrustedOrder:
    return open_order(raw, ring=ring(), serial=SERIAL, now=now)


def test_a_good_order() -> None:
    raw = make_order(replace(FILE, expiry=NOW + 1), OATS.sig01) + b"\n"
    assert order_opened(raw) == TrustedOrder(
        ORDER, raw, signers=(OATS.key_id,), time=NOW, expiry=NOW + 1
    )


def test_an_order_for_ever() -> None:
    assert order_opened(make_order(FILE, OATS.sig01), now=2**40).expiry is None


@pytest.mark.parametrize(
    ("raw", "refusal"),
    [
        pytest.param(RAW, Malformed, id="an answer"),
        pytest.param(
            signed(FILE.to_json(), "olpc-update-order"), Malformed, id="in an answer"
        ),
        pytest.param(
            signed(FILE.to_json(), outer="olpc-update-signed-order"),
            Malformed,
            id="signed as an answer",
        ),
        pytest.param(
            canonical.encode(["olpc-update-order", 1, FILE.to_json()]),
            Malformed,
            id="bare data",
        ),
        pytest.param(
            signed({"order": "762", "time": "20261122T210000Z"}, *ORDER_TYPES),
            Malformed,
            id="bare order",
        ),
        pytest.param(
            make_order(FILE, THIEF.sig01), UntrustedAnswer, id="by a stranger"
        ),
        pytest.param(
            make_order(FILE, signer("lease").sig01),
            UntrustedAnswer,
            id="by a lease key",
        ),
        pytest.param(
            make_order(replace(FILE, expiry=NOW), OATS.sig01),
            UntrustedAnswer,
            id="expired",
        ),
        pytest.param(
            make_order(FILE, lambda data: OATS.sig02(data, serial="X", expiry=None)),
            UntrustedAnswer,
            id="for another laptop",
        ),
    ],
)
def test_bad_orders(raw: bytes, refusal: type[TrustError]) -> None:
    with pytest.raises(refusal):
        order_opened(raw)


# --- any mutation ------------------------------------------------------------------


def test_every_flipped_bit_of_an_answer_is_noticed() -> None:
    for at in range(len(RAW)):
        for bit in range(8):
            damaged = bytearray(RAW)
            damaged[at] ^= 1 << bit
            with pytest.raises(TrustError):
                opened(bytes(damaged))


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_every_changed_byte_of_an_answer_is_noticed(at: int, change: int) -> None:
    damaged = bytearray(RAW)
    damaged[at] ^= change
    with pytest.raises(TrustError):
        opened(bytes(damaged))


@given(st.integers(0, len(RAW) - 1), st.binary(min_size=1, max_size=9))
def test_every_insertion_into_an_answer_is_noticed(at: int, more: bytes) -> None:
    with pytest.raises(TrustError):
        opened(RAW[:at] + more + RAW[at:])


@given(st.integers(0, len(RAW) - 1), st.integers(1, 500))
def test_every_deletion_from_an_answer_is_noticed(at: int, count: int) -> None:
    with pytest.raises(TrustError):
        opened(RAW[:at] + RAW[at + count :])


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(TrustError):
        opened(raw)
