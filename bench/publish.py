"""What publishing costs, beside reading and hashing the same tree once by tar.

The first build packs everything. The second one changes what an upgrade changes: it is
published from a directory, from an archive, and with a delta. What is still to be
written to the disk is written before each of them.
"""

import argparse
import os
import shutil
import stat
import tempfile
from pathlib import Path

from bench import trees
from bench.measure import Cost, run
from bench.school import program

_MOST = 512 * 1024  # KiB


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.publish", description=__doc__)
    parser.add_argument("--old", type=Path, help="your own tree; only read")
    parser.add_argument("--new", type=Path, help="its next version; only read")
    parser.add_argument("--files", type=int, default=27_000)
    parser.add_argument(
        "--megabytes", type=int, default=1000, help="at most; as this machine has them"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="olpc-publish-", dir="/var/tmp") as name:
        scratch = Path(name)
        old, new = options.old or scratch / "old", options.new or scratch / "new"
        if options.old is None or options.new is None:
            trees.make_first(old, files=options.files, megabytes=options.megabytes)
            trees.make_second(old, new)
        _measure(scratch, old, new)


def _measure(scratch: Path, old: Path, new: Path) -> None:
    site, archive = scratch / "site", scratch / "new.tar"
    print(f"{_data(old) / 1e6:.0f} MB of data, then {_data(new) / 1e6:.0f} MB")
    _publisher("init", site)
    packed = ("--format=posix", "--xattrs", "--xattrs-include=*", "--sparse")
    run(["tar", "-cf", archive, *packed, "-C", new, "."])
    print(f"{'':34} {'s':>7} {'of tar':>7} {'cpu s':>7} {'of tar':>7} {'MiB':>5}")
    base = _row("tar | sha256sum", _tar(new), None)
    _row("again, now that it is cached", base := _tar(new), base)
    for what, build, tree, old_build in (
        ("first build", "1", old, None),
        ("second build", "2", new, None),
        ("the same from an archive", "3", archive, None),
        ("the same with a delta", "4", new, "1"),
    ):
        words = ["--build", build, "--any-tree"]
        words += [] if old_build is None else ["--delta-from", old_build]
        _row(what, _publisher("publish", site, tree, *words), base)
        if build != "1":
            shutil.rmtree(site / "builds" / build)


def _data(tree: Path) -> int:
    """Return how many bytes its files hold, holes and further names not counted."""
    inodes = {
        facts.st_ino: min(facts.st_size, facts.st_blocks * 512)
        for path in tree.rglob("*")
        if stat.S_ISREG((facts := path.lstat()).st_mode)
    }
    return sum(inodes.values())


def _tar(tree: Path) -> Cost:
    os.sync()
    return run(["sh", "-c", 'tar -cf - -C "$0" . | sha256sum', tree])


def _publisher(*words: str | Path) -> Cost:
    os.sync()
    cost = run([program("olpc-update-admin"), *words])
    if cost.code:
        raise SystemExit(cost.output)
    return cost


def _row(what: str, cost: Cost, base: Cost | None) -> Cost:
    tar = base or cost
    print(
        f"{what:34} {cost.seconds:7.1f} {cost.seconds / tar.seconds:7.1f} "
        f"{cost.processor:7.1f} {cost.processor / tar.processor:7.1f} "
        f"{cost.peak / 1024:5.0f}",
        flush=True,
    )
    if cost.peak > _MOST:
        raise SystemExit(f"more than {_MOST // 1024} MiB")
    return cost


if __name__ == "__main__":
    main()
