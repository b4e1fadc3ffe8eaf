"""Run a command and tell what it cost: seconds, processor time and memory."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_LAUNCH = Path(__file__).with_name("launch.py")


class Cost(NamedTuple):
    """What a command cost.

    Attributes:
        code: Its exit code, negative when a signal ended it.
        seconds: From start to end.
        processor: Seconds of processor time, children included.
        peak: KiB of resident memory of its largest process.
        together: KiB of memory of all its processes at one moment, shared pages
            counted once (sampled; 0 when not asked for).
        output: What it printed.
    """

    code: int
    seconds: float
    processor: float
    peak: int
    together: int
    output: str


def run(
    command: Iterable[str | os.PathLike[str]],
    *,
    together: bool = False,
    echo: bool = False,
    env: dict[str, str] | None = None,
) -> Cost:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        together: Also sample the memory of all processes together.
        echo: Print its output while it comes, indented.
        env: Its environment, when not ours.
    """
    report, ours = os.pipe()
    launcher = [sys.executable, "-ISE", str(_LAUNCH)]
    options = [str(ours), "sample" if together else "plain"]
    with os.fdopen(report) as figures:
        process = subprocess.Popen(
            [*launcher, *options, *(os.fspath(word) for word in command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            pass_fds=[ours],
            env=env,
        )
        os.close(ours)
        output = _read(process, echo=echo)
        code, seconds, processor, peak, sampled = figures.read().split()
    return Cost(
        int(code), float(seconds), float(processor), int(peak), int(sampled), output
    )


def _read(process: "subprocess.Popen[str]", *, echo: bool) -> str:
    lines = []
    with process:
        for line in process.stdout or ():
            lines.append(line)
            if echo:
                print("   |", line.rstrip("\n"), flush=True)
    return "".join(lines)
