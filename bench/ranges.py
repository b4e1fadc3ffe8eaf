"""What ranges of a full pack a laptop would fetch, from one published build to another.

Compares the order in which the pack is with the order of the manifest.
"""

import argparse
from collections.abc import Collection, Iterable
from pathlib import Path

from olpc_update_query.model.manifest import Kind, ManifestReader
from olpc_update_query.model.pack import Frame, coalesce, read_pack_index

REQUESTS = (24, 48, 1000)


def main() -> None:
    """Reckon and print."""
    parser = argparse.ArgumentParser(prog="bench.ranges", description=__doc__)
    parser.add_argument("old", type=Path, help="directory of the build that is there")
    parser.add_argument("new", type=Path, help="directory of the build to fetch")
    options = parser.parse_args()
    digests = _digests(options.new)
    wanted = set(digests) - set(_digests(options.old))
    with open(options.new / "pack.index", "rb") as index:
        frames = list(read_pack_index(index)[1])
    by_digest = {frame.digest: frame for frame in frames}
    needed = sum(by_digest[digest].packed for digest in wanted)
    print(f"needed: {needed / 1e6:.2f} MB in {len(wanted)} contents")
    _print("as it is packed", frames, wanted)
    _print("in the manifest's order", (by_digest[one] for one in digests), wanted)


def _digests(build: Path) -> list[bytes]:
    """Return every content once, in the manifest's order."""
    with open(build / "contents", "rb") as stream:
        entries = ManifestReader(stream)
        return list(dict.fromkeys(e.digest for e in entries if e.kind is Kind.FILE))


def _print(name: str, frames: Iterable[Frame], wanted: Collection[bytes]) -> None:
    offset, moved = 0, []
    for frame in frames:
        if frame.digest in wanted:
            moved.append(frame._replace(offset=offset))
        offset += frame.packed
    for requests in REQUESTS:
        ranges = coalesce((frame.range for frame in moved), requests)
        total = sum(length for _, length in ranges)
        print(f"{name}: {len(ranges):4} ranges, {total / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
