"""A school's network and a laptop on it, in namespaces of their own.

The gateway's namespace has a name server and DHCP (dnsmasq) and a web server; the
laptop's has NetworkManager with its dispatcher on a private bus, and our hook as it is
shipped. Only ``/usr/local/bin``, ``/run`` and the like are other directories there.
"""

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from bench.relay import Relay
from tests.daemon.buses import POLICY
from tests.daemon.running import TOP, wait_until

GATEWAY = "198.18.0.1"
MANAGER_CONF = """
[main]
plugins=keyfile
dhcp=internal
dns=none
no-auto-default=*
auth-polkit=false
[keyfile]
unmanaged-devices=none
"""
CONNECTIVITY_CONF = """
[connectivity]
uri=http://check.test/check
interval=2
"""
BUS_CONF = """<!DOCTYPE busconfig PUBLIC
 "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
  <include>{policy}</include>
</busconfig>
"""
DISPATCHER = "/usr/share/dbus-1/system-services/org.freedesktop.nm_dispatcher.service"
INSIDE = """
set -e
mount --make-rprivate /
for place in /run /var/lib/NetworkManager /usr/local/bin /etc/cron.d /var/spool/cron; do
  [ ! -d $place ] || mount -t tmpfs tmpfs $place
done
mkdir -p /run/NetworkManager
mount -o remount,ro /sys || true
touch {ready}
exec sleep 1000
"""


