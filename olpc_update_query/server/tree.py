"""What a build can be published from: a directory, or a tar archive."""

from collections.abc import Iterator
from typing import Protocol

from olpc_update_query.model.entry import Entry, TreePath
from olpc_update_query.ports import Progress


class Tree(Protocol):
    """A tree that is described first, and read then."""

    def entries(self, progress: Progress) -> Iterator[Entry]:
        """Yield the tree's entries in path order; the digests may be lacking.

        Args:
            progress: Who is told of what is left out.

        Raises:
            UnfitTree: Something of it cannot be read, or cannot be in a build.
        """

    def read(self, path: TreePath, size: int) -> Iterator[bytes]:
        """Yield the content of one of its files.

        Args:
            path: The file, of several names the first.
            size: The most bytes to read.

        Raises:
            UnfitTree: It cannot be read, or is not as it was described.
        """

    def link(self, path: TreePath, target: bytes) -> bool:
        """Make another path the same file; say whether that could be done."""
