"""What each level of zstd costs and gives for the contents of a tree, one by one.

The last line is what full packs are made with.
"""

import argparse
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zstandard import ZstdCompressor

from olpc_update_query.model.whole import PACK_LEVEL, pack_whole

LEVELS = (3, 6, 9, 12, 15, 17, 19)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.levels", description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--files", type=int, default=1500, help="size of the sample")
    options = parser.parse_args()
    files = _sample(options.tree, options.files)
    print(f"{len(files)} files, {sum(map(len, files)) / 1e6:.1f} MB")
    for level in LEVELS:
        _row(f"level {level}", ZstdCompressor(level=level).compress, files)
    _row("pack", lambda file: pack_whole(file, PACK_LEVEL), files)


def _row(what: str, pack: Callable[[bytes], bytes], files: Sequence[bytes]) -> None:
    begin = time.process_time()
    size = sum(len(pack(file)) for file in files)
    seconds = time.process_time() - begin
    print(f"{what:8}: {size / 1e6:8.2f} MB, {seconds:6.1f} s processor time")


def _sample(tree: Path, count: int) -> list[bytes]:
    """Return the same files on every run."""
    paths = sorted(
        Path(where, name)
        for where, _, names in os.walk(tree)
        for name in names
        if Path(where, name).is_file() and not Path(where, name).is_symlink()
    )
    random.Random(1).shuffle(paths)
    return [path.read_bytes() for path in paths[:count]]


if __name__ == "__main__":
    main()
