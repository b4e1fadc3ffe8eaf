"""What was begun from one kind of source, and is gone on with from another.

A delta pack that nobody can complete is worth the contents that are whole in it. A
content of which only the beginning has come goes on from where it is: rsync finds it in
its own tree, and web servers and sticks that have the plain tree send the rest of it.
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.model.delta import MAX_HEADER, DeltaHeader, read_delta_index
from olpc_update_query.model.manifest import Kind, ManifestReader, TreePath
from olpc_update_query.model.pack import Frame, read_pack_index, unpack_segment
from olpc_update_query.perform_update.copying import CHUNK
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.intake import Intake
from olpc_update_query.perform_update.sources.spool import AnotherFile, Spool
from olpc_update_query.perform_update.spans import Span
from olpc_update_query.perform_update.store import FILES, INDEX, SPOOL, Stretch
from olpc_update_query.system.assembly import expand_base, put_together
from olpc_update_query.system.compressors import Chunk
from olpc_update_query.system.files import disk_errors

PLAIN_TREE = "rsync/tree"  # below the downloads; what is being fetched file by file
WORTHWHILE = 64 * 1024  # bytes of a content that has been begun


def salvage_delta(intake: Intake, part: Path) -> None:
    """Keep what is whole in a delta pack that nobody goes on with, and drop it."""
    if not part.exists() or not intake.has_manifest:
        return
    kept = 0
    with Spool(part) as spool:
        with contextlib.suppress(errors.Malformed, errors.CorruptContent):
            for is_apart in (False, True):  # these may be made of the others
                for frame in _frames_of_delta(spool):
                    if (frame.inside is not None) is is_apart:
                        kept += _keep(intake, spool, frame)
        spool.remove()
    if kept:
        intake.progress.step(f"{kept} contents of an unfinished delta pack are kept")
        intake.look_again()


def salvage_pack(intake: Intake) -> None:
    """Give the contents that a full pack has only begun to the plain tree."""
    index = intake.directory / INDEX
    if not index.exists() or not (intake.directory / SPOOL).exists():
        return
    with (
        Spool(intake.directory / SPOOL) as spool,
        contextlib.suppress(errors.Malformed),
        disk_errors(index),
        open(index, "rb") as file,
    ):
        for frame in read_pack_index(file)[1]:
            come = spool.have.reach(frame.offset) - frame.offset
            if WORTHWHILE <= come < frame.packed and frame.digest in intake.needs():
                _keep(intake, spool, frame)


def finish_begun(intake: Intake, crew: Crew) -> None:
    """Fetch the rest of contents of which more than half has come file by file.

    Raises:
        NetworkError: The link failed; what has come is kept.
        TreeError: The disk is full or failing.
    """
    for path, digest, size in list(_begun(intake)):
        name = f"root/{os.fsdecode(path)}"
        file = intake.directory / PLAIN_TREE / os.fsdecode(path)
        with Spool(file) as spool:
            spool.adopt("what was begun")
            before = spool.have.total
            download = crew.download(
                name,
                spool,
                limit=size,
                tell=lambda: intake.progress.transferred(spool.have.total, size),  # noqa: B023
            )
            try:
                download.fill([Span(0, size)])
            except errors.UpdateError as error:
                if not isinstance(error, _NOT_THERE) and not crew.lacks(name):
                    raise
                continue
            finally:
                intake.credit("file", spool.have.total - before)
            spool.forget()
        if not intake.take_file(digest, file):
            file.unlink()


_NOT_THERE = (
    AnotherFile,
    errors.BuildNotFound,
    errors.CorruptContent,
    errors.NoAnswer,
)


def _begun(intake: Intake) -> Iterator[tuple[TreePath, bytes, int]]:
    """Yield path, digest and size of contents of which more than half has come."""
    top = os.fsencode(intake.directory / PLAIN_TREE)
    if not os.path.isdir(top):
        return
    for path, digest, size in _files(intake):
        with contextlib.suppress(OSError):
            come = os.lstat(os.path.join(top, path)).st_size
            if WORTHWHILE <= come < size < 2 * come and digest in intake.needs():
                yield path, digest, size


def _files(intake: Intake) -> Iterator[tuple[TreePath, bytes, int]]:
    contents = intake.contents
    with disk_errors(contents), open(contents, "rb") as file:
        for entry in ManifestReader(file):
            if entry.kind is Kind.FILE:
                yield entry.path, entry.digest, entry.size


def _frames_of_delta(spool: Spool) -> Iterator[Frame]:
    line, newline, _ = spool.read(0, MAX_HEADER).partition(b"\n")
    header = DeltaHeader.parse(line + newline)
    packed = spool.read(header.index_offset, header.index_packed)
    if len(packed) < header.index_packed:
        return
    with tempfile.TemporaryFile(dir=spool.path.parent) as index:
        index.writelines(unpack_segment(packed, b"", header.index_size))
        index.seek(0)
        yield from read_delta_index(index, header.frames_offset, header.length)


def _keep(intake: Intake, spool: Spool, frame: Frame) -> int:
    """Keep a content, or its beginning; say how many whole ones it was."""
    if frame.digest not in intake.needs():
        return 0
    chunks = _expanded(intake, spool, frame)
    come = spool.have.reach(frame.offset) - frame.offset
    if come >= frame.packed:
        with contextlib.suppress(errors.CorruptContent):
            intake.take_chunks(frame.digest, frame.size, chunks)
            return 1
    elif come >= WORTHWHILE and frame.inside is None:
        _begin(intake, frame, chunks)
    return 0


def _expanded(intake: Intake, spool: Spool, frame: Frame) -> Iterator[Chunk]:
    """Yield a content as far as it has come; one that was taken apart only whole.

    Raises:
        CorruptContent: It goes no further, or the base is not there.
    """
    with _open_base(intake, frame) as base:

        def read(offset: int, length: int) -> bytes:
            return os.pread(base, length, offset)

        if frame.inside is None:
            yield from _segments(spool, frame, read)
            return
        if frame.inside.members:
            inner = expand_base(frame.inside.members, read)
            segments = _segments(spool, frame, lambda at, size: inner[at : at + size])
        else:
            segments = _segments(spool, frame, read)
        length = sum(part.size for part in frame.segments)
        copied = functools.partial(_content, intake)
        yield from put_together(frame.inside, segments, length, copied)


def _segments(
    spool: Spool, frame: Frame, read: Callable[[int, int], bytes]
) -> Iterator[bytes]:
    """Yield what the segments of a frame make, as far as they have come."""
    place = frame.offset
    for part in frame.segments:
        have = min(part.packed, spool.have.reach(place) - place)
        packed = Stretch(spool.fileno(), place, max(have, 0)).stream()
        known = read(part.base_offset, part.base_length) if part.base_length else b""
        yield from unpack_segment(packed, known, part.size)
        place += part.packed


def _content(intake: Intake, digest: bytes) -> Iterator[bytes]:
    """Yield another content of the build that is there whole.

    Raises:
        CorruptContent: It is not.
    """
    path = intake.directory / FILES / digest.hex()
    if not path.exists() and (found := intake.plan.locate(digest)):
        path = found[0].tree / os.fsdecode(found[1])
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise errors.CorruptContent(digest.hex(), "a content", "nothing") from None
    with open(descriptor, "rb") as file:
        yield from iter(lambda: file.read(CHUNK), b"")


@contextlib.contextmanager
def _open_base(intake: Intake, frame: Frame) -> Iterator[int]:
    """Open the installed file that a frame patches; anything for one that is whole."""
    found = None if frame.base is None else intake.plan.locate(frame.base)
    if frame.base is not None and found is None:
        raise errors.CorruptContent(frame.base.hex(), "an installed file", "none")
    path = os.devnull if found is None else found[0].tree / os.fsdecode(found[1])
    with disk_errors(Path(path)):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _begin(intake: Intake, frame: Frame, chunks: Iterator[Chunk]) -> None:
    """Write the beginning of a content where rsync will look for it."""
    path = next((p for p, digest, _ in _files(intake) if digest == frame.digest), None)
    if path is None:
        return
    target = intake.directory / PLAIN_TREE / os.fsdecode(path)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return
        with open(target, "xb") as file, contextlib.suppress(errors.CorruptContent):
            file.writelines(chunks)
