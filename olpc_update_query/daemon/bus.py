"""The system bus: what NetworkManager, UPower and logind say on it.

dbus-python needs GLib's main loop, but not its Python modules, which would cost three
megabytes: the loop runs in a thread of its own, called through ctypes. Nothing is done
there but leaving work for the daemon's thread.
"""

import ctypes
import importlib
import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from olpc_update_query.daemon import units
from olpc_update_query.daemon.child import Told
from olpc_update_query.daemon.links import Link

if TYPE_CHECKING:
    from dbus.bus import BusConnection

_MANAGER = "org.freedesktop.NetworkManager"
_MANAGER_PATH = "/org/freedesktop/NetworkManager"
_UPOWER = "org.freedesktop.UPower"
_LOGIN = "org.freedesktop.login1"
_SYSTEMD = "org.freedesktop.systemd1"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_GLIB = "libglib-2.0.so.0"

Post = Callable[[Callable[[], object]], None]
_log = logging.getLogger(__name__)


class Ears(Protocol):
    """Who listens to the bus (``daemon.keeper``), in the daemon's thread."""

    def link_changed(self, link: Link) -> None:
        """The link is like this now, or still."""

    def link_unknown(self) -> None:
        """NetworkManager is not there."""

    def mains_came_back(self) -> None:
        """The laptop runs on mains power again."""

    def resumed(self) -> None:
        """The laptop slept and woke up."""

    def run_told(self, told: Told) -> None:
        """A unit of ours tells what it does."""


def load() -> ModuleType | None:
    """Import dbus-python and run GLib's loop, or return None: it is not installed."""
    try:
        dbus = importlib.import_module("dbus")
        importlib.import_module("dbus.bus")
        from dbus.mainloop.glib import DBusGMainLoop, threads_init

        glib = ctypes.CDLL(_GLIB)
    except (ImportError, OSError) as error:
        _log.info("no D-Bus: %s", error)
        return None
    threads_init()
    DBusGMainLoop(set_as_default=True)
    glib.g_main_loop_new.restype = ctypes.c_void_p
    glib.g_main_loop_run.argtypes = [ctypes.c_void_p]
    loop = glib.g_main_loop_new(None, False)
    threading.Thread(target=glib.g_main_loop_run, args=(loop,), daemon=True).start()
    return dbus


class SystemBus:
    """A connection to the system bus, made again when it was lost.

    Args:
        dbus: What ``load`` returned.
        post: Leaves work for the daemon's thread.
        ears: Who listens.
        serve: Called with each new connection, to offer the service on it.
        follows_units: Whether runs are units, which tell systemd what they do.
    """

    def __init__(
        self,
        dbus: ModuleType,
        post: Post,
        ears: Ears,
        serve: Callable[["BusConnection"], None],
        *,
        follows_units: bool = False,
    ) -> None:
        self._dbus, self._post, self._ears, self._serve = dbus, post, ears, serve
        self._follows_units = follows_units
        self._connection: BusConnection | None = None
        self._link = Link()
        self._said: dict[str, str] = {}
        self._complained = False

    def connect(self) -> None:
        """Connect, unless that is done; a bus that is not there is said once."""
        if self._connection is not None:
            return
        kind = self._dbus.bus.BusConnection
        try:
            connection = kind(kind.TYPE_SYSTEM)
        except self._dbus.DBusException as error:
            if not self._complained:
                _log.warning("no system bus (%s): going on without", _reason(error))
            self._complained = True
            return
        if self._complained:
            _log.warning("the system bus is there")
        self._complained, self._connection = False, connection
        connection.set_exit_on_disconnect(False)
        connection.call_on_disconnection(lambda _: self._post(self._lost))
        self._listen(connection)
        if self._follows_units:
            self._follow_units(connection)
        self._serve(connection)

    def _lost(self) -> None:
        _log.warning("the system bus is gone: going on without")
        self._connection, self._complained = None, True
        self._ears.link_unknown()

    def _listen(self, connection: "BusConnection") -> None:
        connection.add_signal_receiver(
            self._manager_changed,
            "PropertiesChanged",
            _PROPERTIES,
            bus_name=_MANAGER,
            path=_MANAGER_PATH,
        )
        connection.watch_name_owner(_MANAGER, self._manager_came_or_went)
        connection.add_signal_receiver(
            self._power_changed,
            "PropertiesChanged",
            _PROPERTIES,
            bus_name=_UPOWER,
            path="/org/freedesktop/UPower",
        )
        connection.add_signal_receiver(
            self._slept,
            "PrepareForSleep",
            f"{_LOGIN}.Manager",
            bus_name=_LOGIN,
            path="/org/freedesktop/login1",
        )

    def _follow_units(self, connection: "BusConnection") -> None:
        connection.call_async(
            _SYSTEMD,
            "/org/freedesktop/systemd1",
            f"{_SYSTEMD}.Manager",
            "Subscribe",
            "",
            (),
            None,
            lambda error: _log.info("systemd: %s", _reason(error)),
        )
        for path in units.object_paths():
            connection.add_signal_receiver(
                partial(self._unit_changed, path),
                "PropertiesChanged",
                _PROPERTIES,
                bus_name=_SYSTEMD,
                path=path,
            )

    # --- in GLib's thread ------------------------------------------------------------

    def _manager_came_or_went(self, owner: str) -> None:
        connection, self._link = self._connection, Link()
        if not owner or connection is None:
            self._post(self._ears.link_unknown)
            return
        connection.call_async(
            _MANAGER,
            _MANAGER_PATH,
            _PROPERTIES,
            "GetAll",
            "s",
            (_MANAGER,),
            lambda found: self._manager_changed(_MANAGER, found),
            lambda error: _log.info("NetworkManager: %s", _reason(error)),
        )

    def _manager_changed(
        self, interface: str, changed: Mapping[str, object], *_: object
    ) -> None:
        if interface == _MANAGER:
            self._link = self._link.merged(changed)
            self._post(partial(self._ears.link_changed, self._link))

    def _power_changed(
        self, interface: str, changed: Mapping[str, object], *_: object
    ) -> None:
        if interface == _UPOWER and "OnBattery" in changed and not changed["OnBattery"]:
            self._post(self._ears.mains_came_back)

    def _unit_changed(
        self, path: str, interface: str, changed: Mapping[str, object], *_: object
    ) -> None:
        """Pass a unit's status on, once: systemd repeats it with whatever changes."""
        if interface != f"{_SYSTEMD}.Service":
            return
        text = str(changed.get("StatusText", ""))
        before, self._said[path] = self._said.get(path, ""), text
        if text not in ("", before):
            self._post(partial(self._ears.run_told, units.parse(text)))

    def _slept(self, begins: object) -> None:
        if not begins:
            self._post(self._ears.resumed)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())
