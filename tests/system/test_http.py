"""HTTP against a real server that misbehaves by name."""

import contextlib
import gc
import gzip
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer
from typing import Protocol

import pytest
import requests

from olpc_update_query import errors
from olpc_update_query.system.headers import retry_after
from olpc_update_query.system.http import HttpTransport, Timeouts
from tests.http_server import Reply, Site, Trouble, serve, unused_port
from tests.proxies import tinyproxy

DATA = bytes(range(256)) * 400  # 102,400 bytes
QUICK = Timeouts(connect=0.5, silence=0.3, reply=0.6)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "file").write_bytes(DATA)
    with serve(tmp_path) as running:
        yield running


class Maker(Protocol):
    """Makes transports that are closed in the end."""

    def __call__(self, **proxies: str) -> HttpTransport: ...


@pytest.fixture
def through() -> Iterator[Maker]:
    with contextlib.ExitStack() as stack:

        def make(**proxies: str) -> HttpTransport:
            made = HttpTransport("test/1", proxies, QUICK)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def transport(through: Maker) -> HttpTransport:
    return through()


# --- the query -----------------------------------------------------------------


def test_query_asks_caches_to_stay_out(site: Site, transport: HttpTransport) -> None:
    reply = transport.post(site.url + "antitheft/1/", b"a=1&b=2", limit=100)
    assert (reply.status, reply.body) == (200, b"[]")
    seen = site.seen[0]
    assert (seen.method, seen.path, seen.body) == ("POST", "/antitheft/1/", b"a=1&b=2")
    assert seen.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert seen.headers["Cache-Control"] == seen.headers["Pragma"] == "no-cache"
    assert seen.headers["Accept-Encoding"] == "identity"
    assert seen.headers["User-Agent"] == "test/1"


def test_counts_every_byte_of_a_query(site: Site, transport: HttpTransport) -> None:
    head = "POST /q HTTP/1.1\r\n"
    transport.post(site.url + "q", b"abc", limit=100)
    lines = sum(len(f"{k}: {v}\r\n") for k, v in site.seen[0].headers.items())
    assert transport.sent == len(head) + lines + len("\r\n") + len("abc")
    assert transport.requests == 1
    assert 50 < transport.received < 300


def test_keeps_no_cookies(site: Site, transport: HttpTransport) -> None:
    site.reply = Reply(headers={"Set-Cookie": "who=me; Path=/"})
    for _ in range(2):
        transport.post(site.url, b"", limit=100)
    assert "Cookie" not in site.seen[1].headers


def test_takes_nothing_from_netrc_or_environment(
    site: Site, through: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    through().post(site.url, b"", limit=100)
    assert "Authorization" not in site.seen[0].headers


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_query_returns_error_pages_as_they_are(
    site: Site, transport: HttpTransport, status: int
) -> None:
    site.reply = Reply(status, {"Content-Type": "Text/HTML; charset=x"}, b"<p>oh</p>")
    reply = transport.post(site.url, b"", limit=100)
    assert reply[:3] == (status, "text/html", b"<p>oh</p>")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"Retry-After": "120"}, 120, id="seconds"),
        pytest.param(
            {
                "Date": "Thu, 01 Jan 1970 00:00:10 GMT",
                "Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT",
            },
            50,
            id="a date, by the server's own clock",
        ),
        pytest.param(
            {
                "Date": "Thu, 01 Jan 1970 00:01:00 GMT",
                "Retry-After": "Thu, 01 Jan 1970 00:00:10 GMT",
            },
            0,
            id="a date in the past",
        ),
        pytest.param({}, None, id="absent"),
        pytest.param({"Retry-After": "soon"}, None, id="nonsense"),
        pytest.param({"Retry-After": "-5"}, None, id="negative"),
        pytest.param({"Retry-After": "٣"}, None, id="digits of another script"),
        pytest.param({"Retry-After": "9" * 30}, None, id="for ever"),
    ],
)
def test_reads_retry_after(headers: dict[str, str], seconds: int | None) -> None:
    response = requests.Response()
    response.headers.update(headers)
    assert retry_after(response) == seconds


def test_query_reports_retry_after(site: Site, transport: HttpTransport) -> None:
    site.misbehave("*", Trouble.ERROR)
    assert transport.post(site.url, b"", limit=100).retry_after == 120


def test_redirect_of_a_query_is_a_portal(site: Site, transport: HttpTransport) -> None:
    site.misbehave("*", Trouble.PORTAL)
    with pytest.raises(errors.NoAnswer, match=r"points to http://portal\.test/login"):
        transport.post(site.url, b"", limit=100)
    assert len(site.seen) == 1


