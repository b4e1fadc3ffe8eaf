"""A full pack: the manifest, the index, and the ranges that are lacking."""

import contextlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from olpc_update_query import errors
from olpc_update_query.model import canonical
from olpc_update_query.model.pack import (
    MAX_REQUESTS,
    Frame,
    Range,
    Segment,
    coalesce,
    parse_pack_header,
    read_pack_index,
    unpack_segment,
)
from olpc_update_query.perform_update.sources.intake import (
    Intake,
    Needs,
    write_hashed,
)
from olpc_update_query.perform_update.sources.spool import (
    AnotherFile,
    Feed,
    Files,
    Spool,
    most_packed,
    need_room,
    persist,
    resume,
    resume_range,
)
from olpc_update_query.perform_update.store import INDEX, RANGES, SPOOL, Downloads
from olpc_update_query.system.files import disk_errors, read_bounded, replace_file

PACK = "pack"
_SLACK = 64 * 1024
_MAX_RANGES = 1 << 20
_IN_BETWEEN = 2  # ranges for what earlier runs have passed by, a gap


def fetch_manifest(intake: Intake, files: Files) -> None:
    """Fetch the build's manifest.

    Raises:
        BuildNotFound: It is not there.
        NetworkError: The link failed; what has come is kept.
        UntrustedContents: It is not the one that the order signs.
        CorruptContent: It is damaged.
        NoSpace: It cannot fit.
    """
    size = intake.order.size
    need_room(intake.directory, 2 * size)
    intake.progress.step(f"fetching the manifest of build {intake.order.build}")
    try:
        spooled = _fetch_whole(intake, files, "contents.zst", most_packed(size))
    except errors.BuildNotFound:
        spooled = _fetch_whole(intake, files, "contents", size)
        with _opened(spooled) as file:
            intake.accept_manifest(iter(lambda: file.read(_SLACK), b""))
    else:
        with _opened(spooled) as file:
            intake.accept_manifest(unpack_segment(file, b"", size))


def fetch_ranges(intake: Intake, files: Files) -> None:
    """Fetch what is needed from the full pack, in few requests.

    Raises:
        BuildNotFound: There is no full pack.
        NetworkError: The link failed; what has come is kept.
        Malformed: The index is damaged.
        CorruptContent: The same.
        NoSpace: It cannot fit.
    """
    if not (intake.directory / INDEX).exists():
        _fetch_index(intake, files)
    try:
        _fetch_frames(intake, files)
    except AnotherFile:
        # the same build, packed anew: what has come of the other pack is unpacked
        _drop_pack(intake)
        _fetch_index(intake, files)
        _fetch_frames(intake, files)
    intake.look_again()


def check_wanted(intake: Intake) -> None:
    """Unpack, and so prove, the contents that proved to be damaged before.

    Raises:
        CorruptContent: They still are; what has come of the pack is dropped.
    """
    try:
        intake.unpack(intake.wanted)
    except errors.CorruptContent:
        _drop_pack(intake)
        raise


def _drop_pack(intake: Intake) -> None:
    """Drop the spool of a full pack, but keep the contents that are good."""
    try:
        intake.unpack()
    except (errors.CorruptContent, errors.Malformed, errors.NoSpace) as reason:
        intake.progress.step(f"some of what was fetched is lost: {reason}")
    with Downloads(intake.directory) as downloads:
        downloads.drop(SPOOL, RANGES, INDEX)
    intake.look_again()


# --- whole files ----------------------------------------------------------------


def _fetch_whole(intake: Intake, files: Files, name: str, limit: int) -> Path:
    """Fetch a file of unknown length; return the spool that it is in."""
    path = intake.directory / f"{name}.part"
    with Spool(path) as spool:
        before = spool.size

        def attempt() -> None:
            with resume(files, name, spool) as feed:
                for chunk in feed.read():
                    if spool.size + len(chunk) > limit:
                        spool.remove()
                        raise errors.CorruptContent(name, f"{limit} bytes", "more")
                    spool.append(chunk)
                    intake.progress.transferred(spool.size, feed.total or limit)

        try:
            persist(spool, intake.clock, attempt)
        except errors.BuildNotFound:
            spool.remove()
            raise
        intake.credit("manifest", max(spool.size - before, 0))
    return path


@contextlib.contextmanager
def _opened(spooled: Path) -> Iterator[BinaryIO]:
    """Read a complete spool; it is not needed afterwards, good or bad."""
    with Spool(spooled) as spool:
        try:
            with open(spooled, "rb") as file:
                yield file
        finally:
            spool.remove()


def _fetch_index(intake: Intake, files: Files) -> None:
    with Downloads(intake.directory) as downloads:
        downloads.drop(SPOOL, RANGES)  # of another pack, if they are there
    largest = 2 * intake.order.size + _SLACK
    need_room(intake.directory, 2 * largest)
    intake.progress.step("fetching the index of the full pack")
    try:
        spooled = _fetch_whole(intake, files, f"{INDEX}.zst", most_packed(largest))
    except errors.BuildNotFound:
        spooled = _fetch_whole(intake, files, INDEX, largest)
        with _opened(spooled) as file:
            _accept_index(intake, iter(lambda: file.read(_SLACK), b""), largest)
    else:
        with _opened(spooled) as file:
            _accept_index(intake, _expand(file, largest), largest)