class Network:
    """Two namespaces joined by a cable.

    Args:
        directory: For everything that is written.
        has_portals: Whether NetworkManager looks for them: the server must know how.
    """

    def __init__(self, directory: Path, *, has_portals: bool = True) -> None:
        directory.mkdir(exist_ok=True)
        self.directory, self._has_portals = directory, has_portals
        self.gateway, self.laptop = f"wkg{os.getpid()}", f"wkl{os.getpid()}"
        self.etc = Path("/etc/netns") / self.laptop
        self.env = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={directory}/bus"}
        self._inside = 0

    @contextlib.contextmanager
    def run(self, port: int) -> Iterator[Relay]:
        """Join them, and let the gateway's port 80 lead to a port of ours."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove)
            self._make_cable()
            self._configure()
            for command in (self._dnsmasq(), self._holder()):
                stack.enter_context(_running(command))
            wait_until((self.directory / "inside").exists)
            self._inside = self._find_inside()
            listener = _listen_in(self.gateway, GATEWAY, 80)
            relay = Relay(port, listener=listener)
            stack.callback(relay.close)
            yield relay

    @contextlib.contextmanager
    def manager(self) -> Iterator[None]:
        """Run the bus and NetworkManager on the laptop."""
        bus = ["dbus-daemon", f"--config-file={self.directory}/bus.conf"]
        manager = ["NetworkManager", "--debug", "--log-level=WARN"]
        with contextlib.ExitStack() as stack:
            stack.enter_context(_running(self.there(*bus, "--nofork", "--nopidfile")))
            wait_until((self.directory / "bus").exists)
            log = stack.enter_context(open(self.directory / "manager.log", "wb"))
            stack.enter_context(_running(self.there(*manager), log.fileno()))
            wait_until(
                lambda: "running" in self.nmcli("-t", "-f", "RUNNING", "general")
            )
            self.nmcli(
                *("connection", "add", "type", "ethernet", "ifname", "veth0"),
                *("con-name", "wire", "ipv4.method", "auto", "ipv6.method", "disabled"),
                *("connection.autoconnect", "no"),
            )
            yield

    def there(self, *words: str) -> list[str]:
        """Return how to run a command on the laptop."""
        enter = ["nsenter", f"--target={self._inside}", "--mount", "--net"]
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return [*enter, "env", *variables, *words]

    def do(self, *words: str) -> str:
        """Run a command on the laptop to its end."""
        done = subprocess.run(
            self.there(*words), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def nmcli(self, *words: str) -> str:
        """Run nmcli, whatever it says."""
        done = subprocess.run(
            self.there("nmcli", *words), capture_output=True, text=True, check=False
        )
        return done.stdout

    def has(self, name: str) -> bool:
        """Tell whether somebody on the laptop's bus has a name."""
        words = ("--system", "--print-reply", "--dest=org.freedesktop.DBus", "/")
        question = ("org.freedesktop.DBus.NameHasOwner", f"string:{name}")
        return "true" in self.do("dbus-send", *words, *question)

    def install(self, name: str, text: str) -> None:
        """Put a script into the laptop's ``/usr/local/bin``."""
        script = self.directory / name
        script.write_text(text)
        self.do("install", "-m", "755", str(script), f"/usr/local/bin/{name}")

    # --- making it -----------------------------------------------------------------

    def _make_cable(self) -> None:
        for name in (self.gateway, self.laptop):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        ends = ("vgw", "netns", self.gateway, "type", "veth", "peer", "name", "veth0")
        _ip("link", "add", *ends, "netns", self.laptop)
        _ip("-n", self.gateway, "addr", "add", f"{GATEWAY}/24", "dev", "vgw")
        _ip("-n", self.gateway, "link", "set", "vgw", "up")

    def _configure(self) -> None:
        for name in ("conf.d", "system-connections", "dispatcher.d"):
            (self.etc / "NetworkManager" / name).mkdir(parents=True, exist_ok=True)
        for name in ("pre-up.d", "pre-down.d", "no-wait.d"):
            (self.etc / "NetworkManager/dispatcher.d" / name).mkdir(exist_ok=True)
        config = MANAGER_CONF + (CONNECTIVITY_CONF if self._has_portals else "")
        (self.etc / "NetworkManager/NetworkManager.conf").write_text(config)
        (self.etc / "resolv.conf").write_text(f"nameserver {GATEWAY}\n")
        services = self.directory / "services"
        services.mkdir()
        shutil.copy(DISPATCHER, services)
        config = BUS_CONF.format(
            socket=self.directory / "bus", services=services, policy=POLICY
        )
        (self.directory / "bus.conf").write_text(config)

    def hook(self) -> None:
        """Install the dispatcher's script as it is shipped."""
        place = self.etc / "NetworkManager/dispatcher.d/90-olpc-update-query"
        shutil.copy(TOP / "nm-dispatcher/90-olpc-update-query", place)

    def _dnsmasq(self) -> list[str]:
        words = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts"]
        words += ["--no-resolv", "--interface=vgw", "--bind-interfaces", "--pid-file"]
        words += [f"--address=/test/{GATEWAY}", "--dhcp-range=198.18.0.10,198.18.0.20"]
        words += ["--dhcp-authoritative", "--no-ping", "--log-facility=-"]
        words += [f"--dhcp-leasefile={self.directory}/leases", "--user=root"]
        return ["ip", "netns", "exec", self.gateway, "dnsmasq", *words]

    def _holder(self) -> list[str]:
        code = INSIDE.format(ready=self.directory / "inside")
        enter = ["ip", "netns", "exec", self.laptop]
        return [*enter, "unshare", "--mount", "bash", "-c", code]

    def _find_inside(self) -> int:
        """Return the process that holds the laptop's namespaces."""
        done = subprocess.run(
            ["ip", "netns", "pids", self.laptop],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.split()[0])

    def _remove(self) -> None:
        for name in (self.laptop, self.gateway):
            found = subprocess.run(
                ["ip", "netns", "pids", name],
                capture_output=True,
                text=True,
                check=False,
            )
            for pid in found.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(self.etc, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def _running(command: list[str], output: int | None = None) -> Iterator[None]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def _listen_in(namespace: str, host: str, port: int) -> socket.socket:
    """Open a listening socket in another network namespace.

    A thread enters it and opens the socket, which stays where it was made.
    """
    found: list[socket.socket] = []

    def work() -> None:
        with open(f"/run/netns/{namespace}") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0x40000000):
                return
        found.append(socket.create_server((host, port)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]
