"""Calls refused in turn: ``python -m tests.crash.faults [--stride N] [SCENE ...]``.

What has to come of it: one plain line and an exit code of its own, a laptop that boots
what it booted before (or the new build, whole), and a second run that gets through.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.crash.kills import CHANGING, Hit, Shooter
from tests.crash.scenes import Stage
from tests.crash.sweep import load, scratch

NO_ROOM = ("mkdir", "mkdirat", "mknodat", "symlink", "symlinkat", "link", "linkat")
ERRORS: dict[str, tuple[str, ...]] = {
    "openat": ("EMFILE", "EIO", "EINTR", "EROFS", "ENOSPC"),
    "read": ("EIO", "EINTR"),
    "readv": ("EIO",),
    "pread64": ("EIO",),
    "write": ("ENOSPC", "EIO", "EINTR"),
    "pwrite64": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC"),
    "syncfs": ("EIO",),
    "copy_file_range": ("EIO", "ENOSPC"),
    "socketpair": ("EMFILE",),
}
ALL = (*CHANGING, "read", "readv", "pread64", "copy_file_range", "socketpair")
BUG, PROCESS_BUG = 1, 70


def shoot(shooter: Shooter, stride: int) -> Iterator[tuple[str, Hit]]:
    """Refuse every ``stride``-th call of each kind, with each error it may have."""
    for call in ALL:
        for error in ERRORS.get(call, ("EIO", "EROFS", "ENOSPC")):
            number = 1
            what = f"error={error}"
            while (hit := shooter.hit(call, number, what)) is not None:
                yield error, hit
                number += stride


def judge(hit: Hit) -> list[str]:
    """Return what is wrong with how a run ended."""
    code, said = hit.ended
    wrong = list(hit.wrong)
    if code in {BUG, PROCESS_BUG, 99} or code < 0 or "Traceback" in said:
        wrong.append(f"it ended with {code}: {said[-1200:]}")
    lines = [line for line in said.splitlines() if not line.startswith("  hint")]
    if code and not any(line.startswith("olpc-") or ": " in line for line in lines):
        wrong.append(f"it ended with {code} and said {said!r}")
    return wrong


def run(names: list[str], stride: int) -> tuple[Counter[int], list[str]]:
    """Shoot at scenes; return the exit codes, and what went wrong."""
    load()
    codes: Counter[int] = Counter()
    failures: list[str] = []
    for number, name in enumerate(names):
        with scratch() as place:
            stage = Stage(place, partitioned=number % 2 == 0)
            (place / "shots").mkdir(mode=0o755)
            with getattr(stage, name)() as scene:
                shooter = Shooter(scene, Path(place / "shots"))
                for error, hit in shoot(shooter, stride):
                    codes[hit.ended.code] += 1
                    for line in judge(hit)[:1]:
                        failures.append(f"{name}, {hit.call} {hit.number}, {error}")
                        print(f"  {failures[-1]}: {line}", flush=True)
    return codes, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=7)
    parser.add_argument("scenes", nargs="*", default=["poll_and_install", "repair"])
    given = parser.parse_args()
    codes, failures = run(given.scenes, given.stride)
    print(
        f"faults: {sum(codes.values())} calls refused, {len(failures)} failures; "
        f"exit codes {dict(sorted(codes.items()))}"
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
