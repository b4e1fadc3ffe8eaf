"""Running a job in a real process of its own, and writing down what it does.

The process is a fork of this one, so nothing has to be loaded again; strace is
attached before it begins. It may also be killed on the way, or be refused a call.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from tests.crash.calls import TRACED, read_calls
from tests.crash.disk import read_disk
from tests.crash.journal import Journal, read_journal

KILLED = -signal.SIGKILL
_PATIENCE = 120.0


class Ended(NamedTuple):
    """How a job ended.

    Attributes:
        code: Its exit code, negative when a signal ended it.
        said: What it printed.
    """

    code: int
    said: str


class Injected(NamedTuple):
    """What became of a job that was tampered with.

    Attributes:
        ended: How it ended.
        is_hit: Whether it came as far as the call.
    """

    ended: Ended
    is_hit: bool


def run(job: Callable[[], int], log: Path) -> Ended:
    """Run a job in a process of its own."""
    return finish(begin(job, log), log)


def record(job: Callable[[], int], root: Path, log: Path) -> tuple[Ended, Journal]:
    """Run a job and follow what it does below ``root``."""
    return traced(job, root, log, [])


def traced(
    job: Callable[[], int], root: Path, log: Path, options: Sequence[str]
) -> tuple[Ended, Journal]:
    """Run a job under strace, with more options, and follow what it does."""
    start = read_disk(root)
    words = ["-xx", "-s", "4000000", "-e", f"trace={TRACED}", *options]
    calls, pid, ended = _strace(job, log, words)
    with open(calls) as lines:
        return ended, read_journal(start, root, read_calls(lines), pid)


def injected(job: Callable[[], int], log: Path, call: str, what: str) -> Injected:
    """Run a job and tamper with one of its calls, as strace says it: ``what``."""
    words = ["-e", f"trace={call}", "-e", f"inject={call}:{what}"]
    calls, _, ended = _strace(job, log, words)
    return Injected(ended, "(INJECTED)" in calls.read_text(errors="replace"))


def _strace(
    job: Callable[[], int], log: Path, words: Sequence[str]
) -> tuple[Path, int, Ended]:
    calls = log.with_suffix(".calls")
    pid = begin(job, log, stopped=True)
    os.waitpid(pid, os.WUNTRACED)  # or it might stop after it was told to go on
    tracer = subprocess.Popen(
        [
            "strace",
            "-f",
            "-qq",
            "-o",
            calls,
            "-e",
            "signal=none",
            *words,
            "-p",
            f"{pid}",
        ],
        stderr=subprocess.PIPE,
    )
    _await_tracer(pid, tracer)
    os.kill(pid, signal.SIGCONT)
    ended = finish(pid, log)
    tracer.wait(_PATIENCE)
    if tracer.stderr:
        tracer.stderr.close()
    return calls, pid, ended


def begin(job: Callable[[], int], log: Path, *, stopped: bool = False) -> int:
    """Begin a job in a process of its own; return its number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.umask(0o022)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.fchmod(output, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = _writer(1), _writer(2)  # pytest's are others
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        code = job()
    except BaseException:  # noqa: BLE001 - told to whoever waits
        with contextlib.suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _writer(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", closefd=False, buffering=1)


def _await_tracer(pid: int, tracer: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            said = tracer.stderr.read().decode() if tracer.stderr else ""
            raise RuntimeError(f"strace could not be attached: {said}")
        time.sleep(0.001)


def finish(pid: int, log: Path) -> Ended:
    """Wait until a process has ended."""
    try:
        status = os.waitpid(pid, 0)[1]
    finally:  # the asker's process, when its parent was killed; all, when we are
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    return Ended(os.waitstatus_to_exitcode(status), log.read_text("utf-8", "replace"))
