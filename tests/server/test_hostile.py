"""What strangers throw at the server, octet by octet; each costs little, none hurts.

Costs are read from the kernel's counters: processor time and the peak of memory.
"""

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from olpc_update_query.server.login import TRIES, set_password
from olpc_update_query.server.site import Site
from tests.keys import SERIAL
from tests.server.served import Served, ask, serve
from tests.server.sites import LAPTOP, add_build, list_laptops, make_site

QUERY = f"serialnum={SERIAL}&version=1&nonce=5".encode()
FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
MULTIPART = b"Content-Type: multipart/form-data; boundary=B\r\n"
PARTS = b"".join(
    b'--B\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nx\r\n' % number
    for number in range(200)
)
FORMS = ("/antitheft/1/", "/login", "/assign")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = make_site(tmp_path_factory.mktemp("hostile"))
    list_laptops(site, LAPTOP)
    add_build(site, "762", {"etc/issue": bytes(100_000)})
    set_password(site.keys, "correct horse")
    return site


@pytest.fixture(scope="module")
def served(site: Site) -> Iterator[Served]:
    with serve(site.path) as found:
        yield found


@pytest.fixture(autouse=True)
def cheap(served: Served) -> Iterator[None]:
    """Let each test cost little, and leave the server answering."""
    assert served.post(QUERY).status == 200
    served.get("/")
    before = spent(served), peak(served)
    yield
    assert served.post(QUERY).status == 200
    assert spent(served) - before[0] < 3, "seconds of processor time"
    assert peak(served) - before[1] < 48, "MiB"


def spent(served: Served) -> float:
    text = Path(f"/proc/{served.process.pid}/stat").read_text()
    words = text.rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def peak(served: Served) -> float:
    text = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def post(path: str, body: bytes, headers: bytes = FORM, length: int = -1) -> bytes:
    size = len(body) if length < 0 else length
    start = f"POST {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n".encode()
    return start + headers + b"Content-Length: %d\r\n\r\n" % size + body


def get(path: bytes, headers: bytes = b"") -> bytes:
    end = b"Host: h\r\nConnection: close\r\n\r\n"
    return b"GET " + path + b" HTTP/1.1\r\n" + headers + end