def test_redirect_body_is_not_read(site: Site, transport: HttpTransport) -> None:
    site.reply = Reply(302, {"Location": "/x"}, b"x" * 10_000_000)
    with pytest.raises(errors.NoAnswer):
        transport.post(site.url, b"", limit=100)
    assert transport.received < 1000


@pytest.mark.parametrize(
    ("size", "fits"),
    [pytest.param(100, True, id="at it"), pytest.param(101, False, id="above")],
)
def test_query_reads_up_to_its_limit(
    site: Site, transport: HttpTransport, size: int, fits: bool
) -> None:
    site.reply = Reply(body=b"x" * size)
    if fits:
        assert transport.post(site.url, b"", limit=100).body == b"x" * size
    else:
        with pytest.raises(errors.NoAnswer, match="longer than 100 bytes"):
            transport.post(site.url, b"", limit=100)


def test_endless_reply_is_left(site: Site, transport: HttpTransport) -> None:
    site.misbehave("*", Trouble.ENDLESS)
    with pytest.raises(errors.NoAnswer, match="longer than 65536 bytes"):
        transport.post(site.url, b"", limit=65536)
    assert transport.received < 200_000


def test_undoes_a_compression_nobody_asked_for(
    site: Site, transport: HttpTransport
) -> None:
    site.reply = Reply(
        headers={"Content-Encoding": "gzip"}, body=gzip.compress(b"[1,2]")
    )
    assert transport.post(site.url, b"", limit=100).body == b"[1,2]"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        pytest.param("gzip", gzip.compress(b"0" * 5_000_000), id="a bomb"),
        pytest.param("gzip", b"not gzip", id="damaged"),
        pytest.param("br", b"abc", id="unknown coding"),
    ],
)
def test_refuses_what_cannot_be_decoded(
    site: Site, transport: HttpTransport, coding: str, body: bytes
) -> None:
    site.reply = Reply(headers={"Content-Encoding": coding}, body=body)
    with pytest.raises(errors.NoAnswer):
        transport.post(site.url, b"", limit=65536)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(Trouble.STALL, "silent for too long", id="silence"),
        pytest.param(Trouble.DRIP, "no reply within 0.6 seconds", id="drip"),
        pytest.param(Trouble.SLOW_HEADERS, "no reply within 0.6", id="slow headers"),
        pytest.param(Trouble.HANGUP, "closed connection", id="hang-up"),
        pytest.param(
            Trouble.TRUNCATE,
            r"cut off after 100 of 1000|cut off before its end",
            id="cut",
        ),
        pytest.param(
            Trouble.SHORT_LENGTH, r"cut off|IncompleteRead", id="lying length"
        ),
    ],
)
def test_query_that_is_not_answered_is_a_network_error(
    site: Site, transport: HttpTransport, trouble: Trouble, reason: str
) -> None:
    site.misbehave("*", trouble, after=100)
    with pytest.raises(errors.NetworkError, match=reason) as caught:
        transport.post(site.url, b"", limit=2000)
    assert type(caught.value) is errors.NetworkError


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("http://school.invalid/", "name", id="no such name"),
        pytest.param("ftp://127.0.0.1/", "not an http", id="another scheme"),
        pytest.param("http://127.0.0.1:99999/", "not an http", id="no such port"),
        pytest.param("http://[::1/", "not an http", id="broken address"),
        pytest.param("/etc/passwd", "not an http", id="a path"),
    ],
)
def test_unusable_addresses(transport: HttpTransport, url: str, reason: str) -> None:
    with pytest.raises(errors.NetworkError, match=f"(?i){reason}"):
        transport.post(url, b"", limit=10)


def test_refused_connection_is_said_plainly(transport: HttpTransport) -> None:
    url = f"http://127.0.0.1:{unused_port()}/"
    with pytest.raises(errors.NetworkError, match=r"/: Connection refused$"):
        transport.get(url)


def test_errors_show_no_password(transport: HttpTransport) -> None:
    url = f"http://me:secret@127.0.0.1:{unused_port()}/"
    with pytest.raises(errors.NetworkError) as caught:
        transport.get(url)
    assert "secret" not in str(caught.value)


# --- files ---------------------------------------------------------------------


def test_reads_a_file(site: Site, transport: HttpTransport) -> None:
    stream = transport.get(site.url + "file")
    assert (stream.start, stream.total) == (0, len(DATA))
    assert b"".join(stream.chunks) == DATA
    assert len(DATA) < transport.received < len(DATA) + 300


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        pytest.param(1000, None, len(DATA), id="from an offset on"),
        pytest.param(0, 10, 10, id="the first bytes"),
        pytest.param(5, 7, 12, id="a part"),
        pytest.param(len(DATA) - 5, 100, len(DATA), id="past the end"),
    ],
)
def test_reads_a_range(
    site: Site, transport: HttpTransport, start: int, length: int | None, end: int
) -> None:
    stream = transport.get(site.url + "file", start=start, length=length)
    assert (stream.start, stream.total) == (start, len(DATA))
    assert b"".join(stream.chunks) == DATA[start:end]


