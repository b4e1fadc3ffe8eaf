"""The command that hooks call: what it costs, and when it starts a run."""

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from bench.measure import run
from olpc_update_query.policy.due import LONGEST, may_skip
from tests.simulator import HOUR, set_due, work_of

TOP = Path(__file__).parents[1]
NOW = int(time.time())
LATER, FAR = NOW + HOUR, NOW + LONGEST
RULE = [
    pytest.param(f"{NOW - 5} {LATER}\n", True, id="in between"),
    pytest.param(f"{NOW - HOUR} {NOW - 5}\n", False, id="overdue"),
    pytest.param(f"{LATER} {LATER + 9}\n", False, id="clock was set back"),
    pytest.param(f"{NOW - 5} {FAR - 5}\n", True, id="31 days"),
    pytest.param(f"{NOW - 5} {FAR}\n", False, id="longer"),
    pytest.param("", False, id="no file"),
    pytest.param("\n", False, id="empty line"),
    pytest.param(f"{NOW}\n", False, id="one number"),
    pytest.param(f"{NOW - 5} {LATER} 7\n", False, id="three numbers"),
    pytest.param(f"-{NOW} {LATER}\n", False, id="negative"),
    pytest.param(f"1_0 {LATER}\n", False, id="underscore"),
    pytest.param(f"{NOW - 5}.0 {LATER}\n", False, id="fraction"),
    pytest.param(f"{NOW} {'9' * 5000}\n", False, id="too many digits"),
    pytest.param("\0\0\0\0", False, id="zeros after a power cut"),
    pytest.param(f"{NOW - 5} $(reboot)\n", False, id="words of the shell"),
]


@pytest.fixture
def wake(tmp_path: Path) -> Path:
    """Install the command beside a program that writes down how it was called."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "olpc-update-query"
    program.write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/called"\n')
    program.chmod(0o755)
    script = directory / "olpc-update-query-wake"
    script.write_bytes((TOP / "cron/olpc-update-query-wake").read_bytes())
    script.chmod(0o755)
    return script


def called(wake: Path, trigger: str = "timer", **env: str) -> str:
    """Call it, and return how it called the program; it must say nothing."""
    log, root = wake.parents[1] / "called", wake.parents[1] / "root"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [wake, trigger, root],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **env},
    )
    assert done.stdout == done.stderr == ""
    return log.read_text().replace(str(root), "ROOT") if log.exists() else ""


def root_of(wake: Path) -> Path:
    return wake.parents[1] / "root"


def test_before_its_time_it_does_nothing(wake: Path) -> None:
    set_due(root_of(wake), NOW - 5, NOW + HOUR)
    for trigger in ("timer", "cron", "network", "boot"):
        assert called(wake, trigger) == ""


@pytest.mark.parametrize("trigger", ["timer", "cron", "network", "boot"])
def test_it_starts_a_run_that_is_due(wake: Path, trigger: str) -> None:
    set_due(root_of(wake), NOW - HOUR, NOW - 5)
    assert called(wake, trigger) == f"--trigger {trigger} --quiet --root ROOT\n"


@pytest.mark.parametrize("trigger", ["portal", "gate", "manual"])
def test_some_triggers_are_for_the_program_to_judge(wake: Path, trigger: str) -> None:
    set_due(root_of(wake), NOW - 5, NOW + HOUR)
    assert called(wake, trigger) == f"--trigger {trigger} --quiet --root ROOT\n"


def test_a_laptop_that_keeps_builds_has_its_stamp_elsewhere(wake: Path) -> None:
    (root_of(wake) / "versions/updates").mkdir(parents=True)
    set_due(root_of(wake), NOW - 5, NOW + HOUR)
    assert called(wake) == ""


@pytest.mark.parametrize(("stamp", "skips"), RULE)
def test_the_rule_is_the_program_s_own(wake: Path, stamp: str, skips: bool) -> None:
    path = work_of(root_of(wake)) / "asker/due"
    path.parent.mkdir(parents=True)
    path.write_text(stamp)
    assert (called(wake) == "") is skips is may_skip(stamp, int(time.time()))


def test_both_know_the_longest_interval() -> None:
    assert f"-le {LONGEST} ]" in (TOP / "cron/olpc-update-query-wake").read_text()


# --- with a daemon -------------------------------------------------------------------


@pytest.fixture
def daemon(wake: Path, tmp_path: Path) -> "subprocess.Popen[bytes]":
    """A process that looks like the daemon and writes down that it was told."""
    code = (
        "import signal, sys, pathlib;"
        "path = pathlib.Path(sys.argv[1]);"
        "signal.signal(signal.SIGUSR1, lambda *_: (path / 'told').touch());"
        "(path / 'ready').touch();"
        "[signal.pause() for _ in range(9)]"
    )
    words = ["-c", code, str(tmp_path), "olpc_update_query.daemon"]
    process = subprocess.Popen([sys.executable, *words])
    lock = root_of(wake) / "run/olpc-update-query/daemon"
    lock.parent.mkdir(parents=True)
    lock.write_text(f"process {process.pid} (olpc-update-query daemon)\n")
    wait_for(tmp_path / "ready")
    return process


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_daemon_is_told_of_a_link(
    wake: Path, daemon: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    set_due(root_of(wake), NOW - HOUR, NOW - 5)
    try:
        assert called(wake, "timer") == "", "it looks at the clock by itself"
        assert not (tmp_path / "told").exists()
        assert called(wake, "network") == ""
        wait_for(tmp_path / "told")
    finally:
        daemon.kill()
        daemon.wait()
    assert called(wake, "network") != "", "its lock alone is no daemon"


def test_the_daemon_itself_starts_a_run(
    wake: Path, daemon: "subprocess.Popen[bytes]"
) -> None:
    """As the asker's unit does, whose instance is what it is called with."""
    set_due(root_of(wake), NOW - 5, NOW + HOUR)
    words = "--quiet --for-daemon"
    try:
        assert called(wake, "daemon-dbus-now") == (
            f"--trigger dbus {words} --now --root ROOT\n"
        )
        assert called(wake, "daemon-portal") == (
            f"--trigger portal {words} --root ROOT\n"
        )
        assert called(wake, "daemon-timer") == "", "it is not due"
    finally:
        daemon.kill()
        daemon.wait()


@pytest.mark.parametrize("content", ["process 1 (x)\n", "\n", "a b; c\n"])
def test_a_stale_lock_is_no_daemon(wake: Path, content: str) -> None:
    lock = root_of(wake) / "run/olpc-update-query/daemon"
    lock.parent.mkdir(parents=True)
    lock.write_text(content)
    assert called(wake) != ""


# --- what it costs ------------------------------------------------------------------


def test_a_wake_that_is_not_due_costs_less_than_python(wake: Path) -> None:
    set_due(root_of(wake), NOW - 5, NOW + HOUR)
    ours, theirs = [], []
    for _ in range(9):
        ours.append(run([str(wake), "timer", str(root_of(wake))]))
        theirs.append(run([sys.executable, "-c", "pass"]))
    assert all(cost.code == 0 for cost in ours)
    assert median(cost.processor for cost in ours) <= 1.3 * median(
        cost.processor for cost in theirs
    )
    assert max(cost.peak for cost in ours) <= min(cost.peak for cost in theirs)


def test_it_is_installed_as_it_is() -> None:
    installed = Path(sys.executable).with_name("olpc-update-query-wake")
    assert installed.read_bytes() == (TOP / "cron/olpc-update-query-wake").read_bytes()
    assert os.access(installed, os.X_OK)
