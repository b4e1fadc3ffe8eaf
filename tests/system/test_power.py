"""Restarting, with commands that only write down how they were called."""

import time
from pathlib import Path
from typing import Any

import pytest

from olpc_update_query.system import power


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def fake(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f'#!/bin/sh\necho "$@" >>"{directory}/{name}.log"\n{script}\n')
    path.chmod(0o755)


def session(kind: str = "user", state: str = "active", idle_for: float = -1) -> str:
    """Return what loginctl shows of a session."""
    since = int(max(time.monotonic() - idle_for, 0) * 1_000_000)
    hint = "no" if idle_for < 0 else "yes"
    shown = (f"Class={kind}", f"State={state}", f"IdleHint={hint}")
    return "\n".join((*shown, f"IdleSinceHintMonotonic={since}"))


LONG, SHORT = power.IDLE_FOR + 60, power.IDLE_FOR - 60


@pytest.mark.parametrize(
    ("sessions", "held", "idle"),
    [
        pytest.param([], "", True, id="nobody"),
        pytest.param([{"idle_for": LONG}], "", True, id="left alone"),
        pytest.param([{}], "", False, id="at work"),
        pytest.param([{"idle_for": SHORT}], "", False, id="the teacher talks"),
        pytest.param([{"idle_for": LONG}, {}], "", False, id="one of two at work"),
        pytest.param([{"kind": "greeter"}], "", True, id="a login screen"),
        pytest.param([{"state": "closing"}], "", True, id="logged out"),
        pytest.param([{"kind": "user", "state": "online"}], "", False, id="by ssh"),
        pytest.param([], "idle", False, id="a film"),
        pytest.param([], "handle-lid-switch:shutdown", False, id="packages"),
        pytest.param([], "handle-power-key:sleep", True, id="not about that"),
    ],
)
def test_idle(
    commands: Path,
    monkeypatch: pytest.MonkeyPatch,
    sessions: list[dict[str, Any]],
    held: str,
    idle: bool,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 10_000.0)
    (commands / "held").write_text(f"{held}\n")
    names = range(len(sessions))
    for name in names:
        (commands / f"session{name}").write_text(session(**sessions[name]))
    listed = "".join(f"{name} 1000 olpc seat0\\n" for name in names)
    fake(
        commands,
        "loginctl",
        f'case "$*" in list-sessions*) printf "{listed}";;'
        f' *Block*) cat "{commands}/held";;'
        f' *) cat "{commands}/session$2";; esac',
    )
    assert power.is_idle() is idle


def test_where_nobody_can_tell_it_is_not_idle(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(commands, "loginctl", "exit 1")
    assert not power.is_idle()
    monkeypatch.setenv("PATH", str(commands / "empty"))
    assert not power.is_idle()


def test_restarting(commands: Path) -> None:
    fake(commands, "systemctl", "exit 0")
    power.restart()
    assert (commands / "systemctl.log").read_text() == "--no-block reboot\n"


def test_a_refused_restart_is_a_warning(
    commands: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake(commands, "systemctl", "exit 3")
    power.restart()
    assert "failed" in caplog.text