def _expand(file: BinaryIO, largest: int) -> Iterator[bytes]:
    """Expand a zstd frame that tells its size."""
    import zstandard

    try:
        size = zstandard.frame_content_size(file.read(18))
    except zstandard.ZstdError:
        raise errors.CorruptContent(INDEX, "a zstd frame", "something else") from None
    if not 0 <= size <= largest:
        raise errors.CorruptContent(INDEX, f"at most {largest} bytes", f"{size}")
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


def _fetch_frames(intake: Intake, files: Files) -> None:
    with Spool(intake.directory / SPOOL) as spool:
        transfer = _Transfer(intake, files, spool)
        before = spool.size
        try:
            persist(spool, intake.clock, transfer.pull)
        finally:
            intake.credit("pack", max(spool.size - before, 0))


class _Transfer:
    """The ranges of one pack on their way into its spool."""

    def __init__(self, intake: Intake, files: Files, spool: Spool) -> None:
        self._intake, self._files, self._spool = intake, files, spool
        index = intake.directory / INDEX
        with disk_errors(index), open(index, "rb") as file:
            self._pack = parse_pack_header(file.readline())
        old = _fetched(intake.directory / RANGES, spool)
        self._ranges = _join(old, _lay_out(index, intake.needs(), old))
        self._total = sum(length for _, length in self._ranges)
        need_room(intake.directory, self._total - spool.size)
        words = canonical.encode([[*item] for item in self._ranges])
        with disk_errors(intake.directory, needed=len(words)):
            replace_file(intake.directory / RANGES, words)
        intake.progress.step(
            f"fetching {(self._total - spool.size) / 1e6:.1f} MB of the full pack, "
            f"{len(self._ranges) - len(old)} ranges"
        )

    def pull(self) -> None:
        """Bring the spool to its end."""
        place, feed = 0, None
        try:
            for offset, length in self._ranges:
                have = min(max(self._spool.size - place, 0), length)
                if have < length:
                    feed = self._feed_at(feed, offset, have, length)
                    self._receive(feed, offset + length)
                place += length
        finally:
            if feed is not None:
                feed.close()

    def _feed_at(self, feed: Feed | None, offset: int, have: int, length: int) -> Feed:
        """Return a feed at what is lacking of a range."""
        start = offset + have
        if feed is not None and not feed.is_ranged and feed.position <= start:
            for _ in feed.read(start):  # all of the pack comes, whatever is asked for
                pass
            return feed
        if feed is not None:
            feed.close()
        feed = resume_range(self._files, PACK, self._spool, have, start, length - have)
        if feed.total not in {None, self._pack.length}:
            feed.close()
            raise AnotherFile(feed.url, "it is not the pack that the index describes")
        return feed

    def _receive(self, feed: Feed, end: int) -> None:
        for chunk in feed.read(end):
            self._spool.append(chunk)
            self._intake.progress.transferred(self._spool.size, self._total)


def _fetched(path: Path, spool: Spool) -> list[Range]:
    """Return the ranges that the spool holds; what it holds beyond is dropped."""
    ranges, place = [], 0
    for offset, length in _read_ranges(path):
        have = min(length, spool.size - place)
        if have <= 0:
            break
        ranges.append(Range(offset, have))
        place += have
    if spool.size > place:
        spool.cut(place)
    return ranges


def _read_ranges(path: Path) -> Iterator[Range]:
    """Yield the ranges noted; none where the note is absent or damaged."""
    try:
        noted = canonical.decode(read_bounded(path, _MAX_RANGES))
    except (OSError, ValueError, errors.Malformed):
        return
    for item in noted if isinstance(noted, list) else []:
        match item:
            case [int(offset), int(length)] if offset >= 0 and length > 0:
                yield Range(offset, length)
            case _:
                return


def _lay_out(index: Path, needs: Needs, fetched: list[Range]) -> list[Range]:
    """Choose the ranges to fetch, none of which overlaps one that was fetched.

    First comes what goes on where the spool ends, in the middle of a frame perhaps.
    """
    last = fetched[-1] if fetched else Range(0, 0)
    end = last.offset + last.length

    def lacking(frame: Frame) -> Frame:
        begun = last.offset <= frame.offset < end
        return _rest_of(frame, end) if begun else frame

    starts = sorted(item.offset for item in fetched)
    first: list[Range] = []
    others: list[Range] = []
    frames = groupby(
        _needed(index, needs), lambda frame: bisect_right(starts, frame.offset)
    )
    for gap, group in frames:
        requests = MAX_REQUESTS if gap == len(starts) else _IN_BETWEEN
        ranges = coalesce(map(lacking, group), requests)
        if ranges[0].offset == end:
            first = ranges
        else:
            others += ranges
    return first + others


def _needed(index: Path, needs: Needs) -> Iterator[Frame]:
    with disk_errors(index), open(index, "rb") as file:
        for frame in read_pack_index(file)[1]:
            if frame.digest in needs:
                yield frame


def _rest_of(frame: Frame, start: int) -> Frame:
    """Return a frame that begins only at offset ``start``."""
    rest = Segment(0, 0, frame.offset + frame.packed - start, frame.size)
    return frame._replace(offset=start, segments=(rest,))


def _join(old: list[Range], new: list[Range]) -> list[Range]:
    """Return both, in order; a range that is gone on with stays one."""
    if old and new and old[-1].offset + old[-1].length == new[0].offset:
        joined = Range(old[-1].offset, old[-1].length + new[0].length)
        return [*old[:-1], joined, *new[1:]]
    return [*old, *new]
