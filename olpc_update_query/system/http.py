"""HTTP on requests, for links that hardly work.

Time-outs are by silence, so that a slow link is not a dead one; only the small reply
to a query has a bound on the whole. Nothing is kept between requests but the
connection: no cookies, no credentials from files, nothing from the environment.

Importing this module costs as much as requests does: import it where it is used.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from http.client import HTTPException, IncompleteRead
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple, TypeVar

import requests
import urllib3

from olpc_update_query import errors
from olpc_update_query.ports import Pieces, RangesRefused, Reply, Stream
from olpc_update_query.system.headers import (
    check_status,
    content_length,
    content_range,
    decoded,
    head_size,
    is_from_proxy,
    is_web_address,
    media_type,
    pointed_to,
    proxy_challenges,
    redirect_target,
    refusal_of,
    request_size,
    retry_after,
    shown,
    status,
    validator_of,
)
from olpc_update_query.system.multipart import Parts, boundary_of
from olpc_update_query.system.network import proxy_for
from olpc_update_query.system.proxy_login import ProxyLogin

PIECE = 16 * 1024  # the most that is read at a time
MAX_REDIRECTS = 5
LONGEST_REASON = 150
_FOLLOWED = (301, 302, 303, 307, 308)
_FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException)
_T = TypeVar("_T")


class Timeouts(NamedTuple):
    """How long to wait, in seconds.

    Attributes:
        connect: For a connection.
        silence: For the next byte. TCP may bring it after most of a minute, and with
            it what has come behind it.
        reply: For a whole reply to ``post``, name resolution included.
    """

    connect: float = 10.0
    silence: float = 60.0
    reply: float = 60.0


class _Session(requests.Session):
    """A session that leaves redirects alone.

    Even when told not to follow one, requests would read the whole of its body.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Say that no reply is a redirect."""


class HttpTransport:
    """HTTP as the rest of the program sees it (``ports.Transport``).

    Args:
        user_agent: How we name ourselves.
        proxies: As ``network.proxies_for`` works them out.
        timeouts: How long to wait for what.

    Attributes:
        sent: Bytes sent so far: request lines, headers and bodies.
        received: Bytes received so far: status lines, headers and bodies.
        requests: Requests made so far, redirects included.
    """

    def __init__(
        self,
        user_agent: str,
        proxies: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.sent = self.received = self.requests = 0
        self._piece = PIECE
        self._counting = threading.Lock()  # downloads come in several threads
        self._proxies = proxies or {}
        self._logins: dict[str, ProxyLogin] = {}
        self._timeouts = timeouts or Timeouts()
        self._session = _Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.headers.clear()  # what requests adds says nothing to a server
        self._session.headers["User-Agent"] = user_agent
        self._session.headers["Accept-Encoding"] = "identity"

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._session.close()

    def post(
        self, url: str, body: bytes, *, limit: int, authorization: str = ""
    ) -> Reply:
        """Send a form and read a reply of at most ``limit`` bytes.

        Args:
            url: Where to.
            body: The form.
            limit: Bytes.
            authorization: What a challenge asked for, if one did.

        Raises:
            NoAnswer: A redirect, which for a query is a captive portal, or a body
                that is too long or undecodable.
            ProxyRefused: The proxy wants other credentials.
            NetworkError: No reply, or not all of it in time.
        """
        patience = self._timeouts.reply
        extra = {"Authorization": authorization} if authorization else {}
        return within(patience, shown(url), lambda: self._ask(url, body, limit, extra))

    def _ask(self, url: str, body: bytes, limit: int, extra: dict[str, str]) -> Reply:
        headers = extra | {
            "Content-Type": "application/x-www-form-urlencoded",
            "Cache-Control": "no-cache",
            "Pragma": "no-cache",
        }
        with contextlib.closing(self._send("POST", url, headers, body)) as response:
            if 300 <= response.status_code < 400:
                raise errors.NoAnswer(shown(url), pointed_to(response))
            raw = bytearray()
            for piece in self._body(response, content_length(response)):
                raw += piece
                if len(raw) > limit:
                    raise errors.NoAnswer(
                        shown(url), f"the reply is longer than {limit} bytes"
                    )
        return Reply(
            response.status_code,
            media_type(response),
            decoded(bytes(raw), response, limit),
            retry_after(response),
            response.headers.get("WWW-Authenticate", ""),
        )

    def get(
        self,
        url: str,
        *,
        start: int = 0,
        length: int | None = None,
        validator: str | None = None,
    ) -> Stream:
        """Ask for ``length`` bytes from ``start``; see ``ports.Transport``.

        Raises:
            BuildNotFound: The server does not have it.
            NoAnswer: Somebody else's page came instead.
            ProxyRefused: The proxy wants other credentials.
            NetworkError: Anything else; iterating the chunks raises it as well.
        """
        advance = self._book(length)
        headers = {}
        if start or length is not None:
            last = "" if length is None else start + length - 1
            headers["Range"] = f"bytes={start}-{last}"
            if validator:
                headers["If-Range"] = validator
        response = self._follow(url, headers)
        if response.status_code == 416:  # it is shorter than we thought: another file
            response.close()
            response = self._follow(url, {})
        try:
            return self._stream(response, start, length, advance)
        except BaseException:
            response.close()
            raise

    def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> Pieces:
        """Ask for several ranges at once; see ``ports.Transport``.

        Raises:
            RangesRefused: Anything else came; iterating raises it as well.
            NetworkError: The link failed; likewise.
        """
        advance = self._book(sum(end - start for start, end in ranges))
        wanted = ",".join(f"{start}-{end - 1}" for start, end in ranges)
        response = self._follow(url, {"Range": f"bytes={wanted}"})
        try:
            return self._pieces(response, ranges, advance)
        except BaseException:
            response.close()
            raise

    def _book(self, length: int | None) -> int:
        """Return for how many of the bytes to come is paid in advance."""
        return 0

    def _paced(
        self,
        body: "_Body",
        advance: int,
        left: int | None,
    ) -> Iterator[bytes]:
        """Return a body as it is to be read."""
        return body

    def _follow(
        self, url: str, headers: dict[str, str], left: int = MAX_REDIRECTS
    ) -> requests.Response:
        """Send a GET and follow redirects, to http and https only."""
        patience = 2 * self._timeouts.connect + self._timeouts.silence
        response = within(patience, shown(url), lambda: self._send("GET", url, headers))
        if response.status_code not in _FOLLOWED:
            return response
        response.close()
        target = redirect_target(url, response)
        if not left or target is None:
            raise errors.NoAnswer(shown(url), pointed_to(response))
        return self._follow(target, headers, left - 1)

    def _pieces(
        self, response: requests.Response, ranges: Sequence[tuple[int, int]], paid: int
    ) -> Pieces:
        """Check what the reply's headers claim, before anybody reads its body."""
        url = shown(response.url)
        coding = response.headers.get("Content-Encoding", "identity")
        if response.status_code != 206 or coding != "identity":
            raise RangesRefused(url, f"several ranges at once: {status(response)}")
        boundary = boundary_of(response.headers.get("Content-Type", ""))
        try:
            head = None if boundary else content_range(response)
        except errors.NetworkError as error:
            raise RangesRefused(url, "several ranges at once: none came") from error
        size = content_length(response)
        body = self._paced(self._body(response, size), paid, size)
        parts = Parts(url, body, ranges, boundary, head)
        return Pieces(parts.total, parts)

    def _stream(
        self,
        response: requests.Response,
        start: int,
        length: int | None,
        paid: int,
    ) -> Stream:
        """Check what the reply's headers claim, before anybody reads its body."""
        url = shown(response.url)
        check_status(response)
        is_partial = response.status_code == 206
        # no portal has the range that was asked for; some small servers call all HTML
        if media_type(response) == "text/html" and not is_partial:
            raise errors.NoAnswer(url, "a web page came instead of the file")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise errors.NetworkError(url, "sent compressed, which was not asked for")
        size = left = content_length(response)
        if is_partial:
            first, end, total = content_range(response)
            left = end - first
            wrong_end = length is not None and end > start + length
            if first != start or wrong_end or size not in {None, end - first}:
                raise errors.NetworkError(url, "another range came than was asked for")
        else:
            first, total = 0, size
        body = self._paced(self._body(response, size), paid, left)
        return Stream(first, total, body, validator_of(response), is_partial)

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None = None
    ) -> requests.Response:
        """Send one request; return when the reply's headers are there."""
        if not is_web_address(url):
            raise errors.NetworkError(shown(url), "not an http or https address")
        proxy = proxy_for(url, self._proxies)
        login = self._login(url, proxy)
        response = self._exchange(method, url, headers, body, login or proxy)
        if response.status_code == 407 and login is not None:
            offered = proxy_challenges(response)
            response.close()
            proof = response.request.headers.get("Proxy-Authorization")
            if login.learn(offered, proof):
                response = self._exchange(method, url, headers, body, login)
        if response.status_code == 407 or (proxy and is_from_proxy(response)):
            response.close()
            raise errors.ProxyRefused(shown(url), refusal_of(response))
        return response

    def _login(self, url: str, proxy: str | None) -> ProxyLogin | None:
        """Return the way to log in at a proxy that forwards plain HTTP."""
        if proxy is None or not url.lower().startswith("http:"):
            return None
        return self._logins.setdefault(proxy, ProxyLogin(proxy))

    def _exchange(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        way: ProxyLogin | str | None,
    ) -> requests.Response:
        """Send one request on its way; return when the reply's headers are there."""
        proxy = way.address if isinstance(way, ProxyLogin) else way
        with _network_errors(shown(url)):
            request = self._session.prepare_request(
                requests.Request(method, url, headers=headers, data=body)
            )
            if isinstance(way, ProxyLogin):
                proof = way.header(method, request.url or "")
                if proof is not None:
                    request.headers["Proxy-Authorization"] = proof
            self._count(sent=request_size(request, proxied=proxy is not None))
            response = self._session.send(
                request,
                stream=True,
                allow_redirects=False,
                timeout=(self._timeouts.connect, self._timeouts.silence),
                proxies={} if proxy is None else {"http": proxy, "https": proxy},
            )
        self._count(head_size(response))
        return response

    def _body(self, response: requests.Response, size: int | None) -> "_Body":
        return _Body(response, size, self._piece, self._count)

    def _count(self, received: int = 0, *, sent: int = 0) -> None:
        with self._counting:
            self.received += received
            self.sent += sent
            self.requests += sent > 0


