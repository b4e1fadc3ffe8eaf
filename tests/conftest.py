"""What every test may rely on: its tools are there, the outside world is not.

A test marked ``root`` or ``needs("rsync", ...)`` is skipped where that is missing and
the line says what to install. With ``OLPC_NO_SKIPS=1``, as CI has it, it fails instead.
"""

import importlib.util
import ipaddress
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import hypothesis
import pytest

from bench.school import is_open_to_all

# How a Debian package shows that it is there, where not by a program of its own name.
PROGRAMS = {
    "attr": "setfattr",
    "busybox-static": "busybox",
    "chromium-driver": "chromedriver",
    "dnsmasq-base": "dnsmasq",
    "dbus": "dbus-daemon",
    "dosfstools": "mkfs.vfat",
    "e2fsprogs": "mkfs.ext4",
    "groff-base": "groff",
    "fuse3": "fusermount3",
    "iproute2": "ip",
    "libcap2-bin": "setcap",
    "network-manager": "NetworkManager",
    "nginx-light": "nginx",
    "postgresql": "psql",
    "systemd": "systemd-analyze",
    "systemd-container": "systemd-nspawn",
    "util-linux": "losetup",
    "btrfs-progs": "mkfs.btrfs",
    "xfsprogs": "xfs_io",
    "xz-utils": "xz",
}
MODULES = {"python3-dbus": "dbus", "python3-gi": "gi", "python3-dbusmock": "dbusmock"}
PYTESTS_OWN = ("pytest-", "popen-")
# How long an example takes says more about the machine than about the program.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

LOOPBACK_NAMES = {None, "", "localhost", "ip6-localhost", b"localhost", b""}


def is_installed(package: str) -> bool:
    """Tell whether what a test wants from a Debian package is here."""
    if package in MODULES:
        return importlib.util.find_spec(MODULES[package]) is not None
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    return shutil.which(PROGRAMS.get(package, package), path=path) is not None


def give_up(reason: str) -> None:
    """Skip the test, or fail it where nothing may be skipped."""
    if os.environ.get("OLPC_NO_SKIPS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = [name for mark in item.iter_markers("needs") for name in mark.args]
    missing = [name for name in wanted if not is_installed(name)]
    if missing:
        give_up(f"missing, please install: {' '.join(missing)}")
    if item.get_closest_marker("root") and os.getuid() != 0:
        give_up("must be run as root")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """Let the parts of a program that gave up root reach their files below it."""
    ours = [tmp_path]
    ours += [path for path in tmp_path.parents if path.name.startswith(PYTESTS_OWN)]
    for directory in ours if os.getuid() == 0 and is_open_to_all() else ():
        directory.chmod(directory.stat().st_mode | 0o011)
    return tmp_path


def _is_outside(host: object) -> bool:
    if host in LOOPBACK_NAMES:
        return False
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return not ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return True


def _refuse_the_outside(event: str, arguments: tuple[object, ...]) -> None:
    """Make this process as good as offline, whatever machine it runs on."""
    if event == "socket.getaddrinfo" and _is_outside(arguments[0]):
        raise socket.gaierror(socket.EAI_AGAIN, "tests have no name server")
    if event == "socket.connect":
        address = arguments[1]
        if isinstance(address, tuple) and _is_outside(address[0]):
            raise ConnectionRefusedError(f"tests have no network: {address}")


sys.addaudithook(_refuse_the_outside)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
