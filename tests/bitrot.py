"""Flip random bits of an installed build; the program has to find and heal them all.

    python -m tests.bitrot [FLIPS]

The program is run as a person runs it, from the outside. What is damaged is counted
here, and whether all is whole again is judged by ``bench.compare``, which shares no
code with it. A flip goes through the file, but size and times stay what they were, as
if the medium had done it. All processes of the repair together have 64 MiB of memory.
"""

import os
import random
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.compare import differences, survey
from bench.measure import run
from tests.cli.black_box import update, update_command
from tests.cli.school import School
from tests.laptop import boots
from tests.perform_update.published import make_build
from tests.simulator import simulate
from tests.trees import snapshot

FLIPS = 1000
MOST_KIB = 64 << 10
FILES = 400


class Healed(NamedTuple):
    """What became of the flips.

    Attributes:
        flips: Bits that were flipped.
        files: Files that they were in.
        found: Files that the program told of.
        left: Differences after the repair.
        asked: Files that the server was asked for.
        peak: KiB of memory that the repair's largest process had.
        together: KiB that all its processes had at one moment (sampled).
    """

    flips: int
    files: int
    found: int
    left: list[str]
    asked: list[str]
    peak: int
    together: int


def rot(tree: Path, flips: int, dice: random.Random) -> set[str]:
    """Flip bits of a tree's files; return the files, relative to it."""
    files = [p for p in sorted(tree.rglob("*")) if p.is_file() and p.stat().st_size]
    weights = [path.stat().st_size for path in files]
    flipped: set[tuple[Path, int]] = set()
    while len(flipped) < flips:
        path = dice.choices(files, weights)[0]
        flipped.add((path, dice.randrange(path.stat().st_size * 8)))
    for path, bit in flipped:
        facts = path.stat()
        with path.open("r+b") as file:
            old = os.pread(file.fileno(), 1, bit // 8)[0]
            os.pwrite(file.fileno(), bytes([old ^ 1 << bit % 8]), bit // 8)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return {str(path.relative_to(tree)) for path, _ in flipped}


def heal(scratch: Path, flips: int, *, files: int = FILES, seed: int = 762) -> Healed:
    """Install a build, let it rot, have it repaired.

    Args:
        scratch: An empty directory.
        flips: How many bits to flip.
        files: How many files the build has.
        seed: Of the dice.
    """
    dice = random.Random(seed)
    (scratch / "www").mkdir()
    with simulate(scratch / "www") as server:
        school = School(scratch, server)
        contents = {
            f"usr/{number % 20}/{number}": dice.randbytes(dice.randrange(1, 60_000))
            for number in range(files)
        }
        build = make_build(
            scratch / "763",
            "763",
            {"boot/vmlinuz": b"kernel", "etc/a": b"", **contents},
        )
        school.publish(build)
        assert update(school.root, "763").code == 0
        tree = school.root / "versions/pristine/763"
        wanted = survey(tree)
        rotten = rot(tree, flips, dice)
        found = update(school.root, "--verify", "763", "--json")
        told = {line.split(": ")[1] for line in found.json["differences"]}
        assert told == rotten, "what was told is not what was damaged"
        server.site.seen.clear()
        words = update_command(school.root, "--verify", "763", "--repair")
        done = run(words, together=True)
        assert done.code == 0, done.output
        assert boots(school.root) == "763", "tree and run copy are one again"
        _check_old(school)
        return Healed(
            flips,
            len(rotten),
            len(told),
            differences(wanted, survey(tree)),
            sorted({seen.name for seen in server.site.seen}),
            done.peak,
            done.together,
        )


def _check_old(school: School) -> None:
    pristine = school.root / "versions/pristine/760"
    before, after = snapshot(school.old.tree), snapshot(pristine)
    assert all(after[path].sha256 == facts.sha256 for path, facts in before.items())


def main() -> None:
    """Flip as many bits as the command line says."""
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else FLIPS
    with tempfile.TemporaryDirectory(prefix="olpc-bitrot-") as scratch:
        os.chmod(scratch, 0o755)
        done = heal(Path(scratch), flips)
    print(  # noqa: T201 - a command
        f"bitrot: {done.flips} bits flipped in {done.files} files; "
        f"{done.found} files found, {done.files - len(done.left)} healed; "
        f"the repair's memory: {done.peak / 1024:.1f} MiB its largest process, "
        f"{done.together / 1024:.1f} MiB all together"
    )
    is_whole = not done.left and done.found == done.files
    sys.exit(0 if is_whole and done.together <= MOST_KIB else 1)


if __name__ == "__main__":
    main()