def status(served: Served, octets: bytes) -> int:
    """Send octets and return the status that comes, 0 if none does."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as link:
        try:
            for start in range(0, len(octets), 1 << 16):
                link.sendall(octets[start : start + (1 << 16)])
        except ConnectionError:
            pass  # it has heard enough
        try:
            first = link.recv(12)
        except ConnectionError:
            return 0
    return int(first[9:12] or 0)


# --- forms ------------------------------------------------------------------------


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"a=1&" * 100_000, FORM, id="100,000 fields"),
        pytest.param(b"a=" + b"x" * 10_000_000, FORM, id="a large field"),
        pytest.param(PARTS * 50 + b"--B--\r\n", MULTIPART, id="10,000 parts"),
    ],
)
def test_giant_forms(served: Served, path: str, body: bytes, headers: bytes) -> None:
    assert status(served, post(path, body, headers)) in {0, 413}


@pytest.mark.parametrize("path", FORMS[::2])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"a&" * 8000, FORM, id="8,000 fields"),
        pytest.param(b"%" * 16_000, FORM, id="broken escapes"),
        pytest.param(PARTS + b"--B--\r\n", MULTIPART, id="200 parts"),
        pytest.param(
            b"--B\r\n" + b"X: y\r\n" * 2500 + b"\r\nx\r\n--B--\r\n",
            MULTIPART,
            id="headers of a part",
        ),
        pytest.param(PARTS, MULTIPART, id="no end"),
    ],
)
def test_odd_forms(served: Served, path: str, body: bytes, headers: bytes) -> None:
    wanted = {400, 413} if path == FORMS[0] else {403, 413}
    assert status(served, post(path, body, headers)) in wanted


@pytest.mark.parametrize("path", FORMS)
def test_bodies_of_another_length_than_is_said(served: Served, path: str) -> None:
    for length in (10**10, 10**18):
        octets = post(path, b"x" * 1_000_000, length=length)
        assert status(served, octets) in {0, 413}
    chunks = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = post(path, b"", b"Transfer-Encoding: chunked\r\n")
    head = head.replace(b"Content-Length: 0\r\n", b"")
    assert status(served, head + chunks * 100) in {0, 413}
    digits = head.replace(
        b"Transfer-Encoding: chunked", b"Content-Length: " + b"9" * 9000
    )
    assert status(served, digits) == 400


# --- headers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        pytest.param(b"Content-Length: 5\r\n", 400, id="two lengths"),
        pytest.param(b"Transfer-Encoding: identity\r\n", 501, id="another encoding"),
        pytest.param(b"Content-Length: +5\r\n", 400, id="a sign"),
        pytest.param(b"X: a\0b\r\n", 400, id="NUL"),
        pytest.param(b"X: a\nY: b\r\n", 400, id="a bare LF"),
        pytest.param(b"X: a\rY: b\r\n", 400, id="a bare CR"),
        pytest.param(b"X : y\r\n", 400, id="a space before the colon"),
        pytest.param(b"nothing\r\n", 400, id="no colon"),
        pytest.param(b"Host: evil.example\r\n", 400, id="two hosts"),
        pytest.param(b"X: a\r\n b\r\n", 200, id="folded"),
        pytest.param(b"a:b\r\n" * 2000, 200, id="2,000 headers"),
        pytest.param(b"X: " + b"y" * 17_000 + b"\r\n", 431, id="a large header"),
        pytest.param(b"a:b\r\n" * 100_000, 431, id="100,000 headers"),
    ],
)
def test_header_tricks(served: Served, header: bytes, wanted: int) -> None:
    assert status(served, post(FORMS[0], QUERY, header)) in {wanted, 0}


def test_a_length_and_chunks_are_one_request(served: Served) -> None:
    """What follows the last chunk is not taken for a second request."""
    body = b"0\r\n\r\n" + get(b"/status.json")
    for version in (b"1.1", b"1.0"):
        octets = post(FORMS[0], body, b"Transfer-Encoding: chunked\r\n")
        octets = octets.replace(b"close", b"keep-alive", 1)
        said = served.raw(octets.replace(b"HTTP/1.1", b"HTTP/" + version, 1))
        assert said[8:12] == b" 400", said
        assert said.count(b" 400 Bad Request\r\n") == said.count(b"Server:") == 1
        assert b"laptops" not in said


@pytest.mark.parametrize(
    "chunk",
    [
        *(b"0x5\r\nabcde", b"+5\r\nabcde", b"-5\r\nabcde", b"5;a\nb\r\nabcde"),
        *(b"5\nabcde", b"5\r\nabcdefg", b"5 \x0b\r\nabcde"),
    ],
    ids=repr,
)
def test_odd_chunks_are_no_request(served: Served, chunk: bytes) -> None:
    head = b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    said = served.raw(head + chunk + b"\r\n0\r\n\r\n" + get(b"/status.json"))
    assert said.startswith(b"HTTP/1.1 400")
    assert b"laptops" not in said


@pytest.mark.parametrize("line", [b"GET / HTTP/2.0", b"GET / HTTP/1.10", b"GET /"])
def test_versions_that_are_not_ours(served: Served, line: bytes) -> None:
    assert status(served, line + b"\r\nHost: h\r\n\r\n") == 400


@pytest.mark.parametrize(
    "path", ["/builds", "/login/", "/laptops/", "/builds//762/contents", "//h2.example"]
)
def test_no_redirect_names_the_host_that_was_asked_for(
    served: Served, path: str
) -> None:
    for host in (b"evil.example", b"a b<script>"):
        said = served.raw(get(path.encode()).replace(b"Host: h", b"Host: " + host))
        assert b"evil" not in said
        assert b"<script>" not in said


@pytest.mark.parametrize(
    "header",
    [
        b"Cookie: " + b"; ".join(b"a%d=b" % number for number in range(1500)),
        b"Cookie: " + b"olpc-update-admin=x; " * 500,
        b"Cookie: olpc-update-admin=." + b"eJ" * 7000 + b".a.b",
        b'Cookie: olpc-update-admin="\\377\\000\xff.a.b"; =; ;;;',
        b"Accept-Language: " + b"es;q=0.5," * 1600,
        b"Accept-Language: es;q=nan, en;q=1e999, ;;q=\xff, *",
        b"Accept-Encoding: gzip;q=9, br, " + b"x," * 7000,
    ],
    ids=lambda header: header[:36].decode("latin-1"),
)
def test_a_page_for_odd_headers(served: Served, header: bytes) -> None:
    said = served.raw(get(b"/laptops?" + b"q=1&" * 100, header + b"\r\n"))
    assert said.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "host",
    [
        *(
            b"evil/..",
            b"a b",
            b"x" * 300,
            b"h:99999999",
            b"[::1",
            b"user@h",
            b"h#",
            b"",
        ),
        b"h\\x",
    ],
    ids=repr,
)
def test_hosts_that_are_none(served: Served, host: bytes) -> None:
    octets = post(FORMS[0], QUERY).replace(b"Host: h", b"Host: " + host)
    assert status(served, octets) == 400


def test_forged_headers_of_a_proxy_are_not_believed(served: Served) -> None:
    forged = b"X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Host: evil.example\r\n"
    forged += b"X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\n"
    forged += b"Forwarded: for=10.9.9.9;host=evil.example\r\n"
    said = served.raw(post(FORMS[0], QUERY, forged))
    assert said.startswith(b"HTTP/1.1 200")
    page = served.raw(get(b"/status.json", forged))
    assert b"127.0.0.1" in page
    for text in (b"evil", b"10.9.9.9"):
        assert text not in said
        assert text not in page


# --- paths and ranges -------------------------------------------------------------


@pytest.mark.parametrize(
    "top", [b"/builds/", b"/static/", b"/laptops/", b"/builds/762/"]
)
@pytest.mark.parametrize(
    "way",
    [
        b"../site.toml",
        b"%2e%2e/site.toml",
        b"%252e%252e/site.toml",
        b"..%2fsite.toml",
        b"..%5csite.toml",
        b"..\\site.toml",
        b"%c0%ae%c0%ae/site.toml",
        b"/etc/passwd",
        b"%2fetc/passwd",
        b"%00",
        b"../keys/oats.private",
        b"root/../../../keys/oats.private",
        b".lock",
        b"a/" * 4000,
        b"A" * 8000,
    ],
    ids=lambda way: repr(way[:30]),
)
def test_no_way_leads_out(site: Site, served: Served, top: bytes, way: bytes) -> None:
    said = served.raw(get(top + way))
    # an old werkzeug points from two slashes to one
    assert said[9:12] in {b"308", b"400", b"404"}
    assert len(said) < 2500
    for hidden in (site.path / "site.toml", *site.keys.glob("*.private")):
        assert hidden.read_bytes()[:60] not in said
    assert b"root:x:" not in said


def test_an_absolute_address_is_a_path_of_ours(served: Served) -> None:
    assert status(served, get(b"http://evil.example/builds/762/contents")) == 200
    assert status(served, get(b"//evil.example/")) == 404
    assert status(served, get(b"*")) == 404


@pytest.mark.parametrize(
    ("ranges", "wanted"),
    [
        pytest.param(b",".join(b"%d-" % n for n in range(2000)), 200, id="2,000"),
        pytest.param(b"0-," * 4000, 200, id="all of them all"),
        pytest.param(b"9-3", 200, id="the end before the start"),
        pytest.param(b"0-" + b"9" * 9000, 200, id="a huge end"),
        pytest.param(b"9" * 9000 + b"-", 200, id="a huge start"),
        pytest.param(b"999999-", 416, id="behind the end"),
        pytest.param(b"0-0,5-6", 206, id="two"),
    ],
)
def test_ranges(served: Served, ranges: bytes, wanted: int) -> None:
    path = b"/builds/762/root/etc/issue"
    said = served.raw(get(path, b"Range: bytes=" + ranges + b"\r\n"))
    assert int(said[9:12]) == wanted
    assert len(said) < 101_000, "nothing is sent twice"


# --- floods -----------------------------------------------------------------------


def test_guesses_at_the_password_one_at_a_time(served: Served) -> None:
    def guess(number: int) -> int:
        while True:
            reply = ask(
                *(served.port, "POST", "/login", f"password=wrong{number}"),
                {"Content-Type": "application/x-www-form-urlencoded"},
                source="127.0.0.7",
            )
            if reply.status != 503:  # too many at once: again
                return reply.status
            time.sleep(0.3)

    with ThreadPoolExecutor(30) as pool:
        seen = list(pool.map(guess, range(60)))
    assert seen.count(403) == TRIES
    assert seen.count(429) == 60 - TRIES


@pytest.mark.parametrize("trickle", [b"X: y\r\n", b"x"], ids=["lines", "octets"])
def test_a_request_that_never_ends_is_ended(tmp_path: Path, trickle: bytes) -> None:
    """Who sends a little now and then is not silent, and is hung up on all the same."""
    shorter = "from olpc_update_query.server import hasty\nhasty.LONGEST = 1\n"
    with (
        serve(make_site(tmp_path).path, before=shorter) as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as link,
    ):
        link.sendall(b"POST /antitheft/1/ HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            drip(link, trickle, 60)


def drip(link: socket.socket, octets: bytes, seconds: float) -> None:
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        link.sendall(octets)
        time.sleep(0.1)
