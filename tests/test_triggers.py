"""What wakes a run: the units, the crontab and the dispatcher script as shipped."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
DISPATCHER = TOP / "nm-dispatcher/90-olpc-update-query"
CRONTAB = TOP / "cron/olpc-update-query"
SCHEDULES = re.compile(r"^\*/5 \* \* \* \* root ", re.MULTILINE)


def test_the_timer_draws_no_delay_of_its_own() -> None:
    timer = (TOP / "systemd/olpc-update-query.timer").read_text()
    settings = [line for line in timer.splitlines() if not line.startswith("#")]
    assert not [line for line in settings if line.startswith("RandomizedDelay")]
    assert "OnUnitInactiveSec=5min" in settings


def test_the_crontab_looks_every_five_minutes() -> None:
    text = CRONTAB.read_text()
    assert SCHEDULES.search(text)
    assert "--trigger cron --quiet" in text
    for line in text.splitlines():
        assert not line.startswith(("*", "@")) or "%" not in line, "cron eats it"


# --- the dispatcher -------------------------------------------------------------------


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """Put commands on the path that write down how they were called."""
    for name in ("systemctl", "olpc-update-query", "setsid"):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/called"\n')
        script.chmod(0o755)
    return tmp_path / "called"


def dispatch(called: Path, *words: str, connectivity: str = "") -> None:
    """Call the script as NetworkManager does."""
    environment = {"PATH": f"{called.parent}/bin:/usr/bin:/bin", "PWD": "/"}
    if connectivity:
        environment["CONNECTIVITY_STATE"] = connectivity
    done = subprocess.run(
        [DISPATCHER, *words],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert done.stdout == done.stderr == ""


@pytest.mark.parametrize(
    ("words", "connectivity", "wakes"),
    [
        pytest.param(["wlan0", "up"], "", True, id="a link came up"),
        pytest.param(["wlan0", "up"], "PORTAL", False, id="behind a portal"),
        pytest.param(["tun0", "vpn-up"], "", True, id="a tunnel came up"),
        pytest.param(["", "connectivity-change"], "FULL", True, id="all is well"),
        pytest.param(["", "connectivity-change"], "PORTAL", False, id="a portal"),
        pytest.param(["", "connectivity-change"], "LIMITED", False, id="hung up"),
        pytest.param(["", "connectivity-change"], "NONE", False, id="no network"),
        pytest.param(["lo", "up"], "", False, id="loopback"),
        pytest.param(["wlan0", "down"], "", False, id="a link went down"),
        pytest.param(["wlan0", "dhcp4-change"], "", False, id="a lease of DHCP"),
        pytest.param(["none", "hostname"], "", False, id="a new name"),
        pytest.param([], "", False, id="called by hand"),
    ],
)
def test_the_dispatcher(
    called: Path, words: list[str], connectivity: str, wakes: bool
) -> None:
    dispatch(called, *words, connectivity=connectivity)
    deadline = time.monotonic() + (10 if wakes else 0.2)
    while not called.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert called.exists() is wakes
    assert not wakes or "network" in called.read_text()


def test_the_dispatcher_is_executable() -> None:
    assert os.access(DISPATCHER, os.X_OK)


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_no_fault() -> None:
    done = subprocess.run(
        ["shellcheck", DISPATCHER], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
