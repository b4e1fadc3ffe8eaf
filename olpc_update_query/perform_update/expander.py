"""The child process that reads what nobody vouches for; see `expand`.

It has no user, no way to new privileges, no files but the open ones, little memory,
and is dropped as soon as it does anything unexpected.
"""

import contextlib
import ctypes
import os
import pwd
import resource
import signal
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Final

from olpc_update_query.errors import CorruptContent, UpdateError
from olpc_update_query.model.pack import Segment, unpack_segment
from olpc_update_query.perform_update.store import Downloads, Piece, Stretch
from olpc_update_query.system.assembly import expand_base, put_together
from olpc_update_query.system.compressors import Chunk, prepare
from olpc_update_query.system.privilege import die_with, drop_to

OFFER: Final = struct.Struct("!32sQ32sQ")
NO_BASE: Final = bytes(32)
PACKET: Final = 64 << 10
_ROOM: Final = 160 << 20  # address space beyond what the child begins with
_OVERFLOW_ID: Final = 65534  # the kernel's own nobody
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38


def live(  # pragma: no cover - only in the child; tests look at it from outside
    link: socket.socket,
    downloads: Downloads,
    file: str,
    refuse: Collection[bytes],
    skip: int,
) -> None:
    """Be the child, just forked, and never return.

    Args:
        link: The socket to the parent.
        downloads: What was fetched.
        file: Which packed file of it to read.
        refuse: Digests for which a delta pack is not to be used.
        skip: How many contents an earlier child has offered.
    """
    code = 1
    try:
        import zstandard  # noqa: F401 - from disk while that is still allowed

        prepare()
        _confine({link.fileno(), *downloads.descriptors().values()})
        serve(link, downloads, file, refuse, skip)
        code = 0
    except BaseException:  # noqa: BLE001, S110 - there is nobody to tell
        pass
    finally:
        os._exit(code)


def _confine(needed: set[int]) -> None:  # pragma: no cover - likewise
    """Give up everything that reading and computing does not need."""
    parent = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    _close_others(needed)
    if os.geteuid() == 0:
        drop_to(*_nobody())
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    die_with(parent)
    with open("/proc/self/statm", "rb") as statm:
        pages = int(statm.read().split()[0])
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + _ROOM,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def _nobody() -> tuple[int, int]:  # pragma: no cover - likewise
    try:
        account = pwd.getpwnam("nobody")
    except KeyError:
        return _OVERFLOW_ID, _OVERFLOW_ID
    return account.pw_uid, account.pw_gid


def _prctl(option: int, value: int) -> None:  # pragma: no cover - likewise
    library = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    if library.prctl(option, *arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _close_others(needed: set[int]) -> None:  # pragma: no cover - likewise
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    low = 3
    for descriptor in sorted(needed):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def serve(
    link: socket.socket,
    downloads: Downloads,
    file: str,
    refuse: Collection[bytes],
    skip: int,
) -> None:
    """Offer every content but the first ``skip``, and make those that are wanted."""
    descriptor = downloads.descriptors()[file]
    try:
        for piece in downloads.pieces(file, refuse=refuse):
            if skip:
                skip -= 1
            else:
                _offer(link, descriptor, piece)
    except UpdateError:
        link.send(b"B")
    else:
        link.send(b"Q")


def _offer(link: socket.socket, descriptor: int, piece: Piece) -> None:
    frame = piece.frame
    base = frame.base or NO_BASE
    link.send(b"F" + OFFER.pack(frame.digest, frame.size, base, piece.position))
    with _received(link) as (answer, bases):
        if answer == b"Y":
            _send_content(link, _expanded(link, descriptor, piece, *bases))
        elif answer != b"N":
            raise EOFError


@contextlib.contextmanager
def _received(link: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """Receive an answer and the descriptor that may come with it."""
    answer, descriptors, _, _ = socket.recv_fds(link, 1, 1)
    try:
        yield answer, descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _send_content(link: socket.socket, chunks: Iterator[Chunk]) -> None:
    """Send the chunks of a content in packets, the last one marked."""
    packet: Chunk = b""
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), PACKET):
                if packet:
                    link.sendmsg([b"D", packet])
                packet = chunk[start : start + PACKET]
    except UpdateError:
        link.send(b"X")
    else:
        link.sendmsg([b"L", packet])


def _expanded(
    link: socket.socket, descriptor: int, piece: Piece, base: int | None = None
) -> Iterator[Chunk]:
    """Yield the bytes of a content."""
    frame, base_of = piece.frame, partial(_base_of, base)
    if frame.inside is None:
        yield from _segments(descriptor, piece, base_of)
        return
    if frame.inside.members:
        inner = expand_base(frame.inside.members, partial(_read, base))
        base_of = partial(_stretch_of, inner)
    segments = _segments(descriptor, piece, base_of)
    length = sum(segment.size for segment in frame.segments)
    yield from put_together(frame.inside, segments, length, partial(_copied, link))


def _segments(
    descriptor: int, piece: Piece, base_of: Callable[[Segment], bytes]
) -> Iterator[Chunk]:
    position = piece.position
    for segment in piece.frame.segments:
        packed = Stretch(descriptor, position, segment.packed)
        yield from unpack_segment(packed.stream(), base_of(segment), segment.size)
        position += segment.packed


def _copied(link: socket.socket, digest: bytes) -> Iterator[Chunk]:
    """Ask for another content of the build, and yield it."""
    link.send(b"C" + digest)
    with _received(link) as (answer, found):
        if answer != b"Y" or not found:
            raise CorruptContent("inside", f"content {digest.hex()}", "nothing")
        with Stretch(found[0], 0, os.fstat(found[0]).st_size) as content:
            while chunk := content.read(PACKET):
                yield chunk


def _read(base: int | None, offset: int, length: int) -> bytes:
    if base is None:
        raise CorruptContent("base", "a content", "nothing")
    return os.pread(base, length, offset)


def _stretch_of(inner: bytes, segment: Segment) -> bytes:
    start, length, _, _ = segment
    return _whole(inner[start : start + length], length)


def _base_of(base: int | None, segment: Segment) -> bytes:
    if not segment.base_length:
        return b""
    found = os.pread(base, segment.base_length, segment.base_offset) if base else b""
    return _whole(found, segment.base_length)


def _whole(found: bytes, length: int) -> bytes:
    if len(found) != length:
        raise CorruptContent("base", f"{length} bytes", f"{len(found)}")
    return found
