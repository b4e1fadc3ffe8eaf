"""A private system bus, and stand-ins for what is on it."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.daemon.running import TOP, wait_until

PYTHON = "/usr/bin/python3"
CONFIG = """<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own_prefix="org.freedesktop"/>
  </policy>
  <include>{policy}</include>
</busconfig>
"""
POLICY = TOP / "systemd/org.laptop.UpdateQuery1.conf"
MANAGER = ("org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager")
SERVICE = ("org.laptop.UpdateQuery1", "/org/laptop/UpdateQuery1")
LOGIN = ("org.freedesktop.login1", "/org/freedesktop/login1")
UPOWER = ("org.freedesktop.UPower", "/org/freedesktop/UPower")
MOCK = "org.freedesktop.DBus.Mock"


class PrivateBus:
    """A bus in a directory, with our policy on it as it is shipped."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        self.socket = directory / "bus"
        self.address = f"unix:path={self.socket}"
        self.env = {"DBUS_SYSTEM_BUS_ADDRESS": self.address}
        config = CONFIG.format(socket=self.socket, policy=POLICY)
        (directory / "bus.conf").write_text(config)

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Run the bus until the block ends."""
        self.socket.unlink(missing_ok=True)
        command = ["dbus-daemon", f"--config-file={self.directory}/bus.conf"]
        with running([*command, "--nofork", "--nopidfile"], {}):
            wait_until(self.socket.exists)
            yield

    @contextlib.contextmanager
    def mock(self, template: str, name: str) -> Iterator[None]:
        """Run a python-dbusmock template until the block ends."""
        command = [PYTHON, "-m", "dbusmock", "--system", "--template", template]
        with running(command, self.env):
            wait_until(lambda: self.has(name))
            yield

    def has(self, name: str) -> bool:
        bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus")
        words = ("org.freedesktop.DBus.NameHasOwner", f"string:{name}")
        return "true" in self.call(bus, *words).stdout

    def call(
        self, whom: tuple[str, str], *words: str, user: int = 0
    ) -> "subprocess.CompletedProcess[str]":
        """Call a method with dbus-send, as a user."""
        become = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
        return subprocess.run(
            [
                *become,
                *("dbus-send", "--system", "--print-reply", f"--dest={whom[0]}"),
                *(whom[1], *words),
            ],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=False,
        )

    def mocked(self, whom: tuple[str, str], method: str, *words: str) -> None:
        """Tell a mock something."""
        done = self.call(whom, f"{MOCK}.{method}", *words)
        assert done.returncode == 0, done.stderr

    @contextlib.contextmanager
    def monitor(self, log: Path) -> Iterator[None]:
        """Write down the service's signals."""
        rule = f"type='signal',interface='{SERVICE[0]}'"
        with open(log, "w") as file:
            command = ["dbus-monitor", "--system", rule]
            with running(command, self.env, stdout=file.fileno()):
                time.sleep(0.5)
                yield


@contextlib.contextmanager
def running(
    command: list[str], env: dict[str, str], stdout: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program until the block ends."""
    with subprocess.Popen(command, env={**os.environ, **env}, stdout=stdout) as process:
        try:
            yield process
        finally:
            process.terminate()
