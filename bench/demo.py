"""``make demo``: a server, a laptop, an update and a rollback, all of it checked.

Takes two versions of an operating system, or makes them from this machine's files,
and plays the project's main story with its real commands. What they did is judged
by other code than the project's own: ``compare.py`` compares the trees, ``laptop.py``
boots as the initramfs does, and ``relay.py`` counts the bytes on the wire.
"""

import argparse
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from bench import compare, laptop, trees
from bench.laptop import NoBootError
from bench.measure import Cost
from bench.relay import Traffic
from bench.school import CommandFailedError, School, command, is_open_to_all

OLD, NEW = "760", "762"
_SCRATCH = Path(f"/var/tmp/olpc-update-demo-{os.getuid()}")
_ENOUGH_TO_SHOW = 20


class CheckFailedError(Exception):
    """Something is not as it must be; the lines say what."""


class Wire(NamedTuple):
    """The update as it was seen from outside."""

    cost: Cost
    traffic: Traffic


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the demonstration and return the exit code."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _stop)
    begin = time.monotonic()
    try:
        _play(options)
    except (CheckFailedError, CommandFailedError, NoBootError) as error:
        print(f"\nFAILED: {error}\nLook at {options.scratch}", file=sys.stderr)
        return 1
    print(f"\nAll checks passed in {time.monotonic() - begin:.0f} s.")
    print(f"Everything is in {options.scratch}; the next demo removes it.")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--tree-a", type=Path, help="old version (only read)")
    parser.add_argument("--tree-b", type=Path, help="new version (only read)")
    parser.add_argument("--files", type=int, default=5500, help="when it makes them")
    parser.add_argument("--megabytes", type=int, default=130)
    parser.add_argument("--scratch", type=Path, default=_SCRATCH)
    parser.add_argument(
        "--layout", type=laptop.Layout, default=laptop.Layout.UNPARTITIONED
    )
    options = parser.parse_args(arguments)
    if (options.tree_a is None) != (options.tree_b is None):
        parser.error("give both trees or none")
    return options


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def _play(options: argparse.Namespace) -> None:
    scratch: Path = options.scratch
    _empty(scratch)
    old, new = _versions(options)
    wanted_old, wanted_new = compare.survey(old), compare.survey(new)
    school = School(scratch / "site", echo=True)
    published = _publish(school, old, new)
    root = scratch / "laptop"
    _make_laptop(school, root, old, options.layout)
    before = _slot(root, OLD)
    wire = _update(school, root)
    _heading("Is it what was published?")
    _check_tree(wanted_new, root, NEW)
    _same(before, _slot(root, OLD), f"the tree of {OLD}, kept for rollback")
    _expect_boot(root, NEW)
    rollback = _roll_back(root, before)
    _tell_history(root)
    _table(published, wire, rollback, root)
    _same(wanted_old, compare.survey(old), "the first version given")
    _same(wanted_new, compare.survey(new), "the second version given")


