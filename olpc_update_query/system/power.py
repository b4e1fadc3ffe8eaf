"""Restarting the machine, and telling whether anybody would notice."""

import logging
import subprocess
import time
from typing import Final

IDLE_FOR: Final = 30 * 60
"""Seconds without a touch after which a session counts as left alone.

A lesson in which nobody touches the keyboard while the teacher talks is shorter.
"""
_PROPERTIES: Final = ("Class", "State", "IdleHint", "IdleSinceHintMonotonic")

_log = logging.getLogger(__name__)


def restart() -> None:
    """Restart, as soon as the system lets us; a refusal is only a warning."""
    _log.warning("restarting into the new build")
    code = subprocess.run(["systemctl", "--no-block", "reboot"], check=False).returncode
    if code:
        _log.warning("systemctl reboot failed with exit code %s", code)


def is_idle() -> bool:
    """Tell whether nobody would notice a restart; where that is not known, no.

    logind knows: nobody is logged in, or every session of a person has been idle for
    ``IDLE_FOR``, and no program holds an inhibitor against idling or shutting down, as
    players of films and package managers do. A login screen is nobody's session.
    """
    sessions = _loginctl("list-sessions", "--no-legend")
    held = _loginctl("show-session", "--property=BlockInhibited", "--value")
    if sessions is None or held is None:
        return False
    if {"idle", "shutdown"} & set(held.strip().split(":")):
        return False
    names = [line.split()[0] for line in sessions.splitlines() if line.strip()]
    return all(map(_is_left_alone, names))


def _is_left_alone(session: str) -> bool:
    options = (f"--property={name}" for name in _PROPERTIES)
    shown = _loginctl("show-session", session, *options)
    if shown is None:
        return False
    facts = dict(line.partition("=")[::2] for line in shown.splitlines())
    if facts.get("Class") != "user" or facts.get("State") == "closing":
        return True
    since = facts.get("IdleSinceHintMonotonic", "")
    if facts.get("IdleHint") != "yes" or not since.isdecimal():
        return False
    return time.monotonic() - int(since) / 1_000_000 >= IDLE_FOR


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
