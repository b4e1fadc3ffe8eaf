"""What an update takes from the disk: while it runs, and when it is done.

The laptop is an ext4 image of its own, as on a machine that was just installed; what
is used of it is looked at fifty times a second. rsync makes its tree beside the old
one in the same way; it makes no run copy. Takes root.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.school import CommandFailedError
from bench.update import Bench, Sample, make_parser, parse, prepare

_LOOK = 0.02  # seconds
_MIB = 1 << 20


class Room(NamedTuple):
    """Bytes of disk.

    Attributes:
        peak: The most that was taken at any time.
        after: What is taken in the end.
        files: Blocks of files that are new, in whichever tree.
        names: Blocks of new directories and symbolic links.
    """

    peak: int
    after: int
    files: int
    names: int


def main() -> None:
    """Measure and print."""
    options = parse(make_parser("bench.disk", __doc__, "update-disk"))
    scratch: Path = options.scratch
    old, new = prepare(options)
    bench = Bench(scratch, old, new, 0.0)
    bench.publish(apart=False)
    build = _blocks(new)
    print(f"the build: {build / 1e6:.1f} MB in blocks")
    print(
        f"{'MB':28}{'files':>8}{'names':>8}{'after':>8}{'peak':>8}{'over':>8}"
        f"{'of files':>10}{'of build':>10}"
    )
    for name, way in bench.ways().items():
        room = _measure(bench, scratch, way, build)
        over = room.peak - room.files
        figures = (room.files, room.names, room.after, room.peak, over)
        line = "".join(f"{each / 1e6:8.1f}" for each in figures)
        shares = f"{over / room.files:10.1%}{over / build:10.1%}"
        print(f"{name:28}{line}{shares}")
    shutil.rmtree(scratch)


def _measure(
    bench: Bench, scratch: Path, way: Callable[[Path], Sample], build: int
) -> Room:
    """Let a way run on a laptop with a disk of its own."""
    with _disk(scratch, 3 * build + 256 * _MIB) as disk:
        root = bench.make_laptop(disk / "laptop")
        os.sync()
        before, known = _used(disk), _inodes(root)
        with _watched(disk) as seen:
            sample = way(root)
        if sample.cost.code:
            raise CommandFailedError(sample.cost.output)
        os.sync()
        after = _used(disk) - before
        fresh = {
            number: facts
            for number, facts in _inodes(root / "versions").items()
            if number not in known
        }
        files = sum(blocks for blocks, is_file in fresh.values() if is_file)
        names = sum(blocks for blocks, is_file in fresh.values() if not is_file)
        return Room(max(seen) - before, after, files, names)


@contextmanager
def _disk(scratch: Path, size: int) -> Iterator[Path]:
    image, where = scratch / "image", scratch / "disk"
    with image.open("wb") as file:
        file.truncate(size)
    where.mkdir(exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
        image.unlink()


@contextmanager
def _watched(disk: Path) -> Iterator[list[int]]:
    """Look at what is used until the block ends; blocks not yet given count as well."""
    seen, over = [_used(disk)], threading.Event()

    def look() -> None:
        while not over.wait(_LOOK):
            seen.append(_used(disk))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _used(disk: Path) -> int:
    room = os.statvfs(disk)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def _inodes(root: Path) -> dict[int, tuple[int, bool]]:
    """Return the bytes of each inode, and whether it is a file."""
    found: dict[int, tuple[int, bool]] = {}
    for where, _, names in os.walk(root):
        for path in (where, *(os.path.join(where, name) for name in names)):
            facts = os.lstat(path)
            is_file = not os.path.islink(path) and path != where
            found[facts.st_ino] = facts.st_blocks * 512, is_file
    return found


def _blocks(tree: Path) -> int:
    return sum(size for size, _ in _inodes(tree).values())


if __name__ == "__main__":
    main()
