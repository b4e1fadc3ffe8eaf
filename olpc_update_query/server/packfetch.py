"""The full pack of a build on its way: from builds that are here, and from the link.

What comes is proven content by content. One that came damaged is fetched again; so a
wrong byte on the way costs one content, not the whole.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from olpc_update_query.errors import CorruptContent, Malformed
from olpc_update_query.model.pack import Frame, PackHeader
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.spool import (
    AnotherFile,
    Spool,
    need_room,
)
from olpc_update_query.perform_update.spans import Spans
from olpc_update_query.ports import Progress
from olpc_update_query.server.archive import Archive
from olpc_update_query.server.packing import in_order, is_sound
from olpc_update_query.server.publish import published_builds

PACK: Final = "pack"
_MUCH: Final = 1 << 20  # bytes of which it is worth telling how far they are
_ROUNDS: Final = 3


class PackFetch:
    """A pack that is fetched.

    Args:
        stage: Directory of the build; the pack goes there.
        index: What its index says of the whole.
        frames: What it says of each content.
        crew: Who has the pack.
        progress: Who is told.
    """

    def __init__(
        self,
        stage: Path,
        index: PackHeader,
        frames: Sequence[Frame],
        crew: Crew,
        progress: Progress,
    ) -> None:
        self._stage, self._index, self._frames = stage, index, frames
        self._crew, self._progress = crew, progress
        self._ours = Spans()

    def run(self, builds: Path) -> int:
        """Fetch it, unless it is here.

        Args:
            builds: The site's builds, whose frames may be used again.

        Returns:
            How many bytes were taken from there.

        Raises:
            NetworkError: The link failed; what has come is kept.
            CorruptContent: It came damaged several times.
            NoSpace: It cannot fit.
        """
        is_complete = (self._stage / PACK).is_file()
        if is_complete:
            (self._stage / PACK).rename(self._stage / f"{PACK}.part")
        with Spool(self._stage / f"{PACK}.part") as spool:
            if is_complete:
                spool.adopt("this site")
            need_room(self._stage, self._index.length - spool.have.total)
            spool.length = self._index.length
            os.ftruncate(spool.fileno(), self._index.length)
            self._take_from(builds, spool)
            self._fill(spool)
            spool.finish(PACK)
        return self._ours.total

    def _fill(self, spool: Spool) -> None:
        here = spool.have.total
        self._progress.step(
            f"{(self._index.length - here) / 1e6:.1f} MB of the pack to fetch, "
            f"{here / 1e6:.1f} MB are here"
        )
        damaged: list[Frame] = []
        for _ in range(_ROUNDS):
            self._download(spool)
            damaged = self._damaged(spool)
            if not damaged:
                return
            self._progress.step(f"{len(damaged)} contents lack or came damaged")
            spans = [(one.offset, one.offset + one.packed) for one in damaged]
            spool.have = _without(spool.have, Spans(spans))
        raise CorruptContent(PACK, damaged[0].digest.hex(), "other bytes")

    def _download(self, spool: Spool) -> None:
        download = self._crew.download(
            *(PACK, spool),
            limit=self._index.length,
            tell=partial(tell_of, spool, self._progress),
        )
        try:
            download.fill(spool.have.gaps(0, self._index.length))
        except AnotherFile:
            # a wrong byte came, or the other site has packed otherwise than this one
            self._crew.forgive(PACK)
            spool.have = _without(spool.have, self._ours)
            self._ours = Spans()

    def _damaged(self, spool: Spool) -> list[Frame]:
        """Return the frames that are not what their digests say."""
        with _Filled(spool.path, self._frames) as archive:
            sound = in_order(partial(is_sound, archive), self._frames)
            pairs = zip(self._frames, sound, strict=True)
            return [one for one, good in pairs if not good]

    def _take_from(self, builds: Path, spool: Spool) -> None:
        """Copy the frames that builds of this site have."""
        wanted = {frame.digest for frame in self._frames}
        with ExitStack() as stack:
            archives = []
            for path in published_builds(builds):
                try:
                    archive = stack.enter_context(Archive(path, wanted))
                except (Malformed, OSError):
                    continue  # `check` says what is wrong with it
                archives.append(archive)
                wanted -= archive.frames.keys()
            for frame in self._frames:
                end = frame.offset + frame.packed
                if spool.have.gaps(frame.offset, end) and _copy(spool, frame, archives):
                    spool.have.add(frame.offset, end)
                    self._ours.add(frame.offset, end)


class _Filled(Archive):
    """A pack whose frames are known already; like `Archive`."""

    def __init__(self, path: Path, frames: Sequence[Frame]) -> None:
        self.path, self.frames = path, {frame.digest: frame for frame in frames}
        self._pack = open(path, "rb", buffering=0)  # noqa: SIM115 - see close


def _copy(spool: Spool, frame: Frame, archives: Sequence[Archive]) -> bool:
    """Copy a frame from the first build that has it in the same form."""
    for archive in archives:
        ours = archive.frames.get(frame.digest)
        if ours is not None and ours.packed == frame.packed:
            place = frame.offset
            with archive.packed(ours) as stream:
                while chunk := stream.read(1 << 20):
                    place += os.pwrite(spool.fileno(), chunk, place)
            return place == frame.offset + frame.packed
    return False


def _without(have: Spans, bad: Spans) -> Spans:
    return Spans(gap for span in have for gap in bad.gaps(*span))


def tell_of(spool: Spool, progress: Progress) -> None:
    """Tell how much of a large file has come."""
    if spool.length and spool.length > _MUCH:
        progress.transferred(spool.have.total, spool.length)
