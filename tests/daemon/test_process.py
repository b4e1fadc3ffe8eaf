"""The daemon: a real process that ticks and starts real runs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.running import (
    PATIENCE,
    TOP,
    daemon,
    log_of,
    resident,
    switches,
    wait_until,
)
from tests.simulator import (
    HOUR,
    ServerSimulator,
    now,
    prepare_laptop,
    set_due,
    simulate,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerSimulator]:
    with simulate(tmp_path) as simulator:
        yield simulator


@pytest.fixture
def root(tmp_path: Path, server: ServerSimulator) -> Path:
    return prepare_laptop(tmp_path / "laptop", server.url)


def test_it_asks_when_a_query_becomes_due(root: Path, server: ServerSimulator) -> None:
    set_due(root, now() - HOUR, now() + 3)
    with daemon(root) as process:
        wait_until(lambda: "nothing to do" in log_of(root))
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert server.asked == 1, "it asks once, not at each tick"
    assert "the server orders no update" in log_of(root)


def test_an_overdue_laptop_keeps_no_process_waiting(
    root: Path, server: ServerSimulator
) -> None:
    set_due(root, now() - 9 * HOUR, now() - 8 * HOUR)
    due = root / "var/lib/olpc-update-query/asker/due"
    with daemon(root) as process:
        wait_until(lambda: int(due.read_text().split()[1]) > now() - HOUR)
        wait_until(lambda: not children(process.pid))
        assert server.asked == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_and_takes_its_run_along(root: Path, number: int) -> None:
    set_due(root, now() - HOUR, now() - 1)
    listener = socket.create_server(("127.0.0.1", 0))  # takes, and never answers
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    config = root / "etc/olpc-update-query/config.toml"
    config.write_text(f'server = "{url}"\n')
    with listener, daemon(root) as process:
        caller, _ = listener.accept()
        (child,) = children(process.pid)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        caller.close()
    wait_until(lambda: not Path(f"/proc/{child}").exists())
    assert "killed" not in log_of(root)


def children(pid: int) -> list[int]:
    """Return the children of every thread of a process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text().split()]


def test_it_is_small_and_sleeps_while_there_is_nothing_to_do(root: Path) -> None:
    set_due(root, now() - 1, now() + HOUR)
    with daemon(root, tick=60) as process:
        wait_until(
            lambda: "no system bus" in log_of(root) or "no D-Bus" in log_of(root)
        )
        time.sleep(0.5)
        before = switches(process.pid)
        assert resident(process.pid) <= 32 * 1024
        time.sleep(5)
        assert switches(process.pid) - before <= 2, "once a minute, not more often"


def test_there_is_one_daemon(root: Path) -> None:
    set_due(root, now() - 1, now() + HOUR)
    with daemon(root) as first:
        wait_until(lambda: log_of(root))
        with daemon(root) as second:
            assert second.wait(PATIENCE) == 5
    assert f"process {first.pid} (olpc-update-query daemon)" in log_of(root)


def test_without_a_bus_it_says_so_once(root: Path) -> None:
    set_due(root, now() - 1, now() + HOUR)
    with daemon(root):
        wait_until(lambda: log_of(root))
        time.sleep(2)
    assert log_of(root).count("no system bus") + log_of(root).count("no D-Bus") == 1


def test_it_survives_a_run_that_is_killed(root: Path, server: ServerSimulator) -> None:
    set_due(root, now() - HOUR, now() - 1)
    with daemon(root) as process:
        wait_until(lambda: children(process.pid))
        os.kill(children(process.pid)[0], signal.SIGKILL)
        process.send_signal(signal.SIGHUP)  # or it would pause for five minutes
        wait_until(lambda: server.asked)
        assert process.poll() is None


def test_reloading_names_what_is_wrong_with_the_configuration(root: Path) -> None:
    set_due(root, now() - 1, now() + HOUR)
    with daemon(root) as process:
        wait_until(lambda: log_of(root))
        (root / "etc/olpc-update-query/config.toml").write_text("\nsevrer = 'x'\n")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "cannot be used" in log_of(root))
        assert "config.toml, line 2: there is no key `sevrer`" in log_of(root)
        assert process.poll() is None


def test_a_link_that_somebody_else_saw_wakes_it(
    root: Path, server: ServerSimulator
) -> None:
    set_due(root, now() - 9 * HOUR, now() + HOUR)
    due = root / "var/lib/olpc-update-query/asker/due"
    with daemon(root, tick=60) as process:
        wait_until(lambda: log_of(root))
        time.sleep(0.5)
        set_due(root, now() - 9 * HOUR, now() - 8 * HOUR)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: int(due.read_text().split()[1]) > now() - HOUR)


@pytest.mark.needs("faketime")
def test_a_clock_that_is_set_back_stops_no_ticks(
    root: Path, server: ServerSimulator, tmp_path: Path
) -> None:
    """APScheduler alone would tick again when the old time comes again."""
    set_due(root, now() + 9 * HOUR, now() + 10 * HOUR)
    stamp = tmp_path / "clock"
    stamp.write_text("+9h\n")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with daemon(root, env=env):
        wait_until(lambda: log_of(root))
        time.sleep(1.5)
        assert server.asked == 0
        stamp.write_text("-1y\n")
        wait_until(lambda: "the clock was set back" in log_of(root), 60)
        due = root / "var/lib/olpc-update-query/asker/due"
        wait_until(lambda: int(due.read_text().split()[0]) < now() - HOUR)


def test_it_tells_the_service_manager(root: Path, tmp_path: Path) -> None:
    set_due(root, now() - HOUR, now() - 1)
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place)
        manager.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "2000000"}
        with daemon(root, tick=60, env=env) as process:
            said = [manager.recv(1000).decode() for _ in range(4)]
            wait_until(lambda: "nothing to do" in log_of(root))
            process.terminate()
            assert process.wait(PATIENCE) == 0
        with contextlib.suppress(BlockingIOError):
            manager.setblocking(False)
            while True:
                said.append(manager.recv(1000).decode())
    assert said[0] == "READY=1\nSTATUS=waiting"
    assert "WATCHDOG=1" in said
    assert "STATUS=running: woken by: timer" in said
    assert said[-1] == "STOPPING=1"


def test_it_does_without_dbus_python(root: Path, server: ServerSimulator) -> None:
    set_due(root, now() - HOUR, now() - 1)
    code = (
        "import sys; sys.modules['dbus'] = None; sys.argv.insert(1, '--root');"
        "from olpc_update_query.daemon.__main__ import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, root], cwd=TOP, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until(lambda: server.asked)
            wait_until(lambda: not children(process.pid))
            process.terminate()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read().count("no D-Bus") == 1
