"""What of NetworkManager's D-Bus interface the program reads, on a private bus.

``python -m tests.network_manager PROXY DHCP`` answers with these, both in JSON.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "org.freedesktop.NetworkManager"
ROOT = "/org/freedesktop/NetworkManager"
TOP = Path(__file__).parents[1]
BUS = """<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""


@contextlib.contextmanager
def network_manager(
    directory: Path, proxy: dict[str, object], dhcp: dict[str, str]
) -> Iterator[str]:
    """Run a bus and the service; yields the bus's address."""
    path = directory / "bus"
    config = directory / "bus.conf"
    config.write_text(BUS.format(path=path))
    address = f"unix:path={path}"
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address}
    words = [json.dumps(proxy), json.dumps(dhcp)]
    command = [sys.executable, "-m", "tests.network_manager", *words]
    with contextlib.ExitStack() as stack:
        bus = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile"]
        stack.enter_context(_killed(subprocess.Popen(bus, stderr=subprocess.DEVNULL)))
        while not path.exists():
            time.sleep(0.02)
        service = subprocess.Popen(
            command, env=environment, cwd=TOP, stdout=subprocess.PIPE
        )
        stack.enter_context(_killed(service))
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        yield address


@contextlib.contextmanager
def _killed(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    with process:
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    """Answer until killed."""
    import dbus
    import dbus.mainloop.glib
    import dbus.service
    from gi.repository import GLib

    proxy, dhcp = map(json.loads, sys.argv[1:])
    if "method" in proxy:
        proxy["method"] = dbus.Int32(proxy["method"])
    settings = {
        "connection": dbus.Dictionary({"id": "school"}, signature="sv"),
        "proxy": dbus.Dictionary(proxy, signature="sv"),
    }
    known = {
        "PrimaryConnection": dbus.ObjectPath(f"{ROOT}/ActiveConnection/1"),
        "Connection": dbus.ObjectPath(f"{ROOT}/Settings/1"),
        "Dhcp4Config": dbus.ObjectPath(f"{ROOT}/DHCP4Config/1" if dhcp else "/"),
        "Options": dbus.Dictionary(dhcp, signature="sv"),
    }

    settings_of = f"{NAME}.Settings.Connection"

    class Answers(dbus.service.FallbackObject):  # type: ignore[misc]  # untyped base
        @dbus.service.method(dbus.PROPERTIES_IFACE, "ss", "v")  # type: ignore[untyped-decorator]
        def Get(self, interface: str, name: str) -> Any:  # noqa: N802 - its name
            return known[name]

        @dbus.service.method(settings_of, "", "a{sa{sv}}")  # type: ignore[untyped-decorator]
        def GetSettings(self) -> Any:  # noqa: N802 - its name
            return settings

    dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
    bus = dbus.SystemBus()
    name = dbus.service.BusName(NAME, bus)
    answers = Answers(bus, ROOT)
    print("ready", flush=True)  # noqa: T201 - for the process that started it
    GLib.MainLoop().run()
    del name, answers


if __name__ == "__main__":
    main()
