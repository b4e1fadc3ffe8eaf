"""What wakes a run: the units, the crontab and the dispatcher script as shipped."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
DISPATCHER = TOP / "nm-dispatcher/90-olpc-update-query"
WAKE = TOP / "cron/olpc-update-query-wake"
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
    assert "olpc-update-query-wake cron" in text
    for line in text.splitlines():
        assert not line.startswith(("*", "@")) or "%" not in line, "cron eats it"


# --- the dispatcher -------------------------------------------------------------------


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """Put a command on the path that writes down how it was called."""
    script = tmp_path / "bin/olpc-update-query-wake"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/called"\n')
    script.chmod(0o755)
    # The real one, but for where it notes that there is a portal.
    text = DISPATCHER.read_text()
    assert "/run/" in text
    dispatcher = tmp_path / "dispatcher"
    dispatcher.write_text(text.replace("/run/", f"{tmp_path}/"))
    return tmp_path / "called"


def dispatch(called: Path, *words: str, connectivity: str = "") -> None:
    """Call the script as NetworkManager does."""
    environment = {"PATH": f"{called.parent}/bin:/usr/bin:/bin", "PWD": "/"}
    if connectivity:
        environment["CONNECTIVITY_STATE"] = connectivity
    done = subprocess.run(
        ["/bin/sh", called.parent / "dispatcher", *words],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    )
    assert done.stdout == done.stderr == ""


def wakes(called: Path, *, expected: bool) -> list[str]:
    """Return with which triggers it woke the program; it does so in the background."""
    deadline = time.monotonic() + (10 if expected else 0.2)
    while time.monotonic() < deadline:
        if called.exists() and called.read_text().endswith("\n"):
            break
        time.sleep(0.01)
    return called.read_text().split() if called.exists() else []


@pytest.mark.parametrize(
    ("words", "connectivity", "expected"),
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
    called: Path, words: list[str], connectivity: str, expected: bool
) -> None:
    dispatch(called, *words, connectivity=connectivity)
    assert wakes(called, expected=expected) == (["network"] if expected else [])


def test_after_a_portal_somebody_has_logged_in(called: Path) -> None:
    dispatch(called, "", "connectivity-change", connectivity="PORTAL")
    dispatch(called, "", "connectivity-change", connectivity="FULL")
    assert wakes(called, expected=True) == ["portal"]
    called.unlink()
    dispatch(called, "", "connectivity-change", connectivity="FULL")
    assert wakes(called, expected=True) == ["network"], "once is enough"


def test_another_link_is_no_login(called: Path) -> None:
    dispatch(called, "", "connectivity-change", connectivity="PORTAL")
    dispatch(called, "wlan1", "up")
    assert wakes(called, expected=True) == ["network"]


def test_the_dispatcher_is_executable() -> None:
    assert os.access(DISPATCHER, os.X_OK)


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_no_fault() -> None:
    done = subprocess.run(
        ["shellcheck", DISPATCHER, WAKE], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