class _Body(Iterator[bytes]):
    """A body as it comes; exactly ``size`` bytes where that is known.

    Whoever stops reading lets go of it, or closes it: then the connection is closed,
    unless the body has come to its end.
    """

    def __init__(
        self,
        response: requests.Response,
        size: int | None,
        piece: int,
        count: Callable[[int], None],
    ) -> None:
        self._response, self._size, self._count = response, size, count
        self._piece = piece
        self._url, self._got = shown(response.url), 0

    def __next__(self) -> bytes:
        try:
            piece = self._read()
        except BaseException:
            self.close()
            raise
        if not piece:
            self.close()
            raise StopIteration
        return piece

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._response.close()

    def _read(self) -> bytes:
        with _network_errors(self._url):
            piece = _read_some(self._response.raw, self._piece)
        self._count(len(piece))
        self._got += len(piece)
        if self._size is not None and self._got > self._size:
            raise errors.NetworkError(self._url, f"more than {self._size} bytes came")
        if self._size is not None and not piece and self._got < self._size:
            reason = f"cut off after {self._got} of {self._size} bytes"
            raise errors.NetworkError(self._url, reason)
        return piece


def _read_some(raw: Any, most: int) -> bytes:
    """Read what there is, up to ``most`` bytes, and wait only while there is nothing.

    Whoever waits for a full piece takes a slow link for a silent one, and a cut costs
    what had come of it.
    """
    piece: bytes
    if hasattr(raw, "read1"):
        piece = raw.read1(most, decode_content=False)
    else:  # urllib3 1.26, which Debian 12 has, leaves that to what it wraps
        piece = raw._fp.read1(most)  # noqa: SLF001
        piece = piece or raw.read(1, decode_content=False)
    return piece


