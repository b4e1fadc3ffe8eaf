"""What a tree takes from a file system, to the last per cent, before it is made.

A link of an installed file costs no bytes of its own, but its name does, and where a
file system keeps names is its own affair: ext4 in blocks of directories, XFS in inodes
and blocks, btrfs in trees that it keeps twice. ``docs/disk-layout.md`` has the figures.
"""

import os
from pathlib import Path
from typing import Final

from olpc_update_query.perform_update.copying import SMALL, can_clone
from olpc_update_query.system.mounts import type_of_file_system


class FileSystem:
    """What things cost on a file system; this one is like ext4.

    Args:
        block: Bytes of a block.
        can_clone: Whether a copy of a large file takes no blocks of its own.
    """

    def __init__(self, block: int, *, can_clone: bool = False) -> None:
        self.block, self._can_clone = block, can_clone

    def blocks(self, size: int) -> int:
        """Return the bytes that so many bytes take in whole blocks."""
        return -(-size // self.block) * self.block

    def file(self, size: int) -> int:
        """Return what a new file takes."""
        return self.blocks(size)

    def copy(self, size: int) -> int:
        """Return what a copy of an installed file takes."""
        return self.file(0 if self._can_clone and size > SMALL else size)

    def link(self, length: int) -> int:
        """Return what a symbolic link with a target of that length takes."""
        return self.blocks(length) if length > _EXT4_FAST_LINK else 0

    def directory(self, count: int, length: int) -> int:
        """Return what a directory takes.

        Args:
            count: How many names it has.
            length: Bytes of them together.
        """
        used = _EXT4_DOTS + int(count * _EXT4_NAME) + length
        if used <= self.block:
            return self.block
        leaves = max(2, -(-used // int(self.block * _EXT4_FULL)))
        return (1 + leaves) * self.block


_EXT4_FAST_LINK: Final = 59
_EXT4_DOTS: Final = 24 + 12  # "." and "..", and a checksum
_EXT4_NAME: Final = 8 + 1.5  # beside the name, rounded up to four bytes
_EXT4_FULL: Final = 0.72  # how full the leaves of a hashed directory are


class _Xfs(FileSystem):
    """XFS: inodes are made when needed, and small directories lie in theirs."""

    inode: Final = 512
    room: Final = 336  # bytes of an inode for a small directory or a link

    def file(self, size: int) -> int:
        return self.inode + self.blocks(size)

    def link(self, length: int) -> int:
        return self.inode + (self.blocks(length + 56) if length > self.room else 0)

    def directory(self, count: int, length: int) -> int:
        if 10 + 8 * count + length <= self.room:
            return self.inode
        used = 64 + 8 + int(count * 15.5) + length
        if used + 8 * count <= self.block:
            return self.inode + self.block
        leaves = -(-8 * count // (self.block - 64))
        data = -(-used // (self.block - 64))
        return self.inode + (data + leaves + (leaves > 1)) * self.block


class _Btrfs(FileSystem):
    """btrfs: all but the bytes of larger files lies in trees, and those twice."""

    inline: Final = 2048
    item: Final = 25  # bytes of the head of an item

    def _tree(self, size: int) -> int:
        return int(size * 2 / _BTRFS_FULL)

    def file(self, size: int) -> int:
        inode = self.item + 160
        if size <= self.inline:
            return self._tree(inode + self.item + 21 + size)
        data = self.blocks(size)
        extent = self.item + 53 + self.item + 53
        return data + self._tree(inode + extent + data // 1024)

    def link(self, length: int) -> int:
        return self._tree(self.item + 160 + self.item + 21 + length)

    def directory(self, count: int, length: int) -> int:
        names = count * (3 * self.item + 30 + 30 + 10) + 3 * length
        return self._tree(self.item + 160 + names)


_BTRFS_FULL: Final = 0.87  # how full the nodes of its trees are
_KINDS: Final = {"xfs": _Xfs, "btrfs": _Btrfs}


def file_system(path: Path) -> FileSystem:
    """Return what things cost in a directory into which the caller may write."""
    block = os.statvfs(path).f_frsize or 4096
    kind = _KINDS.get(type_of_file_system(path))
    return kind(block, can_clone=can_clone(path)) if kind else FileSystem(block)
