"""Whether a build fits, and what may go so that it does."""

import os
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import NoSpace
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import Layout, Partitioned
from olpc_update_query.perform_update.plan import Totals
from olpc_update_query.ports import Progress
from olpc_update_query.system.files import free_bytes

_RESERVE: Final = 1 << 20  # left free for state, logs and the journal
_SPARE_INODES: Final = 64


class Need(NamedTuple):
    """What an installation will take from a file system.

    Attributes:
        path: A directory of the file system.
        size: Bytes, in whole blocks.
        inodes: How many.
    """

    path: Path
    size: int
    inodes: int

    def is_met(self) -> bool:
        """Say whether there is so much."""
        room = os.statvfs(self.path)
        has_inodes = room.f_files == 0 or room.f_ffree >= self.inodes + _SPARE_INODES
        return has_inodes and free_bytes(self.path) >= self.size + _RESERVE

    def refusal(self) -> NoSpace:
        """Return the error that says so with the numbers."""
        return NoSpace(str(self.path), self.size + _RESERVE, free_bytes(self.path))


def forecast(layout: Layout, totals: Totals, at_hand: int) -> list[Need]:
    """Return what making a tree, its run copy and its boot files will take.

    What a pack gives back meanwhile is not counted on: how much that is when the most
    is taken, only its index could tell, which root does not read.

    Args:
        layout: The laptop.
        totals: What the tree consists of.
        at_hand: Bytes of its files that are on the disk already.
    """
    size = max(0, totals.new_space - at_hand) + 2 * totals.names_space
    inodes = totals.files + 2 * (totals.directories + totals.links)
    needs = [Need(layout.versions, size, inodes)]
    if isinstance(layout, Partitioned):
        needs.append(Need(layout.bootpart, totals.boot_bytes, 0))
    return needs


def make_room(layout: Layout, need: Need, progress: Progress, *, keep: BuildId) -> None:
    """Delete the build that may go first.

    Args:
        layout: The laptop.
        need: What there is not enough of.
        progress: Who is told.
        keep: The build that is being installed.

    Raises:
        NoSpace: None may go.
    """
    victims = [build for build in layout.purgeable() if build != keep]
    if not victims:
        raise need.refusal()
    progress.step(f"deleting build {victims[0]} to make room")
    layout.purge(victims[0])
