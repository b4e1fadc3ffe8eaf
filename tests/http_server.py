"""A real HTTP server on loopback that can be told to misbehave, by name.

It serves the files below a directory with ranges and strong ETags, replies to POST
with what it was given, and is a plain HTTP proxy for requests that name a host.
"""

import base64
import contextlib
import gzip
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import NamedTuple, cast
from urllib.parse import unquote, urlsplit


class Trouble(StrEnum):
    """What can go wrong with one reply."""

    CHANGED_TAG = "another ETag each time"
    CHUNKED = "chunks, no length"  # legal, but not what a file server does
    DIES = "cut after some bytes, and gone afterwards"
    DRIP = "a byte now and then"
    ENDLESS = "a body that never ends"
    ERROR = "503 with Retry-After"
    FORBIDDEN = "403"
    GZIP = "compressed though not asked"
    HANGUP = "hang up without a word"
    HTML = "a portal's page with status 200"
    IGNORE_RANGE = "the whole, whatever was asked"
    FEW_RANGES = "the first three of several ranges"
    FIRST_RANGE = "the first of several ranges, alone"
    LOST = "404"
    NO_TAG = "no ETag, no date"
    PORTAL = "302 to a portal"
    RANGES_FORBIDDEN = "403 for several ranges"
    RANGES_IGNORED = "the whole for several ranges"
    RANGES_JOINED = "all from the first to the last of several ranges"
    RANGES_MIXED = "other bytes in several ranges"
    RANGES_REVERSED = "several ranges, the last one first"
    RANGES_UNMET = "416 for several ranges"
    SHORT_LENGTH = "Content-Length larger than the body"
    SLOW_HEADERS = "headers a byte at a time"
    STALL = "silence after some bytes"
    TRUNCATE = "cut after some bytes"
    WRONG_BYTES = "other bytes of the same length"
    WRONG_RANGE = "206 for another range"


class Plan(NamedTuple):
    """How to misbehave.

    Attributes:
        trouble: In which way.
        after: After how many bytes of the body, where that matters.
        times: How often; -1 for always.
        pace: Seconds between two bytes of a drip.
    """

    trouble: Trouble
    after: int = 0
    times: int = -1
    pace: float = 0.02