def _heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _empty(scratch: Path) -> None:
    """Make the scratch directory anew, if it is ours."""
    if scratch.is_symlink() or (scratch.exists() and not _is_ours(scratch)):
        raise CheckFailedError(f"{scratch} is somebody else's; choose --scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o755, parents=True)
    if os.getuid() == 0 and not is_open_to_all():
        print(
            "This directory is closed to other users, so root does all by itself here."
        )
        scratch.chmod(0o700)


def _is_ours(scratch: Path) -> bool:
    if scratch.stat().st_uid != os.getuid():
        return False
    return not any(scratch.iterdir()) or (scratch / "versions.txt").exists()


def _versions(options: argparse.Namespace) -> tuple[Path, Path]:
    """Return the two versions to play with, made or given."""
    scratch: Path = options.scratch
    (scratch / "versions.txt").write_text("scratch of make demo\n")
    if options.tree_a is not None:
        _heading(f"Two versions of a system: {options.tree_a}, {options.tree_b}")
        return (
            _readable_copy(options.tree_a.resolve(), scratch / "old"),
            _readable_copy(options.tree_b.resolve(), scratch / "new"),
        )
    _heading("Two versions of a system, made from files of this machine")
    old, new = scratch / "old", scratch / "new"
    held = trees.make_first(old, files=options.files, megabytes=options.megabytes)
    print(f"   {OLD}: {_size(old)}, with {_list(held)}")
    changed = trees.make_second(old, new)
    print(f"   {NEW}: {_size(new)}; {_list(changed)}")
    return old, new


def _readable_copy(tree: Path, copy: Path) -> Path:
    """Return the tree, or where its owners are others a copy that is all ours."""
    if os.getuid() == 0:
        return tree
    print(f"   not root: working on a copy of {tree} that belongs to us")
    subprocess.run(
        ["cp", "-R", "--preserve=mode,timestamps,links,xattr", "--", tree, copy],
        check=False,
        stderr=subprocess.DEVNULL,
    )
    return copy


def _publish(school: School, old: Path, new: Path) -> tuple[Cost, Cost]:
    _heading("A school's server: the site, its keys, its laptops, two builds")
    school.found(laptop.SOMEBODY)
    first = school.admin("publish", old, "--build", OLD, "--any-tree")
    words = ("--build", NEW, "--delta-from", OLD, "--any-tree")
    second = school.admin("publish", new, *words)
    school.admin("assign", "--build", NEW, "--serial", laptop.SOMEBODY.serial)
    return first, second


def _make_laptop(school: School, root: Path, old: Path, layout: laptop.Layout) -> None:
    _heading(f"A laptop below {root}, running {OLD} ({layout})")
    contents = school.site / "builds" / OLD / "contents"
    laptop.make(root, old, OLD, contents, layout=layout)
    laptop.trust(root, "oats", school.key("oats"))
    laptop.trust(root, "lease", school.key("lease"))
    _expect_boot(root, OLD)


def _update(school: School, root: Path) -> Wire:
    _heading("The server is started, and the laptop asks")
    with school.serve() as relay:
        server = f"http://127.0.0.1:{relay.port}/"
        cost = command(
            *("olpc-update-query", "-v", "--now", "--root", root, "--server", server),
            echo=True,
        )
        return Wire(cost, relay.read())


def _roll_back(root: Path, before: dict[str, compare.Survey]) -> Cost:
    _heading("Going back")
    cost = command("olpc-update", "--rollback", "--root", root, echo=True)
    _expect_boot(root, OLD)
    _same(before, _slot(root, OLD), f"the tree of {OLD} after the rollback")
    return cost


def _tell_history(root: Path) -> None:
    _heading("What the laptop remembers")
    command("olpc-update-query", "status", "--root", root, echo=True)
    command("olpc-update-query", "history", "--root", root, echo=True)


def _slot(root: Path, build: str) -> dict[str, compare.Survey]:
    """Survey both trees of a build, the pristine one and the one that runs."""
    return {
        name: compare.survey(root / "versions" / name / build)
        for name in ("pristine", "run")
    }


def _expect_boot(root: Path, build: str) -> None:
    booted = laptop.boot(root)
    if booted != build:
        raise CheckFailedError(f"the laptop boots {booted}, not {build}")
    alternate = laptop.slots(root).alternate or "none"
    print(f"   checked: it boots {booted}; alternate: {alternate}")


def _check_tree(wanted: compare.Survey, root: Path, build: str) -> None:
    found = _slot(root, build)
    _complain(compare.differences(wanted, found["pristine"]), f"pristine/{build}")
    # The original's own copier keeps whole seconds there, and no times of links.
    lines = compare.differences(wanted, found["run"], forgive_times="dl")
    _complain(lines, f"run/{build}")
    print(f"   checked: {len(wanted):,} paths of {build} are what was published")


def _same(before: object, after: object, what: str) -> None:
    if before != after:
        raise CheckFailedError(f"{what} has changed")
    print(f"   checked: {what} is unchanged")


def _complain(lines: list[str], what: str) -> None:
    if lines:
        shown = "\n  ".join(lines[:_ENOUGH_TO_SHOW])
        raise CheckFailedError(f"{what}: {len(lines)} differences\n  {shown}")


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in counts.items() if count)


def _files(tree: Path) -> dict[tuple[int, int], int]:
    """Map each regular file of a tree, once however many names, to its size."""
    found = {}
    for where, _, names in os.walk(os.fsencode(tree)):
        for name in names:
            status = os.lstat(os.path.join(where, name))
            if stat.S_ISREG(status.st_mode):
                found[status.st_dev, status.st_ino] = status.st_size
    return found


def _size(tree: Path) -> str:
    sizes = _files(tree)
    return f"{len(sizes):,} files, {sum(sizes.values()) / 1e6:.1f} MB"


def _table(
    published: tuple[Cost, Cost], wire: Wire, rollback: Cost, root: Path
) -> None:
    """Print what it all cost, measured from outside."""
    _heading("What it cost")
    old, new = (_files(root / "versions/pristine" / name) for name in (OLD, NEW))
    own = {inode: size for inode, size in new.items() if inode not in old}
    traffic, whole = wire.traffic, sum(new.values())
    _row("bytes down on the wire", f"{traffic.down:,}")
    _row("  of the build's size", f"{100 * traffic.down / whole:.2f} % of {whole:,}")
    _row("bytes up on the wire", f"{traffic.up:,}")
    _row("requests, connections", f"{traffic.requests}, {traffic.connections}")
    _row("files linked to the old build's", f"{len(new) - len(own):,}")
    _row("files written", f"{len(own):,}, {sum(own.values()):,} bytes")
    _row("in the laptop's own words", _told(root))
    print(f"\n   {'':<34}{'s':>8}{'CPU s':>8}{'MB, largest':>13}{'MB, all':>9}")
    for name, cost in (
        (f"publish {OLD}", published[0]),
        (f"publish {NEW} with a delta", published[1]),
        ("poll and update", wire.cost),
        ("rollback", rollback),
    ):
        print(
            f"   {name:<34}{cost.seconds:8.2f}{cost.processor:8.2f}"
            f"{cost.peak / 1024:13.1f}{cost.together / 1024:9.1f}"
        )


def _row(name: str, value: str) -> None:
    print(f"   {name:<34}{value}")


def _told(root: Path) -> str:
    """Return the program's own account of how the update was made."""
    printed = command("olpc-update-query", "history", "--json", "--root", root).output
    event = next(event for event in json.loads(printed) if event.get("build") == NEW)
    return ", ".join(
        f"{event[what]:,} {what}" for what in ("linked", "copied", "patched", "fetched")
    )


if __name__ == "__main__":
    sys.exit(main())
