"""What has arrived of a build, and what is still needed."""

import contextlib
import functools
import hashlib
import os
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from olpc_update_query import errors
from olpc_update_query.model.manifest import (
    Entry,
    Header,
    Kind,
    ManifestReader,
    parse_header,
)
from olpc_update_query.model.orders import Order
from olpc_update_query.model.pack import Frame, unpack_segment
from olpc_update_query.perform_update.activate import InstalledTree, Layout
from olpc_update_query.perform_update.plan import Plan, make_plan
from olpc_update_query.perform_update.store import (
    DELTA,
    FILES,
    HAVE,
    INDEX,
    INSIDE,
    SPOOL,
    Downloads,
    Piece,
    Stretch,
)
from olpc_update_query.perform_update.unknown import trees_to_use
from olpc_update_query.ports import Clock, Progress
from olpc_update_query.system.closing import Closing
from olpc_update_query.system.compressors import Chunk, can_make
from olpc_update_query.system.files import disk_errors, fsync_directory

CONTENTS: Final = "contents"
_PLAN: Final = "plan.db"
_FRESH: Final = ".new"


class Needs:
    """The contents that are still needed, for 17 bytes each.

    They are known by the first eight bytes of their digests: that two contents of
    one build begin alike does not happen by itself, and builds are signed.
    """

    def __init__(self, missing: Iterable[tuple[bytes, int]]) -> None:
        pairs = sorted((_key(digest), size) for digest, size in missing)
        self._keys = array("Q", (key for key, _ in pairs))
        self._sizes = array("Q", (size for _, size in pairs))
        self._open = bytearray(b"\1" * len(pairs))
        self.count = len(pairs)
        self.size = sum(self._sizes)

    def __bool__(self) -> bool:
        return self.count > 0

    def __contains__(self, digest: bytes) -> bool:
        return self.place(digest) is not None

    def __len__(self) -> int:
        return len(self._keys)

    def largest(self) -> int:
        """Return the size of the largest content that is needed."""
        sizes = zip(self._sizes, self._open, strict=True)
        return max((size for size, needed in sizes if needed), default=0)

    def meet(self, digest: bytes) -> None:
        """Note that a content is there."""
        place = self.place(digest)
        if place is not None:
            self._open[place] = 0
            self.count -= 1
            self.size -= self._sizes[place]

    def place(self, digest: bytes) -> int | None:
        """Return the number, below ``len``, of a content; None if it is not needed."""
        key = _key(digest)
        place = bisect_left(self._keys, key)
        known = place < len(self._keys) and self._keys[place] == key
        return place if known and self._open[place] else None


