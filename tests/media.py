"""Real sticks: images with a file system, mounted, and pulled out at a chosen byte.

The kernels that the tests run on need know neither FAT nor ISO 9660: `fusefat` and
`fuseiso` do. A stick that is pulled out is a block device that neither reads nor
writes any more.
"""

import contextlib
import errno
import mmap
import os
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

KINDS: Final = ("fat", "ext4")
PLUGGED: Final = 1 << 60
_BUDGET = struct.Struct("<q")


def make_image(kind: str, image: Path, size: int) -> Path:
    """Make an empty stick of so many bytes."""
    with open(image, "wb") as file:
        file.truncate(size)
    line = {
        "fat": ["mkfs.vfat", "-F", "32"],
        "ext4": ["mkfs.ext4", "-q", "-F", "-O", "^has_journal"],
    }[kind]
    subprocess.run([*line, str(image)], check=True, capture_output=True)
    return image


@contextlib.contextmanager
def mounted(
    kind: str, image: Path, where: Path, *, read_only: bool = False
) -> Iterator[Path]:
    """Mount an image, or a device."""
    where.mkdir(parents=True, exist_ok=True)
    rights = "ro" if read_only else "rw"
    line: list[str | Path]
    match kind:
        case "fat":
            rights = "ro" if read_only else "rw+"
            line = ["fusefat", image, where, "-o", f"{rights},allow_other"]
        case "iso":
            line = ["fuseiso", image, where, "-o", "allow_other"]
        case _:
            line = ["mount", "-o", f"loop,{rights}", image, where]
    subprocess.run(line, check=True, capture_output=True)
    try:
        yield where
    finally:
        unmount(where)


def unmount(where: Path) -> None:
    """Unmount; whoever reads there just now may take a moment to leave."""
    for _ in range(50):
        if subprocess.run(["umount", where], check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", where], check=True)


def fill_up(stick: Path) -> None:
    """Write until not a byte is left."""
    for name, size in (("f", 1 << 18), ("g", 512)):
        with contextlib.suppress(OSError), open(stick / name, "wb", 0) as file:
            while file.write(bytes(size)):
                pass


class Socket:
    """What a stick is plugged into (``plugged_in``)."""

    def __init__(self) -> None:
        self._left = mmap.mmap(-1, _BUDGET.size)
        self.plug_in()

    def plug_in(self) -> None:
        """Let everything be read."""
        self.pull_out_after(PLUGGED)

    def pull_out_after(self, count: int) -> None:
        """Let so many more bytes be read or written, and nothing more."""
        _BUDGET.pack_into(self._left, 0, count)

    def spend(self, count: int) -> None:
        """Count bytes that are read or written.

        Raises:
            OSError: The stick is out.
        """
        (left,) = _BUDGET.unpack_from(self._left, 0)
        if left < count:
            _BUDGET.pack_into(self._left, 0, -1)  # out is out, also for a small piece
            raise OSError(errno.EIO, "no medium")
        _BUDGET.pack_into(self._left, 0, left - count)


@contextlib.contextmanager
def plugged_in(image: Path, place: Path) -> Iterator[tuple[Path, Socket]]:
    """Show an image as a device that can be pulled out while it is read."""
    place.mkdir()
    socket = Socket()
    pid = os.fork()
    if pid == 0:
        try:
            _serve(image, place, socket)
        finally:
            os._exit(0)
    try:
        for _ in range(1000):
            if (place / "disk").exists():
                break
            time.sleep(0.01)
        yield place / "disk", socket
    finally:
        subprocess.run(["umount", "-l", place], check=False)
        os.waitpid(pid, 0)


def _serve(image: Path, place: Path, socket: Socket) -> None:
    import mfusepy

    disk, size = os.open(image, os.O_RDWR), image.stat().st_size

    def getattr_(path: str, fh: object = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/disk":
            mode = stat.S_IFREG | 0o666
            return {"st_mode": mode, "st_nlink": 1, "st_size": size}
        raise OSError(errno.ENOENT, path)

    def read(path: str, count: int, offset: int, fh: object) -> bytes:
        socket.spend(count)
        return os.pread(disk, count, offset)

    def write(path: str, data: bytes, offset: int, fh: object) -> int:
        socket.spend(len(data))
        return os.pwrite(disk, data, offset)

    methods = {
        "getattr": staticmethod(getattr_),
        "read": staticmethod(read),
        "write": staticmethod(write),
        "use_ns": True,
    }
    operations = type("Operations", (mfusepy.Operations,), methods)
    options: dict[str, Any] = {"foreground": True, "nothreads": True, "direct_io": True}
    mfusepy.FUSE(operations(), str(place), **options)