def test_one_connection_serves_several_requests(
    site: Site, transport: HttpTransport
) -> None:
    for _ in range(3):
        assert b"".join(transport.get(site.url + "file").chunks) == DATA
    transport.post(site.url, b"", limit=10)
    assert len({seen.port for seen in site.seen}) == 1


def test_range_is_only_for_the_same_version(
    site: Site, transport: HttpTransport
) -> None:
    first = transport.get(site.url + "file")
    assert first.validator is not None
    same = transport.get(site.url + "file", start=50, validator=first.validator)
    assert same.start == 50
    assert same.validator == first.validator
    (site.root / "file").write_bytes(DATA[::-1])
    other = transport.get(site.url + "file", start=50, validator=first.validator)
    assert other.start == 0
    assert b"".join(other.chunks) == DATA[::-1]


def test_server_that_knows_no_ranges(site: Site, transport: HttpTransport) -> None:
    site.misbehave("file", Trouble.IGNORE_RANGE)
    stream = transport.get(site.url + "file", start=50, length=10)
    assert stream.start == 0
    assert b"".join(stream.chunks) == DATA


def test_range_past_the_end_brings_the_whole(
    site: Site, transport: HttpTransport
) -> None:
    stream = transport.get(site.url + "file", start=len(DATA))
    assert stream.start == 0
    assert b"".join(stream.chunks) == DATA


def test_chunked_replies_are_read(site: Site, transport: HttpTransport) -> None:
    site.misbehave("file", Trouble.CHUNKED)
    stream = transport.get(site.url + "file")
    assert stream.total is None
    assert b"".join(stream.chunks) == DATA


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        pytest.param(Trouble.LOST, errors.BuildNotFound, id="not there"),
        pytest.param(Trouble.ERROR, errors.NetworkError, id="server error"),
        pytest.param(Trouble.FORBIDDEN, errors.NetworkError, id="forbidden"),
        pytest.param(Trouble.HTML, errors.NoAnswer, id="portal page"),
        pytest.param(Trouble.GZIP, errors.NetworkError, id="compressed"),
        pytest.param(Trouble.WRONG_RANGE, errors.NetworkError, id="another range"),
        pytest.param(Trouble.HANGUP, errors.NetworkError, id="hang-up"),
        pytest.param(Trouble.SLOW_HEADERS, errors.NetworkError, id="slow headers"),
    ],
)
def test_refuses_what_is_not_the_file(
    site: Site,
    transport: HttpTransport,
    trouble: Trouble,
    kind: type[errors.UpdateError],
) -> None:
    site.misbehave("file", trouble)
    with pytest.raises(errors.NetworkError) as caught:
        transport.get(site.url + "file", start=5, length=9)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        pytest.param(
            Trouble.TRUNCATE, "cut off after 50000 of|cut off before its end", id="cut"
        ),
        pytest.param(Trouble.STALL, "silent for too long", id="stalled"),
        pytest.param(Trouble.SHORT_LENGTH, "cut off|IncompleteRead", id="lying length"),
    ],
)
def test_failure_in_mid_body_comes_from_the_iteration(
    site: Site, transport: HttpTransport, trouble: Trouble, reason: str
) -> None:
    site.misbehave("file", trouble, after=50_000)
    stream = transport.get(site.url + "file")
    pieces: list[bytes] = []
    with pytest.raises(errors.NetworkError, match=reason):
        pieces.extend(stream.chunks)
    got = b"".join(pieces)
    assert DATA.startswith(got)
    assert len(got) >= 50_000 - 16 * 1024


def test_range_that_ends_early_is_noticed(site: Site, transport: HttpTransport) -> None:
    site.misbehave("file", Trouble.CHUNKED)
    stream = transport.get(site.url + "file", start=10, length=2000)
    assert b"".join(stream.chunks) == DATA[10:2010]


def test_body_is_left_when_the_reader_stops(
    site: Site, transport: HttpTransport
) -> None:
    site.misbehave("file", Trouble.ENDLESS)
    stream = transport.get(site.url + "file")
    assert next(stream.chunks)
    del stream
    assert transport.received < 200_000


# --- redirects -----------------------------------------------------------------