def _key(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")


class Intake(Closing):
    """Takes in what sources give for one order.

    Args:
        order: The order.
        layout: The builds on the laptop.
        directory: ``downloads/<sha256 of the manifest>``; made if need be.
        wanted: Digests to fetch although they should be there: an installed copy, or
            what was fetched, has proved to be damaged. What comes for them is checked.
        progress: Who is told.
        clock: For pauses.
    """

    def __init__(
        self,
        order: Order,
        layout: Layout,
        directory: Path,
        wanted: Collection[bytes],
        progress: Progress,
        clock: Clock,
    ) -> None:
        self.order, self.installed = order, layout.known()
        self.directory, self.wanted = directory, frozenset(wanted)
        self.progress, self.clock = progress, clock
        self.gave: dict[str, int] = {}
        self._layout = layout
        self._plan: Plan | None = None
        self._needs: Needs | None = None
        self._digests: dict[Path, str] = {}
        with disk_errors(directory):
            os.makedirs(directory / FILES, exist_ok=True)
        self.has_manifest = _sha256(self.contents) == order.contents

    def close(self) -> None:
        """Remove the plan."""
        if self._plan is not None:
            self._plan.close()

    def credit(self, kind: str, size: int) -> None:
        """Note that a kind of source gave so many bytes."""
        self.gave[kind] = self.gave.get(kind, 0) + size

    # --- the manifest -------------------------------------------------------------

    @property
    def contents(self) -> Path:
        """Where the build's manifest is or will be."""
        return self.directory / CONTENTS

    def accept_manifest(self, chunks: Iterable[bytes]) -> None:
        """Keep the build's manifest, if that is what comes.

        Raises:
            UntrustedContents: It is not the one that the order signs.
        """
        fresh = self.contents.with_suffix(_FRESH)
        digest = write_hashed(fresh, chunks, self.order.size)
        if digest is None or digest.hex() != self.order.contents:
            fresh.unlink()
            raise errors.UntrustedContents("contents", "not what the order signs")
        with disk_errors(self.contents):
            os.rename(fresh, self.contents)
            fsync_directory(self.directory)
        self.has_manifest = True

    def header(self) -> Header:
        """Return the manifest's header."""
        with disk_errors(self.contents), open(self.contents, "rb") as file:
            return parse_header(file.readline())

    def manifest_digest(self, tree: InstalledTree) -> str:
        """Return the digest of an installed manifest, in hex; empty without one."""
        if tree.contents not in self._digests:
            self._digests[tree.contents] = _sha256(tree.contents)
        return self._digests[tree.contents]

    # --- the contents -----------------------------------------------------------------

    @property
    def plan(self) -> Plan:
        """Return what the laptop lacks; only once the manifest is there."""
        if self._plan is None:
            trees = trees_to_use(
                self._layout, self.contents, self.directory, self.progress
            )
            self.progress.step("comparing the manifests")
            self._plan = make_plan(
                self.contents,
                trees,
                self.directory / _PLAN,
                distrust=self.wanted,
            )
        return self._plan

    def needs(self) -> Needs:
        """Return which contents are neither installed nor fetched."""
        if self._needs is None:
            self._needs = self._look()
        return self._needs

    def look_again(self) -> None:
        """Find out anew what is needed, after something has come or gone."""
        self._needs = None

    def _look(self) -> Needs:
        needs = Needs(self.plan.missing())
        for digest in self.wanted:
            file = self.directory / FILES / digest.hex()
            if _sha256(file) != digest.hex():
                file.unlink(missing_ok=True)
        for name in os.listdir(self.directory / FILES):
            with contextlib.suppress(ValueError):
                needs.meet(bytes.fromhex(name))
        if needs:
            with Downloads(self.directory) as downloads:
                self._meet_from_packs(needs, downloads)
        for digest in self._hidden if needs else ():
            if digest not in self.wanted:
                needs.meet(digest)
        return needs

    def _meet_from_packs(self, needs: Needs, downloads: Downloads) -> None:
        for file, *more in ((DELTA,), (SPOOL, HAVE, INDEX), (INSIDE,)):
            try:
                for piece in downloads.pieces(file):
                    if self._is_usable(piece):
                        needs.meet(piece.frame.digest)
            except (errors.Malformed, errors.CorruptContent) as reason:
                self.progress.step(f"what was fetched is damaged and dropped: {reason}")
                downloads.drop(file, *more)

    def _is_usable(self, piece: Piece) -> bool:
        """Say whether a content can be made from what is there."""
        base, inside = piece.frame.base, piece.frame.inside
        if piece.frame.digest in self.wanted:
            return False
        if inside is not None and not all(map(can_make, inside.parts)):
            return False
        return (
            base is None
            or self.plan.locate(base) is not None
            or (base in self._hidden and base not in self.wanted)
        )

    @functools.cached_property
    def _hidden(self) -> frozenset[bytes]:
        """Digests of installed files in directories that this user may not enter.

        They are taken to be there: the installer can look, and asks for what is not.
        """
        if os.geteuid() == 0:
            return frozenset()
        return frozenset(
            entry.digest for tree in self.installed for entry in _hidden_files(tree)
        )

    # --- whole contents --------------------------------------------------------------

    def take_file(self, digest: bytes, source: Path) -> bool:
        """Move a file in as a whole content, if it is that."""
        if _sha256(source, sync=True) != digest.hex():
            return False
        with disk_errors(source):
            os.rename(source, self.directory / FILES / digest.hex())
        self.needs().meet(digest)
        return True

    def take_chunks(self, digest: bytes, size: int, chunks: Iterable[Chunk]) -> None:
        """Write a whole content.

        Raises:
            CorruptContent: It is something else that comes.
        """
        fresh = self.directory / FILES / f"{digest.hex()}{_FRESH}"
        found = None
        try:
            found = write_hashed(fresh, chunks, size)
        finally:
            if found != digest:
                fresh.unlink(missing_ok=True)
        if found != digest:
            what = "another content" if found else "another size"
            raise errors.CorruptContent(digest.hex(), f"{size} bytes of it", what)
        with disk_errors(fresh):
            os.rename(fresh, fresh.with_suffix(""))
        self.needs().meet(digest)

    def unpack(self, only: Collection[bytes] | None = None) -> list[Frame]:
        """Unpack what lies in the spool of a full pack into whole contents.

        That proves them, at the price of space and time: for what proved to be
        damaged once, and before a spool is dropped.

        Args:
            only: The digests to unpack; None for all that the build needs.

        Returns:
            The frames that are damaged; all others are unpacked.
        """
        damaged: list[Frame] = []
        with Downloads(self.directory) as downloads:
            spool = downloads.descriptors().get(SPOOL, -1)
            for piece in downloads.pieces(SPOOL):
                if self._is_to_be_unpacked(piece, only):
                    try:
                        self.take_chunks(*_unpacked(spool, piece))
                    except errors.CorruptContent:
                        damaged.append(piece.frame)
        return damaged

    def _is_to_be_unpacked(self, piece: Piece, only: Collection[bytes] | None) -> bool:
        digest = piece.frame.digest
        if only is not None and digest not in only:
            return False
        if self.plan.missing_size(digest) is None:
            return False
        return not (self.directory / FILES / digest.hex()).exists()


def _hidden_files(tree: InstalledTree) -> Iterator[Entry]:
    top = os.fsencode(tree.tree) + b"/"
    closed: list[bytes] = []
    with (
        contextlib.suppress(OSError, errors.Malformed, errors.UnsafePath),
        open(tree.contents, "rb") as file,
    ):
        for entry in ManifestReader(file):
            is_below = any(entry.path.startswith(one) for one in closed)
            if entry.kind is Kind.FILE and is_below:
                yield entry
            elif entry.kind is Kind.DIRECTORY and not is_below:
                try:
                    os.stat(top + entry.path + b"/.")
                except PermissionError:
                    closed.append(entry.path + b"/" if entry.path else b"")


def _unpacked(spool: int, piece: Piece) -> tuple[bytes, int, Iterator[bytes]]:
    frame = piece.frame
    packed = Stretch(spool, piece.position, frame.packed).stream()
    return frame.digest, frame.size, unpack_segment(packed, b"", frame.size)


def write_hashed(path: Path, chunks: Iterable[Chunk], limit: int) -> bytes | None:
    """Write a new file of at most ``limit`` bytes and return its digest.

    Returns:
        The SHA-256 of what was written; None when more came.
    """
    digest, size = hashlib.sha256(), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        disk_errors(path, needed=limit),
        open(os.open(path, flags, 0o644), "wb") as file,
    ):
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                return None
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.digest()


def _sha256(path: Path, *, sync: bool = False) -> str:
    """Return the digest of a file in hex; empty when it cannot be read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(path, flags), "rb") as file:
            if sync:
                os.fsync(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