def within(seconds: float, url: str, work: Callable[[], _T]) -> _T:
    """Do ``work`` in a thread, and leave it to itself when it takes too long.

    Only so can the whole be bounded: name resolution has no time-out, and a server
    that sends its headers a byte at a time is never silent.

    Args:
        seconds: How long is too long.
        url: What was asked for, for the error.
        work: What to do; what it raises is raised here.

    Raises:
        NetworkError: It took too long.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller
            future.set_exception(error)

    threading.Thread(target=run, name="http", daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        reason = f"no reply within {seconds:g} seconds"
        raise errors.NetworkError(url, reason) from None


@contextlib.contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except (*_FAILURES, OSError, ValueError) as error:  # as for a chunk of -5 bytes
        reason = _reason(error)
        if isinstance(error, requests.exceptions.ProxyError):
            if "407" in reason:
                raise errors.ProxyRefused(url, reason) from error
            reason = f"the proxy: {reason}"
        raise errors.NetworkError(url, reason) from error


def _reason(error: BaseException) -> str:
    """Say in plain words what lies below a chain of exceptions."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    deepest, below = error, error.__cause__ or error.__context__
    while below is not None:
        if isinstance(below, (OSError, HTTPException)):
            deepest = below
        below = below.__cause__ or below.__context__
    if isinstance(deepest, TimeoutError):
        return "silent for too long"
    if isinstance(deepest, IncompleteRead):
        return "cut off before its end"
    if isinstance(deepest, OSError) and deepest.strerror:
        return deepest.strerror
    said = " ".join(str(deepest).split())[:LONGEST_REASON]  # some quote the server
    plain = "".join(c if c.isprintable() else "?" for c in said)
    return plain or type(deepest).__name__
