"""Real kills: ``python -m tests.crash.kills [SCENE ...]``, SIGKILL at a system call.

They prove the replay right: what a run that was killed had done, followed on paper,
has to be what is found on the disk.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.crash.disk import differences, read_disk
from tests.crash.judge import Judge
from tests.crash.record import KILLED, Ended, run, traced
from tests.crash.scenes import Scene, Stage
from tests.crash.sweep import load, require_tools, scratch

SCENES = ("poll_and_install", "repair", "rollback", "purge", "confirm")
CHANGING = (
    "openat",
    "mkdir",
    "mkdirat",
    "mknodat",
    "symlink",
    "symlinkat",
    "link",
    "linkat",
    "rename",
    "unlink",
    "unlinkat",
    "rmdir",
    "write",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "fchmod",
    "chmod",
    "fchown",
    "fchownat",
    "utimensat",
    "fsetxattr",
    "fsync",
    "syncfs",
)


class Hit(NamedTuple):
    """A run that was hit at a call.

    Attributes:
        call: Which.
        number: Its how manieth.
        ended: How the run ended.
        wrong: What is wrong afterwards.
    """

    call: str
    number: int
    ended: Ended
    wrong: list[str]


class Shooter:
    """Kills runs of one scene.

    Args:
        scene: The scene.
        place: A scratch directory.
    """

    def __init__(self, scene: Scene, place: Path) -> None:
        self._scene, self._place = scene, place
        self._root = place / "laptop"
        self._judge = Judge(scene, self._root)

    def kills(self, stride: int) -> Iterator[Hit]:
        """Kill at every ``stride``-th call of each kind but openat.

        What a new file's openat has changed is there when the next call is killed.
        """
        for call in CHANGING[1:]:
            number = 1
            while (hit := self._kill(call, number)) is not None:
                yield hit
                number += stride

    def _kill(self, call: str, number: int) -> Hit | None:
        """Run the job and kill it; None when it has no such call any more."""
        shutil.rmtree(self._root, ignore_errors=True)
        subprocess.run(["cp", "-a", self._scene.root, self._root], check=True)
        log = self._place / "log"
        options = ["-e", f"inject={call}:signal=KILL:when={number}"]
        ended, journal = traced(
            lambda: self._scene.job(self._root), self._root, log, options
        )
        text = log.with_suffix(".calls").read_text()
        if "killed by SIGKILL" not in text and ended.code != KILLED:
            return None
        wrong = differences(journal.end(), read_disk(self._root))
        wrong = [f"the replay is not what is there: {line}" for line in wrong]
        wrong = wrong or self._judge.after_cut(is_kill=True)
        if not wrong:
            again = run(lambda: self._scene.next_run(self._root), log)
            wrong = self._judge.after_next_run(*again)
        return Hit(call, number, ended, wrong)


def main() -> None:
    require_tools()
    load()
    start, kills, failures = time.monotonic(), 0, 0
    for number, name in enumerate(sys.argv[1:] or SCENES):
        with scratch() as place:
            stage = Stage(place, partitioned=number % 2 == 0)
            with stage.scene(name) as scene:
                shots = place / "shots"
                shots.mkdir(mode=0o755)
                for hit in Shooter(scene, shots).kills(stride=1):
                    kills += 1
                    if hit.wrong:
                        failures += 1
                        at = f"{scene.name}, {hit.call} {hit.number}"
                        print(f"  {at}: {hit.wrong[0]}", flush=True)
    minutes = (time.monotonic() - start) / 60
    print(f"kills: {kills} real ones, {failures} failures, {minutes:.0f} min")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
