"""What a build can be published from: a directory, or a tar archive."""

from collections.abc import Iterator
from typing import Protocol

from olpc_update_query.model.entry import Entry, TreePath
from olpc_update_query.ports import Progress


class Tree(Protocol):
    """A tree that can be read twice: once to describe it, once for its contents."""

    def entries(self, mtime_ns: int | None, progress: Progress) -> Iterator[Entry]:
        """Yield the tree's entries in path order, each file's digest included.

        Args:
            mtime_ns: The one time to give every path; None keeps each its own.
            progress: Who is told of what is left out.

        Raises:
            UnfitTree: Something of it cannot be read, or cannot be in a build.
        """

    def read(self, path: TreePath, size: int) -> Iterator[bytes]:
        """Yield the content of one of its files.

        Args:
            path: The file.
            size: The most bytes to read.

        Raises:
            UnfitTree: It cannot be read.
        """

    def link(self, path: TreePath, target: bytes) -> bool:
        """Make another path the same file; say whether that could be done."""
