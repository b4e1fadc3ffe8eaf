"""A bad link between two network namespaces, as a process that owns both of its ends.

    python3 -m bench.link LAPTOP SCHOOL NUMBER KBIT DELAY LOSS CUT REPORT

Two TUN devices are joined: so many kbit/s each way through a queue of 64 KiB, so many
seconds of delay each way, a share of packets lost each way. Several links, each with a
number of its own below 256, may end in one school. After each CUT bytes down the link
breaks: every connection is reset, and for two seconds nothing passes. SIGUSR1 says that
the laptop has lost its power: what is on its way to it does not arrive.

What reaches the laptop is counted in REPORT: what came without a gap, which its TCP has
for the program; what the kernel got twice in one connection; and what it got behind a
gap and lost with the connection. Only the first is the program's affair. What comes
after the program has hung up counts as well: it should not have asked for it.
"""

import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_QUEUE = 64 * 1024  # bytes that wait for the link; what does not fit is dropped
_PAUSE = 2.0  # seconds that nothing passes after a cut
_RST_ACK = 0x14


@dataclass
class Flow:
    """One TCP connection, seen on its way down.

    Attributes:
        first: Sequence number of its first byte.
        seen: Which bytes have arrived at the laptop.
        acked: The next byte that the laptop awaits, by its sequence number.
    """

    first: int
    seen: bytearray = field(default_factory=bytearray)
    acked: int = 0

    @property
    def taken(self) -> int:
        """How many bytes arrived without a gap, so that the program can have them."""
        hole = self.seen.find(0)
        return hole if hole >= 0 else len(self.seen)

    def confirm(self, number: int) -> None:
        """Note what the laptop confirms, whether the school hears of it or not."""
        if (number - self.first) & 0xFFFFFFFF <= len(self.seen):
            self.acked = number

    def add(self, number: int, length: int) -> int:
        """Note bytes that arrive; return how many of them are new."""
        start = (number - self.first) & 0xFFFFFFFF
        if len(self.seen) < start + length:
            self.seen.extend(bytes(start + length - len(self.seen)))
        new: int = self.seen.count(0, start, start + length)
        self.seen[start : start + length] = b"\1" * length
        return new


@dataclass
class Side:
    """One direction of the link."""

    descriptor: int
    free_at: float = 0.0
    dropped: int = 0


def addresses(number: int) -> tuple[str, str]:
    """Return the addresses of laptop and school on a link."""
    return f"198.18.{number}.1", f"198.18.{number}.2"


