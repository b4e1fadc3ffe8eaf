"""Try what a sandbox must allow or forbid, and say for each whether it was possible."""

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable

CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
PLACE = "/run/olpc-update-query"
WORK = "/versions/updates/olpc-update-query"


def write(directory: str) -> None:
    path = os.path.join(directory, "probe")
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)


def touch(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY))


def unshare(flags: int) -> None:
    if ctypes.CDLL(None).unshare(flags):
        raise OSError


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def copy_with_rsync() -> None:
    target = f"{WORK}/asker/probe"
    run("rsync", "-rz", "--inplace", "--perms", "--chmod=D755", "/etc/default/", target)
    shutil.rmtree(target)


def ask_the_system_bus() -> None:
    name = "org.freedesktop.DBus"
    run("busctl", "call", name, "/", name, "GetId")


def be_root() -> None:
    os.setresuid(0, 0, 0)


def open_internet_socket() -> None:
    socket.socket(socket.AF_INET).close()


TRIES: dict[str, Callable[[], object]] = {
    "read /versions/pristine": lambda: os.listdir("/versions/pristine"),
    "write asker": lambda: write(f"{WORK}/asker"),
    "write installer": lambda: write(f"{WORK}/installer"),
    "write the seed": lambda: touch(f"{PLACE}/seed"),
    "write /versions": lambda: write("/versions/pristine"),
    "write /security": lambda: write("/security"),
    "write /etc": lambda: write("/etc"),
    "write /usr": lambda: write("/usr"),
    "write /home": lambda: write("/home"),
    "read /root": lambda: os.stat("/root/.profile"),
    "make a name space": lambda: unshare(CLONE_NEWNS),
    "make a user's name space": lambda: unshare(CLONE_NEWUSER),
    "be root": be_root,
    "open an internet socket": open_internet_socket,
    "copy with rsync": copy_with_rsync,
    "ask the system bus": ask_the_system_bus,
    "talk to systemd": lambda: run("systemctl", "show", "--property=Version"),
    "read the kernel's log": lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY)),
}

for name, attempt in TRIES.items():
    try:
        attempt()
    except (OSError, subprocess.SubprocessError):
        sys.stdout.write(f"{name}: no\n")
    else:
        sys.stdout.write(f"{name}: yes\n")
