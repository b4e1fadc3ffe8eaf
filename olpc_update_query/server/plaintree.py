"""Makes ``root/``, the plain tree beside a pack, for rsync and for old clients.

Where it can, it links: the tree and ``root/`` are then the same files, and cost no
space. Else it copies, and keeps everything that the manifest tells.
"""

import errno
import os
import shutil
import stat
from pathlib import Path

from olpc_update_query.model.entry import TreePath
from olpc_update_query.server.walk import read_xattrs, tree_paths, unfit

_CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


def make_plain_tree(tree: Path, target: Path, *, mtime_ns: int | None = None) -> None:
    """Make ``target`` the same tree as ``tree``, without its sockets.

    Args:
        tree: The tree.
        target: The new one; must not exist.
        mtime_ns: The one time to give every path. Then everything is copied, since
            a linked file has the time of the tree's.

    Raises:
        UnfitTree: Something of the tree cannot be read.
        OSError: Something cannot be written.
    """
    maker = _Maker(os.fsencode(tree), os.fsencode(target), mtime_ns)
    directories = [path for path in tree_paths(tree) if maker.make(path)]
    for path in reversed(directories):
        maker.dress(path)


class _Maker:
    """Makes one path after the other."""

    def __init__(self, tree: bytes, target: bytes, mtime_ns: int | None) -> None:
        self._tree, self._target, self._mtime_ns = tree, target, mtime_ns
        self._copies: dict[tuple[int, int], bytes] = {}

    def make(self, path: TreePath) -> bool:
        """Make a path; return whether it is a directory, to be dressed at the end."""
        source = os.path.join(self._tree, path)
        target = os.path.join(self._target, path) if path else self._target
        facts = _look(path, source)
        if stat.S_ISDIR(facts.st_mode):
            os.mkdir(target)
            return True
        if not stat.S_ISSOCK(facts.st_mode) and not self._link(source, target, facts):
            _copy(path, source, target, facts)
            self.dress(path)
        return False

    def _link(self, source: bytes, target: bytes, facts: os.stat_result) -> bool:
        """Link the path to the tree's, or to a copy of it made before."""
        inode = (facts.st_dev, facts.st_ino)
        if inode in self._copies:
            source = self._copies[inode]
        elif self._mtime_ns is not None:
            self._copies[inode] = target
            return False
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            self._copies[inode] = target
            return False
        return True

    def dress(self, path: TreePath) -> None:
        """Give a copy its owner, mode, attributes and, last, its time."""
        source = os.path.join(self._tree, path)
        target = os.path.join(self._target, path)
        facts = os.lstat(source)
        if os.geteuid() == 0:
            os.chown(target, facts.st_uid, facts.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(facts.st_mode):
            os.chmod(target, stat.S_IMODE(facts.st_mode))
        for name, value in read_xattrs(source):
            os.setxattr(target, name, value, follow_symlinks=False)
        mtime_ns = facts.st_mtime_ns if self._mtime_ns is None else self._mtime_ns
        os.utime(target, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def _look(path: TreePath, source: bytes) -> os.stat_result:
    try:
        return os.lstat(source)
    except OSError as error:
        raise unfit(path, error) from error


def _copy(path: TreePath, source: bytes, target: bytes, facts: os.stat_result) -> None:
    kind = stat.S_IFMT(facts.st_mode)
    if kind == stat.S_IFREG:
        try:
            shutil.copyfile(source, target, follow_symlinks=False)
        except PermissionError as error:
            raise unfit(path, error) from error
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), target)
    else:
        os.mknod(target, kind | 0o600, facts.st_rdev)
