"""Contents that were fetched, proven and put into the vault."""

import os
from collections.abc import Collection
from typing import Final

from olpc_update_query.errors import CorruptContent, Incomplete
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import InstalledTree
from olpc_update_query.perform_update.expand import Wishes, expand
from olpc_update_query.perform_update.plan import Plan
from olpc_update_query.perform_update.store import Downloads
from olpc_update_query.perform_update.vault import Vault
from olpc_update_query.perform_update.walk import Descent, open_file
from olpc_update_query.perform_update.work import Workbench
from olpc_update_query.system.closing import Closing

_CHUNK: Final = 256 << 10
_KEEP_OPEN: Final = 16


class Supply:
    """Gets the contents that a plan misses out of what was fetched.

    Args:
        build: The build's name.
        downloads: What was fetched.
        work: Where to note what is still missing.

    Attributes:
        wanted: Digests of contents whose installed copies proved to be damaged.
        patched: Contents made by patches.
        fetched: Contents that came whole.
    """

    def __init__(self, build: BuildId, downloads: Downloads, work: Workbench) -> None:
        self._build, self._downloads, self._work = build, downloads, work
        self.wanted = frozenset(work.read_wanted())
        self.patched = self.fetched = 0

    def take_in(
        self, plan: Plan, vault: Vault, *, only: Collection[bytes] | None = None
    ) -> None:
        """Get every missing content into the vault.

        Args:
            plan: What is missing.
            vault: Where to put it.
            only: The digests that have to come; None for all.

        Raises:
            Incomplete: Some are still missing; they have been noted for a fetch.
            OSError: The disk is full or failing.
        """
        for digest, size in plan.missing():
            if not vault.has(digest) and self._take_plain(vault, digest, size):
                self.fetched += 1
        with _Bases(plan) as bases:
            wishes = Wishes(
                plan.missing_size, bases.open, self.wanted, plan.header.files
            )
            expanded = expand(self._downloads, vault, wishes)
        self.patched += expanded.patched
        self.fetched += expanded.fetched
        absent = {
            digest
            for digest, _ in plan.missing()
            if not vault.has(digest) and (only is None or digest in only)
        }
        if absent:
            self._work.write_wanted(self.wanted | absent)
            raise Incomplete(self._build, len(absent))

    def _take_plain(self, vault: Vault, digest: bytes, size: int) -> bool:
        """Copy a content that was downloaded whole; say whether it was there."""
        descriptor = self._downloads.open_plain(digest)
        if descriptor is None:
            return False
        try:
            with vault.receive(digest, size) as receiver:
                while data := os.read(descriptor, _CHUNK):
                    receiver.write(data)
        except CorruptContent:
            self._downloads.drop_plain(digest)
            return False
        finally:
            os.close(descriptor)
        return True


class _Bases(Closing):
    """Opens the installed files that patches start from."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._trees: dict[InstalledTree, Descent] = {}

    def close(self) -> None:
        """Close the trees."""
        for tree in self._trees.values():
            tree.close()

    def open(self, digest: bytes) -> int | None:
        """Open an installed file of a content; None if there is none."""
        found = self._plan.locate(digest)
        if found is None:
            return None
        tree, path = found
        parent, _, name = path.rpartition(b"/")
        try:
            if tree not in self._trees:
                self._trees[tree] = Descent(tree.tree, keep=_KEEP_OPEN)
            return open_file(name, self._trees[tree].enter(parent))
        except OSError:
            return None
