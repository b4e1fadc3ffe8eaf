"""Real kills: SIGKILL at a system call, or an error instead of it.

They prove the replay right: what a run that was killed had done, followed on paper,
has to be what is found on the disk.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.crash.disk import differences, read_disk
from tests.crash.judge import Judge
from tests.crash.record import KILLED, Ended, run, traced
from tests.crash.scenes import Scene

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
    """Hits runs of one scene.

    Args:
        scene: The scene.
        place: A scratch directory.
    """

    def __init__(self, scene: Scene, place: Path) -> None:
        self._scene, self._place = scene, place
        self._root = place / "laptop"
        self._judge = Judge(scene, self._root)

    def kills(self, stride: int) -> Iterator[Hit]:
        """Kill at every ``stride``-th call of each kind."""
        for call in CHANGING:
            number = 1
            while (hit := self.hit(call, number, "signal=KILL")) is not None:
                yield hit
                number += stride

    def hit(self, call: str, number: int, what: str) -> Hit | None:
        """Run the job and hit it; None when it has no such call any more."""
        shutil.rmtree(self._root, ignore_errors=True)
        subprocess.run(["cp", "-a", self._scene.root, self._root], check=True)
        log = self._place / "log"
        options = ["-e", f"inject={call}:{what}:when={number}"]
        ended, journal = traced(
            lambda: self._scene.job(self._root), self._root, log, options
        )
        text = log.with_suffix(".calls").read_text()
        is_hit = "(INJECTED)" in text or "killed by SIGKILL" in text
        if not is_hit and ended.code != KILLED:
            return None
        wrong = differences(journal.end(), read_disk(self._root))
        wrong = [f"the replay is not what is there: {line}" for line in wrong]
        wrong = wrong or self._judge.after_cut(is_kill=True)
        if not wrong:
            again = run(lambda: self._scene.next_run(self._root), log)
            wrong = self._judge.after_next_run(*again)
        return Hit(call, number, ended, wrong)
