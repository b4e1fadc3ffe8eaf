"""Captive portals, and other things in between: never an answer, never a failure.

Whatever they do, the laptop asks again at the next link, as if it had had none.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable

import pytest

from olpc_update_query.cli import render
from olpc_update_query.model.messages import Query
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.report import Unanswered
from olpc_update_query.run.poll import Wish
from olpc_update_query.system import http
from tests.attacks.forge import Forge
from tests.attacks.victim import Victim, assert_plain
from tests.raw_server import Part, raw_server
from tests.run.polled import NOW
from tests.simulator import DAY, set_due

QUICK = http.Timeouts(connect=5, silence=0.5, reply=1.5)
LINK = Wish(Trigger.NETWORK)
PAGE = b"<!DOCTYPE html><html><script>pay()</script></html>"

Make = Callable[[bytes], Iterable[Part]]
"""What is sent, from the genuine answer."""


def reply(
    body: bytes = PAGE, status: str = "200 OK", *headers: str, length: int | None = None
) -> bytes:
    """Return a whole reply, with any length in its header."""
    lines = [
        f"HTTP/1.1 {status}",
        *headers,
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def to(where: str, status: str = "302 Found") -> Make:
    return lambda _: [reply(b"", status, f"Location: {where}")]


def page(status: str, kind: str = "text/html") -> Make:
    return lambda _: [reply(PAGE, status, f"Content-Type: {kind}")]


def packed(coding: str, pack: Callable[[bytes], bytes]) -> Make:
    return lambda _: [reply(pack(PAGE), "200 OK", f"Content-Encoding: {coding}")]


def chunked(*parts: bytes) -> Make:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return lambda _: [head, *parts]


def drip(data: bytes) -> list[Part]:
    return [part for at in range(len(data)) for part in (data[at : at + 1], 0.05)]


HTML = "a web page, as a captive portal shows"
MIXED = "a web page is mixed into the reply"
AT_ONCE = [
    pytest.param(
        to("http://portal.test/login"),
        11,
        "points to http://portal.test/login, as a captive portal does",
        id="redirect",
    ),
    pytest.param(
        to("https://portal.test/login"),
        11,
        "points to https://portal.test",
        id="redirect to HTTPS",
    ),
    pytest.param(
        to("https://user:secret@portal.test/"),
        11,
        "points to https://portal.test/",
        id="redirect with a password",
    ),
    pytest.param(
        to("/antitheft/1/"), 11, "points to /antitheft/1/", id="redirect to itself"
    ),
    pytest.param(
        to("http://a.test/", "301 Moved"), 11, "points to", id="redirect for ever"
    ),
    pytest.param(
        to("http://a.test/", "307 Temporary Redirect"),
        11,
        "points to",
        id="redirect that keeps the method",
    ),
    pytest.param(
        to("javascript:alert(1)"), 11, "points to javascript", id="redirect to a script"
    ),
    pytest.param(
        lambda _: [reply(b"", "302 Found")],
        11,
        "302 Found came instead",
        id="redirect to nowhere",
    ),
    pytest.param(page("200 OK"), 11, HTML, id="a page"),
    pytest.param(
        page("200 OK", "application/json"), 11, HTML, id="a page that says it is JSON"
    ),
    pytest.param(
        page("200 OK", "text/plain"), 11, HTML, id="a page that says it is a text"
    ),
    pytest.param(page("403 Forbidden"), 11, HTML, id="403"),
    pytest.param(page("404 Not Found"), 11, HTML, id="404"),
    pytest.param(page("401 Unauthorized"), 11, HTML, id="401"),
    pytest.param(
        page("511 Network Authentication Required"),
        11,
        "a captive portal wants somebody to log in",
        id="511",
    ),
    pytest.param(lambda _: [reply(b"")], 11, "0 bytes", id="an empty reply"),
    pytest.param(
        lambda good: [reply(good + PAGE)], 11, MIXED, id="a page behind a good answer"
    ),
    pytest.param(
        lambda good: [reply(good + b"<script src=//ads></script>")],
        11,
        MIXED,
        id="a script behind a good answer",
    ),
    pytest.param(
        lambda good: [reply(PAGE + good)], 11, HTML, id="a page before a good answer"
    ),
    pytest.param(
        lambda good: [reply(good.replace(b"obey", b'<img src="x">'))],
        11,
        MIXED,
        id="an image in a good answer",
    ),
    pytest.param(
        lambda good: [reply(b"\xef\xbb\xbf" + good)],
        11,
        "not an answer",
        id="a byte order mark before it",
    ),
    pytest.param(
        lambda good: [reply(good[: len(good) // 2])],
        25,
        "canonical JSON refused",
        id="half an answer, whole by its length",
    ),
    pytest.param(
        lambda good: [reply(good[:99], length=len(good))],
        10,
        "cut off (after|before)",
        id="half an answer",
    ),
    pytest.param(
        lambda good: [reply(good, length=len(good) - 9)],
        25,
        "canonical JSON refused",
        id="a length too small",
    ),
    pytest.param(
        lambda good: [reply(good, length=10**15)],
        10,
        "cut off (after|before)",
        id="a length too large",
    ),
    pytest.param(packed("gzip", gzip.compress), 11, HTML, id="gzip"),
    pytest.param(packed("deflate", zlib.compress), 11, HTML, id="deflate"),
    pytest.param(
        packed("gzip", bytes), 11, "cannot be decompressed", id="gzip that is none"
    ),
    pytest.param(packed("br", bytes), 11, "in the coding 'br'", id="brotli"),
    pytest.param(packed("zstd", bytes), 11, "in the coding 'zstd'", id="zstd"),
    pytest.param(packed("gzip, br", bytes), 11, "in the coding", id="two codings"),
    pytest.param(chunked(b"xyz\r\n" + PAGE), 10, "127.0.0.1", id="chunks of no length"),
    pytest.param(
        chunked(b"-5\r\nabcde\r\n0\r\n\r\n"),
        10,
        "127.0.0.1",
        id="chunks of a negative length",
    ),
    pytest.param(
        chunked(b"ffffffffff\r\n["), 10, "127.0.0.1", id="a chunk that never comes"
    ),
    pytest.param(chunked(b"3\r\n[[[\r\n"), 10, "127.0.0.1", id="no last chunk"),
    pytest.param(lambda _: [PAGE], 10, "127.0.0.1", id="HTTP/0.9"),
    pytest.param(lambda good: [good], 10, "127.0.0.1", id="a good answer in HTTP/0.9"),
    pytest.param(
        lambda _: [b"ICY 200 OK\r\n\r\n"], 10, "127.0.0.1", id="another protocol"
    ),
    pytest.param(
        lambda _: [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n[]"],
        10,
        "header line",
        id="a giant header",
    ),
    pytest.param(
        lambda _: [b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 5000 + b"\r\n[]"],
        10,
        "headers",
        id="thousands of headers",
    ),
    pytest.param(
        lambda _: [b"HTTP/1.1 99999 OK\r\n\r\n"],
        10,
        "127.0.0.1",
        id="an impossible status",
    ),
    pytest.param(
        lambda _: [b"\x15\x03\x01\x00\x02\x02\x46"], 10, "127.0.0.1", id="TLS"
    ),
    pytest.param(lambda _: [], 10, "127.0.0.1", id="nothing"),
]
SLOW = [
    pytest.param(
        lambda good: [reply(good)[:-9], 60.0],
        "silent for too long",
        id="silence before the end",
    ),
    pytest.param(
        lambda good: [b"HTTP/1.1 200 OK\r\n\r\n" + good, 60.0],
        "silent for too long",
        id="kept alive, without a length",
    ),
    pytest.param(lambda _: [60.0], "silent for too long", id="silence"),
    pytest.param(
        lambda _: [b"HTTP/1.1 200 OK\r\n", 60.0],
        "silent for too long",
        id="silence among the headers",
    ),
    pytest.param(lambda good: drip(reply(good)), "no reply within", id="a drip"),
    pytest.param(
        lambda _: drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 5000),
        "no reply within",
        id="a drip of headers",
    ),
]


def meet(victim: Victim, make: Make, code: int, says: str) -> None:
    """Let the laptop ask through a portal when a link comes up."""

    def send(body: bytes) -> Iterable[Part]:
        query = Query.decode(body)
        return make(Forge(query, query, b"").genuine())

    set_due(victim.laptop.root, NOW - DAY, NOW - 5)
    before, believed = victim.picture(), victim.belief()
    failures = victim.laptop.machine().asker.load("state")["failures"]
    with raw_server(send) as portal:
        found, heard = victim.laptop.poll(LINK, portal.url)
        assert portal.asked == 1
        assert victim.picture() == before
        assert found == code, heard.outcome
        assert_plain(heard, says)
        (event,) = heard.heard(Unanswered)
        told = " ".join(render.story(event, NOW))
        assert str(event.error) in told, "-v tells what is in between"
        assert "secret" not in heard.outcome.text
        assert victim.belief() == believed
        kept = victim.laptop.machine().asker.load("state")
        assert kept["failures"] == failures, "no failure of the server"
        assert victim.laptop.due()[1] <= victim.laptop.clock.now(), "still due"
        assert victim.laptop.poll(LINK, portal.url)[0] == code
        assert portal.asked == 2, "the next link asks again"


@pytest.mark.parametrize(("make", "code", "says"), AT_ONCE)
def test_portals(victim: Victim, make: Make, code: int, says: str) -> None:
    meet(victim, make, code, says)
    victim.attack(Forge.genuine)
    assert victim.laptop.poll(LINK)[0] == 0, "without it, the same link serves"


@pytest.mark.parametrize(("make", "says"), SLOW)
def test_slow_portals(
    victim: Victim, make: Make, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "Timeouts", lambda: QUICK)
    meet(victim, make, 10, says)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda good: [reply(good)], id="plain"),
        pytest.param(
            lambda good: [reply(good, "200 OK", "Content-Type: text/html")],
            id="called a page",
        ),
        pytest.param(
            lambda good: [
                reply(gzip.compress(good), "200 OK", "Content-Encoding: gzip")
            ],
            id="gzip",
        ),
        pytest.param(
            lambda good: [b"HTTP/1.0 200 OK\r\n\r\n" + good],
            id="HTTP/1.0, without a length",
        ),
        pytest.param(
            lambda good: [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"%x\r\n%b\r\n0\r\n\r\n" % (len(good), good),
            ],
            id="chunks",
        ),
        pytest.param(
            lambda good: [b"HTTP/1.1 100 Continue\r\n\r\n", reply(good)],
            id="behind 100 Continue",
        ),
        pytest.param(
            lambda good: [
                part
                for piece in (reply(good)[:300], reply(good)[300:])
                for part in (piece, 0.2)
            ],
            id="in two pieces",
        ),
    ],
)
def test_what_changes_nothing(victim: Victim, make: Make) -> None:
    """The controls: proxies may pack and cut, if the octets are the same."""

    def send(body: bytes) -> Iterable[Part]:
        query = Query.decode(body)
        return make(Forge(query, query, b"").genuine())

    with raw_server(send) as server:
        code, heard = victim.laptop.ask(server.url)
    assert code == 0, heard.outcome
