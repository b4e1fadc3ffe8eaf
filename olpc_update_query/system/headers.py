"""What the headers of an HTTP reply claim, and whether it can be."""

import contextlib
import re
import zlib
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import requests

from olpc_update_query import errors

_MISSING = (404, 410)
_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def shown(url: str) -> str:
    """Return an address fit to be printed: no password, nothing that moves cursors."""
    bare = re.sub(r"//[^/@]*@", "//", url)
    return "".join(c if c.isprintable() else "?" for c in bare[:300])


def is_web_address(url: str) -> bool:
    """Tell whether an address is one that can be asked by HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(
            parts.hostname and parts.port != 0
        )
    except ValueError:
        return False


def redirect_target(url: str, response: requests.Response) -> str | None:
    """Return the address to ask instead, or None when it cannot be asked."""
    try:
        target = urljoin(url, _location(response))
    except ValueError:
        return None
    return target if target != url and is_web_address(target) else None


def _location(response: requests.Response) -> str:
    text = response.headers.get("Location", "")
    with contextlib.suppress(UnicodeError):  # http.client reads headers as Latin-1
        text = text.encode("latin-1").decode()
    return text


def status(response: requests.Response) -> str:
    """Return status and reason, as in ``404 Not Found``."""
    return f"{response.status_code} {response.reason or ''}".strip()


def pointed_to(response: requests.Response) -> str:
    """Say what a redirect, or a stranger's reply, tells about what is in between."""
    where = _location(response)
    if not where:
        return f"{status(response)} came instead of an answer"
    return f"the reply points to {shown(where)}, as a captive portal does"


def proxy_challenges(response: requests.Response) -> list[str]:
    """Return each header that says how a proxy wants to be logged in at."""
    found: list[str] = response.raw.headers.getlist("Proxy-Authenticate")
    return found


def refusal_of(response: requests.Response) -> str:
    """Say what a proxy refused, and which ways to log in it offers."""
    names = (header.split(" ")[0] for header in proxy_challenges(response))
    ways = ", ".join(name[:20] for name in names if name.isalnum())
    return f"{status(response)}, it offers {ways}" if ways else status(response)


def is_from_proxy(response: requests.Response) -> bool:
    """Tell whether a reply that came through a proxy refuses the proxy's password.

    tinyproxy says 401 to a wrong one, as a server would; but no server of ours knows
    passwords. (The one challenge that an OATS server may make is of its own scheme.)
    """
    challenge = response.headers.get("WWW-Authenticate", "").lower()
    return response.status_code == 401 and not challenge.startswith("olpc-")


def check_status(response: requests.Response) -> None:
    """Refuse a reply that is not the file, or the part of it, that was asked for.

    Raises:
        BuildNotFound: It is not there.
        NoAnswer: Something else came.
        NetworkError: The server cannot or will not give it.
    """
    url = shown(response.url)
    code = response.status_code
    if code == 200 or (code == 206 and "Range" in response.request.headers):
        return
    if code in _MISSING:
        raise errors.BuildNotFound(url, status(response))
    if code < 400 or code == 511:  # 511 is what an honest portal says
        raise errors.NoAnswer(url, f"{status(response)} came instead of the file")
    wait = retry_after(response)
    later = "" if wait is None else f", to be asked again in {wait} seconds"
    raise errors.NetworkError(url, status(response) + later)


def content_length(response: requests.Response) -> int | None:
    """Return how long the body is; None when it ends with the connection or chunks."""
    text = response.headers.get("Content-Length", "")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if chunked or not (text.isascii() and text.isdigit()):
        return None
    return int(text[:19])


def content_range(response: requests.Response) -> tuple[int, int, int | None]:
    """Return first offset, offset after the last, and the whole length.

    Raises:
        NetworkError: They are missing or impossible.
    """
    url = shown(response.url)
    found = read_content_range(response.headers.get("Content-Range", ""))
    if found is None:
        raise errors.NetworkError(url, "206 came without a possible range")
    return found


def read_content_range(text: str) -> tuple[int, int, int | None] | None:
    """Return first offset, offset after the last, and the whole length, if it says."""
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if last < first or (total is not None and last >= total):
        return None
    return first, last + 1, total


def validator_of(response: requests.Response) -> str | None:
    """Return what names this version: a strong ETag, else the modification date."""
    tag = response.headers.get("ETag", "")
    if tag.startswith('"') and tag.endswith('"') and len(tag) > 2:
        return tag
    return response.headers.get("Last-Modified") or None


def media_type(response: requests.Response) -> str:
    """Return the media type, lower case, without parameters."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def decoded(raw: bytes, response: requests.Response, limit: int) -> bytes:
    """Undo a compression that was not asked for, as some proxies apply it."""
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding == "identity" or not raw:
        return raw
    url = shown(response.url)
    if coding not in {"gzip", "x-gzip", "deflate"}:
        raise errors.NoAnswer(url, f"the reply is in the coding {coding[:20]!r}")
    try:
        body = zlib.decompressobj(wbits=47).decompress(raw, limit + 1)
    except zlib.error as error:
        raise errors.NoAnswer(
            url, f"the reply cannot be decompressed: {error}"
        ) from None
    if len(body) > limit:
        raise errors.NoAnswer(url, f"the reply is longer than {limit} bytes")
    return body


def retry_after(response: requests.Response) -> int | None:
    """Return the seconds of ``Retry-After``.

    A date is read relative to the reply's own ``Date``: our clock may be wrong.
    """
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    try:
        until = parsedate_to_datetime(text)
        sent = parsedate_to_datetime(response.headers.get("Date", ""))
        return max(int((until - sent).total_seconds()), 0)
    except (TypeError, ValueError, IndexError):
        return None


def request_size(request: requests.PreparedRequest, *, proxied: bool) -> int:
    """Return the bytes a request is on the wire."""
    url = request.url or ""
    target = url if proxied else request.path_url
    lines = f"{request.method} {target} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
    body = request.body or b""
    return len(lines) + _headers_size(request.headers) + len(body)


def head_size(response: requests.Response) -> int:
    """Return the bytes of a reply before its body."""
    line = f"HTTP/1.1 {status(response)}\r\n"
    return len(line) + _headers_size(response.headers)


def _headers_size(headers: Mapping[str, str | bytes]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers.items()) + 2
