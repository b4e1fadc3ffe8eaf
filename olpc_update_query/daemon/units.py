"""A run as units of systemd: the asker's, and then the installer's.

What a trigger of the daemon leads to is then shut in as what the timer starts: the
asker has no privilege, the installer no network. Both tell what they do in their status
text (sd_notify(3)), which the daemon hears on the bus. Nothing of it is believed.
"""

import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from olpc_update_query.daemon.child import PATIENCE, Progress, Step, Told, printable
from olpc_update_query.policy.schedule import Trigger

INSTALLER: Final = "olpc-update-installer.service"
_TEMPLATE: Final = "olpc-update-query@.service"
_FORCED: Final = "-now"
_OBJECTS: Final = "/org/freedesktop/systemd1/unit/"
_BYTES = re.compile("([0-9]{1,18}) of ([0-9]{1,18}) bytes")

_log = logging.getLogger(__name__)


def are_installed(root: Path) -> bool:
    """Tell whether this machine runs systemd, and it knows our units.

    Args:
        root: Where the laptop's file system begins; units are only for the machine's.
    """
    booted = os.path.isdir("/run/systemd/system")  # sd_booted(3)
    mine = root == Path("/") and os.geteuid() == 0 and booted
    return mine and _systemctl("cat", _TEMPLATE, INSTALLER)[0] == 0


def asker(trigger: Trigger, *, now: bool) -> str:
    """Return the name of the asker's unit for a run of the daemon.

    Its instance is what ``olpc-update-query-wake`` is called with.
    """
    forced = _FORCED if now else ""
    return _TEMPLATE.replace("@", f"@daemon-{trigger}{forced}")


def object_paths() -> tuple[str, ...]:
    """Return where the bus has the units that tell something."""
    names = [asker(trigger, now=now) for trigger in Trigger for now in (False, True)]
    return tuple(_OBJECTS + _escaped(name) for name in (*names, INSTALLER))


def _escaped(name: str) -> str:
    return re.sub("[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):02x}", name)


def parse(text: str) -> Told:
    """Read a unit's status text."""
    found = _BYTES.fullmatch(text)
    if found is None:
        return Step(printable(text))
    return Progress(int(found[1]), int(found[2]))


class UnitRuns:
    """Starts runs as units (``daemon.keeper.Runs``)."""

    def begin(
        self,
        trigger: Trigger,
        hear: Callable[[Told], object],
        end: Callable[[int], object],
        *,
        now: bool,
    ) -> "UnitRun":
        """Start a run; what it tells is heard elsewhere, on the bus."""
        return UnitRun(asker(trigger, now=now), end)


class UnitRun:
    """A run that is under way.

    Args:
        unit: The asker's.
        end: Called with its exit code when it has ended, in a thread.
    """

    def __init__(self, unit: str, end: Callable[[int], object]) -> None:
        self._unit, self._end = unit, end
        self._goes_on = True
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        """Let the asker work, and then the installer, who may be at it already."""
        code = _start(self._unit)
        if self._goes_on and not code:
            code = _start(INSTALLER)
        self._end(code)

    def stop(self) -> None:
        """Stop the asker; an installer that is at work ends by itself."""
        self._goes_on = False
        code, _ = _systemctl("stop", self._unit, patience=PATIENCE)
        if code:
            _log.warning("%s could not be stopped", self._unit)


def _start(unit: str) -> int:
    """Start a unit, wait until it has ended, and return its exit code."""
    code, _ = _systemctl("start", unit)
    if not code:
        return 0
    _, shown = _systemctl("show", "--value", "--property=ExecMainStatus", unit)
    return int(shown) if shown.strip().isdigit() and int(shown) else code


def _systemctl(*words: str, patience: float | None = None) -> tuple[int, str]:
    """Return the exit code of a command, and what it printed."""
    try:
        done = subprocess.run(
            ["systemctl", *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=patience,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.debug("systemctl: %s", error)
        return 1, ""
    return done.returncode, done.stdout
