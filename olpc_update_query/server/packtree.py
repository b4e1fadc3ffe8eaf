"""A published build as a tree, for making the plain one of what came as a pack."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from olpc_update_query.model.entry import Entry, Kind, TreePath
from olpc_update_query.model.manifest import ManifestReader, compare
from olpc_update_query.ports import Progress
from olpc_update_query.server.archive import Archive
from olpc_update_query.server.plaintree import make_plain_tree
from olpc_update_query.system.closing import Closing


class PackTree(Closing):
    """A build's tree, whose contents are in its pack (`server.tree.Tree`).

    Paths are read and linked in the order in which ``entries`` yields them.

    Args:
        build: The build's directory.
        older: Another one with ``root/``: what is the same there can be linked.
    """

    def __init__(self, build: Path, older: Path | None) -> None:
        self._older = older
        with ExitStack() as opened:
            self._archive = opened.enter_context(Archive(build))
            self._new = opened.enter_context(open(build / "contents", "rb"))
            other = os.devnull if older is None else older / "contents"
            self._old = opened.enter_context(open(other, "rb"))
            self._files = opened.pop_all()
        self._at: Entry | None = None
        self._is_same = False

    def close(self) -> None:
        """Close its files."""
        self._files.close()

    def entries(self, progress: Progress) -> Iterator[Entry]:
        """Yield what the manifest says; see `Tree`."""
        old = () if self._older is None else ManifestReader(self._old)
        for change in compare(old, ManifestReader(self._new)):
            if change.new is not None:
                self._at, self._is_same = change.new, change.old == change.new
                yield change.new

    def read(self, path: TreePath, size: int) -> Iterator[bytes]:
        """Yield a content of the pack; see `Tree`."""
        if self._at is None or self._at.path != path:
            raise RuntimeError("paths are read in the order of the manifest")
        return self._archive.unpack(self._archive.frames[self._at.digest])

    def link(self, path: TreePath, target: bytes) -> bool:
        """Link what is the same in the other build, and was not changed since."""
        if self._older is None or self._at is None or not self._is_same:
            return False
        source = os.path.join(os.fsencode(self._older / "root"), path)
        try:
            found = os.lstat(source)
            is_whole = self._at.kind is not Kind.FILE or (
                found.st_size == self._at.size
                and found.st_mtime_ns == self._at.mtime_ns
            )
            if is_whole:
                os.link(source, target, follow_symlinks=False)
        except OSError:  # it is gone, or has as many links as it can have
            return False
        return is_whole


def make_root(build: Path, target: Path, older: Path | None, told: Progress) -> None:
    """Make the plain tree of a build of its pack.

    Args:
        build: The build's directory.
        target: The tree; must not exist.
        older: Another build with ``root/``, of which the same files are linked.
        told: Who is told.

    Raises:
        UnfitTree: Only root could make it.
        CorruptContent, Malformed: The build is damaged.
        OSError: Something cannot be written.
    """
    told.step(f"making the plain tree of build {build.name}")
    with PackTree(build, older) as tree:
        make_plain_tree(tree, tree.entries(told), target, link=True)
