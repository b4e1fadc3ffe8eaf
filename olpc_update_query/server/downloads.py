"""The files of published builds, for laptops that fetch over HTTP.

A build may hold a whole operating system as a plain tree, with links that point
anywhere: every step of a path is opened by its directory's descriptor, and nothing
goes through a link.
"""

import errno
import io
import os
import stat
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
_ABSENT: Final = {
    errno.EACCES,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
}


class Window(io.RawIOBase):
    """Part of a file, as a file of its own.

    The server reads it while the client takes it, without holding up a thread.

    Args:
        file: The file, which is closed with the window.
        start: Offset of the first byte.
        length: How many bytes.
    """

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        super().__init__()
        self._file, self._start, self._length = file, start, length
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read the next bytes; 0 at the end."""
        room = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._at)
        data = self._file.read(min(len(room), self._length - self._at))
        room[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move in the window."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}
        self._at = max(0, min(origin[whence] + offset, self._length))
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
    """Return the reply that sends a file, or the one range of it that was asked for.

    Args:
        found: The file; the reply closes it.
        environ: The request.
    """
    tag = f"{found.changed_ns:x}-{found.size:x}"
    response = Response(mimetype="application/octet-stream", direct_passthrough=True)
    response.set_etag(tag)
    response.headers["Accept-Ranges"] = "bytes"
    # a published build never changes; what is replaced gets another tag
    response.headers["Cache-Control"] = "public, max-age=3600"
    start, stop = 0, found.size
    wanted = _range(environ, tag)
    if wanted is not None:
        span = wanted.range_for_length(found.size)
        if span is None:
            found.file.close()
            return _unsatisfiable(found.size)
        start, stop = span
        response.status_code = 206
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{found.size}"
    window = Window(found.file, start, stop - start)
    response.response = wrap_file(environ, cast("IO[bytes]", window), _BLOCK)
    response.content_length = stop - start
    response.call_on_close(window.close)
    if wanted is None:
        response.make_conditional(environ)
    return response


def _range(environ: "WSGIEnvironment", tag: str) -> Range | None:
    condition = str(environ.get("HTTP_IF_RANGE", tag)).strip().strip('"')
    header = environ.get("HTTP_RANGE")
    if environ["REQUEST_METHOD"] != "GET" or condition != tag:
        return None
    wanted = parse_range_header(None if header is None else str(header))
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return None
    return wanted


def _unsatisfiable(size: int) -> Response:
    response = Response("this range is not in the file\n", status=416)
    response.headers["Content-Range"] = f"bytes */{size}"
    return response
