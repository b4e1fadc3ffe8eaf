"""Power cuts below the file system: ``python -m tests.crash.block``.

A real ext4 lies in a file that a FUSE file system of our own shows to a loop device.
Every write and every flush that the kernel sends is written down. A cut is made by
playing the log up to a place into a copy of the first image; mounting that is a real
journal recovery. At each flush, all that came before it is on the medium; of the
writes after it, any may be.
"""

import contextlib
import errno
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.judge import Judge
from tests.crash.record import run
from tests.crash.scenes import Stage
from tests.crash.sweep import load, require_tools, scratch

SIZE = 24 << 20
LIES = 32
_HEAD = struct.Struct("<cQQ")


class Found(NamedTuple):
    """What a replay has found."""

    flushes: int
    writes: int
    states: int
    failures: list[str]


# --- the disk that writes down -------------------------------------------------------


class Disk:
    """What FUSE asks of one file, ``/disk``; the names are FUSE's.

    Args:
        image: Where its bytes are.
        log: Where writes and flushes are written down.
    """

    def __init__(self, image: Path, log: Path) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def getattr(self, path: str, fh: object = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/disk":
            mode = stat.S_IFREG | 0o600
            return {"st_mode": mode, "st_nlink": 1, "st_size": SIZE}
        raise OSError(errno.ENOENT, path)

    def read(self, path: str, size: int, offset: int, fh: object) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: object) -> int:
        os.write(self._log, _HEAD.pack(b"W", offset, len(data)) + data)
        return os.pwrite(self._image, data, offset)

    def fsync(self, path: str, datasync: object, fh: object) -> int:
        os.write(self._log, _HEAD.pack(b"F", 0, 0))
        return 0


def serve(image: Path, mount: Path, log: Path) -> None:
    """Show an image as ``mount/disk`` and write down what is done to it."""
    import mfusepy

    disk = Disk(image, log)
    names = ("getattr", "read", "write", "fsync")
    methods = {name: staticmethod(getattr(disk, name)) for name in names}
    operations = type("Operations", (mfusepy.Operations,), {**methods, "use_ns": True})
    options: dict[str, Any] = {"foreground": True, "nothreads": True}
    mfusepy.FUSE(operations(), str(mount), **options)


Entry = tuple[bytes, int, bytes]


def read_log(log: Path) -> list[Entry]:
    raw, found, at = log.read_bytes(), [], 0
    while at < len(raw):
        kind, offset, length = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        found.append((kind, offset, raw[at : at + length]))
        at += length
    return found


@contextlib.contextmanager
def recording(image: Path, place: Path, log: Path) -> Iterator[Path]:
    """Lend a loop device over an image whose writes are written down."""
    mount = place / "fuse"
    mount.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            serve(image, mount, log)
        finally:
            os._exit(0)
    try:
        for _ in range(1000):
            if (mount / "disk").exists():
                break
            time.sleep(0.01)
        line = ["losetup", "--find", "--show", "--direct-io=on", str(mount / "disk")]
        device = subprocess.run(line, check=True, capture_output=True, text=True)
        try:
            yield Path(device.stdout.strip())
        finally:
            subprocess.run(["losetup", "-d", device.stdout.strip()], check=True)
    finally:
        subprocess.run(["umount", "-l", mount], check=False)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def mounted(what: Path, where: Path, *options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(what), str(where)], check=True)
    try:
        yield where
    finally:
        _unmount(where)


def _unmount(where: Path) -> None:
    """Unmount; a file system that is damaged may keep its place busy for a while."""
    for _ in range(50):
        if subprocess.run(["umount", where], check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", where], check=True)


# --- the proof ---------------------------------------------------------------------


def prove(
    place: Path, *, flushes: bool = True, stride: int = 1, seed: int = 1
) -> Found:
    """Record a poll that installs a build on ext4, then cut it everywhere.

    Args:
        place: A scratch directory.
        flushes: Whether the disk obeys flushes. If not, no file system can keep its
            word: the control.
        stride: Cut at every so many log entries.
        seed: Of the dice.
    """
    load()
    stage = Stage(place, partitioned=False)
    with stage.poll_and_install() as scene:
        image, log, top = place / "image", place / "blocks", place / "top"
        with image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        with mounted(image, top, "-o", "loop"):
            subprocess.run(["cp", "-a", scene.root, top / "laptop"], check=True)
        first = place / "first"
        shutil.copyfile(image, first)
        with recording(image, place, log) as device, mounted(device, top):
            top.chmod(0o755)
            ended = run(lambda: scene.job(top / "laptop"), place / "log")
        if ended.code:
            raise RuntimeError(ended.said)
        entries = read_log(log)
        judge = Judge(scene, top / "laptop")
        found = Found(
            sum(kind == b"F" for kind, _, _ in entries),
            sum(kind == b"W" for kind, _, _ in entries),
            0,
            [],
        )
        count = 0
        for name, kept in cuts(entries, flushes=flushes, stride=stride, seed=seed):
            count += 1
            state = place / "state"
            play(first, state, kept)
            try:
                with mounted(state, top, "-o", "loop"):
                    wrong = judge.after_cut(is_kill=False)
                    if not wrong:
                        again = run(
                            lambda: scene.next_run(top / "laptop"), place / "log"
                        )
                        wrong = judge.after_next_run(*again)
            except (subprocess.CalledProcessError, OSError) as error:
                wrong = [f"it cannot be mounted or read: {error}"]
            if wrong:
                found.failures.append(f"{name}: {wrong[0]}")
        return found._replace(states=count)


def cuts(
    entries: list[Entry], *, flushes: bool, stride: int, seed: int
) -> Iterator[tuple[str, list[Entry]]]:
    """Yield what has reached the medium at each cut.

    Every prefix; and at every flush, three random choices of the writes since the
    one before it. A disk that lies about flushes has lost writes from before the last
    ``LIES`` of them, while later ones are there.
    """
    dice = random.Random(seed)
    flushed = [0] * (1 if flushes else LIES)
    for at in range(len(entries) + 1):
        if at % stride == 0 and flushes:
            yield f"after {at} entries", entries[:at]
        if at == len(entries) or entries[at][0] != b"F":
            continue
        start = flushed.pop(0)
        flushed.append(at)
        if dice.random() < 1 / stride:
            for number in range(3):
                some = [one for one in entries[start:at] if dice.random() < 0.5]
                yield f"flush at {at}, choice {number}", entries[:start] + some


def play(first: Path, state: Path, kept: list[Entry]) -> None:
    """Make the image of a state: a new file, for an old one may still be mounted."""
    state.unlink(missing_ok=True)
    shutil.copyfile(first, state)
    descriptor = os.open(state, os.O_WRONLY)
    try:
        for kind, offset, data in kept:
            if kind == b"W":
                os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def main() -> None:
    require_tools()
    with scratch() as place:
        found = prove(place)
    for line in found.failures[:10]:
        print(f"  {line}")
    print(
        f"blocks: {found.writes} writes, {found.flushes} flushes, {found.states} "
        f"states, {len(found.failures)} failures"
    )
    with scratch() as place:
        control = prove(place, flushes=False, stride=7)
    print(
        f"control, a disk that ignores flushes: {control.states} states, "
        f"{len(control.failures)} failures (it must fail)"
    )
    sys.exit(1 if found.failures or not control.failures else 0)


if __name__ == "__main__":
    main()
