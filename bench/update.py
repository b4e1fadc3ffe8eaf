"""What an update costs a laptop, beside rsync on the same two trees.

Both start with the old tree installed and end with the new one as a complete tree
beside it, files that did not change linked. rsync reads from its daemon; all bytes
are counted by a relay. Figures are medians.

With ``--scattered N`` the new tree is the old one with so many small files changed, and
nobody has made a delta, nor a pack in which what is new lies together.
"""

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import compare, laptop, rsyncd, trees
from bench.measure import Cost, run
from bench.relay import Traffic, relay_to
from bench.school import CommandFailedError, School, program

OLD, NEW = "760", "762"


class Sample(NamedTuple):
    """One run: its cost, what crossed the wire, and bytes of disk it took."""

    cost: Cost
    traffic: Traffic
    disk: int = 0


def main() -> None:
    """Measure and print."""
    parser = make_parser("bench.update", __doc__, f"update-bench-{os.getuid()}")
    parser.add_argument("-n", "--runs", type=int, default=3, help="runs of each")
    parser.add_argument(
        "--scattered", type=int, metavar="N", help="small files that changed"
    )
    parser.add_argument(
        "--delay", type=float, default=0.0, help="seconds of delay each way"
    )
    options = parse(parser)
    scratch: Path = options.scratch
    old, new = prepare(options, scattered=options.scattered)
    bench = Bench(scratch, old, new, options.delay)
    published = bench.publish(apart=bool(options.scattered))
    ways = bench.ways()
    if options.scattered:
        del ways["ours, delta pack"]
    table: dict[str, list[Sample]] = {name: [] for name in ways}
    for _ in range(options.runs):
        for name, way in ways.items():
            table[name].append(bench.measure(way))
    _print(published, table)
    shutil.rmtree(scratch)


