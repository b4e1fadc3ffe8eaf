"""The shipped initramfs script, run unmodified on a directory that plays the disk.

It runs in mount and process namespaces of its own, in a root that holds little but
busybox: what it mounts is gone with the namespace, and `reboot` reaches nobody.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[1]
SCRIPT = TOP / "dracut/90olpc-update/olpc-update-boot"
APPLETS = "cat cp grep ln mkdir mount mv readlink rm sh sync uname".split()  # noqa: SIM905
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
# In its namespaces: the disk at /sysroot, a command line, then the script, then a look
# at what it has put there.
INSIDE = """
set -e
mount --make-rprivate /
mount --rbind "$1" "$2/sysroot"
mount -t proc proc "$2/proc"
mount --bind "$2/cmdline" "$2/proc/cmdline"
set +e
chroot "$2" /bin/sh -c '
  /sbin/olpc-update-boot /sysroot || exit 9
  read -r build </sysroot/etc/build; echo "$build"'
"""


class Booted(NamedTuple):
    """What a boot came to.

    Attributes:
        build: What the new root's ``/etc/build`` says; empty when there was none.
        said: What was told on the console.
        code: 0, or 9 when the script gave up.
    """

    build: str
    said: str
    code: int


def make_root(directory: Path) -> Path:
    """Make the root of an initramfs: busybox, its shell, and the script."""
    for name in ("bin", "sbin", "proc", "sysroot", "dev"):
        (directory / name).mkdir(parents=True)
    shutil.copy(_program("busybox"), directory / "bin/busybox")
    for name in APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    shutil.copy(SCRIPT, directory / "sbin/olpc-update-boot")
    return directory


def use_dash(root: Path) -> None:
    """Give it a shell that runs every program as one, as busybox's does not."""
    dash = _program("dash")
    listed = subprocess.run(["ldd", dash], capture_output=True, text=True, check=True)
    for library in re.findall(r"(/\S+) \(0x", listed.stdout):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    (root / "bin/sh").unlink()
    shutil.copy(dash, root / "bin/sh")


def _program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is not installed"
    return path


def boot(root: Path, disk: Path, *, words: str = "root=/dev/sda2 rw") -> Booted:
    """Boot once.

    Args:
        root: What ``make_root`` made.
        disk: What is mounted as the disk.
        words: The kernel command line.
    """
    (root / "cmdline").write_text(f"{words}\n")
    done = subprocess.run(
        [*NAMESPACES, "sh", "-c", INSIDE, "boot", disk, root],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"},
    )
    return Booted(done.stdout.strip(), done.stderr, done.returncode)


def replace_applet(root: Path, name: str, script: str) -> None:
    """Put a script in place of one of the programs of the initramfs."""
    path = root / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/busybox sh\n{script}\n")
    os.chmod(path, 0o755)
