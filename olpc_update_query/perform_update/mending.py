"""Replacing what is wrong in a tree, one rename a path.

Files are made in the work area first. A path of the run copy follows only where bits
have rotted: it is still the very file of the manifest by size and time. Anything else
there was changed by the system that runs it, and is left alone.
"""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    ManifestReader,
    TreePath,
    same_time,
)
from olpc_update_query.perform_update.copying import Copier
from olpc_update_query.perform_update.differences import Aspect, Difference
from olpc_update_query.perform_update.dress import dress, make_special
from olpc_update_query.perform_update.plan import Plan, in_blocks
from olpc_update_query.perform_update.vault import Vault
from olpc_update_query.perform_update.walk import (
    Descent,
    open_file,
    opened,
    remove_tree,
)
from olpc_update_query.system.files import sync_filesystem

_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ROT: Final = {Aspect.CONTENT, Aspect.GROUP}
_SPOILED: Final = {Aspect.CONTENT, Aspect.SIZE}
_LOST: Final = {Aspect.KIND, Aspect.MISSING}
_SCRATCH: Final = "mending"
_SOMETHING_ELSE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""Why a file cannot be opened that is not the file it was."""


class Faults:
    """What one look at a tree has found, by path.

    Args:
        told: The differences.
        contents: The tree's manifest.

    Attributes:
        spoiled: Digests of contents that are not what they should be somewhere.
        lost: Digests of contents of paths that are not there, and have no twin.
        twins: By the first path of a hard-link group that is not there, another one
            that is.
        paths: Paths that are not as they should be, strays included.
        strays: Paths that should not be there.
        rotten: Files of which nothing but the bytes differ; or which a repair that
            was interrupted has left apart from their group.
    """

    def __init__(self, told: list[Difference], contents: Path) -> None:
        aspects: dict[TreePath, set[Aspect]] = {}
        for fault in told:
            aspects.setdefault(fault.path, set()).add(fault.aspect)
        self.paths = frozenset(aspects)
        self.strays = sorted(p for p, what in aspects.items() if Aspect.STRAY in what)
        self.rotten = {p for p, what in aspects.items() if what <= _ROT}
        self.spoiled = {f.digest for f in told if f.aspect in _SPOILED and f.digest}
        self.twins: dict[TreePath, TreePath] = {}
        self._find_twins(contents, aspects)

    def _find_twins(self, contents: Path, aspects: dict[TreePath, set[Aspect]]) -> None:
        """Find out which contents that are not in their places are elsewhere."""
        lost: dict[TreePath, bytes] = {}
        nothing_is = all(not what & _LOST for what in aspects.values())
        for entry in () if nothing_is else self.entries(contents):
            what = aspects.get(entry.path, set())
            if entry.leader is None and what & _LOST and entry.size:
                lost[entry.path] = entry.digest
            elif entry.leader in lost and not what & (_LOST | _SPOILED):
                self.twins.setdefault(entry.leader, entry.path)
        self.lost = {d for path, d in lost.items() if path not in self.twins}

    def entries(self, contents: Path) -> Iterator[Entry]:
        """Yield the entries to be made anew, a file's other names included."""
        with open(contents, "rb") as stream:
            for entry in ManifestReader(stream):
                if entry.path in self.paths or entry.leader in self.paths:
                    yield entry

    def bytes_of(self, contents: Path) -> int:
        """Return the bytes, in whole blocks, that new files will take."""
        return sum(
            in_blocks(entry.size)
            for entry in self.entries(contents)
            if entry.kind is Kind.FILE and entry.leader is None
        )

    def is_rot(self, entry: Entry) -> bool:
        """Say whether nothing but the bytes of a file differ."""
        return entry.path in self.rotten or entry.leader in self.rotten


class Bench:
    """Where new files are made.

    Args:
        stage: A directory on the tree's file system where nobody else can write.
        vault: The contents that were damaged.
        run: The tree's run copy; it need not be there.
        plan: Where other contents lie.
    """

    def __init__(self, stage: Path, vault: Vault, run: Path, plan: Plan) -> None:
        self.scratch, self.vault, self.run = stage / _SCRATCH, vault, run
        self.locate = plan.locate


