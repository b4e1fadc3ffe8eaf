"""An update over links that hardly work, counted on the wire.

Laptops and school are network namespaces with bad links between them (``link``). A
laptop's disk is an ext4 image: a power cut kills the program, and drops what the disk
had not yet been told to keep. Each row says how long it took and what came twice. The
last rows do the same with rsync, over the same link, on the same trees.

What counts is what TCP has for the program, whether the program takes it or not, over
what it has for it on a good link: contents, headers and answers. What TCP itself sends
again is the link's affair; it is told beside it.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from bench import compare, laptop, link, rsyncd, trees
from bench.school import CommandFailedError, School, free_port, program

OLD, NEW = "760", "762"
_number = itertools.count(1)


class Condition(NamedTuple):
    """A link, and what happens on it.

    Attributes:
        name: What the row is called.
        kbit: Bandwidth each way, kbit/s.
        delay: Seconds each way.
        loss: Share of packets that are lost, each way.
        cut: Bytes after which every connection is reset; 0 for never.
        power: Bytes after which the power fails; 0 for never.
    """

    name: str
    kbit: int
    delay: float
    loss: float = 0.0
    cut: int = 0
    power: int = 0


SLOW = Condition("2 Mbit/s, 300 ms", 2000, 0.15)
LOSSY = Condition("20 Mbit/s, 40 ms, 1 % lost", 20_000, 0.02, 0.01)
BAD = Condition(
    "64 kbit/s, 2 s, 20 % lost, cuts, a power cut", 64, 1.0, 0.2, 300 << 10, 100 << 10
)
SAMPLE = Condition(
    "1 Mbit/s, 200 ms, 5 % lost, cuts, a power cut", 1000, 0.1, 0.05, 150 << 10, 80_000
)


class Row(NamedTuple):
    """What one update came to.

    Attributes:
        seconds: From its start to its end, power cuts included.
        down: Bytes of packets that reached the laptop.
        up: Bytes of packets that reached the school.
        payload: Bytes of TCP payload that came without a gap.
        twice: Bytes that TCP itself brought again.
        cuts: How often every connection was reset.
        lost: Bytes that came behind a gap, and were lost with their connection.
        crashes: How often the power failed.
        wrong: Paths of the new tree that are not as they should be.
    """

    seconds: float
    down: int
    up: int
    payload: int
    twice: int
    cuts: int
    lost: int
    crashes: int
    wrong: int


def main() -> None:
    """Measure and print; fail when something is wrong or wasted."""
    options = _parse()
    if not options.apart:
        _set_apart()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    scratch = Path(f"/var/tmp/olpc-badlinks-{os.getpid()}")
    scratch.mkdir(mode=0o755)
    try:
        with ExitStack() as stack:
            bench = Bench(scratch, options.files, options.megabytes, stack)
            least = bench.over(Condition("a good link", 1_000_000, 0.0))
            _print("a good link", least, least)
            failed = False
            for condition in [] if options.sample else [SLOW, LOSSY]:
                _print(condition.name, bench.over(condition), least)
                _print("  rsync --link-dest -z", bench.over(condition, rsync=True))
            bad = [SAMPLE] if options.sample else [BAD] * options.laptops
            with ThreadPoolExecutor(len(bad)) as pool:  # side by side: they mostly wait
                for condition, row in zip(bad, pool.map(bench.over, bad), strict=True):
                    _print(condition.name, row, least)
                    failed |= _waste(row, least) > 0.01 or row.wrong > 0
        if failed:
            sys.exit("something is wrong, or more than 1 % came twice")
    finally:
        if not options.keep:
            shutil.rmtree(scratch)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.badlinks", description=__doc__)
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--megabytes", type=int, default=40)
    parser.add_argument("--laptops", type=int, default=3, help="on the worst link")
    parser.add_argument("--keep", action="store_true", help="keep the logs")
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sample", action="store_true", help="one short row only")
    return parser.parse_args()


def _set_apart() -> NoReturn:
    """Begin again where nobody else sees the disks.

    A disk that has lost its power could not come back while it is mounted in another
    namespace, and whoever makes one meanwhile gets all mounts that there are.
    """
    command = [sys.executable, "-m", "bench.badlinks", "--apart", *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "--mount", "--", *command])


def _waste(row: Row, least: Row) -> float:
    """Return which share of what came had come before."""
    return max(row.payload - least.payload, 0) / least.payload


def _print(name: str, row: Row, least: Row | None = None) -> None:
    waste = "" if least is None else f"{_waste(row, least):8.2%} twice"
    tcp = f"TCP {row.twice:,} again, {row.lost:,} lost"
    events = f"{row.cuts} cuts, {row.crashes} power cuts, {row.wrong} paths wrong"
    print(
        f"{name:46}{row.seconds:8.1f} s{row.payload:12,} B{waste}"
        f"  wire {row.down:,} down {row.up:,} up, {tcp}, {events}",
        flush=True,
    )


class Bench:
    """A school in one namespace, and laptops in others."""

    def __init__(
        self, scratch: Path, files: int, megabytes: int, stack: ExitStack
    ) -> None:
        self._scratch = scratch
        self._old, self._new = scratch / "old", scratch / "new"
        trees.make_first(self._old, files=files, megabytes=megabytes)
        trees.make_second(self._old, self._new)
        self._school = School(scratch / "site")
        self._school.found(laptop.SOMEBODY)
        self._school.admin("publish", self._old, "--build", OLD)
        self._school.admin("publish", self._new, "--build", NEW, "--delta-from", OLD)
        self._school.admin("assign", "--build", NEW, "--serial", laptop.SOMEBODY.serial)
        self._wanted = compare.survey(self._new)
        self._name = stack.enter_context(_namespace(f"olpc{os.getpid()}"))
        self._port = free_port()
        words = ["serve", self._school.site, "--host", "0.0.0.0", "--port", self._port]
        self._start(stack, [program("olpc-update-admin"), *words], self._port)
        config = scratch / "rsyncd.conf"
        text = rsyncd.configuration({"root": self._new})
        text = text.replace("127.0.0.1", "0.0.0.0")
        config.write_text(f"port = 8873\n{text}")
        daemon = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
        self._start(stack, daemon, 8873)

    def _start(self, stack: ExitStack, words: Sequence[object], port: int) -> None:
        """Run a server in the school until the bench ends."""
        inside = _inside(self._name)
        command = [*inside, *map(str, words)]
        log = stack.enter_context((self._scratch / "log").open("ab"))
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        )
        stack.callback(process.terminate)
        probe = (
            f"import socket; socket.create_connection(('127.0.0.1', {port})).close()"
        )
        for _ in range(200):
            done = subprocess.run(
                [*inside, sys.executable, "-c", probe], check=False, stderr=log
            )
            if done.returncode == 0:
                return
            time.sleep(0.1)
        raise CommandFailedError(f"{command}: not listening")

    def over(self, condition: Condition, *, rsync: bool = False) -> Row:
        """Update a fresh laptop over a link of its own."""
        number = next(_number)
        report = self._scratch / f"report{number}.json"
        shape = (condition.kbit, condition.delay, condition.loss, condition.cut)
        with (
            _disk(self._scratch, number) as disk,
            _namespace(f"{self._name}-{number}") as name,
        ):
            ends = (name, self._name, number, *shape, report)
            words = [sys.executable, "-m", "bench.link", *map(str, ends)]
            with subprocess.Popen(words) as wire:
                trip = _Trip(number, name, disk, wire, report)
                try:
                    self._make(disk.mount / "laptop")
                    while not report.exists():
                        time.sleep(0.05)
                    begun = time.monotonic()
                    crashes = self._update(condition, trip, rsync=rsync)
                    seconds = time.monotonic() - begun
                finally:
                    wire.terminate()
                    wire.wait()
            found = compare.survey(disk.mount / "laptop/versions/pristine" / NEW)
            wrong = len(compare.differences(self._wanted, found))
        counts = json.loads(report.read_text())
        return Row(seconds, **counts, crashes=crashes, wrong=wrong)

    def _make(self, root: Path) -> None:
        contents = self._school.site / "builds" / OLD / "contents"
        laptop.make(root, self._old, OLD, contents)
        for role in ("oats", "lease"):
            laptop.trust(root, role, self._school.key(role))
        os.sync()

    def _update(self, condition: Condition, trip: "_Trip", *, rsync: bool) -> int:
        """Run until it is done, as often as the power fails; say how often it did."""
        crashes, power = 0, condition.power
        root = trip.disk.mount / "laptop"
        school = link.addresses(trip.number)[1]
        if rsync:
            command = self._rsync(root, school)
        else:
            server = f"http://{school}:{self._port}/"
            words = ["--now", "--root", str(root), "--server", server, "-vv"]
            command = [program("olpc-update-query"), *words]
        log = self._scratch / f"laptop{trip.number}.log"
        for _ in range(100):
            with open(log, "ab") as file:
                process = subprocess.Popen(
                    [*_inside(trip.name), *command],
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
                while process.poll() is None:
                    time.sleep(0.1)
                    if power and json.loads(_read(trip.report))["down"] >= power:
                        os.killpg(process.pid, signal.SIGKILL)
                        trip.wire.send_signal(signal.SIGUSR1)
                        power, crashes = 0, crashes + 1
            if process.wait() == 0:
                return crashes
            if process.returncode == -signal.SIGKILL:
                trip.disk.lose_power()
        raise CommandFailedError(log.read_text()[-3000:])

    def _rsync(self, root: Path, school: str) -> list[str]:
        pristine = root / "versions/pristine"
        options = ["-aHX", "-z", "--numeric-ids", f"--link-dest={pristine / OLD}"]
        source = f"rsync://{school}:8873/root/"
        return ["rsync", *options, source, str(pristine / NEW)]


class _Trip(NamedTuple):
    """One laptop's way through an update.

    Attributes:
        number: Of its link.
        name: Of its namespace.
        disk: Its disk.
        wire: Its link.
        report: What its link has counted.
    """

    number: int
    name: str
    disk: "Disk"
    wire: "subprocess.Popen[bytes]"
    report: Path


def _inside(name: str) -> list[str]:
    """Return how to run something in a network namespace, and in no other kind.

    ``ip netns exec`` would give it mounts of its own, in which a disk that has lost
    its power stays mounted.
    """
    return ["nsenter", f"--net=/run/netns/{name}", "--"]


def _read(report: Path) -> str:
    """Read a report that may just be written."""
    while not (text := report.read_text()).endswith("}"):
        time.sleep(0.01)
    return text


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


class Disk:
    """An ext4 image that can lose its power."""

    def __init__(self, image: Path, mount: Path) -> None:
        self._image, self.mount = image, mount

    def attach(self) -> None:
        """Mount it; that replays its journal."""
        words = ["mount", "-o", "loop", str(self._image), str(self.mount)]
        subprocess.run(words, check=True)

    def detach(self) -> None:
        """Unmount it, when the last process that was killed is gone from it."""
        words = ["umount", str(self.mount)]
        for _ in range(100):
            if subprocess.run(words, check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise CommandFailedError(f"{self.mount} stays busy")

    def lose_power(self) -> None:
        """Drop what was not yet synced, and start again."""
        shutdown = ["xfs_io", "-x", "-c", "shutdown", str(self.mount)]
        subprocess.run(shutdown, check=True)
        self.detach()
        self.attach()


@contextmanager
def _disk(scratch: Path, number: int) -> Iterator[Disk]:
    image, mount = scratch / f"disk{number}", scratch / f"mnt{number}"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(2 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    disk = Disk(image, mount)
    disk.attach()
    try:
        yield disk
    finally:
        disk.detach()
        with contextlib.suppress(FileNotFoundError):
            image.unlink()


if __name__ == "__main__":
    main()
