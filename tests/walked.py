"""What is published of a tree: its entries, each with its digest."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query.model.manifest import Entry, Kind, TreePath
from olpc_update_query.ports import Progress
from olpc_update_query.server.tree import Tree
from olpc_update_query.server.walk import Directory


class _Silent:
    def step(self, text: str) -> None:
        pass

    def transferred(self, done: int, total: int) -> None:
        pass


def walk_tree(root: Path, progress: Progress | None = None) -> Iterator[Entry]:
    return described(Directory(root), progress)


def described(tree: Tree, progress: Progress | None = None) -> Iterator[Entry]:
    digests: dict[TreePath, bytes] = {}
    for entry in tree.entries(progress or _Silent()):
        if entry.kind is Kind.FILE and entry.leader is None:
            content = b"".join(tree.read(entry.path, entry.size))
            digests[entry.path] = hashlib.sha256(content).digest()
        yield entry._replace(digest=digests.get(entry.leader or entry.path, b""))