def mend(contents: Path, tree: Path, faults: Faults, bench: Bench) -> int:
    """Put right what is wrong in a tree.

    Args:
        contents: Its manifest.
        tree: The tree.
        faults: What is wrong with it.
        bench: Where new files are made.

    Returns:
        How many strays were removed.

    Raises:
        OSError: The disk is full or failing.
    """
    remove_tree(bench.scratch)
    os.mkdir(bench.scratch, 0o700)
    with _Mender(tree, faults, bench) as mender:
        wrong = list(faults.entries(contents))
        made = [mender.make(number, entry) for number, entry in enumerate(wrong)]
        sync_filesystem(bench.scratch)
        for entry, name in zip(wrong, made, strict=True):
            mender.put_into_run_copy(entry, name)
        sync_filesystem(bench.scratch)  # a whole tree has no rotten run copy
        for path in faults.strays:
            mender.set_aside(path)
        for entry, name in zip(wrong, made, strict=True):
            mender.put(entry, name)
        mender.dress_directories(contents, wrong)
        sync_filesystem(tree)
    remove_tree(bench.scratch)
    return len(faults.strays)


class _Mender(contextlib.ExitStack):
    def __init__(self, tree: Path, faults: Faults, bench: Bench) -> None:
        super().__init__()
        self._faults, self._vault, self._locate = faults, bench.vault, bench.locate
        self._tree = self.enter_context(Descent(tree))
        self._leaders = self.enter_context(Descent(tree, keep=16))
        self._scratch = self.enter_context(opened(bench.scratch))
        is_there = bench.run.is_dir() and not bench.run.is_symlink()
        self._run = self.enter_context(Descent(bench.run)) if is_there else None
        self._copier = Copier()
        self._made: dict[TreePath, bytes] = {}
        self._aside = 0

    # --- new ones, in the work area -------------------------------------------------

    def make(self, number: int, entry: Entry) -> bytes:
        """Make what a path should be; a directory is made in its place."""
        name = b"new.%d" % number
        self._made[entry.path] = name
        if entry.kind is Kind.DIRECTORY:
            return name
        if entry.leader is not None:
            self._link_to_leader(entry.leader, name)
        elif entry.kind is not Kind.FILE:
            make_special(entry, name, self._scratch)
        elif entry.size and self._vault.has(entry.digest):
            self._make_from_vault(entry, name)
        else:
            self._make_from_tree(entry, name)
        return name

    def _make_from_vault(self, entry: Entry, name: bytes) -> None:
        stored = self._vault.open(entry.digest)
        if stored is None:
            raise FileNotFoundError(entry.digest.hex())
        with open(stored, "rb", buffering=0):
            if os.fstat(stored).st_nlink > 1:
                self._create(entry, stored, name)
                return
            hex_name = entry.digest.hex().encode()
            os.link(
                hex_name, name, src_dir_fd=self._vault.top, dst_dir_fd=self._scratch
            )
            dress(stored, entry)

    def _make_from_tree(self, entry: Entry, name: bytes) -> None:
        """Make a file whose bytes are good where they are, or that has none."""
        if not entry.size:
            self._create(entry, None, name)
            return
        with open(self._open_good(entry), "rb", buffering=0) as source:
            self._create(entry, source.fileno(), name)

    def _open_good(self, entry: Entry) -> int:
        """Open a file that has the bytes: its own, a twin, or one of another path."""
        path = self._faults.twins.get(entry.path, entry.path)
        parent, _, name = path.rpartition(b"/")
        try:
            return open_file(name, self._tree.enter(parent))
        except OSError:
            found = self._locate(entry.digest)
            if found is None:
                raise
        parent, _, name = found[1].rpartition(b"/")
        with Descent(found[0].tree) as descent:
            return open_file(name, descent.enter(parent))

    def _create(self, entry: Entry, source: int | None, name: bytes) -> None:
        target = os.open(name, _NEW_FILE, 0o600, dir_fd=self._scratch)
        with open(target, "wb", buffering=0):
            if source is not None:
                self._copier.copy(source, target)
            dress(target, entry)

    # --- into their places -----------------------------------------------------------

    def set_aside(self, path: bytes) -> None:
        """Move what should not be there into the work area."""
        parent, _, name = path.rpartition(b"/")
        self._aside += 1
        os.rename(
            name,
            b"old.%d" % self._aside,
            src_dir_fd=self._tree.enter(parent),
            dst_dir_fd=self._scratch,
        )

    def put(self, entry: Entry, made: bytes) -> None:
        """Put what was made in the place of what is there."""
        parent, _, name = entry.path.rpartition(b"/")
        found = self._look(entry.path)
        is_directory = found is not None and stat.S_ISDIR(found.st_mode)
        if entry.kind is Kind.DIRECTORY:
            if not is_directory:
                if found is not None:
                    self.set_aside(entry.path)
                os.mkdir(name, 0o700, dir_fd=self._tree.enter(parent))
            return
        if is_directory:
            self.set_aside(entry.path)
        os.rename(
            made, name, src_dir_fd=self._scratch, dst_dir_fd=self._tree.enter(parent)
        )

    def _look(self, path: bytes) -> os.stat_result | None:
        if not path:
            return os.fstat(self._tree.enter(b""))
        parent, _, name = path.rpartition(b"/")
        directory = self._tree.enter(parent)
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _link_to_leader(self, leader: TreePath, made: bytes) -> None:
        """Make another name of a file that was made anew, or that is good."""
        parent, _, name = leader.rpartition(b"/")
        new = self._made.get(leader)
        os.link(
            new or name,
            made,
            src_dir_fd=self._scratch if new else self._leaders.enter(parent),
            dst_dir_fd=self._scratch,
            follow_symlinks=False,
        )

    def put_into_run_copy(self, entry: Entry, made: bytes) -> None:
        """Give the run copy the new file, too, if it has the rotten one."""
        parent, _, name = entry.path.rpartition(b"/")
        if self._run is None or not self._faults.is_rot(entry):
            return
        found = self._look(entry.path)
        rotten = found.st_ino if found else 0
        try:
            directory = self._run.enter(parent)
            twin = open_file(name, directory)
        except OSError as error:
            if error.errno in _SOMETHING_ELSE:
                return  # the system that runs it has put it there
            raise  # else the run copy would stay rotten, and nobody look again
        with open(twin, "rb", buffering=0) as file:
            facts = os.fstat(twin)
            if facts.st_size != entry.size or not same_time(
                entry.mtime_ns, facts.st_mtime_ns
            ):
                return
            if facts.st_ino != rotten and (
                hashlib.file_digest(file, "sha256").digest() != entry.digest
            ):
                return
        spare = b"run." + made
        os.link(made, spare, src_dir_fd=self._scratch, dst_dir_fd=self._scratch)
        above = os.fstat(directory)
        os.rename(spare, name, src_dir_fd=self._scratch, dst_dir_fd=directory)
        os.utime(directory, ns=(above.st_atime_ns, above.st_mtime_ns))

    # --- directories ------------------------------------------------------------------

    def dress_directories(self, contents: Path, wrong: Collection[Entry]) -> None:
        """Give every directory in which something was done its owner, mode and time."""
        touched = {entry.path.rpartition(b"/")[0] for entry in wrong}
        touched |= {path.rpartition(b"/")[0] for path in self._faults.strays}
        touched |= {entry.path for entry in wrong if entry.kind is Kind.DIRECTORY}
        with open(contents, "rb") as stream:
            for entry in ManifestReader(stream):
                if entry.kind is Kind.DIRECTORY and entry.path in touched:
                    fd = self._tree.enter(entry.path)
                    _drop_surplus(fd, entry)
                    dress(fd, entry)


def _drop_surplus(descriptor: int, entry: Entry) -> None:
    """Take away the attributes that a directory should not have."""
    wanted = {name for name, _ in entry.xattrs}
    for name in map(os.fsencode, os.listxattr(descriptor)):
        if name not in wanted and not name.startswith(b"security.selinux"):
            os.removexattr(descriptor, name)
