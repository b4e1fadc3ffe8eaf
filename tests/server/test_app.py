import contextlib
import json
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from email import message_from_bytes
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.model.messages import Query
from olpc_update_query.model.orders import Order
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server.app import base_url, create_app
from olpc_update_query.server.downloads import Stretch, Window
from olpc_update_query.server.rollout import DEFAULT, Assignment
from olpc_update_query.server.screen import FRESH, may_look
from olpc_update_query.server.site import Audience, Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.answer import TrustedAnswer, open_answer
from olpc_update_query.trust.lease import find_lease
from tests.keys import SERIAL, UUID, ring
from tests.server.served import COMMAND, Reply, Served, serve
from tests.server.sites import (
    LAPTOP,
    HandClock,
    add_build,
    assign,
    list_laptops,
    make_site,
    settle,
)

PACK = random.Random(762).randbytes(300_000)
ODD = b"caf\xe9"  # no UTF-8
NEW = parse_build_id("762")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with a build in which there is everything that should not be there."""
    path = tmp_path_factory.mktemp("served")
    site = make_site(path)
    add_build(site, "760")
    add_build(site, "762", {"etc/issue": b"762\n", "home/.profile": b"x=1\n"})
    build = site.builds / "762"
    (build / "pack").write_bytes(PACK)
    (build / "empty").write_bytes(b"")
    (build / "large").write_bytes(b"")
    os.truncate(build / "large", 64 << 20)
    with open(os.fsencode(build / "root") + b"/" + ODD, "wb") as file:
        file.write(b"odd")
    (build / "link").symlink_to("contents")
    (build / "root/etc/outside").symlink_to("/etc")
    (build / "root/etc/hosts").symlink_to("/etc/hosts")
    (build / "root/up").symlink_to("../../..")
    os.mkfifo(build / "fifo")
    (site.builds / ".tmp-763").mkdir()
    (site.builds / ".tmp-763/contents").write_bytes(b"secret")
    (site.builds / "loose").write_bytes(b"secret")
    list_laptops(site, LAPTOP._replace(name="<script>Ana"))
    assign(site, DEFAULT, Assignment(NEW))
    return site.path


@pytest.fixture(scope="module")
def served(place: Path) -> Iterator[Served]:
    with serve(place) as found:
        yield found


def trusted(reply: Reply, query: Query) -> TrustedAnswer:
    assert reply.status == 200, reply
    return open_answer(
        reply.body,
        nonce=query.nonce,
        ring=ring(),
        serial=query.serial,
        now=int(time.time()),
        floor=0,
    )


def assert_uncacheable(reply: Reply) -> None:
    for name, value in FRESH.items():
        assert reply.headers[name.lower()] == value
    assert "etag" not in reply.headers


# --- queries ----------------------------------------------------------------------


def test_a_query_is_answered(served: Served) -> None:
    query = Query(SERIAL, "12345678", build=parse_build_id("760"))
    reply = served.post(query.encode())
    assert_uncacheable(reply)
    answer = trusted(reply, query).answer
    assert isinstance(answer.update, Order)
    assert answer.update.urls == (f"http://127.0.0.1:{served.port}/builds/762/",)
    assert answer.lease is not None
    now = int(time.time())
    assert find_lease(answer.lease, serial=SERIAL, uuid=UUID, ring=ring(), now=now)


def test_what_the_order_names_can_be_fetched(served: Served) -> None:
    query = Query(SERIAL, "1")
    update = trusted(served.post(query.encode()), query).answer.update
    assert isinstance(update, Order)
    path = update.urls[0].removeprefix(f"http://127.0.0.1:{served.port}")
    manifest = served.get(f"{path}contents")
    assert len(manifest.body) == update.size
    assert sha256(manifest.body).hexdigest() == update.contents


def test_a_query_of_the_firmware_is_answered(served: Served) -> None:
    """Byte for byte what OpenFirmware sends, with its blanks, and no HTTP client."""
    octets = (
        b"POST /antitheft/1/ HTTP/1.1\r\nHost: antitheft.laptop.org\r\n"
        b"Content-Type: application/x-www-form-urlencoded  \r\n"
        b"Content-Length: 46\r\nConnection: close\r\n\r\n"
        b"serialnum=SHC12900018&version=1&nonce=12345678"
    )
    head, _, body = served.raw(octets).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    query = Query(SERIAL, "12345678")
    update = trusted(Reply(200, {}, body), query).answer.update
    assert isinstance(update, Order)
    assert update.urls == ("http://antitheft.laptop.org/builds/762/",)


def test_a_chunked_query_is_answered(served: Served) -> None:
    octets = (
        b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
        b"2e\r\nserialnum=SHC12900018&version=1&nonce=12345678\r\n0\r\n\r\n"
    )
    assert served.raw(octets).startswith(b"HTTP/1.1 200 OK\r\n")


FORM = b"serialnum=SHC12900018&version=1&nonce=1"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="empty"),
        pytest.param(b"\0" * 100, 400, id="zeros"),
        pytest.param(b'{"serialnum":"SHC12900018"}', 400, id="JSON"),
        pytest.param(FORM.replace(b"version=1", b"version=7"), 400, id="version"),
        pytest.param(FORM + b"&nonce=2", 400, id="nonce twice"),
        pytest.param(FORM + b"&report={", 400, id="bad report"),
        pytest.param(FORM + b"&x=1" * 70, 400, id="many fields"),
        pytest.param(FORM + b"&x=" + b"y" * 8000, 200, id="nearly too long"),
        pytest.param(FORM + b"&x=" + b"y" * 8193, 413, id="too long"),
        pytest.param(b"x" * 40_000, 413, id="far too long"),
    ],
)
def test_a_hostile_query_is_refused(served: Served, body: bytes, status: int) -> None:
    reply = served.post(body)
    assert reply.status == status
    if len(body) < 16_000:
        assert_uncacheable(reply)
    assert b"Traceback" not in reply.body


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 405), ("PUT", 405), ("DELETE", 405), ("HEAD", 405)]
)
def test_queries_are_posted(served: Served, method: str, status: int) -> None:
    reply = served.request(method, "/antitheft/1/")
    assert reply.status == status
    assert_uncacheable(reply)


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, id="long header"),
        pytest.param(b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\n\r\n", id="long path"),
        pytest.param(b"\x16\x03\x01\xff" * 9 + b"\r\n\r\n", id="octets"),
        pytest.param(b"\r\n\r\nnonsense\r\n\r\n", id="nonsense"),
        pytest.param(
            b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\nContent-Length: -5\r\n\r\n",
            id="negative length",
        ),
        pytest.param(
            b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999"
            b"\r\nConnection: close\r\n\r\nabc",
            id="huge length",
        ),
        pytest.param(
            b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
            id="two lengths",
        ),
    ],
)
def test_a_hostile_request_gets_an_error_at_once(served: Served, octets: bytes) -> None:
    head = served.raw(octets, limit=10).split(b"\r\n")[0]
    assert b" 4" in head
    assert served.get("/builds/").status == 200


@pytest.mark.parametrize(
    ("host", "base"),
    [
        pytest.param("schoolserver", "http://schoolserver/", id="name"),
        pytest.param("10.0.0.1:8080", "http://10.0.0.1:8080/", id="address"),
        pytest.param("[fe80::1]:80", "http://[fe80::1]:80/", id="IPv6"),
        pytest.param("a_b.example", "http://a_b.example/", id="underscore"),
        pytest.param("", None, id="none"),
        pytest.param("h/../x", None, id="path"),
        pytest.param("user@h", None, id="user"),
        pytest.param("h:99999999", None, id="port"),
        pytest.param("h:", None, id="half a port"),
        pytest.param('h"><script>', None, id="markup"),
        pytest.param("h x", None, id="blank"),
        pytest.param("h\n", None, id="newline"),
        pytest.param("-h", None, id="option"),
        pytest.param("[::1", None, id="open bracket"),
    ],
)
def test_only_a_host_name_comes_into_an_order(host: str, base: str | None) -> None:
    assert base_url("http", host, "") == base


def test_a_query_with_a_bad_host_is_refused(served: Served) -> None:
    for host in ("h/x", "a b", "%"):
        reply = served.post(FORM, {"Host": host})
        assert reply.status == 400
        assert_uncacheable(reply)


# --- builds -----------------------------------------------------------------------


def test_builds_are_listed(served: Served) -> None:
    reply = served.get("/builds/")
    assert json.loads(reply.body) == ["760", "762"]
    assert reply.headers["content-type"] == "application/json"
    assert_uncacheable(reply)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("762/pack", PACK),
        ("762//pack", PACK),
        ("762/empty", b""),
        ("762/root/etc/issue", b"762\n"),
        ("762/root/home/.profile", b"x=1\n"),
        ("762/root/" + quote(ODD), b"odd"),
    ],
)
def test_files_are_served(served: Served, path: str, body: bytes) -> None:
    reply = served.get(f"/builds/{path}")
    assert reply.status == 200
    assert reply.body == body
    assert int(reply.headers["content-length"]) == len(body)
    assert reply.headers["content-type"] == "application/octet-stream"
    head = served.request("HEAD", f"/builds/{path}")
    assert (head.status, head.body) == (200, b"")
    for name in ("content-length", "etag"):
        assert head.headers[name] == reply.headers[name]


@pytest.mark.parametrize(
    "path",
    [
        "762",
        "762/",
        "762/root",
        "762/root/",
        "762/absent",
        "763/contents",
        ".tmp-763/contents",
        "%2etmp-763/contents",
        "loose",
        "loose/contents",
        "../site.toml",
        "762/../../site.toml",
        "762/../../keys/oats.private",
        "762/%2e%2e/%2e%2e/keys/oats.private",
        "762/..%2f..%2fkeys/oats.private",
        "%2e%2e/keys/oats.private",
        "..\\keys\\oats.private",
        "//etc/passwd",
        "762/link",
        "762/root/etc/hosts",
        "762/root/etc/outside/passwd",
        "762/root/up/keys/oats.private",
        "762/fifo",
        "762/pack/",
        "762/pack/x",
        "762/contents%00",
        "762/" + "a/" * 100 + "b",
        "762/" + "a" * 300,
        "%ff/contents",
        " 762/contents".replace(" ", "%20"),
    ],
)
def test_nothing_else_is_served(served: Served, path: str) -> None:
    octets = f"GET /builds/{path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    reply = served.raw(octets.encode())
    expected = b"200 OK" if path == "762/pack/" else b"404 NOT FOUND"
    assert reply.upper().startswith(b"HTTP/1.1 " + expected), reply[:200]
    assert b"secret" not in reply


SIZE = len(PACK)


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=100-199", 100, 200),
        ("bytes=299999-", SIZE - 1, SIZE),
        ("bytes=299990-999999", SIZE - 10, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        ("Bytes=7-8", 7, 9),
    ],
)
def test_a_range_is_served(served: Served, wanted: str, start: int, stop: int) -> None:
    reply = served.get("/builds/762/pack", Range=wanted)
    assert reply.status == 206
    assert reply.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert int(reply.headers["content-length"]) == stop - start
    assert reply.body == PACK[start:stop]


def test_several_ranges_are_served_at_once(served: Served) -> None:
    wanted = "bytes=0-0,100-199,299990-299999,400000-400001"
    reply = served.get("/builds/762/pack", Range=wanted)
    kind = reply.headers["content-type"]
    assert (reply.status, int(reply.headers["content-length"])) == (
        206,
        len(reply.body),
    )
    whole = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + reply.body
    parts = list(message_from_bytes(whole).walk())[1:]
    assert "content-range" not in reply.headers
    assert [part["Content-Range"] for part in parts] == [
        f"bytes 0-0/{SIZE}",
        f"bytes 100-199/{SIZE}",
        f"bytes {SIZE - 10}-{SIZE - 1}/{SIZE}",
    ]
    bodies = [part.get_payload(decode=True) for part in parts]
    assert bodies == [PACK[:1], PACK[100:200], PACK[-10:]]


def test_of_several_ranges_one_may_be_in_the_file(served: Served) -> None:
    reply = served.get("/builds/762/pack", Range="bytes=5-9,300000-300001")
    assert (reply.status, reply.body) == (206, PACK[5:10])
    assert reply.headers["content-range"] == f"bytes 5-9/{SIZE}"


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=" + ",".join(f"{at * 2}-{at * 2}" for at in range(129)),
        "bytes=" + ",".join(["0-"] * 100),
        "bytes=0-99,50-149",
    ],
    ids=["many", "the same", "overlapping"],
)
def test_greedy_ranges_are_not_obeyed(served: Served, wanted: str) -> None:
    reply = served.get("/builds/762/pack", Range=wanted)
    assert (reply.status, reply.body) == (200, PACK)


@pytest.mark.parametrize(
    "wanted",
    ["bytes=300000-", "bytes=999999-9999999", "bytes=300000-300001,400000-"],
)
def test_a_range_outside_is_refused(served: Served, wanted: str) -> None:
    reply = served.get("/builds/762/pack", Range=wanted)
    assert reply.status == 416
    assert reply.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize(
    "wanted",
    ["", "nonsense", "bytes=", "bytes=5-2", "lines=1-2", "bytes=5-6,0-1", "bytes=a-b"],
)
def test_what_is_no_range_is_not_obeyed(served: Served, wanted: str) -> None:
    reply = served.get("/builds/762/pack", Range=wanted)
    assert reply.status == 200
    assert reply.body == PACK


def test_a_range_counts_for_the_same_file_only(served: Served) -> None:
    tag = served.get("/builds/762/empty").headers["etag"]
    own = served.get("/builds/762/pack").headers["etag"]
    assert own.startswith('"')
    same = served.get("/builds/762/pack", Range="bytes=1-2", If_Range=own)
    assert (same.status, same.body) == (206, PACK[1:3])
    for stale in (tag, f"W/{own}", "Fri, 15 Jan 2027 08:00:00 GMT"):
        reply = served.get("/builds/762/pack", Range="bytes=1-2", If_Range=stale)
        assert (reply.status, reply.body) == (200, PACK)


def test_a_file_that_is_known_is_not_sent_again(served: Served) -> None:
    tag = served.get("/builds/762/pack").headers["etag"]
    reply = served.get("/builds/762/pack", If_None_Match=tag)
    assert (reply.status, reply.body) == (304, b"")
    other = served.get("/builds/762/pack", If_None_Match='"x"')
    assert (other.status, other.body) == (200, PACK)


a_stretch = st.tuples(st.integers(0, 64), st.integers(0, 64)).map(
    lambda pair: Stretch(min(pair), max(pair) - min(pair))
)
a_piece = st.one_of(st.binary(max_size=9), a_stretch)


@given(st.data())
def test_a_window_reads_as_the_part_it_shows(data: st.DataObject) -> None:
    whole = bytes(range(64))
    pieces = data.draw(st.lists(a_piece, min_size=1, max_size=4))
    part = b"".join(
        one if isinstance(one, bytes) else whole[one.start : one.start + one.length]
        for one in pieces
    )
    length = len(part)
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(whole)
        window = Window(file, pieces)
        size = data.draw(st.integers(1, 70))
        assert b"".join(iter(lambda: window.read(size), b"")) == part
        at = data.draw(st.integers(0, length))
        window.seek(at)
        assert window.read(3) == part[at : at + 3]
        assert window.seek(0, os.SEEK_END) == length
        assert window.tell() == length
        assert window.read() == b""
        assert not file.closed
        window.close()
        assert file.closed


def test_files_are_closed(served: Served) -> None:
    served.get("/builds/762/pack")
    before = served.descriptors()
    for _ in range(20):
        tag = served.get("/builds/762/pack").headers["etag"]
        served.get("/builds/762/pack", If_None_Match=tag)
        served.get("/builds/762/pack", Range="bytes=1-2")
        served.get("/builds/762/pack", Range="bytes=999999-")
        served.request("HEAD", "/builds/762/pack")
        served.get("/builds/762/fifo")
    assert served.descriptors() <= before + 2


# --- patience ---------------------------------------------------------------------


def test_silent_and_slow_clients_hold_nobody_up(served: Served) -> None:
    """More clients than threads ask for a file and do not read it, or say nothing."""
    wish = b"GET /builds/762/large HTTP/1.1\r\nHost: h\r\nRange: bytes=1-\r\n\r\n"
    links = []
    for number in range(60):
        link = socket.create_connection(("127.0.0.1", served.port))
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.sendall(wish if number % 2 else b"POST /antitheft/1/ HT")
        links.append(link)
    begin = time.monotonic()
    query = Query(SERIAL, "1")
    for _ in range(5):
        trusted(served.post(query.encode()), query)
    assert time.monotonic() - begin < 5
    for link in links:
        link.close()


def test_one_address_cannot_take_every_connection(place: Path) -> None:
    """Six hundred silent connections from one laptop; the others are answered."""
    with serve(place) as served, contextlib.ExitStack() as ending:
        where, flooder = ("127.0.0.1", served.port), ("127.0.0.9", 0)
        links = [
            ending.enter_context(socket.create_connection(where, 20, flooder))
            for _ in range(600)
        ]
        query = Query(SERIAL, "1")
        for _ in range(3):
            trusted(served.post(query.encode()), query)
        links[-1].settimeout(20)
        assert links[-1].recv(1) == b""
        assert served.descriptors() < 350
        for link in links:
            link.close()
        links = [socket.create_connection(where, 20, flooder) for _ in range(2)]
        wish = b"GET /builds/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        for link in links:  # who has closed what he had is let in again
            ending.enter_context(link).sendall(wish)
            assert link.recv(12) == b"HTTP/1.1 200"


def test_who_says_nothing_is_hung_up_on(place: Path) -> None:
    shorter = "from olpc_update_query.server import serve\nserve._SILENCE = 1\n"
    with serve(place, before=f"{shorter}serve._CLEANUP = 1\n") as served:
        begin = time.monotonic()
        assert served.raw(b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\n") == b""
        assert 0.9 < time.monotonic() - begin < 9


class Crowd:
    """Laptops that ask all the time, from several threads."""

    def __init__(self, served: Served, size: int) -> None:
        self._served = served
        self._stop = threading.Event()
        self.builds: list[str | None] = []
        self.faults: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            query = Query(SERIAL, f"{number}{count}", report={"result": "x"})
            try:
                update = trusted(self._served.post(query.encode()), query).answer.update
            except Exception as fault:  # noqa: BLE001 - shown by the test
                self.faults.append(fault)
                return
            self.builds.append(None if update is None else update.build)

    def dismiss(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def start_assign(site: Site, *words: str) -> "subprocess.Popen[bytes]":
    command = [*COMMAND, "assign", str(site.path), *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def test_many_ask_at_a_time_while_the_rollout_changes(tmp_path: Path) -> None:
    """`assign` beside `serve`: every answer is whole, and the last assignment wins."""
    site = make_site(tmp_path, clock=HandClock(int(time.time())))
    names = ["760", "761", "762"]
    for name in names:
        add_build(site, name)
    list_laptops(site, LAPTOP)
    with serve(site.path) as served:
        crowd = Crowd(served, 4)
        changes = [
            start_assign(site, "--build", name, *words)
            for name in names
            for words in ([], ["--group", "5B"])
        ]
        assert [change.wait(60) for change in changes] == [0] * 6
        final = start_assign(site, "--build", "761", "--serial", SERIAL)
        assert final.wait(60) == 0
        query = Query(SERIAL, "last")
        last = trusted(served.post(query.encode()), query).answer.update
        crowd.dismiss()
    assert not crowd.faults
    assert last is not None
    assert last.build == "761"
    assert set(crowd.builds) <= {None, *names}
    assert len(crowd.builds) > 20
    assert len(Site(site.path, SystemClock()).rollout().assignments) == 3
    assert len((site.path / "changes.log").read_text().splitlines()) == 7


# --- pages ------------------------------------------------------------------------


def test_the_page_is_readable_and_escapes_what_it_shows(served: Served) -> None:
    query = Query(SERIAL, "1", report={"result": "<b>odd</b>"})
    served.post(query.encode())
    page = served.get("/")
    text = page.body.decode()
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "&lt;script&gt;Ana" in text
    assert "&lt;b&gt;odd&lt;/b&gt;" in text
    assert "<script" not in text
    assert UUID not in text
    assert SERIAL in text
    assert_uncacheable(page)
    style = served.get("/static/style.css")
    assert (style.status, style.headers["content-type"][:8]) == (200, "text/css")


def test_the_status_is_json(served: Served) -> None:
    query = Query(SERIAL, "1", build=parse_build_id("760"), report={"result": "x"})
    served.post(query.encode())
    found = json.loads(served.get("/status.json").body)
    assert found["site"] == "Escuela 1"
    assert found["running"] == {"760": 1}
    assert found["latest"][0]["serial"] == SERIAL
    assert found["latest"][0]["result"] == "x"


def test_other_paths_are_not_there(served: Served) -> None:
    for path in ("/antitheft/2/", "/antitheft/1", "/site.toml", "/keys/oats.private"):
        reply = served.get(path)
        assert reply.status == 404
        assert_uncacheable(reply)


@pytest.mark.parametrize(
    ("audience", "address", "allowed"),
    [
        (Audience.PRIVATE, "127.0.0.1", True),
        (Audience.PRIVATE, "10.1.2.3", True),
        (Audience.PRIVATE, "172.18.0.1", True),
        (Audience.PRIVATE, "192.168.1.1", True),
        (Audience.PRIVATE, "fe80::1%eth0", True),
        (Audience.PRIVATE, "fd00::1", True),
        (Audience.PRIVATE, "::ffff:10.0.0.1", True),
        (Audience.PRIVATE, "::ffff:8.8.8.8", False),
        (Audience.PRIVATE, "8.8.8.8", False),
        (Audience.PRIVATE, "2a00::1", False),
        (Audience.PRIVATE, "", False),
        (Audience.EVERYONE, "8.8.8.8", True),
        (Audience.EVERYONE, "", True),
        (Audience.NOBODY, "127.0.0.1", False),
    ],
)
def test_who_may_see_the_page(audience: Audience, address: str, allowed: bool) -> None:
    assert may_look(audience, address) is allowed


# --- as a WSGI application --------------------------------------------------------


def test_the_page_is_shown_to_whom_site_toml_says(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    app = create_app(site.path, HandClock())
    client = app.test_client()
    stranger = {"REMOTE_ADDR": "8.8.8.8"}
    for path in ("/", "/status.json"):
        assert client.get(path).status_code == 200
        assert client.get(path, environ_base=stranger).status_code == 403
    settle(site, 'status_page = "everyone"')
    assert client.get("/", environ_base=stranger).status_code == 200
    app.extensions["reports"].close()


def test_behind_a_proxy_the_client_and_the_host_are_the_real_ones(
    tmp_path: Path,
) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    assign(site, DEFAULT, Assignment(NEW))
    forwarded = {
        "X-Forwarded-For": "6.6.6.6, 203.0.113.9",
        "X-Forwarded-Host": "updates.example",
        "X-Forwarded-Proto": "https",
    }
    query = Query(SERIAL, "1", report={})
    for count, address, url in (
        (0, "127.0.0.1", "http://localhost/builds/762/"),
        (1, "203.0.113.9", "https://updates.example/builds/762/"),
    ):
        settle(site, f"behind_proxies = {count}")
        app = create_app(site.path, HandClock())
        reply = app.test_client().post(
            "/antitheft/1/", data=query.encode(), headers=forwarded
        )
        assert url.encode() in reply.data
        state = app.extensions["reports"].state(SERIAL)
        assert state.address == address
        app.extensions["reports"].close()


def test_below_a_prefix_everything_is_found(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    assign(site, DEFAULT, Assignment(NEW))
    app = create_app(site.path, HandClock())
    client = app.test_client()
    prefix = {"SCRIPT_NAME": "/updates"}
    query = Query(SERIAL, "1")
    reply = client.post("/antitheft/1/", data=query.encode(), environ_overrides=prefix)
    assert b"http://localhost/updates/builds/762/" in reply.data
    page = client.get("/", environ_overrides=prefix)
    assert b'href="/updates/static/style.css"' in page.data
    app.extensions["reports"].close()


def test_a_key_that_is_lost_while_serving_is_an_error_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path)
    clock = HandClock()
    app = create_app(site.path, clock)
    client = app.test_client()
    assert client.post("/antitheft/1/", data=FORM).status_code == 200
    (site.keys / "oats.private").chmod(0o644)
    clock.time += 1
    reply = client.post("/antitheft/1/", data=FORM)
    assert reply.status_code == 200  # the key in memory is still good
    (site.keys / "oats.private").unlink()
    clock.time += 1
    reply = client.post("/antitheft/1/", data=FORM)
    assert reply.status_code == 503
    assert "keygen" in caplog.text
    assert b"keys" not in reply.data
    app.extensions["reports"].close()


def test_a_laptop_that_is_ignored_gets_no_answer(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    settle(site, 'unknown = "ignore"')
    app = create_app(site.path, HandClock())
    reply = app.test_client().post("/antitheft/1/", data=FORM)
    assert (reply.status_code, reply.data) == (404, b"this laptop is not known here\n")
    assert reply.headers["Cache-Control"] == FRESH["Cache-Control"]
    app.extensions["reports"].close()


def test_reports_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    app = create_app(site.path, HandClock())
    with app.extensions["reports"]._opened().begin() as connection:
        connection.exec_driver_sql("DROP TABLE laptops")
    reply = app.test_client().get("/status.json")
    assert reply.status_code == 500
    assert b"no such table" in reply.data
    app.extensions["reports"].close()


def test_a_bug_shows_no_insides(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    app = create_app(site.path, HandClock())
    (site.path / "builds").rmdir()
    (site.path / "builds").write_text("no directory")
    reply = app.test_client().get("/builds/")
    assert reply.status_code == 500
    assert reply.data == b"Internal Server Error\n"
    assert reply.headers["Cache-Control"] == FRESH["Cache-Control"]
    app.extensions["reports"].close()