def test_redirects_of_files_are_followed(
    site: Site, transport: HttpTransport, tmp_path: Path
) -> None:
    with serve(tmp_path) as other, redirecting(site.url + "file") as first:
        stream = transport.get(first + "anything", start=4)
        assert stream.start == 4
        assert b"".join(stream.chunks) == DATA[4:]
        assert not other.seen
    assert transport.requests == 2


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("file:///etc/passwd", id="a local file"),
        pytest.param("ftp://127.0.0.1/x", id="another scheme"),
        pytest.param("", id="itself"),
        pytest.param("http://[broken", id="no address"),
    ],
)
def test_redirects_to_elsewhere_are_refused(
    transport: HttpTransport, target: str
) -> None:
    with redirecting(target) as url, pytest.raises(errors.NoAnswer):
        transport.get(url)


def test_redirects_in_a_circle_end(transport: HttpTransport) -> None:
    with redirecting("?again") as url, pytest.raises(errors.NoAnswer):
        transport.get(url + "/")
    assert transport.requests <= 6


@contextlib.contextmanager
def redirecting(target: str) -> Iterator[str]:
    """Run a server that redirects everything; a target may count up."""
    count = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(302)
            where = f"{target}{next(count)}" if target == "?again" else target
            self.send_header("Location", where)
            self.end_headers()

    with TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(
            target=lambda: server.serve_forever(poll_interval=0.01), daemon=True
        )
        thread.start()
        port = server.server_address[1]
        yield f"http://127.0.0.1:{port!s}/"
        server.shutdown()
        thread.join()


# --- proxies -------------------------------------------------------------------


def test_proxy_with_user_and_password(site: Site, through: Maker) -> None:
    site.wants = "kid:s e/cret"
    transport = through(http=f"http://kid:s%20e%2Fcret@127.0.0.1:{site.port}")
    stream = transport.get("http://updates.test/file")
    assert b"".join(stream.chunks) == DATA
    assert site.seen[0].path == "http://updates.test/file"


def test_proxy_that_refuses_is_named(site: Site, through: Maker) -> None:
    site.wants = "kid:secret"
    transport = through(http=f"http://kid:wrong@127.0.0.1:{site.port}")
    with pytest.raises(errors.ProxyRefused, match="407") as caught:
        transport.post("http://schoolserver/", b"", limit=10)
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("challenge", "refused"),
    [('Basic realm="x"', True), ("", True), ('OLPC-hashcash bits="9"', False)],
)
def test_401_through_a_proxy_is_about_its_password(
    site: Site, through: Maker, challenge: str, refused: bool
) -> None:
    site.reply = Reply(401, {"WWW-Authenticate": challenge} if challenge else {})
    transport = through(http=f"http://127.0.0.1:{site.port}")
    if refused:
        with pytest.raises(errors.ProxyRefused):
            transport.post("http://schoolserver/", b"", limit=10)
    else:
        assert transport.post("http://schoolserver/", b"", limit=10).status == 401
    assert through().post(site.url, b"", limit=10).status == 401


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tunnel_that_is_refused_is_named(site: Site, through: Maker) -> None:
    site.wants = "kid:secret"
    transport = through(https=f"http://127.0.0.1:{site.port}")
    with pytest.raises(errors.ProxyRefused, match="407"):
        transport.get("https://updates.test/file")
    site.wants = None
    with pytest.raises(errors.NetworkError, match=r"the proxy: .*403") as caught:
        transport.get("https://updates.test/file")
    assert type(caught.value) is errors.NetworkError
    del caught
    gc.collect()  # urllib3 1.26 leaves the socket of a refused tunnel to that


def test_exceptions_go_around_the_proxy(site: Site, through: Maker) -> None:
    dead = f"http://127.0.0.1:{unused_port()}"
    transport = through(http=dead, no_proxy="127.0.0.0/8")
    assert transport.get(site.url + "file").total == len(DATA)


@pytest.mark.needs("tinyproxy")
@pytest.mark.parametrize(
    ("credentials", "works"),
    [
        pytest.param("kid:secret@", True, id="right password"),
        pytest.param("", False, id="no password"),
        pytest.param("kid:wrong@", False, id="wrong password"),
    ],
)
def test_real_proxy(
    site: Site, tmp_path: Path, credentials: str, works: bool, through: Maker
) -> None:
    with tinyproxy(tmp_path) as port:
        transport = through(http=f"http://{credentials}127.0.0.1:{port}")
        if works:
            stream = transport.get(site.url + "file")
            assert b"".join(stream.chunks) == DATA
        else:
            with pytest.raises(errors.ProxyRefused):
                transport.get(site.url + "file")


def test_importing_the_program_does_not_import_requests() -> None:
    code = (
        "import sys, olpc_update_query.ports, olpc_update_query.system.network;"
        "sys.exit('requests' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
