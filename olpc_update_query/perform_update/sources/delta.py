"""A delta pack: one file, one request, from its first byte to its last.

It begins with the new manifest, as patches of the old one. So the laptop knows what
it lacks after a hundredth of the download, and can stop when that is nothing.
"""

import os
from collections.abc import Iterator

from olpc_update_query import errors
from olpc_update_query.model.delta import MAX_HEADER, DeltaHeader
from olpc_update_query.model.pack import unpack_segment
from olpc_update_query.perform_update.activate import InstalledTree
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.download import HEAD
from olpc_update_query.perform_update.sources.intake import Intake
from olpc_update_query.perform_update.sources.spool import (
    AnotherFile,
    Spool,
    most_packed,
    need_room,
)
from olpc_update_query.perform_update.spans import Span
from olpc_update_query.perform_update.store import DELTA

PART = f"{DELTA}.part"
_SLACK = 64 * 1024
_WRONG = (
    AnotherFile,
    errors.Malformed,
    errors.CorruptContent,
    errors.UntrustedContents,
)
_MOST_RESTARTS = 2
_LARGEST = 1 << 40  # until the manifest says how large it can be
_PER_ENTRY = 2  # an index line is never longer than twice a line of the manifest


def begun_from(intake: Intake) -> str | None:
    """Return the digest of the manifest that a delta pack under way starts from."""
    if not (intake.directory / PART).exists():
        return None
    try:
        with Spool(intake.directory / PART) as spool:
            header = _header_in(spool)
    except errors.Malformed:
        return None
    return None if header is None else header.old


def fetch_delta(intake: Intake, crew: Crew, tree: InstalledTree) -> bool:
    """Fetch the delta pack from one installed build.

    Returns:
        Whether it, or as much of it as is of use, has arrived.

    Raises:
        NetworkError: The link failed; what has come is kept.
        NoSpace: It cannot fit.
    """
    name = f"delta/{tree.build}.pack"
    with Spool(intake.directory / PART) as spool:
        delta = _Delta(intake, crew, tree, spool)
        delta.drop_other()
        before = spool.have.total
        try:
            if not _complete(delta, crew, spool, name):
                return False
        finally:
            intake.credit("delta", max(spool.have.total - before, 0))
        if intake.needs():
            spool.finish(DELTA)
            intake.look_again()
        else:
            spool.remove()
    return True


def _complete(delta: "_Delta", crew: Crew, spool: Spool, name: str) -> bool:
    """Bring a delta pack to its end; say whether there is one."""
    while True:
        try:
            delta.pull(name)
        except _WRONG as error:
            if not delta.start_over(name, error):
                spool.remove()
                return False
        except errors.NetworkError:
            if not crew.lacks(name):
                raise
            if not spool.have.total:
                spool.remove()
            return False  # somebody is there, only not with this file
        else:
            return True


class _Delta:
    """One delta pack on its way."""

    def __init__(
        self, intake: Intake, crew: Crew, tree: InstalledTree, spool: Spool
    ) -> None:
        self._intake, self._crew = intake, crew
        self._tree, self._spool = tree, spool
        self._restarts = 0

    def drop_other(self) -> None:
        """Drop what is the beginning of another delta pack, or of none."""
        try:
            header = _header_in(self._spool)
        except errors.Malformed:
            header = None
        if header is None or self._misfit(header):
            self._spool.clear()

    def pull(self, name: str) -> None:
        """Bring the spool to its end, or as far as it is of use."""
        spool, intake = self._spool, self._intake

        def tell() -> None:
            total = spool.length or HEAD
            intake.progress.transferred(min(spool.have.total, total), total)

        download = self._crew.download(name, spool, limit=_LARGEST, tell=tell)
        if _header_in(spool) is None:
            need_room(intake.directory, HEAD)
            download.fill([Span(0, HEAD)])
        header = self._header()
        download.fill([Span(0, header.index_offset)])
        if not intake.has_manifest:
            intake.accept_manifest(self._manifest(header))
        if not intake.needs():
            return
        self._check_total(header)
        need_room(intake.directory, header.length - spool.have.total)
        download.fill([Span(0, header.length)])

    def start_over(self, name: str, error: errors.UpdateError) -> bool:
        """Drop what is wrong, and say whether somebody may have it right."""
        self._intake.progress.step(f"a delta pack is of no use: {error}")
        givers = self._spool.givers(0, _LARGEST)
        self._spool.clear()
        if isinstance(error, AnotherFile):  # published anew
            self._restarts += 1
            self._crew.forgive(name)
            return self._restarts <= _MOST_RESTARTS
        self._crew.blame(givers, name, error)
        return bool(givers) and self._crew.can_give(name)

    def _header(self) -> DeltaHeader:
        header = _header_in(self._spool)
        if header is None:
            raise errors.Malformed("delta pack", "it has no header line")
        if reason := self._misfit(header):
            raise errors.Malformed("delta pack", reason)
        if self._spool.length not in {None, header.length}:
            raise errors.Malformed("delta pack", "its header tells another length")
        self._spool.length = header.length
        size = header.length / 1e6
        self._intake.progress.step(
            f"fetching the changes from build {self._tree.build}: {size:.1f} MB"
        )
        return header

    def _misfit(self, header: DeltaHeader) -> str | None:
        """Say why a delta pack cannot be for this laptop and order."""
        order = self._intake.order
        if header.old != self._intake.manifest_digest(self._tree):
            return "it starts from another build"
        if header.new != order.contents or header.manifest_size != order.size:
            return "it leads to another build"
        old_size = self._tree.contents.stat().st_size
        for part in header.manifest:
            if part.base_offset + part.base_length > old_size:
                return "it patches more than there is"
            if part.packed > most_packed(part.size):
                return "it is larger than what it brings"
        return None

    def _manifest(self, header: DeltaHeader) -> Iterator[bytes]:
        place = header.manifest_offset
        with open(self._tree.contents, "rb") as old:
            for part in header.manifest:
                base = os.pread(old.fileno(), part.base_length, part.base_offset)
                packed = self._spool.read(place, part.packed)
                yield from unpack_segment(packed, base, part.size)
                place += part.packed

    def _check_total(self, header: DeltaHeader) -> None:
        """Refuse a delta pack that is larger than any of this build can be."""
        counts = self._intake.header()
        index = _PER_ENTRY * self._intake.order.size + counts.bytes // 1024 + _SLACK
        frames = most_packed(counts.bytes) + counts.files * 64
        if header.index_size > index or header.index_packed > most_packed(index):
            raise errors.Malformed("delta pack", "its index is too large")
        if header.length - header.frames_offset > frames:
            raise errors.Malformed("delta pack", "it is larger than the build")


def _header_in(spool: Spool) -> DeltaHeader | None:
    """Return the header of a delta pack of which enough has come; None otherwise.

    Raises:
        Malformed: There is a first line, and it is not a header.
    """
    line, newline, _ = spool.read(0, MAX_HEADER).partition(b"\n")
    return DeltaHeader.parse(line + newline) if newline else None
