"""A machine that really boots: the initramfs script, then systemd, on a disk of ours.

The disk is an ext4 image. Each boot runs the shipped initramfs script on it, in a root
of busybox, and then the system that it chose, as systemd-nspawn's container.
Only what is in a build is in a build, but for ``/usr``, which all share: publishing the
same two hundred megabytes again and again would prove nothing.
"""

import os
import shutil
import subprocess
from pathlib import Path

from bench import laptop
from bench.laptop import Layout

TOP = Path(__file__).parents[1]
MODULE = TOP / "dracut/90olpc-update"
RESTARTED = 133
_APPLETS = "cat cp grep ln mkdir mount mv readlink rm sh sync uname"
_PATIENCE = 300
_BOOT = """
mount --make-rprivate /
mount --bind "$1" "$2/sysroot"
mount --bind "$2/cmdline" /proc/cmdline
mount --rbind /proc "$2/proc"
unshare --pid --fork --kill-child chroot "$2" \
  /bin/sh -c '/sbin/olpc-update-boot /sysroot' || exit 99
umount --recursive "$2/proc"
umount /proc/cmdline
exec systemd-nspawn --quiet --directory="$2/sysroot" --register=no --keep-unit \
  --kill-signal=SIGRTMIN+3 --console=pipe --bind-ro="$3:/usr" /sbin/init
"""
_STORY = """[Unit]
After=dbus.service systemd-logind.service
[Service]
ExecStart=/bin/sh /home/olpc/story
[Install]
WantedBy=multi-user.target
"""
_COMMAND = """#!/usr/bin/python3
from {module} import main
main()
"""
_COMMANDS = {
    "olpc-update": "olpc_update_query.cli.update",
    "olpc-update-query": "olpc_update_query.__main__",
}


class CheckFailedError(Exception):
    """Something is not as it must be; the lines say what."""


def check(what: str, found: object, wanted: object, said: str = "") -> None:
    """Insist on something, and tell that it is so.

    Raises:
        CheckFailedError: It is not.
    """
    if found != wanted:
        raise CheckFailedError(f"{what}: {found!r}, not {wanted!r}\n{said}")
    print(f"   ok  {what}", flush=True)


def make_build(
    debian: Path, target: Path, name: str, keys: dict[str, Path], *, init: str = ""
) -> Path:
    """Make the tree of a build from the Debian tree.

    Args:
        debian: The whole Debian tree; only read.
        target: Where; must not exist.
        name: The build's name, which ``/etc/build`` holds.
        keys: Whom it trusts, by role.
        init: A script in place of systemd.
    """
    target.mkdir(parents=True)
    for part in ("etc", "var"):
        subprocess.run(["cp", "-a", debian / part, target], check=True)
    for junk in ("lib/apt", "lib/dpkg", "cache", "log"):
        shutil.rmtree(target / "var" / junk, ignore_errors=True)
    for link in ("bin", "lib", "lib64"):
        (target / link).symlink_to(f"usr/{link}")
    for part in (
        *("boot", "bootpart", "dev", "home", "ofw", "proc", "root", "run", "sbin"),
        *("security", "sys", "tmp", "usr", "versions"),
    ):
        (target / part).mkdir()
    (target / "boot/vmlinuz").write_text(f"kernel of {name}")
    (target / "etc/build").write_text(f"{name}\n")
    (target / "usr/lib").mkdir()
    shutil.copy(debian / "usr/lib/os-release", target / "usr/lib")  # nspawn looks
    _configure(target / "etc/olpc-update-query", keys)
    if init:
        (target / "sbin/init").write_text(init)
        (target / "sbin/init").chmod(0o755)
    else:
        (target / "sbin/init").symlink_to("/usr/lib/systemd/systemd")
    _add_units(target / "etc/systemd/system")
    return target


def _configure(etc: Path, keys: dict[str, Path]) -> None:
    (etc / "keys.d").mkdir(parents=True)
    for role, key in keys.items():
        shutil.copy(key, etc / f"keys.d/{role}-school.public")
    serial, uuid = laptop.SOMEBODY
    identity = f'[identity]\nserial = "{serial}"\nuuid = "{uuid}"\n'
    (etc / "config.toml").write_text(identity)


def _add_units(units: Path) -> None:
    wants = units / "multi-user.target.wants"
    for name in ("olpc-update-confirm.service", "olpc-update-confirm.timer"):
        shutil.copy(TOP / "systemd" / name, units / name)
    (units / "olpc-update-story.service").write_text(_STORY)
    for name in ("olpc-update-confirm.timer", "olpc-update-story.service"):
        (wants / name).symlink_to(f"../{name}")
    hurry = units.with_name("system.conf.d")
    hurry.mkdir(exist_ok=True)
    (hurry / "hurry.conf").write_text("[Manager]\nDefaultTimeoutStopSec=5s\n")
    for directory, text in {
        "olpc-update-confirm.timer.d": "[Timer]\nOnActiveSec=\nOnActiveSec=1s\n",
        "olpc-update-confirm.service.d": "[Service]\nRestartSec=1\n",
    }.items():
        (units / directory).mkdir()
        (units / directory / "hurry.conf").write_text(text)


class Machine:
    """A laptop on an image, and what starts it.

    Args:
        directory: Where its files are made.
        debian: The Debian tree, whose ``/usr`` all builds share.
    """

    def __init__(self, directory: Path, debian: Path) -> None:
        self.disk = directory / "disk"
        self._root = directory / "initramfs"
        self._usr = directory / "usr"
        self.disk.mkdir(parents=True)
        image = directory / "disk.ext4"
        with image.open("wb") as file:
            file.truncate(256 << 20)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.disk], check=True)
        self._make_initramfs()
        self._make_usr(debian / "usr")

    def _make_initramfs(self) -> None:
        for name in ("bin", "dev", "proc", "sbin", "sysroot"):
            (self._root / name).mkdir(parents=True)
        busybox = shutil.which("busybox") or "/bin/busybox"
        shutil.copy(busybox, self._root / "bin/busybox")
        for name in _APPLETS.split():
            (self._root / "bin" / name).symlink_to("busybox")
        shutil.copy(MODULE / "olpc-update-boot", self._root / "sbin")
        (self._root / "cmdline").write_text("quiet\n")

    def _make_usr(self, usr: Path) -> None:
        """Add the program to the ``/usr`` that all builds share."""
        subprocess.run(["cp", "-al", usr, self._usr], check=True)
        packages = self._usr / "lib/python3/dist-packages"
        shutil.copytree(TOP / "olpc_update_query", packages / "olpc_update_query")
        for name, module in _COMMANDS.items():
            script = self._usr / "bin" / name
            script.write_text(_COMMAND.format(module=module))
            script.chmod(0o755)

    def install(self, tree: Path, build: str, contents: Path, layout: Layout) -> None:
        """Lay out the disk with its first build."""
        laptop.make(self.disk, tree, build, contents, layout=layout)

    def boot(self, story: str = "") -> tuple[int, str]:
        """Boot once, and let the system that comes up run a script.

        Returns:
            How it ended, 0 for switched off and ``RESTARTED``, and what was said.
        """
        (self.disk / "home/olpc/story").write_text(
            f"exec >/home/olpc/said 2>&1\n{story}"
        )
        (self.disk / "home/olpc/said").write_text("")
        words = [self.disk, self._root, self._usr]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", _BOOT, "boot", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
            env={"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "err"},
        )
        said = (self.disk / "home/olpc/said").read_text()
        return done.returncode, done.stdout + done.stderr + said
