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
from olpc_update_query.perform_update.sources.intake import Intake
from olpc_update_query.perform_update.sources.spool import (
    Feed,
    Files,
    Spool,
    most_packed,
    need_room,
    persist,
    resume,
)
from olpc_update_query.perform_update.store import DELTA

PART = f"{DELTA}.part"
_SLACK = 64 * 1024
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


def fetch_delta(intake: Intake, files: Files, tree: InstalledTree) -> bool:
    """Fetch the delta pack from one installed build.

    Returns:
        Whether it, or as much of it as is of use, has arrived.

    Raises:
        NetworkError: The link failed; what has come is kept.
        Malformed: It is damaged; what has come is dropped.
        CorruptContent: The same.
        UntrustedContents: The same.
        NoSpace: It cannot fit.
    """
    name = f"delta/{tree.build}.pack"
    with Spool(intake.directory / PART) as spool:
        delta = _Delta(intake, files, tree, spool)
        delta.drop_other()
        before = spool.size
        try:
            persist(spool, intake.clock, lambda: delta.pull(name))
        except errors.BuildNotFound:
            spool.remove()
            return False
        except (errors.Malformed, errors.CorruptContent, errors.UntrustedContents):
            spool.remove()
            raise
        finally:
            intake.credit("delta", max(spool.size - before, 0))
        if intake.needs():
            spool.finish(DELTA)
            intake.look_again()
        else:
            spool.remove()
    return True


class _Delta:
    """One delta pack on its way."""

    def __init__(
        self, intake: Intake, files: Files, tree: InstalledTree, spool: Spool
    ) -> None:
        self._intake, self._files = intake, files
        self._tree, self._spool = tree, spool

    def drop_other(self) -> None:
        """Drop what is the beginning of another delta pack, or of none."""
        try:
            header = _header_in(self._spool)
        except errors.Malformed:
            header = None
        if header is None or self._misfit(header):
            self._spool.cut(0)

    def pull(self, name: str) -> None:
        """Bring the spool to its end, or as far as it is of use."""
        header = _header_in(self._spool)
        if header is not None and self._spool.size == header.length:
            return
        with resume(self._files, name, self._spool) as feed:
            header = self._receive_header(feed)
            self._receive(feed, header.index_offset, header.length)
            if not self._intake.has_manifest:
                self._intake.accept_manifest(self._manifest(header))
            if not self._intake.needs():
                return
            self._check_total(header)
            need_room(self._intake.directory, header.length - self._spool.size)
            self._receive(feed, header.length, header.length)
        if self._spool.size > header.length:
            raise errors.CorruptContent(name, f"{header.length} bytes", "more")

    def _receive_header(self, feed: Feed) -> DeltaHeader:
        while (header := _header_in(self._spool)) is None:
            chunk = next(feed.read(), b"")
            if not chunk or self._spool.size > MAX_HEADER:
                raise errors.Malformed("delta pack", "it has no header line")
            self._spool.append(chunk)
        if reason := self._misfit(header):
            raise errors.Malformed("delta pack", reason)
        if feed.total is not None and feed.total != header.length:
            raise errors.Malformed("delta pack", "its header tells another length")
        size = header.length / 1e6
        self._intake.progress.step(
            f"fetching the changes from build {self._tree.build}: {size:.1f} MB"
        )
        return header

    def _receive(self, feed: Feed, end: int, total: int) -> None:
        for chunk in feed.read(end):
            self._spool.append(chunk)
            self._intake.progress.transferred(self._spool.size, total)

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
