"""Making the new tree beside the old ones, which are only ever linked to.

Whatever is the same in an installed tree is linked. The rest is made anew, from
contents in the vault or copied from an installed file, and only such new files are
written, owned or given a time.
"""

import errno
import os
import stat
from pathlib import Path

from olpc_update_query.errors import Malformed
from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    TreePath,
    encode_name,
    same_time,
)
from olpc_update_query.perform_update.copying import Copier
from olpc_update_query.perform_update.dress import dress, make_special
from olpc_update_query.perform_update.plan import Origin, Plan
from olpc_update_query.perform_update.vault import Vault
from olpc_update_query.perform_update.walk import Descent, open_file

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_NO_LINK = {errno.EMLINK, errno.EXDEV, errno.EPERM}
_KEEP_OLD = 16
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Staged:
    """What a new tree was made of.

    Attributes:
        linked: Paths that are links of installed files.
        copied: Files copied from installed ones, with other metadata.
        written: Bytes of new files, copies included.
        lost: Digests of contents that should have been there and were not.
    """

    def __init__(self) -> None:
        self.linked = self.copied = self.written = 0
        self.lost: set[bytes] = set()


def stage(plan: Plan, vault: Vault, target: Path) -> Staged:
    """Make a tree as planned.

    Args:
        plan: Where everything comes from.
        vault: The contents that no installed tree has.
        target: Where to make it; nothing may be there, and nobody else may come near.

    Returns:
        What it was made of. When something is ``lost`` the tree is not whole.

    Raises:
        Malformed: A hard link of the manifest has no leader, or another one's data.
        NotPermitted: Only root can make such a tree.
        OSError: The disk is full or failing.
    """
    os.mkdir(target, 0o700)
    stager = _Stager(plan, vault, target)
    try:
        for entry, origin in plan.steps():
            stager.add(entry, origin)
        stager.finish()
    finally:
        stager.close()
    return stager.staged


class _Stager:
    def __init__(self, plan: Plan, vault: Vault, target: Path) -> None:
        self.staged = Staged()
        self._plan, self._vault = plan, vault
        self._tree = Descent(target)
        self._leaders = Descent(target, keep=_KEEP_OLD)
        self._olds = [
            Descent(old.tree, keep=_KEEP_OLD) if old.tree.is_dir() else None
            for old in plan.installed
        ]
        self._number_of = {old: number for number, old in enumerate(plan.installed)}
        self._root: Entry | None = None
        self._open: list[tuple[bytes, Entry]] = []
        self._copier = Copier()

    def close(self) -> None:
        for descent in (self._tree, self._leaders, *self._olds):
            if descent:
                descent.close()

    def add(self, entry: Entry, origin: Origin | None) -> None:
        """Make one path; paths come in order."""
        path = entry.path
        while self._open and path >= self._open[-1][0]:
            self._finish_directory()
        parent, _, name = path.rpartition(b"/")
        if not path:
            self._root = entry
            return
        directory = self._tree.enter(parent)
        if entry.kind is Kind.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=directory)
            self._open.append((path + b"0", entry))  # "0" is the byte after "/"
        elif origin is not None:
            self._link(entry, origin, name, directory)
        elif entry.kind is not Kind.FILE:
            make_special(entry, name, directory)
        elif entry.leader is not None:
            self._join(entry, entry.leader, name, directory)
        else:
            self._make_file(entry, name, directory)

    def finish(self) -> None:
        """Finish the directories that are still open, the tree's own last."""
        while self._open:
            self._finish_directory()
        if self._root:
            dress(self._tree.enter(b""), self._root)

    def _finish_directory(self) -> None:
        """Dress a directory into which nothing more comes."""
        _, entry = self._open.pop()
        dress(self._tree.enter(entry.path), entry)

    def _link(self, entry: Entry, origin: Origin, name: bytes, directory: int) -> None:
        parent, _, old_name = origin.path.rpartition(b"/")
        try:
            os.link(
                old_name,
                name,
                src_dir_fd=self._enter_old(origin.tree, parent),
                dst_dir_fd=directory,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno in _GONE:
                self.staged.lost.add(entry.digest)
            elif error.errno in _NO_LINK:
                self._copy_installed(entry, origin, name, directory)
            else:
                raise
        else:
            self.staged.linked += 1

    def _enter_old(self, tree: int, directory: bytes) -> int:
        descent = self._olds[tree]
        if descent is None:
            raise FileNotFoundError(errno.ENOENT, "the tree is gone")
        return descent.enter(directory)

    def _join(
        self, entry: Entry, leader: TreePath, name: bytes, directory: int
    ) -> None:
        """Link a file to the first one of its group, in the new tree itself."""
        parent, _, leader_name = leader.rpartition(b"/")
        try:
            above = self._leaders.enter(parent)
            facts = os.stat(leader_name, dir_fd=above, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            if not self.staged.lost:
                raise _not_linked(entry, "there is no such file") from error
            return
        found = (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid, facts.st_size)
        wanted = (entry.mode, entry.uid, entry.gid, entry.size)
        if (
            not stat.S_ISREG(facts.st_mode)
            or found != wanted
            or not same_time(entry.mtime_ns, facts.st_mtime_ns)
        ):
            raise _not_linked(entry, "that is something else")
        os.link(
            leader_name,
            name,
            src_dir_fd=above,
            dst_dir_fd=directory,
            follow_symlinks=False,
        )

    def _make_file(self, entry: Entry, name: bytes, directory: int) -> None:
        """Make a file of its content, wherever that lies."""
        if not entry.size:
            self._create(entry, None, name, directory)
            return
        stored = self._vault.open(entry.digest)
        if stored is None:
            self._copy_located(entry, name, directory)
            return
        try:
            if os.fstat(stored).st_nlink == 1:  # the first to use it gets it itself
                hex_name = entry.digest.hex()
                os.link(
                    hex_name, name, src_dir_fd=self._vault.top, dst_dir_fd=directory
                )
                dress(stored, entry)
                self.staged.written += entry.size
            else:
                self._create(entry, stored, name, directory)
        finally:
            os.close(stored)

    def _copy_located(self, entry: Entry, name: bytes, directory: int) -> None:
        found = self._plan.locate(entry.digest)
        if found is None:
            self.staged.lost.add(entry.digest)
            return
        tree, path = found
        origin = Origin(self._number_of[tree], path)
        self._copy_installed(entry, origin, name, directory)

    def _copy_installed(
        self, entry: Entry, origin: Origin, name: bytes, directory: int
    ) -> None:
        parent, _, old_name = origin.path.rpartition(b"/")
        try:
            source = open_file(old_name, self._enter_old(origin.tree, parent))
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.staged.lost.add(entry.digest)
            return
        try:
            self._create(entry, source, name, directory)
            self.staged.copied += 1
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.staged.lost.add(entry.digest)
        finally:
            os.close(source)

    def _create(
        self, entry: Entry, source: int | None, name: bytes, directory: int
    ) -> None:
        """Create a new file with the content of an open one."""
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            if source is not None:
                self.staged.written += self._copier.copy(source, descriptor)
            dress(descriptor, entry)
        finally:
            os.close(descriptor)


def _not_linked(entry: Entry, reason: str) -> Malformed:
    name = encode_name(entry.path)
    return Malformed("manifest", f"{name} is a link of an earlier file, but {reason}")
