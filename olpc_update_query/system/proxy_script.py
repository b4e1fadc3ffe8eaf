"""What NetworkManager knows of a proxy: at most that there is a script to find one.

Its connections know no proxy's address, only the address of a script (PAC), set by
hand or told by DHCP (WPAD). Scripts are JavaScript and are not evaluated here: when
nobody can be reached it is said that there is one, for a person to look into.
"""

from typing import Any, Final

_NAME: Final = "org.freedesktop.NetworkManager"
_PATH: Final = "/org/freedesktop/NetworkManager"
_PATIENCE: Final = 5.0
_AUTO: Final = 1  # NMSettingProxyMethod: none is 0
_LONGEST: Final = 200


def proxy_script() -> str | None:
    """Return where the proxy script of the primary connection is, if it has one.

    Returns:
        An address, or a word where there is none; None without a script, without
        NetworkManager, and without the module that could ask it.
    """
    try:
        import dbus
        import dbus.bus
    except ImportError:
        return None
    try:
        bus = dbus.bus.BusConnection(dbus.bus.BusConnection.TYPE_SYSTEM)
    except dbus.DBusException:
        return None
    try:
        return _shown(_find(bus))
    except (dbus.DBusException, TypeError, ValueError):
        return None
    finally:
        bus.close()


def _find(bus: Any) -> str | None:
    active = _property(bus, _PATH, _NAME, "PrimaryConnection")
    interface = f"{_NAME}.Connection.Active"
    stored = _property(bus, active, interface, "Connection")
    call = (f"{_NAME}.Settings.Connection", "GetSettings", "", ())
    proxy = bus.call_blocking(_NAME, stored, *call, timeout=_PATIENCE).get("proxy", {})
    if int(proxy.get("method", 0)) == _AUTO:
        if "pac-url" in proxy or "pac-script" in proxy:
            return str(proxy.get("pac-url", "kept in the connection"))
        return _told_by_dhcp(bus, active) or "left to be found"
    return None


def _told_by_dhcp(bus: Any, active: str) -> str | None:
    lease = _property(bus, active, f"{_NAME}.Connection.Active", "Dhcp4Config")
    if str(lease) == "/":
        return None
    options = _property(bus, lease, f"{_NAME}.DHCP4Config", "Options")
    return str(options["wpad"]) if "wpad" in options else None


def _property(bus: Any, path: str, interface: str, name: str) -> Any:
    call = ("org.freedesktop.DBus.Properties", "Get", "ss", (interface, name))
    return bus.call_blocking(_NAME, path, *call, timeout=_PATIENCE)


def _shown(place: str | None) -> str | None:
    if place is None:
        return None
    return "".join(c if c.isprintable() else "?" for c in place[:_LONGEST])