class Link:
    """The two ends, and what is on its way between them."""

    def __init__(self, number: int, shape: tuple[float, float, float, int]) -> None:
        self._rate, self._delay, self._loss, self._cut = shape
        self._addresses = addresses(number)
        self._random = random.Random(2026 + number)
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._flows: dict[tuple[int, int], Flow] = {}
        self._dead: set[tuple[int, int]] = set()
        self._broken_until, self._since_cut, self._number = 0.0, 0, 0
        self._is_off = False
        self.counts = dict.fromkeys(
            ("down", "up", "payload", "twice", "cuts", "lost"), 0
        )

    def switch_off(self) -> None:
        """Let the laptop have no power: nothing on its way arrives any more."""
        self._is_off = True

    def run(self, laptop: int, school: int, report: Path) -> None:
        """Pass packets on until the process is told to end."""
        sides = {laptop: Side(school), school: Side(laptop)}
        written = 0.0
        while True:
            now = time.monotonic()
            if now - written > 0.5:
                written = now
                report.write_text(json.dumps(self.add_up()))
            wait = max(0.0, self._queue[0][0] - now) if self._queue else 0.5
            for one in select.select(list(sides), [], [], min(wait, 0.5))[0]:
                packet = os.read(one, 65536)
                self._take(packet, sides[one], is_down=one == school)
            self._deliver(laptop)

    def add_up(self) -> dict[str, int]:
        """Return what has been counted."""
        arrived = sum(flow.seen.count(1) for flow in self._flows.values())
        taken = sum(flow.taken for flow in self._flows.values())
        self.counts |= {"payload": taken, "lost": max(arrived - taken, 0)}
        return self.counts

    def _take(self, packet: bytes, side: Side, *, is_down: bool) -> None:
        now = time.monotonic()
        ports = _ports(packet, is_down=is_down)
        if ports in self._dead:
            return
        if not is_down and ports in self._flows:
            number = struct.unpack_from("!I", packet, (packet[0] & 15) * 4 + 8)[0]
            self._flows[ports].confirm(number)
        if now < self._broken_until:
            return
        backlog = max(side.free_at - now, 0.0)
        if backlog * self._rate > _QUEUE or self._random.random() < self._loss:
            side.dropped += 1
            return
        side.free_at = max(side.free_at, now) + len(packet) / self._rate
        self._number += 1
        due = side.free_at + self._delay
        heapq.heappush(self._queue, (due, self._number, side.descriptor, packet))

    def _deliver(self, laptop: int) -> None:
        now = time.monotonic()
        if self._is_off:
            self._is_off = False
            self._queue.clear()
            self._dead.update(self._flows)
        while self._queue and self._queue[0][0] <= now:
            _, _, end, packet = heapq.heappop(self._queue)
            if _ports(packet, is_down=end == laptop) in self._dead:
                continue
            if end == laptop:
                self._count(packet)
            else:
                self.counts["up"] += len(packet)
            with contextlib.suppress(OSError):
                os.write(end, packet)
            if self._cut and self._since_cut >= self._cut:
                self._break(laptop)

    def _count(self, packet: bytes) -> None:
        self.counts["down"] += len(packet)
        self._since_cut += len(packet)
        ports = _ports(packet, is_down=True)
        if ports is None:
            return
        head = (packet[0] & 15) * 4
        number, _, offset, flags = struct.unpack_from("!IIBB", packet, head + 4)
        length = len(packet) - head - (offset >> 4) * 4
        if ports not in self._flows:
            self._flows[ports] = Flow(number + (flags >> 1 & 1))
        if length > 0:
            new = self._flows[ports].add(number, length)
            self.counts["twice"] += length - new

    def _break(self, laptop: int) -> None:
        """Reset every connection, and pass nothing for a while."""
        self.counts["cuts"] += 1
        self._since_cut = 0
        self._broken_until = time.monotonic() + _PAUSE
        self._queue.clear()
        for ports, flow in self._flows.items():
            if ports not in self._dead:
                with contextlib.suppress(OSError):
                    os.write(laptop, _reset(self._addresses, ports, flow.acked))
        self._dead.update(self._flows)


def _ports(packet: bytes, *, is_down: bool) -> tuple[int, int] | None:
    """Return the ports of laptop and school, if it is TCP over IPv4."""
    if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != 6:
        return None
    source, target = struct.unpack_from("!HH", packet, (packet[0] & 15) * 4)
    return (target, source) if is_down else (source, target)


def _reset(ends: tuple[str, str], ports: tuple[int, int], number: int) -> bytes:
    """Return a packet that tells the laptop that a connection is gone."""
    laptop, school = map(_address, ends)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + school + laptop
    head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
    words = (ports[1], ports[0], number, 0, 0x50, _RST_ACK, 0, 0, 0)
    body = struct.pack("!HHIIBBHHH", *words)
    pseudo = school + laptop + struct.pack("!BBH", 0, 6, len(body))
    body = body[:16] + struct.pack("!H", _checksum(pseudo + body)) + body[18:]
    return head + body


def _address(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _open_end(name: str, namespace: str, address: str) -> int:
    """Make one end of the link in a namespace."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH", name.encode(), _IFF_TUN_NO_PI)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    inside = ["ip", "-n", namespace]
    for words in (
        ["ip", "link", "set", name, "netns", namespace],
        [*inside, "addr", "add", f"{address}/24", "dev", name],
        [*inside, "link", "set", name, "up"],
        [*inside, "link", "set", "lo", "up"],
    ):
        subprocess.run(words, check=True)
    return descriptor


def main() -> None:
    """Do what the command line says, until killed."""
    *names, number, rate, delay, loss, cut, report = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ends = [
        _open_end(f"{end}{os.getpid()}", name, address)
        for end, name, address in zip("ab", names, addresses(int(number)), strict=True)
    ]
    shape = (float(rate) * 125, float(delay), float(loss), int(cut))
    link = Link(int(number), shape)
    signal.signal(signal.SIGUSR1, lambda *_: link.switch_off())
    try:
        link.run(ends[0], ends[1], Path(report))
    finally:
        Path(report).write_text(json.dumps(link.add_up()))


if __name__ == "__main__":
    main()
