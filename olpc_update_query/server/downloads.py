"""The files of published builds, for laptops that fetch over HTTP.

A build may hold a whole operating system as a plain tree, with links that point
anywhere: every step of a path is opened by its directory's descriptor, and nothing
goes through a link.
"""

import errno
import io
import os
import secrets
import stat
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Final, NamedTuple, cast

from werkzeug.datastructures import Range
from werkzeug.http import parse_range_header
from werkzeug.wrappers import Response
from werkzeug.wsgi import wrap_file

from olpc_update_query.errors import Malformed
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server.site import Site

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import WSGIEnvironment

_MAX_DEPTH: Final = 64
_BLOCK: Final = 1 << 16
_MOST_RANGES: Final = 128
_TYPE: Final = "application/octet-stream"
_ABSENT: Final = {
    errno.EACCES,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
}


class Stretch(NamedTuple):
    """Part of a file.

    Attributes:
        start: Offset of the first byte.
        length: How many bytes.
    """

    start: int
    length: int


class Window(io.RawIOBase):
    """Parts of a file, and what is said between them, as a file of its own.

    The server reads it while the client takes it, without holding up a thread.

    Args:
        file: The file, which is closed with the window.
        pieces: What is to be read, in order.
    """

    def __init__(self, file: IO[bytes], pieces: Sequence[Stretch | bytes]) -> None:
        super().__init__()
        self._file, self._pieces, self._at = file, pieces, 0
        lengths = (
            one.length if isinstance(one, Stretch) else len(one) for one in pieces
        )
        self._ends = list(accumulate(lengths))
        self.length = self._ends[-1]

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read the next bytes; 0 at the end."""
        room, done = memoryview(buffer).cast("B"), 0
        while data := self._read_some(len(room) - done):
            room[done : done + len(data)] = data
            done += len(data)
            self._at += len(data)
        return done

    def _read_some(self, most: int) -> bytes:
        """Return what comes next of one piece."""
        number = bisect_right(self._ends, self._at)
        if number == len(self._ends) or not most:
            return b""
        piece, left = self._pieces[number], self._ends[number] - self._at
        if isinstance(piece, bytes):
            return piece[len(piece) - left :][:most]
        self._file.seek(piece.start + piece.length - left)
        return self._file.read(min(most, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move in the window."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.length}
        self._at = max(0, min(origin[whence] + offset, self.length))
        return self._at

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class Found(NamedTuple):
    """A file that may be served.

    Attributes:
        file: The open file.
        size: Its length in bytes.
        changed_ns: When it was changed, in nanoseconds since the epoch.
    """

    file: IO[bytes]
    size: int
    changed_ns: int


def open_published(site: Site, path: bytes) -> Found | None:
    """Open a file of a published build.

    Args:
        site: The site.
        path: ``BUILD/...``, the bytes of the URL's path after ``/builds/``.

    Returns:
        The file; None when there is none that may be served.
    """
    parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
    if not 2 <= len(parts) <= _MAX_DEPTH or b".." in parts or b"\0" in path:
        return None
    try:
        parse_build_id(parts[0].decode())
        return _descend(os.fsencode(site.builds), parts)
    except (Malformed, UnicodeDecodeError):
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def _descend(top: bytes, parts: list[bytes]) -> Found | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    at = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            inner = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = inner
        state = os.fstat(at)
        if not stat.S_ISREG(state.st_mode):
            return None
        file = open(os.dup(at), "rb", buffering=0)  # noqa: SIM115 - the reply closes it
        return Found(file, state.st_size, state.st_mtime_ns)
    finally:
        os.close(at)


def reply(found: Found, environ: "WSGIEnvironment") -> Response:
    """Return the reply that sends a file, or the ranges of it that were asked for.

    Args:
        found: The file; the reply closes it.
        environ: The request.
    """
    tag = f"{found.changed_ns:x}-{found.size:x}"
    response = Response(mimetype=_TYPE, direct_passthrough=True)
    response.set_etag(tag)
    response.headers["Accept-Ranges"] = "bytes"
    # a published build never changes; what is replaced gets another tag
    response.headers["Cache-Control"] = "public, max-age=3600"
    pieces: list[Stretch | bytes] = [Stretch(0, found.size)]
    wanted = _ranges(environ, tag)
    if wanted is not None:
        stretches = _stretches(wanted, found.size)
        if not stretches:
            found.file.close()
            return _unsatisfiable(found.size)
        response.status_code = 206
        pieces = _partial(response, stretches, found.size)
    window = Window(found.file, pieces)
    response.response = wrap_file(environ, cast("IO[bytes]", window), _BLOCK)
    response.content_length = window.length
    response.call_on_close(window.close)
    if wanted is None:
        response.make_conditional(environ)
    return response


def _ranges(environ: "WSGIEnvironment", tag: str) -> Range | None:
    """Return the ranges to obey; those that overlap or go back are not read."""
    condition = str(environ.get("HTTP_IF_RANGE", tag)).strip().strip('"')
    header = environ.get("HTTP_RANGE")
    if environ["REQUEST_METHOD"] != "GET" or condition != tag:
        return None
    wanted = parse_range_header(None if header is None else str(header))
    if wanted is None or wanted.units != "bytes":
        return None
    return wanted if len(wanted.ranges) <= _MOST_RANGES else None


def _stretches(wanted: Range, size: int) -> list[Stretch]:
    """Return the ranges that the file has."""
    spans = (
        Range("bytes", [one]).range_for_length(size)
        for one in cast("list[tuple[int, int | None]]", wanted.ranges)
    )
    return [Stretch(span[0], span[1] - span[0]) for span in spans if span]


def _partial(
    response: Response, stretches: list[Stretch], size: int
) -> list[Stretch | bytes]:
    """Return the body of a reply with ranges, RFC 9110, 14.6; set its headers."""
    named = [
        f"bytes {start}-{start + length - 1}/{size}" for start, length in stretches
    ]
    if len(stretches) == 1:
        response.headers["Content-Range"] = named[0]
        return [*stretches]
    mark = secrets.token_hex(16)
    response.headers["Content-Type"] = f"multipart/byteranges; boundary={mark}"
    body: list[Stretch | bytes] = []
    for stretch, name in zip(stretches, named, strict=True):
        head = f"\r\n--{mark}\r\nContent-Type: {_TYPE}\r\nContent-Range: {name}\r\n\r\n"
        body += [head.encode(), stretch]
    return [*body, f"\r\n--{mark}--\r\n".encode()]


def _unsatisfiable(size: int) -> Response:
    response = Response("this range is not in the file\n", status=416)
    response.headers["Content-Range"] = f"bytes */{size}"
    return response
