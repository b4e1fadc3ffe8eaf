"""Finds contents of a build that can be made of others of the same build.

That is worth much for an initrd, which holds many files of its tree once more. A delta
pack can then say how it is made, and so can ``inside.pack``, for who has no delta.
"""

import contextlib
from collections.abc import Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from olpc_update_query.model.inside import MAX_COPIES, Part
from olpc_update_query.model.pack import Frame
from olpc_update_query.server.archive import DeltaArchive, Unfinished
from olpc_update_query.server.deltafile import (
    DeltaWriter,
    cost_of,
    is_packed,
    patch,
    spool,
)
from olpc_update_query.server.takeapart import File, taken_apart
from olpc_update_query.system.closing import Closing

INSIDE = "inside.pack"
_MIN_SIZE = 64 << 10


class _Recipe(NamedTuple):
    """What is known of a content before all others are.

    Attributes:
        whole: Its frame in the full pack.
        settings: How what is in it is compressed again.
        files: What is in it.
    """

    whole: Frame
    settings: Part
    files: tuple[File, ...]


_Made = tuple[Frame, IO[bytes]]


class InsidePack(Closing):
    """Writes ``inside.pack``. Use as a context manager.

    To find out how a content is compressed again takes seconds: it is begun as soon
    as the content lies in the pack, beside the packing of those behind it.

    Args:
        build: Directory of the build, whose pack may still be growing.
    """

    def __init__(self, build: Path) -> None:
        self._build = build
        (build / "pack").touch()
        self._pack = Unfinished(build)
        self._aside = ThreadPoolExecutor(1)
        self._begun: list[Future[_Recipe | None]] = []
        self._made: list[Future[_Made | None]] = []

    def close(self) -> None:
        """Stop, and close the pack."""
        self._aside.shutdown(cancel_futures=True)
        self._pack.close()

    def wants(self, frame: Frame) -> bool:
        """Tell whether a content may have others in it."""
        return frame.size >= _MIN_SIZE and is_packed(frame)

    def begin(self, frame: Frame) -> None:
        """Begin with a content, which lies in the pack now."""
        self._begun.append(self._aside.submit(self._recipe, frame))

    def _recipe(self, whole: Frame) -> _Recipe | None:
        with (
            self._pack.hold(whole, self._build) as content,
            taken_apart(content, self._build) as apart,
        ):
            if apart is None:
                return None
            files = tuple(islice(apart.files(), MAX_COPIES))
            settings = apart.settings() if files else None
        return _Recipe(whole, settings, files) if settings else None

    def finish(self, known: Container[bytes]) -> None:
        """Begin with the rest of the work.

        Args:
            known: Digests of the build's contents.
        """
        for recipe in self._begun:
            self._made.append(self._aside.submit(self._make, recipe, known))

    def write(self) -> int:
        """Write the file, if there is anything to say, and return of how many contents.

        The manifest must be there by now.
        """
        found = [made for each in self._made if (made := each.result())]
        if found:
            with DeltaWriter(self._build, self._build, self._build) as writer:
                for frame, kept in found:
                    writer.add(frame, kept)
                writer.write(self._build / INSIDE)
        return len(found)

    def _make(
        self, begun: Future[_Recipe | None], known: Container[bytes]
    ) -> _Made | None:
        recipe = begun.result()
        if recipe is None:
            return None
        whole, settings, files = recipe
        copied = [file for file in files if file.digest in known]
        if not copied:
            return None
        with (
            self._pack.hold(whole, self._build) as content,
            taken_apart(content, self._build) as apart,
        ):
            described = apart and apart.describe(copied, settings)
        if described is None:
            return None
        inside, raw = described
        parts = list(patch(raw, b""))
        segments = tuple(segment for segment, _ in parts)
        frame = Frame(whole.digest, whole.size, None, 0, segments, inside)
        if cost_of(frame) > whole.packed // 2:
            return None
        return frame, spool((packed for _, packed in parts), self._build)


@contextlib.contextmanager
def open_inside(build: Path) -> Iterator[DeltaArchive | None]:
    """Open a build's ``inside.pack``; None when it has none."""
    if not (build / INSIDE).is_file():
        yield None
        return
    with DeltaArchive(build / INSIDE) as archive:
        yield archive
