"""Restarting, with commands that only write down how they were called."""

from pathlib import Path

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


@pytest.mark.parametrize(
    ("sessions", "hint", "idle"),
    [
        pytest.param("1 1000 olpc seat0\\n", "yes", True, id="idle"),
        pytest.param("1 1000 olpc seat0\\n", "no", False, id="at work"),
        pytest.param("1 1000 olpc\\n2 0 root\\n", "yes", True, id="two, both idle"),
        pytest.param("", "no", True, id="nobody"),
    ],
)
def test_idle(commands: Path, sessions: str, hint: str, idle: bool) -> None:
    script = f'[ "$1" = list-sessions ] && printf "{sessions}" || echo {hint}'
    fake(commands, "loginctl", script)
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
