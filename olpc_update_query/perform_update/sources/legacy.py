"""An old build, of which there is nothing but its tree.

Its manifest is of a format that nobody knows any more, so the tree is fetched whole
and a manifest of ours is made from what arrived. Nothing of it is signed: only root
may want it, by hand.

It is fetched without privileges. What only root may give a file, its owner and what
kind of device it is, rsync notes in an attribute (``--fake-super``). A tree in a
directory, such as a mounted image, tells that itself.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    ManifestReader,
    encode_entry,
    parse_path,
)
from olpc_update_query.model.messages import BuildId, Sha256, parse_sha256
from olpc_update_query.perform_update.activate import InstalledTree
from olpc_update_query.perform_update.sources.rsync_program import (
    INTERRUPTED,
    Program,
    RsyncOptions,
)
from olpc_update_query.perform_update.sources.spool import need_room
from olpc_update_query.perform_update.store import FILES
from olpc_update_query.perform_update.unknown import seal
from olpc_update_query.perform_update.work import digest_of
from olpc_update_query.ports import Progress
from olpc_update_query.system.files import disk_errors
from olpc_update_query.system.lent import reach
from olpc_update_query.system.sticks import stick_errors

_KINDS: Final = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFREG: Kind.FILE,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
_ALL: Final = (
    "--recursive",
    "--links",
    "--perms",
    "--times",
    "--owner",
    "--group",
    "--devices",
    "--specials",
    "--numeric-ids",
    "--fake-super",
)
_NOTE: Final = "user.rsync.%stat"
_FACTS: Final = re.compile(rb"([0-7]+) ([0-9]+),([0-9]+) ([0-9]+):([0-9]+)")
_TOTAL: Final = re.compile(r"^Total file size: ([0-9]+)", re.MULTILINE)
_PIECE: Final = 1 << 20
_BASES: Final = 3
_TRIES: Final = 3


class Arrived(NamedTuple):
    """What was made of a tree.

    Attributes:
        contents: Digest of its manifest.
        size: Length of its manifest.
    """

    contents: Sha256
    size: int


def fetch_tree(
    url: str,
    build: BuildId,
    *,
    installed: Sequence[InstalledTree],
    downloads: Path,
    options: RsyncOptions,
    progress: Progress,
) -> Arrived:
    """Fetch a tree, and make of it what a download of one of our builds leaves.

    Args:
        url: ``rsync://host/module/path`` of the tree.
        build: What to call it.
        installed: Trees whose files are the basis.
        downloads: The directory in which every build has its own.
        options: How rsync is run.
        progress: Who is told.

    Raises:
        NetworkError: The link or the server failed; what has come is kept.
        NoSpace: It cannot fit.
        TreeError: The disk is failing.
    """
    area = downloads / f"legacy-{build}"
    with disk_errors(area):
        area.mkdir(parents=True, exist_ok=True)
    _copy(url, area / "tree", installed, options, progress)
    progress.step("making a manifest from what has arrived")
    with disk_errors(area):
        entries = _entries(os.fsencode(area / "tree"), _digest)
        arrived = _write_manifest(area, build, entries)
        target = downloads / arrived.contents
        (target / FILES).mkdir(parents=True, exist_ok=True)
        _move_files(area, target / FILES, _known(installed))
        os.rename(area / "contents", target / "contents")
        shutil.rmtree(area)
    return arrived


def take_tree(
    tree: Path,
    build: BuildId,
    *,
    installed: Sequence[InstalledTree],
    downloads: Path,
    progress: Progress,
) -> Arrived:
    """Make of a tree in a directory what a download of one of our builds leaves.

    Each file is read once. What is installed already is not copied.

    Args:
        tree: The directory, such as a mounted image whose root is the tree.
        build: What to call it.
        installed: Trees whose contents need no copy.
        downloads: The directory in which every build has its own.
        progress: Who is told.

    Raises:
        NoSpace: It cannot fit.
        StickFailed, StickForbidden: The tree cannot be read.
        TreeError: The disk is failing.
    """
    area = downloads / f"legacy-{build}"
    with disk_errors(area):
        shutil.rmtree(area, ignore_errors=True)
        (area / FILES).mkdir(parents=True)
        copies = _Copies(tree, area / FILES, _known(installed), progress)
        need_room(area, copies.total)
        progress.step(f"reading the whole tree in {tree}, {copies.total / 1e6:.0f} MB")
        entries = _read(tree, copies.take)
        arrived = _write_manifest(area, build, entries)
        target = downloads / arrived.contents
        shutil.rmtree(target, ignore_errors=True)
        (area / "entries").unlink()
        os.rename(area, target)
    return arrived


def _read(tree: Path, digest: Callable[[bytes], bytes]) -> Iterator[Entry]:
    with stick_errors(tree):
        yield from _entries(os.fsencode(reach(tree)), digest)


class _Copies:
    """Contents that are copied while their digest is taken."""

    def __init__(
        self, tree: Path, files: Path, known: set[bytes], progress: Progress
    ) -> None:
        self._tree, self._files = tree, files
        self._known, self._progress = known, progress
        self.total, self._done = _bytes_in(reach(tree)), 0

    def take(self, full: bytes) -> bytes:
        """Return the digest of a file, of which a copy is there or installed."""
        fresh, digest = self._files / "new", hashlib.sha256()
        source = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(source, "rb") as file, disk_errors(fresh), open(fresh, "wb") as copy:
            for piece in self._pieces(file):
                digest.update(piece)
                copy.write(piece)
                self._done += len(piece)
                self._progress.transferred(min(self._done, self.total), self.total)
        with disk_errors(fresh):
            if digest.digest() in self._known:
                fresh.unlink()
            else:
                os.rename(fresh, self._files / digest.hexdigest())
        return digest.digest()

    def _pieces(self, file: BinaryIO) -> Iterator[bytes]:
        with stick_errors(self._tree):
            while piece := file.read(_PIECE):
                yield piece


def _copy(
    url: str,
    tree: Path,
    installed: Sequence[InstalledTree],
    options: RsyncOptions,
    progress: Progress,
) -> None:
    program = Program(url, options)
    words = [*_ALL, f"{url.rstrip('/')}/", f"{tree}/"]
    run = program.run(["--dry-run", *words], largest=0)
    if run.code:
        raise program.meaning(run, tree)
    found = _TOTAL.search(run.message)
    total = int(found[1]) if found else 0
    have = _bytes_in(tree)
    need_room(tree.parent, max(total - have, 0))
    progress.step(f"fetching the whole tree from {url}, {total / 1e6:.0f} MB")
    bases = [f"--copy-dest={one.tree}" for one in installed[:_BASES]]

    def look() -> None:
        progress.transferred(min(_bytes_in(tree), total), total)

    failures = 0
    while True:
        run = program.run([*bases, *words], largest=total, look=look)
        if run.code == 0:
            return
        come = _bytes_in(tree)
        failures = 1 if come > have else failures + 1
        have = max(have, come)
        if run.code not in INTERRUPTED or failures >= _TRIES:
            raise program.meaning(run, tree)


def _bytes_in(tree: Path) -> int:
    total = 0
    for where, _, names in os.walk(tree):
        total += sum(os.lstat(os.path.join(where, name)).st_size for name in names)
    return total


# --- the manifest -----------------------------------------------------------------


def _write_manifest(area: Path, build: BuildId, found: Iterator[Entry]) -> Arrived:
    entries, contents = area / "entries", area / "contents"
    with open(entries, "wb") as file:
        file.writelines(encode_entry(entry) for entry in found)
    seal(entries, contents, build)
    return Arrived(parse_sha256(digest_of(contents)), contents.stat().st_size)


def _digest(full: bytes) -> bytes:
    with open(full, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _entries(top: bytes, digest: Callable[[bytes], bytes]) -> Iterator[Entry]:
    """Yield what a tree consists of, in path order, from what rsync noted of it."""
    for path in sorted(_paths(top)):
        full = os.path.join(top, path)  # the top with a slash: it may be lent
        facts = os.lstat(full)
        mode, device, owner = _facts(full, facts)
        kind = _KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            continue  # a socket
        entry = Entry(
            parse_path(path), kind, stat.S_IMODE(mode), *owner, facts.st_mtime_ns
        )
        if kind is Kind.FILE:
            entry = entry._replace(size=facts.st_size, digest=digest(full))
        elif kind is Kind.SYMLINK:
            entry = entry._replace(target=_target(full, facts))
        elif kind in {Kind.CHAR, Kind.BLOCK}:
            entry = entry._replace(device=device)
        yield entry


def _paths(top: bytes) -> Iterator[bytes]:
    def fail(error: OSError) -> None:
        raise error  # what cannot be listed is not taken to be empty

    yield b""
    for where, directories, names in os.walk(top, onerror=fail):
        for name in (*directories, *names):
            yield os.path.relpath(os.path.join(where, name), top)


def _facts(
    full: bytes, facts: os.stat_result
) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Return mode, device numbers and owner, as they are on the server."""
    device = os.major(facts.st_rdev), os.minor(facts.st_rdev)
    try:
        noted = os.getxattr(full, _NOTE, follow_symlinks=False)
    except OSError:  # it is as it should be
        return facts.st_mode, device, (facts.st_uid, facts.st_gid)
    found = _FACTS.fullmatch(noted)
    if found is None:
        raise errors.TreeError(os.fsdecode(full), "what rsync notes", repr(noted))
    major, minor, uid, gid = (int(word) for word in found.groups()[1:])
    return int(found[1], 8), (major, minor), (uid, gid)


def _target(full: bytes, facts: os.stat_result) -> bytes:
    """Return where a link leads; rsync keeps that in a file that it cannot mark."""
    if stat.S_ISLNK(facts.st_mode):
        return os.readlink(full)
    with open(full, "rb") as file:
        return file.read()


# --- the contents -------------------------------------------------------------------


def _known(installed: Sequence[InstalledTree]) -> set[bytes]:
    """Return the digests of what is installed."""
    found: set[bytes] = set()
    for tree in installed:
        with open(tree.contents, "rb") as file:
            found.update(one.digest for one in ManifestReader(file) if one.digest)
    return found


def _move_files(area: Path, files: Path, known: set[bytes]) -> None:
    """Put contents that are not installed where downloaded ones lie."""
    top = os.fsencode(area / "tree")
    with open(area / "contents", "rb") as manifest:
        for entry in ManifestReader(manifest):
            if entry.kind is Kind.FILE and entry.digest not in known:
                target = files / entry.digest.hex()
                if not target.exists():
                    os.rename(os.path.join(top, entry.path), target)
                    os.chmod(target, 0o644)
