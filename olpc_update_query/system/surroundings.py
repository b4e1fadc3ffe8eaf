"""How things are around the laptop: its power, its link, the time of day."""

import contextlib
import time
from pathlib import Path

from olpc_update_query.policy.gates import Surroundings

POWER_SUPPLY = "sys/class/power_supply"
PATIENCE = 5.0
"""Seconds that NetworkManager has to answer."""

_NAME = "org.freedesktop.NetworkManager"
_PATH = "/org/freedesktop/NetworkManager"
_YES, _GUESS_YES = 1, 3  # NMMetered


def look_around(root: Path, now: int) -> Surroundings:
    """Find out how things are; what cannot be found out holds nothing back.

    Args:
        root: Where the laptop's file system begins.
        now: The time, for the time of day.
    """
    local = time.localtime(now)
    return Surroundings(
        minute=local.tm_hour * 60 + local.tm_min,
        metered=is_metered(),
        charge=charge_on_battery(root),
    )


def charge_on_battery(root: Path) -> int | None:
    """Return the percent of charge, or None on mains power and without a battery."""
    charges = []
    for supply in sorted((root / POWER_SUPPLY).glob("*")):
        if _read(supply / "type") == "Mains" and _read(supply / "online") == "1":
            return None
        if _read(supply / "status") == "Discharging":
            with contextlib.suppress(ValueError):
                charges.append(int(_read(supply / "capacity")))
    return max(charges, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def is_metered() -> bool:
    """Ask NetworkManager whether the connection is metered; no if it cannot tell."""
    try:
        import dbus
        import dbus.bus
    except ImportError:
        return False
    try:
        bus = dbus.bus.BusConnection(dbus.bus.BusConnection.TYPE_SYSTEM)
    except dbus.DBusException:
        return False
    try:
        arguments = (dbus.PROPERTIES_IFACE, "Get", "ss", (_NAME, "Metered"))
        found = bus.call_blocking(_NAME, _PATH, *arguments, timeout=PATIENCE)
        return int(found) in {_YES, _GUESS_YES}
    except (dbus.DBusException, ValueError):
        return False
    finally:
        bus.close()
