"""Restarting the machine."""

import logging
import subprocess

_log = logging.getLogger(__name__)


def restart() -> None:
    """Restart, as soon as the system lets us; a refusal is only a warning."""
    _log.warning("restarting into the new build")
    code = subprocess.run(["systemctl", "--no-block", "reboot"], check=False).returncode
    if code:
        _log.warning("systemctl reboot failed with exit code %s", code)


def is_idle() -> bool:
    """Tell whether every session is idle; where that is not known, none is."""
    sessions = _loginctl("list-sessions", "--no-legend")
    if sessions is None:
        return False
    names = [line.split()[0] for line in sessions.splitlines() if line.strip()]
    return all(
        _loginctl("show-session", name, "--property=IdleHint", "--value") == "yes\n"
        for name in names
    )


def _loginctl(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["loginctl", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
