"""Queries, answers and orders: what is read, what is refused, what is left out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import (
    NEVER_EXPIRES,
    Answer,
    BareOrder,
    BuildId,
    Order,
    OrderFile,
    Query,
    Reboot,
    Sha256,
)

CONTENTS = Sha256("ab" * 32)
ORDER = Order(
    build=BuildId("762"),
    contents=CONTENTS,
    size=1234,
    urls=("http://schoolserver/builds/762/", "rsync://updates.example.org/build-762/"),
)
ORDER_JSON: dict[str, Json] = {
    "build": "762",
    "contents": CONTENTS,
    "size": 1234,
    "urls": list(ORDER.urls),
}
DATA: dict[str, Json] = {"nonce": "abc", "time": "20261122T210000Z"}


# --- orders ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "members"),
    [
        pytest.param(ORDER, ORDER_JSON, id="least"),
        pytest.param(
            Order(ORDER.build, CONTENTS, 1, ()),
            ORDER_JSON | {"size": 1, "urls": []},
            id="no URL, smallest manifest",
        ),
        pytest.param(
            Order(
                ORDER.build,
                CONTENTS,
                1 << 30,
                ORDER.urls * 8,
                allow_downgrade=True,
                not_before=1795381200,
                reboot=Reboot.IDLE,
                sticky=True,
            ),
            ORDER_JSON
            | {
                "size": 1 << 30,
                "urls": list(ORDER.urls) * 8,
                "allow_downgrade": True,
                "not_before": "20261122T210000Z",
                "reboot": "idle",
                "sticky": True,
            },
            id="everything",
        ),
    ],
)
def test_orders(order: Order, members: dict[str, Json]) -> None:
    assert Order.from_json(members) == order
    assert order.to_json() == members


def test_an_order_skips_what_it_does_not_know() -> None:
    extra: dict[str, Json] = {"from_the_future": [1], "sticky": None, "reboot": "never"}
    assert Order.from_json(ORDER_JSON | extra) == ORDER


BAD_ORDERS: list[Any] = [
    pytest.param({"build": None}, "build is missing", id="no build"),
    pytest.param({"build": 762}, "build is not of type str", id="build is a number"),
    pytest.param({"build": "../x"}, "build name", id="build is a path"),
    pytest.param({"contents": None}, "contents is missing", id="no contents"),
    pytest.param({"contents": "xy"}, "sha256", id="contents is no digest"),
    pytest.param({"size": None}, "size is missing", id="no size"),
    pytest.param({"size": 0}, "size is not 1 to", id="size 0"),
    pytest.param({"size": -1}, "size is not 1 to", id="size negative"),
    pytest.param({"size": (1 << 30) + 1}, "size is not 1 to", id="size over 1 GiB"),
    pytest.param({"size": True}, "size is not of type int", id="size true"),
    pytest.param({"size": "12"}, "size is not of type int", id="size is text"),
    pytest.param({"urls": None}, "urls is missing", id="no URLs"),
    pytest.param({"urls": "http://h/"}, "not of type list", id="URLs are text"),
    pytest.param({"urls": ["http://h/"] * 17}, "more than 16", id="17 URLs"),
    pytest.param({"urls": [None]}, "URL", id="URL is null"),
    pytest.param({"urls": ["gopher://h/"]}, "URL", id="gopher"),
    pytest.param({"reboot": "later"}, "never, idle or now", id="reboot unknown"),
    pytest.param({"reboot": ""}, "never, idle or now", id="reboot empty"),
    pytest.param({"reboot": True}, "not of type str", id="reboot true"),
    pytest.param({"sticky": 1}, "not of type bool", id="sticky 1"),
    pytest.param({"allow_downgrade": "yes"}, "not of type bool", id="downgrade yes"),
    pytest.param({"not_before": 0}, "not of type str", id="not_before is a number"),
    pytest.param({"not_before": "soon"}, "time", id="not_before soon"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_ORDERS)
def test_bad_orders(change: dict[str, Json], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        Order.from_json(ORDER_JSON | change)


@pytest.mark.parametrize(
    ("file", "members"),
    [
        pytest.param(OrderFile(ORDER, 0), {"time": "19700101T000000Z"}, id="for ever"),
        pytest.param(
            OrderFile(ORDER, 0, 1795381200),
            {"time": "19700101T000000Z", "expiry": "20261122T210000Z"},
            id="with expiry",
        ),
        pytest.param(
            OrderFile(ORDER, 0, serials=frozenset({"SHC2", "SHC1"})),
            {"time": "19700101T000000Z", "serials": ["SHC1", "SHC2"]},
            id="for some laptops",
        ),
    ],
)
def test_order_files(file: OrderFile, members: dict[str, Json]) -> None:
    assert OrderFile.from_json(members | {"order": ORDER_JSON}) == file
    assert file.to_json() == members | {"order": ORDER_JSON}


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([], id="a list"),
        pytest.param({"order": ORDER_JSON}, id="no time"),
        pytest.param({"time": "19700101T000000Z"}, id="no order"),
        pytest.param({"time": "19700101T000000Z", "order": "762"}, id="bare order"),
        pytest.param(
            {"time": "19700101T000000Z", "order": ORDER_JSON, "expiry": "x"},
            id="bad expiry",
        ),
        pytest.param(
            {"time": "19700101T000000Z", "order": ORDER_JSON, "serials": []},
            id="for nobody",
        ),
        pytest.param(
            {"time": "19700101T000000Z", "order": ORDER_JSON, "serials": "SHC1"},
            id="serials no list",
        ),
        pytest.param(
            {"time": "19700101T000000Z", "order": ORDER_JSON, "serials": ["SHC1", 2]},
            id="serial a number",
        ),
    ],
)
def test_bad_order_files(members: Json) -> None:
    with pytest.raises(Malformed):
        OrderFile.from_json(members)


# --- answers --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "members"),
    [
        pytest.param(Answer("abc", 1795381200), {}, id="least"),
        pytest.param(
            Answer(
                "abc",
                1795381200,
                lease="act01: ...\n",
                stolen=True,
                interval=3600,
                update=ORDER,
                message="Bring it to\nthe office.",
            ),
            {
                "lease": "act01: ...\n",
                "stolen": True,
                "interval": 3600,
                "update": ORDER_JSON,
                "message": "Bring it to\nthe office.",
            },
            id="everything",
        ),
        pytest.param(
            Answer("abc", 1795381200, update=BareOrder(BuildId("762"))),
            {"update": "762"},
            id="bare order",
        ),
    ],
)
def test_answers(answer: Answer, members: dict[str, Json]) -> None:
    assert Answer.from_json(DATA | members) == answer
    assert answer.to_json() == DATA | members


@pytest.mark.parametrize(
    ("given_seconds", "kept"),
    [
        pytest.param(-1, 900, id="negative"),
        pytest.param(0, 900, id="zero"),
        pytest.param(899, 900, id="just too small"),
        pytest.param(900, 900, id="15 minutes"),
        pytest.param(2592000, 2592000, id="30 days"),
        pytest.param(2592001, 2592000, id="just too great"),
        pytest.param(2**63 - 1, 2592000, id="greatest"),
    ],
)
def test_the_interval_is_clamped(given_seconds: int, kept: int) -> None:
    assert Answer.from_json(DATA | {"interval": given_seconds}).interval == kept


def test_only_true_is_stolen() -> None:
    assert Answer.from_json(DATA | {"stolen": True}).stolen
    assert not Answer.from_json(DATA | {"stolen": False}).stolen
    assert not Answer.from_json(DATA).stolen


def test_unknown_and_null_members_are_skipped() -> None:
    extra: dict[str, Json] = {"zz": {"a": [None]}, "lease": None, "update": None}
    extra |= {"stolen": None, "interval": None, "message": None}
    assert Answer.from_json(DATA | extra) == Answer("abc", 1795381200)


@pytest.mark.parametrize(
    ("member", "value", "fault"),
    [
        pytest.param("lease", 1, "lease is not of type str", id="lease"),
        pytest.param("stolen", "yes", "stolen is not of type bool", id="stolen yes"),
        pytest.param("stolen", 1, "stolen is not of type bool", id="stolen 1"),
        pytest.param("interval", True, "interval is not of type int", id="interval"),
        pytest.param("update", 762, "it is not an object", id="update number"),
        pytest.param("update", "..", "build name", id="update bad name"),
        pytest.param("update", {"build": "762"}, "contents is missing", id="update"),
        pytest.param("message", [], "message is not of type str", id="message"),
    ],
)
def test_a_faulty_member_does_not_cost_the_lease(
    member: str, value: Json, fault: str
) -> None:
    members: dict[str, Json] = {"lease": "act01: ...\n", "interval": 3600}
    answer = Answer.from_json(DATA | members | {member: value})
    assert len(answer.faults) == 1
    assert fault in answer.faults[0]
    assert getattr(answer, member) in {None, False}
    assert answer.lease == ("act01: ...\n" if member != "lease" else None)


def test_a_message_cannot_drive_the_terminal() -> None:
    text = "a\x1b[2Jb\r\u202ec\nd" + "x" * 2000
    message = Answer.from_json(DATA | {"message": text}).message
    assert message is not None
    assert message.startswith("a [2Jb  c\nd")
    assert len(message) == 1024


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="list"),
        pytest.param({}, id="empty"),
        pytest.param({"nonce": "a"}, id="no time"),
        pytest.param({"time": "20261122T210000Z"}, id="no nonce"),
        pytest.param({"nonce": 1, "time": "20261122T210000Z"}, id="nonce is a number"),
        pytest.param({"nonce": "a", "time": 0}, id="time is a number"),
        pytest.param({"nonce": "a", "time": "now"}, id="time now"),
    ],
)
def test_an_answer_without_nonce_and_time_is_none(value: Json) -> None:
    with pytest.raises(Malformed):
        Answer.from_json(value)


# --- queries --------------------------------------------------------------------

LEAST = b"serialnum=SHC12900018&version=1&nonce=12345678"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        pytest.param(Query("SHC12900018", "12345678"), LEAST, id="OpenFirmware's"),
        pytest.param(
            Query(
                "SHC12900018",
                "1",
                stream="stable",
                build=BuildId("760"),
                lease="act01: SHC12900018 K\n",
                report={"free": 12, "result": "done & dusted"},
            ),
            b"serialnum=SHC12900018&version=1&nonce=1&stream=stable&build=760"
            b"&lease=act01%3A+SHC12900018+K%0A"
            b"&report=%7B%22free%22%3A12%2C%22result%22%3A%22done+%26+dusted%22%7D",
            id="everything",
        ),
        pytest.param(
            Query("S", "1", lease_expiry=1795381200),
            b"serialnum=S&version=1&nonce=1&lease_expiry=20261122T210000Z",
            id="lease expiry",
        ),
        pytest.param(
            Query("S", "1", lease_expiry=NEVER_EXPIRES),
            b"serialnum=S&version=1&nonce=1&lease_expiry=00000000T000000Z",
            id="lease for ever",
        ),
        pytest.param(
            Query("S", "8\n\xe9"),
            b"serialnum=S&version=1&nonce=8%0A%C3%A9",
            id="odd nonce",
        ),
    ],
)
def test_queries(query: Query, body: bytes) -> None:
    assert query.encode() == body
    assert Query.decode(body) == query


def test_only_a_lease_up_to_a_kilobyte_is_sent() -> None:
    fits = Query("S", "1", lease="x" * 1024, lease_expiry=5)
    assert b"&lease=x" in fits.encode()
    assert b"lease_expiry" not in fits.encode()
    long = Query("S", "1", lease="x" * 1025, lease_expiry=5)
    assert long.encode().endswith(b"&nonce=1&lease_expiry=19700101T000005Z")
    assert Query("S", "1", lease="x" * 1025).encode().endswith(b"&nonce=1")


def test_only_a_report_up_to_half_a_kilobyte_is_sent() -> None:
    text = "x" * (512 - len('{"a":""}'))
    assert b"&report=" in Query("S", "1", report={"a": text}).encode()
    assert b"&report=" not in Query("S", "1", report={"a": text + "x"}).encode()


def test_the_server_ignores_fields_that_it_does_not_know() -> None:
    assert Query.decode(LEAST + b"&colour=green&empty=") == Query.decode(LEAST)


def test_the_longest_nonce() -> None:
    body = b"serialnum=S&version=1&nonce=" + b"1" * 256
    assert Query.decode(body).nonce == "1" * 256


def test_a_raw_newline_in_a_nonce_is_kept() -> None:
    assert Query.decode(LEAST + b"\n").nonce == "12345678\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"serialnum", id="no form"),
        pytest.param(b"<html>", id="HTML"),
        pytest.param(LEAST + b"&", id="ampersand at the end"),
        pytest.param(LEAST + b"&x=" + b"y" * 8192, id="too large"),
        pytest.param(LEAST + b"".join(b"&%d=" % n for n in range(64)), id="67 fields"),
        pytest.param(b"version=1&nonce=1", id="no serial number"),
        pytest.param(b"serialnum=&version=1&nonce=1", id="empty serial number"),
        pytest.param(b"serialnum=a%2Fb&version=1&nonce=1", id="bad serial number"),
        pytest.param(b"serialnum=S&nonce=1", id="no version"),
        pytest.param(b"serialnum=S&version=2&nonce=1", id="version 2"),
        pytest.param(b"serialnum=S&version=1", id="no nonce"),
        pytest.param(b"serialnum=S&version=1&nonce=", id="empty nonce"),
        pytest.param(b"serialnum=S&version=1&nonce=" + b"1" * 257, id="long nonce"),
        pytest.param(LEAST + b"&nonce=2", id="two nonces"),
        pytest.param(LEAST + b"%ff", id="nonce not UTF-8"),
        pytest.param(LEAST + b"\xc3\xa9", id="raw UTF-8"),
        pytest.param(LEAST + b"&x=%zz", id="bad escape"),
        pytest.param(LEAST + b"&stream=a/b", id="bad stream"),
        pytest.param(LEAST + b"&build=..", id="bad build"),
        pytest.param(LEAST + b"&lease=" + b"x" * 1025, id="lease too large"),
        pytest.param(LEAST + b"&lease_expiry=soon", id="bad lease expiry"),
        pytest.param(LEAST + b"&report=%5B%5D", id="report is a list"),
        pytest.param(LEAST + b"&report={+}", id="report not canonical"),
        pytest.param(LEAST + b'&report={"a":[[[[]]]]}', id="report too deep"),
        pytest.param(LEAST + b'&report={"a":"' + b"x" * 512 + b'"}', id="report large"),
    ],
)
def test_bad_queries(body: bytes) -> None:
    with pytest.raises(Malformed):
        Query.decode(body)


@given(
    st.builds(
        Query,
        serial=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", fullmatch=True),
        nonce=st.text(min_size=1, max_size=256),
        lease=st.none() | st.text(max_size=200),
        report=st.none() | st.dictionaries(st.text(max_size=5), st.integers(0, 9)),
    ).filter(lambda query: len(query.encode()) <= 8192)
)
def test_every_query_comes_back(query: Query) -> None:
    again = Query.decode(query.encode())
    report = query.report if b"&report=" in query.encode() else None
    assert (again.serial, again.nonce) == (query.serial, query.nonce)
    assert (again.lease, again.report) == (query.lease, report)


@given(st.binary(max_size=100))
def test_any_body_is_a_query_or_malformed(body: bytes) -> None:
    try:
        query = Query.decode(LEAST + body)
    except Malformed:
        return
    assert query.serial == "SHC12900018"