class Seen(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    port: int = 0

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass
class Reply:
    """What POST gets."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"[]"


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    site: "Site"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are part of the tests."""


class Site:
    """A directory on a port of 127.0.0.1.

    Attributes:
        root: What is served.
        seen: Every request so far.
        plans: How to misbehave, by the last component of the path; ``*`` for all.
        reply: What POST gets, or makes it from the request.
        wants: ``user:password`` that a proxied request must show.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: list[Seen] = []
        self.plans: dict[str, Plan] = {}
        self.reply: Reply | Callable[[Seen], Reply] = Reply()
        self.wants: str | None = None
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.site = self
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return cast("tuple[str, int]", self._server.server_address)[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def misbehave(
        self,
        name: str,
        trouble: Trouble,
        *,
        after: int = 0,
        times: int = -1,
        pace: float = 0.02,
    ) -> None:
        """Misbehave for files of this name from now on."""
        self.plans[name] = Plan(trouble, after, times, pace)

    def take(self, name: str) -> Plan | None:
        """Return the plan for one request, and count it."""
        with self._lock:
            key = name if name in self.plans else "*"
            plan = self.plans.get(key)
            if plan is None or plan.times == 0:
                return None
            self.plans[key] = plan._replace(times=max(plan.times - 1, -1))
            if plan.trouble is Trouble.DIES:
                self.plans[key] = Plan(Trouble.HANGUP)
            return plan

    def names(self) -> list[str]:
        """Return the last components of the paths asked for, in order."""
        return [seen.name for seen in self.seen]

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.01)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Site]:
    """Serve a directory until the block ends."""
    site = Site(root)
    thread = threading.Thread(target=site.run, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.close()
        thread.join()


def unused_port() -> int:
    """Return a port on which nobody listens."""
    with TCPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return cast("tuple[str, int]", server.server_address)[1]


_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_SEVERAL = re.compile(r"bytes=(\d+-\d+(?:,\d+-\d+)+)")
BOUNDARY = "between_the_parts"


def parts_of(data: bytes, named: Sequence[tuple[tuple[int, int], bytes]]) -> bytes:
    """Return the body of a reply with several ranges, each with its bytes."""
    body = b"".join(
        f"\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Range: bytes {start}-{end - 1}/{len(data)}\r\n\r\n".encode()
        + part
        for (start, end), part in named
    )
    return body + f"\r\n--{BOUNDARY}--\r\n".encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    plan: Plan | None

    def setup(self) -> None:
        super().setup()
        self.site = self.server.site

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if not self._admitted(self.rfile.read(length)):
            return
        if self.plan is not None:
            self._special(b"x" * 1000)
            return
        reply = self.site.reply
        if callable(reply):
            reply = reply(self.site.seen[-1])
        self._send(reply.status, dict(reply.headers), reply.body)

    def do_CONNECT(self) -> None:
        if self._admitted(b""):
            self._send(403, {}, b"no tunnels here")

    def do_GET(self) -> None:
        if not self._admitted(b""):
            return
        path = self.site.root / unquote(urlsplit(self.path).path).lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file() or self._is(Trouble.LOST):
            self._send(404, {}, b"not here")
            return
        data = path.read_bytes()
        if self._is(Trouble.WRONG_BYTES):
            after = self.plan.after if self.plan else 0
            data = data[:after] + bytes(byte ^ 0x55 for byte in data[after:])
        self._file(data)

    def _admitted(self, body: bytes) -> bool:
        port = self.client_address[1]
        seen = Seen(self.command, self.path, dict(self.headers), body, port)
        self.site.seen.append(seen)
        self.plan = self.site.take(seen.name)
        shown = self.headers.get("Proxy-Authorization", "")
        wanted = self.site.wants
        if wanted is None:
            return True
        if shown == "Basic " + base64.b64encode(wanted.encode()).decode():
            return True
        self._send(407, {"Proxy-Authenticate": 'Basic realm="school"'}, b"who?")
        return False

    def _is(self, trouble: Trouble) -> bool:
        return self.plan is not None and self.plan.trouble is trouble

    def _file(self, data: bytes) -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if self._is(Trouble.CHANGED_TAG):
            tag = f'"{len(self.site.seen)}"'
        headers = {} if self._is(Trouble.NO_TAG) else {"ETag": tag}
        several = _SEVERAL.fullmatch(self.headers.get("Range", ""))
        if several is not None and not self._is(Trouble.IGNORE_RANGE):
            pairs = (pair.split("-") for pair in several[1].split(","))
            self._several(data, [(int(a), int(b) + 1) for a, b in pairs], headers)
            return
        start, end, status = self._wanted(data, tag)
        if status == 416:
            self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            return
        if status == 206:
            moved = 1 if self._is(Trouble.WRONG_RANGE) else 0
            headers["Content-Range"] = (
                f"bytes {start + moved}-{end - 1 + moved}/{len(data) + moved}"
            )
        self._special(data[start:end], status, headers)

    def _several(
        self, data: bytes, spans: list[tuple[int, int]], headers: dict[str, str]
    ) -> None:
        named = [(span, data[span[0] : span[1]]) for span in spans]
        if self._is(Trouble.RANGES_FORBIDDEN):
            self._send(403, {}, b"no")
        elif self._is(Trouble.RANGES_UNMET):
            self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        elif self._is(Trouble.RANGES_IGNORED):
            self._send(200, headers, data)
        elif self._is(Trouble.FIRST_RANGE) or self._is(Trouble.RANGES_JOINED):
            start, end = spans[0][0], spans[-self._is(Trouble.RANGES_JOINED)][1]
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            self._send(206, headers, data[start:end])
        else:
            self._special(self._parts(data, named, headers), 206, headers)

    def _parts(
        self,
        data: bytes,
        named: list[tuple[tuple[int, int], bytes]],
        headers: dict[str, str],
    ) -> bytes:
        if self._is(Trouble.FEW_RANGES):
            named = named[:3]
        elif self._is(Trouble.RANGES_REVERSED):
            named = named[::-1]
        elif self._is(Trouble.RANGES_MIXED):
            named = [(span, part[::-1]) for span, part in named]
        headers["Content-Type"] = f"multipart/byteranges; boundary={BOUNDARY}"
        return parts_of(data, named)

    def _wanted(self, data: bytes, tag: str) -> tuple[int, int, int]:
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", tag)
        if found is None or condition != tag or self._is(Trouble.IGNORE_RANGE):
            return 0, len(data), 200
        start = int(found[1])
        end = min(int(found[2]) + 1, len(data)) if found[2] else len(data)
        return start, end, 206 if start < end else 416

    def _special(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        headers = headers or {}
        plan = self.plan or Plan(Trouble.NO_TAG)
        match plan.trouble:
            case Trouble.PORTAL:
                self._send(302, {"Location": "http://portal.test/login?from=x"}, b"")
            case Trouble.HTML:
                page = b"<html>Welcome to the airport</html>"
                self._send(200, {"Content-Type": "Text/HTML; charset=utf-8"}, page)
            case Trouble.ERROR:
                self._send(503, {"Retry-After": "120"}, b"later")
            case Trouble.FORBIDDEN:
                self._send(403, {}, b"no")
            case Trouble.GZIP:
                packed = {**headers, "Content-Encoding": "gzip"}
                self._send(status, packed, gzip.compress(body))
            case Trouble.HANGUP:
                self.close_connection = True
            case _:
                self._broken(plan, body, status, headers)

    def _broken(
        self, plan: Plan, body: bytes, status: int, headers: dict[str, str]
    ) -> None:
        """Send a body that does not end as it should, or any other plain one."""
        length = {**headers, "Content-Length": str(len(body))}
        match plan.trouble:
            case Trouble.TRUNCATE | Trouble.DIES | Trouble.STALL:
                self._head(status, length)
                self.wfile.write(body[: plan.after])
                self.wfile.flush()
                if plan.trouble is Trouble.STALL:
                    self.site.closing.wait(30)
                self.close_connection = True
            case Trouble.SHORT_LENGTH:
                self._head(status, {**headers, "Content-Length": str(len(body) + 9)})
                self.wfile.write(body)
                self.close_connection = True
            case Trouble.DRIP:
                self._head(status, length)
                self._drip(body, plan.pace)
            case Trouble.SLOW_HEADERS:
                self._drip(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 5000, plan.pace)
            case _:
                self._unmeasured(plan, body, status, headers)

    def _unmeasured(
        self, plan: Plan, body: bytes, status: int, headers: dict[str, str]
    ) -> None:
        """Send a body of unknown length, or any other plain one."""
        match plan.trouble:
            case Trouble.CHUNKED:
                self._head(status, {**headers, "Transfer-Encoding": "chunked"})
                for at in range(0, len(body), 1000):
                    piece = body[at : at + 1000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.write(b"0\r\n\r\n")
            case Trouble.ENDLESS:
                self._head(status, {**headers, "Connection": "close"})
                with contextlib.suppress(OSError):
                    while not self.site.closing.is_set():
                        self.wfile.write(body or b"x" * 1000)
            case _:
                self._send(status, headers, body)

    def _drip(self, data: bytes, pace: float) -> None:
        with contextlib.suppress(OSError):
            for at in range(len(data)):
                self.wfile.write(data[at : at + 1])
                if self.site.closing.wait(pace):
                    return

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._head(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)
