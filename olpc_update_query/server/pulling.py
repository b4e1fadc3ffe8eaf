"""One build on its way from another site into a stage of this one (`mirror`)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from olpc_update_query import errors
from olpc_update_query.model.manifest import MAX_HEADER, Header, parse_header
from olpc_update_query.model.orders import Order
from olpc_update_query.model.pack import (
    parse_pack_header,
    read_pack_index,
)
from olpc_update_query.model.wire import BuildId
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.full import expand_frame
from olpc_update_query.perform_update.sources.spool import (
    AnotherFile,
    Spool,
    most_packed,
)
from olpc_update_query.ports import Progress
from olpc_update_query.server.archive import digest_of
from olpc_update_query.server.packfetch import PackFetch, tell_of
from olpc_update_query.server.publish import compress
from olpc_update_query.server.verify import check_build, check_delta

_DELTAS: Final = "delta.new"
_SLACK: Final = 64 << 10
_LARGEST_INSIDE: Final = 64 << 20


class Pull:
    """One build on its way.

    Args:
        stage: Where it is put together.
        builds: The site's builds.
        order: What was signed.
        crew: Who has it.
        progress: Who is told.

    Attributes:
        reused: Bytes of its pack that were in other builds here.
    """

    def __init__(
        self, stage: Path, builds: Path, order: Order, crew: Crew, progress: Progress
    ) -> None:
        self._stage, self._builds, self._order = stage, builds, order
        self._crew, self._progress = crew, progress
        self.reused = 0

    def run(self, bases: Sequence[BuildId]) -> tuple[str, ...]:
        """Fetch everything, prove it, and return the builds that deltas start from."""
        stage = self._stage
        self._progress.step(f"fetching build {self._order.build}")
        self._whole("contents", self._order.size, self._is_manifest)
        with open(stage / "contents", "rb") as file:
            header = parse_header(file.readline(MAX_HEADER + 1))
        self._whole("pack.index", 2 * self._order.size + _SLACK, self._is_index)
        self._optional("inside.pack", _LARGEST_INSIDE)
        self._pack(header)
        self._progress.step("proving every byte")
        for name in ("contents", "pack.index"):
            compress(stage / name)
        check_build(stage)
        (stage / _DELTAS).mkdir(exist_ok=True)
        found = tuple(base for base in bases if self._delta(base, header))
        (stage / _DELTAS).rename(stage / "delta")
        return found

    # --- small files ----------------------------------------------------------------

    def _whole(self, name: str, limit: int, is_right: Callable[[Path], bool]) -> None:
        """Fetch a file, compressed where it is, unless the right one is here."""
        target = self._stage / name
        if target.is_file() and is_right(target):
            return
        try:
            packed = self._file(f"{name}.zst", most_packed(limit))
        except errors.BuildNotFound:
            self._optional(name, limit)
        else:
            with open(packed, "rb") as file, open(target, "wb") as out:
                out.writelines(expand_frame(file, limit, name))
            packed.unlink()
        if not target.is_file() or not is_right(target):
            target.unlink(missing_ok=True)
            raise errors.UntrustedContents(name, "not what the order signs")

    def _is_manifest(self, path: Path) -> bool:
        return digest_of(path) == self._order.contents

    def _is_index(self, path: Path) -> bool:
        with open(path, "rb") as file:
            header = parse_pack_header(file.readline(MAX_HEADER + 1))
        return header.contents == self._order.contents

    def _optional(self, name: str, limit: int, target: Path | None = None) -> bool:
        """Fetch a file that a build need not have; say whether it is here."""
        target = target or self._stage / name
        if not target.is_file():
            try:
                self._file(name, limit).rename(target)
            except errors.BuildNotFound:
                return False
        return True

    def _file(self, name: str, limit: int) -> Path:
        """Fetch a whole file, and return where it is."""
        path = self._stage / f"{name.replace('/', '-')}.part"
        with Spool(path) as spool:
            download = self._crew.download(
                name, spool, limit=limit, tell=partial(tell_of, spool, self._progress)
            )
            try:
                download.fetch_all()
            except AnotherFile:
                spool.clear()
                self._crew.forgive(name)
                download.fetch_all()
            except errors.BuildNotFound:
                spool.remove()
                raise
            spool.forget()
        return path

    def _pack(self, header: Header) -> None:
        """Fetch the pack but for what is here, and prove each content of it."""
        with open(self._stage / "pack.index", "rb") as file:
            index, found = read_pack_index(file)
            frames = list(found)
        if index.length > most_packed(header.bytes) + 64 * len(frames) + _SLACK:
            raise errors.Malformed("pack.index", "the pack is larger than its contents")
        fetch = PackFetch(self._stage, index, frames, self._crew, self._progress)
        try:
            self.reused = fetch.run(self._builds)
        except errors.CorruptContent:
            (self._stage / "pack.index").unlink()  # perhaps it is of another pack
            raise

    # --- deltas ---------------------------------------------------------------------

    def _delta(self, base: BuildId, header: Header) -> bool:
        """Fetch the delta from a build, if there is a good one."""
        if base == self._order.build:
            return False
        limit = most_packed(header.bytes) + 4 * self._order.size + _SLACK
        name = f"delta/{base}.pack"
        path = self._stage / _DELTAS / f"{base}.pack"
        if not self._optional(name, limit, path):
            return False
        try:
            check_delta(self._stage, path)
        except (errors.Malformed, errors.CorruptContent) as error:
            self._progress.step(f"the delta from {base} is of no use: {error}")
            path.unlink()
            return False
        return True
