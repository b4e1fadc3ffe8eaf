"""Publishes a tree as a build: manifest, packs, and what else laptops fetch.

A build is made beside the others under a name that no laptop asks for, synced, and
renamed at the end: it is there whole or not at all. The same tree gives the same
bytes, whenever and wherever it is published with the same zstd library.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from olpc_update_query.errors import Malformed, SiteExists, UnfitTree, UnknownBuild
from olpc_update_query.model.manifest import (
    MAX_LINE,
    Entry,
    Header,
    Kind,
    ManifestReader,
    TreePath,
    encode_entry,
    encode_header,
    encode_name,
)
from olpc_update_query.model.whole import pack_content
from olpc_update_query.model.wire import BuildId, Sha256
from olpc_update_query.ports import Progress
from olpc_update_query.server.archive import (
    LINES,
    Archive,
    Remains,
    digest_of,
    iter_chunks,
)
from olpc_update_query.server.deltas import write_delta
from olpc_update_query.server.fit import check_bootable
from olpc_update_query.server.heap import give_back_large_blocks
from olpc_update_query.server.inside import InsidePack
from olpc_update_query.server.ownership import hand_over
from olpc_update_query.server.packing import (
    Pack,
    write_index,
    write_pack,
)
from olpc_update_query.server.plaintree import make_plain_tree
from olpc_update_query.server.replacing import hold_builds, settle
from olpc_update_query.server.tarball import Tarball
from olpc_update_query.server.tree import Tree
from olpc_update_query.server.verify import check_build
from olpc_update_query.server.walk import Directory
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    sync_filesystem,
)

__all__ = ["OrderFacts", "Published", "check_build", "publish"]

NORMAL_TIME_NS = 315_532_800 * 1_000_000_000
"""What ``normalize_times`` gives every path: 1980-01-01, which any format can hold."""

_DAY_NS = 86_400 * 1_000_000_000
_LISTS = 10  # level of zstd for them; more is slow, and saves little below 17
_STAGE = ".tmp-"
_LEFT = ".left"


class OrderFacts(NamedTuple):
    """What an order says about a build.

    Attributes:
        build: Its name.
        contents: SHA-256 of its manifest, hex.
        size: Length of its manifest in bytes.
    """

    build: BuildId
    contents: Sha256
    size: int


class Published(NamedTuple):
    """A build that has been published.

    Attributes:
        facts: What an order says about it.
        path: Its directory.
        header: The manifest's counts.
        contents: How many distinct contents it has.
        pack: Length of the full pack in bytes.
        deltas: Length of each delta pack in bytes, by the build it starts from.
    """

    facts: OrderFacts
    path: Path
    header: Header
    contents: int
    pack: int
    deltas: dict[BuildId, int]


class _Silent:
    """Tells nobody anything."""

    def step(self, text: str) -> None:
        """Tell nobody."""

    def transferred(self, done: int, total: int) -> None:
        """Tell nobody."""


def publish(  # noqa: PLR0913 - all that an administrator may choose
    site_builds: Path,
    tree: Path,
    build: BuildId,
    *,
    delta_from: Sequence[BuildId] = (),
    with_root: bool = False,
    normalize_times: bool = False,
    must_boot: bool = False,
    progress: Progress | None = None,
    sign_order: Callable[[OrderFacts], bytes] | None = None,
) -> Published:
    """Publish a tree as a build.

    Args:
        site_builds: The directory of the published builds.
        tree: The tree: a directory that does not change meanwhile, or a tar archive.
        build: The build's name.
        delta_from: Published builds to make delta packs from.
        with_root: Whether to add the plain tree as ``root/``.
        normalize_times: Whether to give every path the same time.
        must_boot: Whether to refuse a tree that no laptop could boot.
        progress: Who is told how it goes.
        sign_order: Makes the signed order, which becomes the file ``order``.

    Returns:
        What was published.

    Raises:
        SiteExists: A build of that name is published already.
        UnknownBuild: One of ``delta_from`` is not.
        UnfitTree: The tree cannot be read or booted, or changes meanwhile.
        Busy: Another tree is being published here.
        NoSpace, NotPermitted, DiskFailed: It cannot be written.
    """
    give_back_large_blocks()
    with disk_errors(site_builds):
        site_builds.mkdir(parents=True, exist_ok=True)
        with hold_builds(site_builds, f"publish {build}"):
            settle(site_builds)
            _check_names(site_builds, build, delta_from)
            told = progress or _Silent()
            with (
                _staged(site_builds, build) as stage,
                _opened(tree, stage, told) as opened,
            ):
                return _Publisher(
                    stage=stage,
                    builds=site_builds,
                    tree=opened,
                    mtime_ns=NORMAL_TIME_NS if normalize_times else None,
                    must_boot=must_boot,
                    progress=told,
                ).publish(build, delta_from, with_root, sign_order)


@contextmanager
def _opened(tree: Path, work: Path, progress: Progress) -> Iterator[Tree]:
    progress.step(f"reading {tree}")
    if tree.is_dir():
        yield Directory(tree)
        return
    with Tarball(tree, work, progress) as tarball:
        yield tarball


def _check_names(builds: Path, build: BuildId, delta_from: Sequence[BuildId]) -> None:
    if (builds / build).exists():
        raise SiteExists(str(builds / build), "a build of this name is published")
    for old in delta_from:
        if not (builds / old / "pack.index").is_file():
            raise UnknownBuild(
                old, ", ".join(path.name for path in published_builds(builds))
            )


def published_builds(builds: Path) -> list[Path]:
    """Return the directories of the builds below a directory, sorted."""
    return sorted(
        path for path in builds.glob("[!.]*") if (path / "pack.index").is_file()
    )


@contextmanager
def _staged(builds: Path, build: BuildId) -> Iterator[Path]:
    """Make a build under another name; give it its own when the block succeeds.

    What attempts left behind that were killed or interrupted is put aside, as far as it
    is of use, and goes at the end: the lock says that nobody is at it.
    """
    stage = builds / f"{_STAGE}{build}"
    _put_aside(builds, stage)
    stage.mkdir()
    hand_over(builds, [stage])  # so that the owner of the site can delete it
    try:
        yield stage
        hand_over(builds, _but_the_tree(stage))
        sync_filesystem(stage)
        stage.rename(builds / build)
    except KeyboardInterrupt:
        raise  # the next attempt goes on with what is packed
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    shutil.rmtree(builds / _LEFT, ignore_errors=True)
    fsync_directory(builds)


def _but_the_tree(stage: Path) -> Iterator[Path]:
    """Yield what is in a build, but not the plain tree: its owners are as published."""
    for path in stage.iterdir():
        if path.name != "root":
            yield from (path, *path.glob("*"))


def _put_aside(builds: Path, stage: Path) -> None:
    """Keep the longer of two packs that were begun: of this attempt, or before it."""
    left = builds / _LEFT
    if _begun(stage) > _begun(left):
        shutil.rmtree(left, ignore_errors=True)
        stage.rename(left)
    for path in builds.glob(f"{_STAGE}*"):
        shutil.rmtree(path)


def attempts(builds: Path) -> list[Path]:
    """Return what attempts left behind that were cut short, or what is being made."""
    return sorted([*builds.glob(f"{_STAGE}*"), *builds.glob(_LEFT)])


def forget_attempts(builds: Path) -> int:
    """Delete what attempts left behind that were cut short; only under the lock.

    Returns:
        How many bytes.
    """
    found = attempts(builds)
    files = [file for path in found for file in path.rglob("*")]
    size = sum(file.lstat().st_size for file in files if not file.is_dir())
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return size


def _begun(directory: Path) -> int:
    """Return how much of a pack is there; 0 without the lines that say what it is."""
    pack = directory / "pack"
    if not (directory / LINES).is_file() or not pack.is_file():
        return 0
    return pack.stat().st_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Publisher:
    """Makes the files of one build in its stage."""

    stage: Path
    builds: Path
    tree: Tree
    mtime_ns: int | None
    must_boot: bool
    progress: Progress

    def publish(
        self,
        build: BuildId,
        delta_from: Sequence[BuildId],
        with_root: bool,
        sign_order: Callable[[OrderFacts], bytes] | None,
    ) -> Published:
        """Make everything: what tells of the contents after them."""
        self.progress.step("listing the tree")
        entries = list(self.tree.entries(self.progress))
        if self.must_boot:
            check_bootable(entries)
        manifest = self.stage / "contents"
        with InsidePack(self.stage) as inside:
            pack = self._write_pack(entries, inside)
            inside.finish(set(pack.digests.values()))
            header = self._write_manifest(build, entries, pack.digests)
            facts = OrderFacts(build, digest_of(manifest), manifest.stat().st_size)
            if sign_order:
                (self.stage / "order").write_bytes(sign_order(facts))
            write_index(self.stage, facts.contents, pack)
            self._finish_lists(inside)
        deltas = {old: self._write_delta(old) for old in delta_from}
        (self.stage / LINES).unlink()
        for path in (self.stage, *self.stage.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if with_root:
            self.progress.step("making the plain tree")
            with open(manifest, "rb") as stream:
                make_plain_tree(
                    self.tree,
                    ManifestReader(stream),
                    self.stage / "root",
                    link=self.mtime_ns is None,
                )
        path = self.builds / build
        return Published(facts, path, header, pack.contents, pack.length, deltas)

    def _write_manifest(
        self,
        build: BuildId,
        entries: Sequence[Entry],
        digests: Mapping[TreePath, bytes],
    ) -> Header:
        files = [entry for entry in entries if entry.kind is Kind.FILE]
        size = sum(entry.size for entry in files if entry.leader is None)
        header = Header(build, len(entries), len(files), size)
        with open(self.stage / "contents", "wb") as out:
            out.write(encode_header(header))
            for entry in entries:
                digest = digests.get(entry.leader or entry.path, b"")
                time = self._time(entry)
                out.write(_line(entry._replace(digest=digest, mtime_ns=time)))
        return header

    def _time(self, entry: Entry) -> int:
        return entry.mtime_ns if self.mtime_ns is None else self.mtime_ns

    def _write_pack(self, entries: Iterable[Entry], inside: InsidePack) -> Pack:
        """Write the pack, the newest files first."""
        files = [
            entry
            for entry in entries
            if entry.kind is Kind.FILE and entry.leader is None
        ]
        files.sort(key=lambda entry: -(self._time(entry) // _DAY_NS))
        with ExitStack() as stack:
            archives: list[Archive] = []
            if _begun(self.builds / _LEFT):
                self.progress.step("going on where an earlier attempt was cut short")
                archives.append(stack.enter_context(Remains(self.builds / _LEFT)))
            known: set[bytes] = set()
            for path in published_builds(self.builds):
                try:
                    archive = stack.enter_context(Archive(path, without=known))
                except (Malformed, OSError) as error:
                    self.progress.step(f"build {path.name} is damaged: {error}")
                    continue
                known |= archive.frames.keys()
                archives.append(archive)
            self.progress.step(f"packing {len(files):,} files")
            return write_pack(
                *(self.stage, self.tree, files, archives), inside, self.progress
            )

    def _finish_lists(self, inside: InsidePack) -> None:
        self.progress.step("taking apart what is compressed")
        with ThreadPoolExecutor(2) as pool:
            lists = [self.stage / "contents", self.stage / "pack.index"]
            packed = pool.map(compress, lists)
            inside.write()
        list(packed)

    def _write_delta(self, old: BuildId) -> int:
        self.progress.step(f"making the delta from {old}")
        directory = self.stage / "delta"
        directory.mkdir(exist_ok=True)
        return write_delta(self.builds / old, self.stage, directory / f"{old}.pack")


def _line(entry: Entry) -> bytes:
    line = encode_entry(entry)
    if len(line) > MAX_LINE:
        raise UnfitTree(encode_name(entry.path), "its attributes are too long")
    return line


def compress(path: Path) -> None:
    """Write ``NAME.zst`` beside a file."""
    with open(path, "rb") as raw, open(f"{path}.zst", "wb") as out:
        out.writelines(pack_content(iter_chunks(raw), path.stat().st_size, _LISTS))
