"""The daemon: a real process that ticks and starts real runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from olpc_update_query.daemon import Daemon
from tests.simulator import (
    HOUR,
    FakeClock,
    ServerSimulator,
    prepare_laptop,
    set_due,
    simulate,
)

TOP = Path(__file__).parents[1]
PATIENCE = 20.0
NOW = int(time.time())


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerSimulator]:
    with simulate(tmp_path) as simulator:
        yield simulator


@pytest.fixture
def root(tmp_path: Path, server: ServerSimulator) -> Path:
    return prepare_laptop(tmp_path / "laptop", server.url)


@contextlib.contextmanager
def daemon(root: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run `olpc-update-query daemon`, a tick a second."""
    words = ["daemon", "--root", str(root), "--tick", "1"]
    command = [sys.executable, "-m", "olpc_update_query", *words]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=TOP
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_asks_when_a_query_becomes_due(root: Path, server: ServerSimulator) -> None:
    set_due(root, NOW - HOUR, int(time.time()) + 3)
    with daemon(root) as process:
        wait_until(lambda: server.asked)
        asked = time.time()
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert asked >= (NOW + 3) - 1
    assert server.asked == 1, "it asks once, not at each tick"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_and_takes_its_run_along(root: Path, number: int) -> None:
    set_due(root, NOW - HOUR, NOW - 1)
    (root / "etc/olpc-update-query/config.toml").write_text('server = "127.0.0.1:9"\n')
    with daemon(root) as process:
        wait_until(lambda: children(process.pid))
        (child,) = children(process.pid)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    wait_until(lambda: not Path(f"/proc/{child}").exists())


def children(pid: int) -> list[int]:
    """Return the children of every thread of a process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text().split()]


def test_a_daemon_is_small(root: Path) -> None:
    set_due(root, NOW - 1, NOW + HOUR)
    with daemon(root) as process:
        status = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: "apscheduler" in loaded(process.pid))
        time.sleep(0.5)
        resident = next(
            int(line.split()[1])
            for line in status.read_text().splitlines()
            if line.startswith("VmRSS")
        )
        process.terminate()
    assert resident <= 32 * 1024


def loaded(pid: int) -> str:
    """Return which program a process runs, once the daemon has replaced the command."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return "apscheduler" if b"olpc_update_query.daemon" in words else ""


# --- one tick -----------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def runs(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def logger(log: Path, *, then: str = "") -> list[str]:
    return ["/bin/sh", "-c", f"echo run >>'{log}'; {then}"]


def test_a_tick_before_the_due_time_starts_no_process(
    tmp_path: Path, log: Path
) -> None:
    set_due(tmp_path, NOW - 1, NOW + 10)
    clock = FakeClock(NOW)
    one = Daemon(logger(log), tmp_path, clock)
    one.tick()
    assert runs(log) == 0
    clock.time += 10
    one.tick()
    wait_until(lambda: runs(log) == 1)
    one.close()


def test_an_unreadable_stamp_starts_a_run(tmp_path: Path, log: Path) -> None:
    one = Daemon(logger(log), tmp_path, FakeClock(NOW))
    one.tick()
    wait_until(lambda: runs(log) == 1)
    one.close()


def test_one_run_at_a_time(tmp_path: Path, log: Path) -> None:
    one = Daemon(logger(log, then="exec sleep 60"), tmp_path, FakeClock(NOW))
    one.tick()
    wait_until(lambda: runs(log) == 1)
    one.tick()
    one.tick()
    one.close()
    assert runs(log) == 1


def test_the_next_run_begins_after_the_last_one(tmp_path: Path, log: Path) -> None:
    one = Daemon(logger(log), tmp_path, FakeClock(NOW))
    one.tick()
    wait_until(lambda: runs(log) == 1)

    def ticked() -> bool:
        one.tick()
        return runs(log) >= 2

    wait_until(ticked)
    one.close()


def test_a_run_that_will_not_end_is_killed(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("olpc_update_query.daemon.PATIENCE", 0.2)
    deaf = logger(log, then="trap '' TERM; echo deaf >>\"$0\"; sleep 60")
    one = Daemon([*deaf, str(log)], tmp_path, FakeClock(NOW))
    one.tick()
    wait_until(lambda: runs(log) == 2)
    assert one._run is not None
    pid = one._run.pid
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
