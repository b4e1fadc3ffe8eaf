"""Calls refused in turn: ``python -m tests.crash.faults [--share N] [SCENE ...]``.

Every call that a job makes to the disk is refused once, by errors that take turns, and
every write is short once. What has to come of it: one plain line and an exit code of
its own, a laptop that boots what it booted before (or the new build, whole), and a
second run that gets through by itself, to what an undisturbed one leaves. A short
write is no error at all.
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.crash.judge import Judge
from tests.crash.kills import CHANGING
from tests.crash.record import Ended, Injected, injected, run
from tests.crash.scenes import Scene, Stage
from tests.crash.shorten import run_shortened
from tests.crash.sweep import load, require_tools, scratch

ERRORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CHANGING, ("EIO", "EROFS", "ENOSPC")),
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
SCENES = ("poll_and_install", "repair", "rollback", "confirm", "failed_trial", "purge")
SHORT = "a short write"
_BUGS = {1, 70, 99}  # exit codes of tracebacks


class Fault(NamedTuple):
    """What is done to which call.

    Attributes:
        call: Its name, or ``SHORT``.
        number: Its how manieth.
        error: What it fails with.
    """

    call: str
    number: int
    error: str

    def __str__(self) -> str:
        return f"{self.call} {self.number} {self.error}".rstrip()


class Seen(NamedTuple):
    """What became of a run that was disturbed.

    Attributes:
        fault: How it was.
        ended: How it ended.
        wrong: What is wrong after it, or after the next one.
    """

    fault: Fault
    ended: Ended
    wrong: list[str]


class Saboteur:
    """Disturbs runs of one scene, and judges what becomes of them.

    Args:
        scene: The scene.
        place: A scratch directory, open to the asker's user.
    """

    def __init__(self, scene: Scene, place: Path) -> None:
        self._scene, self._place = scene, place
        self._root, self._log = place / "laptop", place / "log"
        self._judge = Judge(scene, self._root)

    def disturb(self, fault: Fault) -> Seen | None:
        """Run the job, and then the next one; None when it has no such call."""
        shutil.rmtree(self._root, ignore_errors=True)
        subprocess.run(["cp", "-a", self._scene.root, self._root], check=True)
        ended, is_hit = self._run(fault)
        if not is_hit:
            return None
        wrong = _bad_ends(fault, ended) or self._judge.after_cut(is_kill=True)
        if not wrong:
            again = run(lambda: self._scene.next_run(self._root), self._log)
            wrong = self._judge.after_next_run(*again)
        return Seen(fault, ended, wrong)

    def _run(self, fault: Fault) -> Injected:
        def job() -> int:
            return self._scene.job(self._root)

        if fault.call == SHORT:
            return run_shortened(job, self._log, self._root, fault.number)
        what = f"error={fault.error}:when={fault.number}"
        return injected(job, self._log, fault.call, what)


def _bad_ends(fault: Fault, ended: Ended) -> list[str]:
    code, said = ended
    how = f"it ended with {code}: {said[-1200:]!r}"
    if code in _BUGS or code < 0 or "Traceback" in said:
        return [how]
    if fault.call == SHORT:
        return [how] if code else []
    lines = [line for line in said.splitlines() if not line.startswith("  hint")]
    plain = any(line.startswith("olpc-") or ": " in line for line in lines)
    return [how] if code and not plain else []


def sabotage(scene: Scene, place: Path, share: int) -> Iterator[Seen]:
    """Disturb a scene at one of ``share`` calls of each kind.

    The program itself has been loaded: it is the laptop's disk that fails.
    """
    load()
    saboteur = Saboteur(scene, place)
    for turn, (call, errors) in enumerate({**ERRORS, SHORT: ("",)}.items()):
        for fault in _in_turn(call, errors, share, turn):
            seen = saboteur.disturb(fault)
            if seen is None:
                break
            yield seen


def _in_turn(
    call: str, errors: tuple[str, ...], share: int, turn: int
) -> Iterator[Fault]:
    for at in itertools.count():
        yield Fault(call, 1 + at * share, errors[(at + turn) % len(errors)])


def main() -> None:
    require_tools()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("scenes", nargs="*", default=SCENES)
    given = parser.parse_args()
    faults, codes = Counter[str](), Counter[int]()
    failures, start = 0, time.monotonic()
    for number, name in enumerate(given.scenes):
        with scratch() as place:
            stage = Stage(place, partitioned=number % 2 == 0)
            (place / "shots").mkdir(mode=0o755)
            with stage.scene(name) as scene:
                for seen in sabotage(scene, place / "shots", given.share):
                    faults[seen.fault.error or SHORT] += 1
                    codes[seen.ended.code] += 1
                    if seen.wrong:
                        failures += 1
                        at = f"{scene.name}, {seen.fault}"
                        print(f"  {at}: {seen.wrong[0]}", flush=True)
            print(f"{scene.name}: {faults.total()} calls until now", flush=True)
    minutes = (time.monotonic() - start) / 60
    each = ", ".join(f"{name} {count}" for name, count in faults.most_common())
    print(
        f"faults: {faults.total()} calls refused ({each}), after {failures} of them "
        f"something was wrong; exit codes {dict(sorted(codes.items()))}, "
        f"{minutes:.0f} min"
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
