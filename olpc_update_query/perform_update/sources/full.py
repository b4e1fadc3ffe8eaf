"""A full pack: the manifest, the index, and the ranges that are lacking.

The spool of a pack is the pack, with holes where it was not needed.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from olpc_update_query import errors
from olpc_update_query.model.delta import MAX_HEADER, DeltaHeader
from olpc_update_query.model.pack import (
    Frame,
    PackHeader,
    Range,
    coalesce,
    parse_pack_header,
    read_pack_index,
    unpack_segment,
)
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.intake import Intake, write_hashed
from olpc_update_query.perform_update.sources.landmarks import Landmarks
from olpc_update_query.perform_update.sources.spool import (
    AnotherFile,
    Spool,
    most_packed,
    need_room,
)
from olpc_update_query.perform_update.spans import Span
from olpc_update_query.perform_update.store import (
    HAVE,
    INDEX,
    INSIDE,
    SPOOL,
    Downloads,
)
from olpc_update_query.system.files import disk_errors

PACK = "pack"
_SLACK = 64 * 1024
_CLOSE = 512  # bytes between two ranges that cost less than the head of another one
_MOST_RANGES = 4096
_MUCH = 2 << 20
"""Bytes to fetch from which on it may pay to make one content of others, and the most
that the description of how to do it may take."""


def fetch_manifest(intake: Intake, crew: Crew) -> None:
    """Fetch the build's manifest.

    Raises:
        BuildNotFound: It is not there.
        NetworkError: The link failed; what has come is kept.
        UntrustedContents: Nobody has the one that the order signs.
        NoSpace: It cannot fit.
    """
    size = intake.order.size
    need_room(intake.directory, 2 * size)
    intake.progress.step(f"fetching the manifest of build {intake.order.build}")

    def plain(file: BinaryIO) -> None:
        intake.accept_manifest(iter(lambda: file.read(_SLACK), b""))

    def packed(file: BinaryIO) -> None:
        intake.accept_manifest(unpack_segment(file, b"", size))

    _fetch_either(intake, crew, "contents", size, (packed, plain))


def fetch_ranges(intake: Intake, crew: Crew) -> bool:
    """Fetch what is needed from the full pack, in few requests.

    Returns:
        Whether the pack had anything that was lacking.

    Raises:
        BuildNotFound: There is no full pack.
        NetworkError: The link failed; what has come is kept.
        Malformed: The index is damaged.
        CorruptContent: The same.
        NoSpace: It cannot fit.
    """
    if not (intake.directory / INDEX).exists():
        _fetch_index(intake, crew)
        _fetch_inside(intake, crew)
    try:
        fetched = _fetch_frames(intake, crew)
    except AnotherFile:
        # the same build, packed anew: what has come of the other pack is unpacked
        _drop_pack(intake)
        others = crew.with_another(PACK)
        others.forgive(PACK)
        _fetch_index(intake, others)
        fetched = _fetch_frames(intake, crew)
    intake.look_again()
    return fetched


def check_wanted(intake: Intake, crew: Crew) -> None:
    """Unpack, and so prove, the contents that proved to be damaged before.

    What still is damaged is dropped, and whoever gave it is asked for it no more.
    """
    damaged = intake.unpack(intake.wanted) if intake.wanted else []
    if damaged:
        with Spool(intake.directory / SPOOL) as spool:
            for frame in damaged:
                givers = spool.givers(frame.offset, frame.offset + frame.packed)
                crew.blame(givers, PACK)
        _drop_pack(intake)


def _drop_pack(intake: Intake) -> None:
    """Drop the spool of a full pack, but keep the contents that are good."""
    try:
        lost = len(intake.unpack())
    except (errors.Malformed, errors.NoSpace) as reason:
        intake.progress.step(f"some of what was fetched is lost: {reason}")
    else:
        if lost:
            intake.progress.step(f"{lost} of the contents that came are damaged")
    with Downloads(intake.directory) as downloads:
        downloads.drop(SPOOL, HAVE, INDEX)
    intake.look_again()


# --- whole files ----------------------------------------------------------------


_Accept = Callable[[BinaryIO], None]


def _fetch_either(
    intake: Intake, crew: Crew, name: str, largest: int, accept: tuple[_Accept, _Accept]
) -> None:
    """Fetch a file compressed, or as it is where nobody has that, or it is damaged.

    Whose compressed one is damaged is asked for the other before the next is asked.

    Args:
        intake: What takes it in.
        crew: Whom to ask.
        name: Its name as it is.
        largest: The most bytes that it may have as it is.
        accept: What takes in the one and the other.
    """

    def as_it_is(few: Crew) -> bool:
        with contextlib.suppress(errors.NetworkError, *_WRONG):
            _fetch_whole(intake, few, name, largest, accept[1])
            return True
        return False

    packed, limit = f"{name}.zst", most_packed(largest)
    try:
        _fetch_whole(intake, crew, packed, limit, accept[0], as_it_is)
    except (errors.BuildNotFound, *_WRONG):
        _fetch_whole(intake, crew, name, largest, accept[1])


def _fetch_whole(
    intake: Intake,
    crew: Crew,
    name: str,
    limit: int,
    accept: _Accept,
    instead: Callable[[Crew], bool] | None = None,
) -> None:
    """Fetch a file of unknown length, from somebody who has the right one.

    Args:
        intake: What takes it in.
        crew: Whom to ask.
        name: Its name.
        limit: The most bytes that it may have.
        accept: What takes in the file.
        instead: What asks those who gave a wrong one for something else as good, and
            says whether they had it.
    """
    path = intake.directory / f"{name}.part"
    while True:
        with Spool(path) as spool:
            try:
                _fill_whole(intake, crew, name, spool, limit)
                with open(path, "rb") as file:
                    accept(file)
            except (*_WRONG, errors.BuildNotFound) as error:
                givers = spool.givers(0, limit)
                spool.remove()
                if isinstance(error, errors.BuildNotFound) or not givers:
                    raise
                crew.blame(givers, name, error)
                if instead is not None:
                    intake.progress.step(f"asked for what is not compressed: {error}")
                    if instead(crew.among(givers)):
                        return
                if not crew.can_give(name):
                    raise
                intake.progress.step(f"left for the next source: {error}")
                continue
            spool.remove()
            return


_WRONG = (errors.UntrustedContents, errors.CorruptContent, errors.Malformed)


def _fill_whole(
    intake: Intake, crew: Crew, name: str, spool: Spool, limit: int
) -> None:
    before = spool.have.total

    def tell() -> None:
        intake.progress.transferred(spool.have.total, spool.length or limit)

    download = crew.download(name, spool, limit=limit, tell=tell)
    try:
        download.fetch_all()
    except AnotherFile:  # nobody has the file that this is a part of
        spool.clear()
        crew.forgive(name)
        before = 0
        download.fetch_all()
    finally:
        intake.credit("manifest", max(spool.have.total - before, 0))


def _fetch_inside(intake: Intake, crew: Crew) -> None:
    """Fetch what contents can be made of others of the build, if that may pay."""
    target = intake.directory / INSIDE
    if intake.wanted or target.exists() or intake.needs().size < _MUCH:
        return

    def accept(file: BinaryIO) -> None:
        header = DeltaHeader.parse(file.readline(MAX_HEADER + 1))
        if header.new != intake.order.contents:
            raise errors.Malformed(INSIDE, "it is of another build")
        file.seek(0)
        fresh = target.with_suffix(".new")
        write_hashed(fresh, iter(lambda: file.read(_SLACK), b""), _MUCH)
        with disk_errors(target):
            os.rename(fresh, target)

    try:
        _fetch_whole(intake, crew, f"{INSIDE}.pack", _MUCH, accept)
    except (errors.BuildNotFound, *_WRONG) as reason:
        intake.progress.step(f"nothing can be made of other contents: {reason}")
    else:
        intake.look_again()


def _fetch_index(intake: Intake, crew: Crew) -> None:
    with Downloads(intake.directory) as downloads:
        downloads.drop(SPOOL, HAVE)  # of another pack, if they are there
    largest = 2 * intake.order.size + _SLACK
    need_room(intake.directory, 2 * largest)
    intake.progress.step("fetching the index of the full pack")

    def plain(file: BinaryIO) -> None:
        _accept_index(intake, iter(lambda: file.read(_SLACK), b""), largest)

    def packed(file: BinaryIO) -> None:
        _accept_index(intake, expand_frame(file, largest, INDEX), largest)

    _fetch_either(intake, crew, INDEX, largest, (packed, plain))


def expand_frame(file: BinaryIO, largest: int, name: str) -> Iterator[bytes]:
    """Expand a zstd frame that tells its size.

    Args:
        file: The frame, at its first byte.
        largest: The most bytes that may be in it.
        name: What it is, for the error.

    Raises:
        CorruptContent: It is none, or more is in it.
    """
    import zstandard

    try:
        size = zstandard.frame_content_size(file.read(18))
    except zstandard.ZstdError:
        raise errors.CorruptContent(name, "a zstd frame", "something else") from None
    if not 0 <= size <= largest:
        raise errors.CorruptContent(name, f"at most {largest} bytes", f"{size}")
    file.seek(0)
    return unpack_segment(file, b"", size)


def _accept_index(intake: Intake, chunks: Iterable[bytes], largest: int) -> None:
    """Keep the index of a full pack, if it is one of this build.

    Raises:
        Malformed: It is not.
    """
    fresh = intake.directory / f"{INDEX}.new"
    write_hashed(fresh, chunks, largest)
    with disk_errors(fresh), open(fresh, "rb") as file:
        if parse_pack_header(file.readline()).contents != intake.order.contents:
            raise errors.Malformed("pack index", "it is the index of another build")
    with disk_errors(fresh):
        os.rename(fresh, intake.directory / INDEX)


# --- ranges ---------------------------------------------------------------------


def _fetch_frames(intake: Intake, crew: Crew) -> bool:
    index = intake.directory / INDEX
    with Spool(intake.directory / SPOOL) as spool:
        header, wanted = _lay_out(intake, index, spool)
        total = sum(span.end - span.start for span in wanted)
        before = spool.have.total
        need_room(intake.directory, total)
        intake.progress.step(
            f"fetching {total / 1e6:.1f} MB of the full pack, {len(wanted)} ranges"
        )

        def tell() -> None:
            come = spool.have.total - before
            intake.progress.transferred(min(come, total), total)

        spool.length = header.length
        download = crew.download(PACK, spool, limit=header.length, tell=tell)
        try:
            download.fill(wanted)
        finally:
            intake.credit("pack", max(spool.have.total - before, 0))
    return bool(wanted)


def _marked(frames: Iterable[Frame], marks: Landmarks) -> Iterator[Range]:
    for frame in frames:
        marks.add(frame)
        yield frame.range


def _lay_out(
    intake: Intake, index: Path, spool: Spool
) -> tuple[PackHeader, list[Span]]:
    """Choose what to fetch of a pack."""
    needs = intake.needs()
    with disk_errors(index), open(index, "rb") as file:
        header, frames = read_pack_index(file)
        wanted = (frame for frame in frames if frame.digest in needs)
        ranges = coalesce(_marked(wanted, spool.marks), _MOST_RANGES, _CLOSE)
    return header, [
        gap
        for one in ranges
        for gap in spool.have.gaps(one.offset, one.offset + one.length)
    ]
