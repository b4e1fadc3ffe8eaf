"""A whole machine, emulated: firmware, kernel, dracut's initramfs, two partitions.

Slow, so it does only what the container cannot: the initramfs is the one that dracut
makes with our module from Debian's packages, and the kernel is Debian's. The builds are
as small as can be: one that says its name and switches off, and one whose init ends.
"""

import shutil
import subprocess
from pathlib import Path

from bench import laptop
from bench.laptop import Layout
from bench.machine import MODULE, check

_PATIENCE = 600
_SECTOR, _MIB = 512, 1 << 20
_PARTITIONS = "label: dos\nstart=2048,size=65536\nstart=67584\n"
_FIRST, _SECOND, _WHOLE = 2048 * _SECTOR, 67584 * _SECTOR, 160 * _MIB
_GOOD = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
exec >/dev/ttyS0 2>&1
echo "UP: $(/bin/busybox cat /etc/build)"
echo "MARK: $(/bin/busybox cat /versions/trial)"
echo "BOOT: $(/bin/busybox readlink /bootpart/boot)"
/bin/busybox sync
/bin/busybox poweroff -f
"""
_BROKEN = "#!/bin/busybox sh\nexit 1\n"
# In an overlay of the Debian tree: the tree itself stays as it is.
_DRACUT = """
set -e
mkdir -p "$3/upper" "$3/work" "$3/root"
mount -t overlay -o "lowerdir=$1,upperdir=$3/upper,workdir=$3/work" none "$3/root"
mkdir -p "$3/root/lib/modules" "$3/root/usr/lib/dracut/modules.d/90olpc-update"
mount --bind "$2/lib/modules" "$3/root/lib/modules"
cp "$4"/* "$3/root/usr/lib/dracut/modules.d/90olpc-update"
mount -t proc proc "$3/root/proc"
mount --bind /dev "$3/root/dev"
version=$(ls "$3/root/lib/modules")
chroot "$3/root" depmod "$version"
chroot "$3/root" dracut --quiet --force --no-hostonly --kver "$version" \
  --add olpc-update --drivers 'virtio_blk virtio_pci ext4' /initrd.img
mv "$3/root/initrd.img" "$3/initrd.img"
"""


def boot_emulated(debian: Path, directory: Path) -> None:
    """Let a build fail twice and the machine go back, with a kernel and dracut.

    Raises:
        CheckFailedError: It did not.
    """
    print("\n== An emulated machine, with a kernel and dracut's initramfs", flush=True)
    directory.mkdir(parents=True)
    words = [debian / "tree", debian / "kernel", directory, MODULE]
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", _DRACUT, "sh", *words], check=True
    )
    kernel = next((debian / "kernel/boot").glob("vmlinuz-*"))
    disk = _make_disk(directory)
    for number in (1, 2):
        said = _emulate(kernel, directory / "initrd.img", disk)
        told = f"build 762 is on trial, try {number} of 2" in said
        check(f"try {number} of 762 is counted", told, True, said)
        check("its init ends", "Attempted to kill init" in said, True, said)
    said = _emulate(kernel, directory / "initrd.img", disk)
    for what in ("UP: 760", "MARK: failed 762 2", "BOOT: boot-versions/760"):
        check(what, what in said, True, said)
    said = _emulate(kernel, directory / "initrd.img", disk)
    check("it stays so", "UP: 760" in said, True, said)


def _make_disk(directory: Path) -> Path:
    """Make a disk of two partitions, with 762 on trial and 760 to go back to."""
    root = directory / "disk"
    for name, init in (("760", _GOOD), ("762", _BROKEN)):
        _make_tree(directory / name, name, init)
    (directory / "contents").write_text("none\n")
    laptop.make(
        *(root, directory / "760", "760", directory / "contents"),
        layout=Layout.PARTITIONED,
    )
    for place in ("pristine", "run"):
        subprocess.run(
            ["cp", "-a", directory / "762", root / "versions" / place], check=True
        )
    boots = root / "bootpart/boot-versions"
    shutil.copytree(directory / "762/boot", boots / "762")
    (boots / "762/alt").symlink_to("../760")
    (root / "bootpart/boot").unlink()
    (root / "bootpart/boot").symlink_to("boot-versions/762")
    (root / "versions/trial").write_text("trial 762 0\n")
    (root / "bootpart").rename(directory / "bootpart")
    (root / "bootpart").mkdir()
    disk = directory / "disk.img"
    with disk.open("wb") as file:
        file.truncate(_WHOLE)
    subprocess.run(
        ["sfdisk", "--quiet", disk], input=_PARTITIONS, text=True, check=True
    )
    _make_partition(disk, _FIRST, _SECOND, directory / "bootpart")
    _make_partition(disk, _SECOND, _WHOLE, root)
    return disk


def _make_partition(disk: Path, start: int, end: int, content: Path) -> None:
    options = ["-q", "-F", "-d", str(content), "-E", f"offset={start}"]
    size = f"{(end - start) // 1024}k"
    subprocess.run(["mkfs.ext4", *options, disk, size], check=True)


def _make_tree(tree: Path, name: str, init: str) -> None:
    for part in ("bin", "boot", "dev", "etc", "proc", "run", "sbin", "sys"):
        (tree / part).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin/busybox")
    (tree / "boot/vmlinuz").write_text(name)
    (tree / "etc/build").write_text(f"{name}\n")
    (tree / "etc/os-release").write_text("ID=small\n")  # systemd insists on one
    (tree / "sbin/init").write_text(init)
    (tree / "sbin/init").chmod(0o755)


def _emulate(kernel: Path, initrd: Path, disk: Path) -> str:
    """Switch the machine on, wait until it is off, return what its console said."""
    words = "root=/dev/vda2 rw console=ttyS0 panic=-1 rd.shell=0 rd.retry=60"
    command: list[str | Path] = [
        *("qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nographic"),
        *("-no-reboot", "-nic", "none", "-kernel", kernel, "-initrd", initrd),
        *("-append", words, "-drive", f"file={disk},format=raw,if=virtio"),
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PATIENCE,
        check=False,
    )
    return done.stdout + done.stderr