def make_parser(prog: str, about: str | None, scratch: str) -> argparse.ArgumentParser:
    """Return a parser of the options that say which trees, and where to work."""
    parser = argparse.ArgumentParser(prog=prog, description=about)
    parser.add_argument("--tree-a", type=Path, help="old tree (only read)")
    parser.add_argument("--tree-b", type=Path, help="new tree (only read)")
    parser.add_argument(
        "--scratch", type=Path, default=Path(f"/var/tmp/olpc-{scratch}")
    )
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options; both trees were given, or none."""
    options = parser.parse_args()
    if (options.tree_a is None) != (options.tree_b is None):
        parser.error("give both trees or none")
    return options


def prepare(
    options: argparse.Namespace, *, scattered: int | None = None
) -> tuple[Path, Path]:
    """Empty the scratch directory, and return the trees, made there if need be."""
    scratch: Path = options.scratch
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o755)
    if options.tree_a is not None:
        return options.tree_a.resolve(), options.tree_b.resolve()
    old, new = scratch.resolve() / "old", scratch.resolve() / "new"
    trees.make_first(old, files=6000, megabytes=150)
    if scattered:
        trees.change_small_files(old, new, scattered)
    else:
        trees.make_second(old, new)
    return old, new


class Bench:
    """The two trees, a school that publishes them, and ways to get the second."""

    def __init__(self, scratch: Path, old: Path, new: Path, delay: float) -> None:
        self._scratch, self._old, self._new = scratch, old, new
        self._delay = delay
        self._school = School(scratch / "site")
        self._wanted = compare.survey(new)

    def ways(self) -> dict[str, Callable[[Path], Sample]]:
        """Return the ways to get the second tree, by name."""
        return {
            "ours, delta pack": self.ours,
            "ours, ranges of full pack": self.ours_without_delta,
            "ours, from an original build": self.ours_from_original,
            "rsync --link-dest -z": self.rsync,
        }

    def publish(self, *, apart: bool) -> list[Cost]:
        """Publish both, or the second as if it were the first, and assign that."""
        school = self._school
        school.found(laptop.SOMEBODY)

        def publish(tree: Path, build: str, *more: str) -> Cost:
            return school.admin("publish", tree, "--build", build, "--any-tree", *more)

        if apart:
            costs = [publish(self._new, NEW), publish(self._old, OLD)][::-1]
        else:
            costs = [publish(self._old, OLD)]
            costs += [publish(self._new, NEW, "--delta-from", OLD)]
        school.admin("assign", "--build", NEW, "--serial", laptop.SOMEBODY.serial)
        return costs

    def measure(self, way: Callable[[Path], Sample]) -> Sample:
        """Let a way run on a fresh laptop, with everything on the disk before."""
        root = self.make_laptop(self._scratch / "laptop")
        os.sync()
        before = _used(root)
        sample = way(root)
        if sample.cost.code != 0:
            raise CommandFailedError(sample.cost.output)
        found = compare.survey(root / "versions/pristine" / NEW)
        wrong = len(compare.differences(self._wanted, found))
        print(f"{way.__name__}: {sample.cost.seconds:.2f} s, {wrong} paths differ")
        sample = sample._replace(disk=_used(root) - before)
        shutil.rmtree(root)
        return sample

    def make_laptop(self, root: Path) -> Path:
        """Make a laptop that runs the old build, and return where it is."""
        contents = self._school.site / "builds" / OLD / "contents"
        laptop.make(root, self._old, OLD, contents)
        for role in ("oats", "lease"):
            laptop.trust(root, role, self._school.key(role))
        return root

    def ours(self, root: Path) -> Sample:
        """Poll and update with the project's own command."""
        with self._school.serve(self._delay) as relay:
            server = f"http://127.0.0.1:{relay.port}/"
            words = [program("olpc-update-query"), "--now", "--root", str(root)]
            cost = run([*words, "--server", server], together=True)
            return Sample(cost, relay.read())

    def ours_without_delta(self, root: Path) -> Sample:
        """The same, as if nobody had made a delta pack for this pair."""
        delta = self._school.site / "builds" / NEW / "delta"
        aside = self._scratch / "delta"
        delta.mkdir(exist_ok=True)
        delta.rename(aside)
        try:
            return self.ours(root)
        finally:
            aside.rename(delta)

    def ours_from_original(self, root: Path) -> Sample:
        """The same on a laptop whose build came without a manifest of ours."""
        (root / "versions/contents" / OLD).unlink()
        return self.ours(root)

    def rsync(self, root: Path) -> Sample:
        """Do it as ``rsync --link-dest`` would, compressed."""
        text = rsyncd.configuration({"root": self._new})
        pristine = root / "versions/pristine"
        options = ["-aHX", "-z", "--numeric-ids", f"--link-dest={pristine / OLD}"]
        with (
            rsyncd.serve(self._scratch, text) as port,
            relay_to(port, delay=self._delay) as relay,
        ):
            source = f"rsync://127.0.0.1:{relay.port}/root/"
            cost = run(["rsync", *options, source, pristine / NEW], together=True)
            return Sample(cost, relay.read())


def _used(root: Path) -> int:
    """Return the bytes of disk below a directory, each inode counted once."""
    blocks: dict[int, int] = {}
    for where, _, names in os.walk(root):
        for path in (where, *(os.path.join(where, name) for name in names)):
            status = os.lstat(path)
            blocks[status.st_ino] = status.st_blocks
    return 512 * sum(blocks.values())


def _print(published: list[Cost], table: dict[str, list[Sample]]) -> None:
    for cost, name in zip(published, (OLD, f"{NEW} with a delta"), strict=True):
        print(f"publish {name}: {cost.seconds:.1f} s, {cost.peak / 1024:.0f} MB")
    print(
        f"{'':28}{'down':>12}{'up':>10}{'requests':>9}{'s':>7}{'CPU s':>7}"
        f"{'MB':>7}{'MB, all':>9}{'disk MB':>9}"
    )
    for name, samples in table.items():
        costs = [sample.cost for sample in samples]
        print(
            f"{name:28}{median(each.traffic.down for each in samples):12,.0f}"
            f"{median(each.traffic.up for each in samples):10,.0f}"
            f"{median(each.traffic.requests for each in samples):9.0f}"
            f"{median(cost.seconds for cost in costs):7.2f}"
            f"{median(cost.processor for cost in costs):7.2f}"
            f"{median(cost.peak for cost in costs) / 1024:7.1f}"
            f"{median(cost.together for cost in costs) / 1024:9.1f}"
            f"{median(each.disk for each in samples) / 1e6:9.1f}"
        )


if __name__ == "__main__":
    main()
