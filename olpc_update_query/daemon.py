"""A daemon that does nothing but tick, and starts a run when a query is due.

Each run is a child process, so that the daemon stays small and survives whatever
happens to a run. The rule is the one of a run that comes too early, so a tick costs
no process. Timers that stand still while the laptop sleeps do not matter: the daemon
ticks often and asks what time it is.
"""

import argparse
import logging
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from olpc_update_query.policy.due import may_skip
from olpc_update_query.ports import Clock
from olpc_update_query.system.files import read_bounded
from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.work import work_area

PATIENCE = 10.0
"""Seconds a run has to end when the daemon is told to."""

_ENDS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger(__name__)


class Daemon:
    """Ticks, and the run that is under way.

    Args:
        command: How a run is started.
        root: Where the laptop's file system begins.
        clock: The machine's clocks.
    """

    def __init__(self, command: list[str], root: Path, clock: Clock) -> None:
        self._command, self._root, self._clock = command, root, clock
        self._run: subprocess.Popen[bytes] | None = None

    def tick(self) -> None:
        """Start a run, unless one is under way or none is due."""
        if self._is_running() or not self._is_due():
            return
        _log.debug("starting a run")
        self._run = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)

    def _is_running(self) -> bool:
        if self._run is None:
            return False
        code = self._run.poll()
        if code is None:
            return True
        _log.debug("the run ended with exit code %s", code)
        self._run = None
        return False

    def _is_due(self) -> bool:
        try:
            text = read_bounded(work_area(self._root).asker / "due", 64).decode()
        except (OSError, ValueError):
            return True
        return not may_skip(text, self._clock.now())

    def close(self) -> None:
        """End the run that is under way; what it has reached is kept."""
        if self._run is None:
            return
        self._run.terminate()
        try:
            self._run.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._run.kill()
            self._run.wait()


def serve(daemon: Daemon, tick: int, clock: Clock) -> None:
    """Tick, at once and then regularly, until SIGTERM or SIGINT.

    Args:
        daemon: What ticks, in a thread of its own.
        tick: Seconds between two ticks.
        clock: For the first tick.
    """
    from apscheduler.schedulers.blocking import BlockingScheduler

    scheduler = BlockingScheduler(timezone="UTC")
    # APScheduler leaves out a job that is a second late unless told otherwise, and a
    # laptop that wakes up is late by hours.
    scheduler.add_job(
        daemon.tick,
        "interval",
        seconds=tick,
        next_run_time=datetime.fromtimestamp(clock.now(), tz=UTC),
        misfire_grace_time=None,
        coalesce=True,
        max_instances=1,
    )
    for number in _ENDS:
        signal.signal(number, _leave)
    try:
        scheduler.start()
    finally:
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)
        if scheduler.running:
            scheduler.shutdown()
        daemon.close()


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave the main loop, wherever it is: ticks run in another thread."""
    sys.exit(0)


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="olpc-update-query daemon")
    parser.add_argument("--root", default="/", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--tick", default=60, type=int)
    given = parser.parse_args(arguments)
    logging.basicConfig(format="olpc-update-query: %(message)s", level=logging.INFO)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    command = [sys.executable, "-m", "olpc_update_query", "--trigger", "timer"]
    command += ["--root", str(given.root)]
    if given.config is not None:
        command += ["--config", str(given.config)]
    clock = SystemClock()
    serve(Daemon(command, given.root, clock), given.tick, clock)


if __name__ == "__main__":
    main()
