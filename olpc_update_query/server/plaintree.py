"""Makes ``root/``, the plain tree beside a pack, for rsync and for old clients.

Where it can, it links: the tree and ``root/`` are then the same files, and cost no
space. Else it writes them, with everything that the manifest tells.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from olpc_update_query.errors import UnfitTree
from olpc_update_query.model.entry import Entry, Kind, encode_name
from olpc_update_query.server.tree import Tree

_SPECIAL = {
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}


def make_plain_tree(
    tree: Tree, entries: Iterable[Entry], target: Path, *, link: bool
) -> None:
    """Make ``target`` the tree that a manifest describes.

    Args:
        tree: Where the contents are.
        entries: The manifest's entries.
        target: The new tree; must not exist.
        link: Whether its files may be the same as the tree's: a linked file has the
            time of the tree's.

    Raises:
        UnfitTree: Something of the tree cannot be read, or only root could make it.
        OSError: Something cannot be written.
    """
    maker = _Maker(tree, os.fsencode(target), link)
    directories = [entry for entry in entries if maker.make(entry)]
    for entry in reversed(directories):
        maker.dress(entry)


class _Maker:
    """Makes one path after the other.

    None leads out: entries have no such paths, and what they lead through are
    directories that are made here.
    """

    def __init__(self, tree: Tree, target: bytes, link: bool) -> None:
        self._tree, self._target, self._link = tree, target, link

    def make(self, entry: Entry) -> bool:
        """Make a path; return whether it is a directory, to be dressed at the end."""
        target = self._place(entry.path)
        if entry.kind is Kind.DIRECTORY:
            os.mkdir(target, 0o700)
            return True
        if entry.leader is not None:
            os.link(self._place(entry.leader), target, follow_symlinks=False)
        elif not self._link or not self._tree.link(entry.path, target):
            self._write(entry, target)
            self.dress(entry)
        return False

    def _place(self, path: bytes) -> bytes:
        return os.path.join(self._target, path) if path else self._target

    def _write(self, entry: Entry, target: bytes) -> None:
        if entry.kind is Kind.FILE:
            with open(target, "xb") as out:
                out.writelines(self._tree.read(entry.path, entry.size))
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, target)
        else:
            with _by_root(entry):
                kind = _SPECIAL[entry.kind]
                os.mknod(target, kind | 0o600, os.makedev(*entry.device))

    def dress(self, entry: Entry) -> None:
        """Give a path its owner, mode, attributes and, last, its time."""
        target = self._place(entry.path)
        with _by_root(entry):
            made = os.lstat(target)
            if (made.st_uid, made.st_gid) != (entry.uid, entry.gid):
                os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
            if entry.kind is not Kind.SYMLINK:
                os.chmod(target, entry.mode)
            for name, value in entry.xattrs:
                os.setxattr(target, name, value, follow_symlinks=False)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(target, ns=times, follow_symlinks=False)


@contextmanager
def _by_root(entry: Entry) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        reason = "only root can make root/ with its owner, attributes or device"
        raise UnfitTree(encode_name(entry.path) or ".", reason) from error
