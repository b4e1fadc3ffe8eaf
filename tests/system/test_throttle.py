"""Downloads keep to a bandwidth, however many there are at a time."""

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.throttle import ThrottledTransport
from tests.http_server import serve
from tests.simulator import FakeClock

DATA = bytes(range(256)) * 1024


@pytest.mark.parametrize("limit", [1000, 50_000, 200_000])
def test_a_download_keeps_below_its_bandwidth(tmp_path: Path, limit: int) -> None:
    (tmp_path / "pack").write_bytes(DATA)
    clock = FakeClock(0)
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, clock, limit)
        chunks = transport.get(site.url + "pack").chunks
        assert b"".join(chunks) == DATA
        transport.close()
    packets = 1500 / 1448  # headers count as well
    assert clock.boottime() == pytest.approx(len(DATA) * packets / limit, rel=0.02)


@pytest.mark.parametrize("limit", [20_000, 40_000])
def test_the_end_comes_no_faster_than_what_the_kernel_held(
    tmp_path: Path, limit: int
) -> None:
    """What may come with a reply's head is there at once, and is not paid for twice."""
    (tmp_path / "pack").write_bytes(DATA)
    clock = FakeClock(0)
    read: dict[float, int] = {}
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, clock, limit)
        for piece in transport.get(site.url + "pack").chunks:
            now = clock.boottime()
            read[now] = read.get(now, 0) + len(piece)
        transport.close()
    in_the_kernel, one = 2 * limit // 8, limit // 16
    *before, last = read
    for now in before:
        come = sum(size for at, size in read.items() if at <= now)
        assert come <= 8 * 1024 + 2 * one + limit * (now - before[0])
    assert read[last] <= in_the_kernel + 2 * one


def test_several_ranges_keep_below_it(tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(DATA)
    spans = [(at, at + 2000) for at in range(0, 250_000, 2500)]
    clock = FakeClock(0)
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, clock, 50_000)
        chunks = transport.get_ranges(site.url + "pack", spans).chunks
        assert b"".join(piece for _, piece in chunks) == b"".join(
            DATA[start:end] for start, end in spans
        )
        transport.close()
    wire = transport.received * 1500 / 1448
    assert clock.boottime() == pytest.approx(wire / 50_000, rel=0.02)


def test_time_that_passed_anyway_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(DATA)
    clock = FakeClock(0)
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, clock, 1000)
        chunks = transport.get(site.url + "pack", start=0, length=10_000).chunks
        next(chunks)
        slept = list(clock.slept)
        clock.time += 1000
        for _ in chunks:
            clock.time += 1000
        transport.close()
    assert clock.slept == slept


@pytest.mark.parametrize("limit", [100_000, 400_000])
def test_what_comes_before_it_is_read_is_paid_for(limit: int) -> None:
    """No burst: not in the kernel either, which takes in what nobody has read yet."""
    clock = FakeClock(0)
    with contextlib.closing(Hose()) as hose:
        transport = ThrottledTransport("test", {}, clock, limit)
        stream = transport.get(f"http://127.0.0.1:{hose.port}/pack")
        came = 0
        while not came or came < hose.gave:  # until it takes in no more
            came = hose.gave
            time.sleep(0.2)
        transport.close()
    assert stream.total == hose.LENGTH
    half_a_window = limit / 16
    assert 0 < came <= clock.boottime() * limit + half_a_window
    assert came < limit / 2, "5 % of ten seconds"


class Hose:
    """A server that gives all that is taken, with little room of its own."""

    LENGTH = 2_000_000

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self.gave = 0
        threading.Thread(target=self._give, daemon=True).start()

    def _give(self) -> None:
        with contextlib.suppress(OSError), self._listener.accept()[0] as client:
            client.recv(65536)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {self.LENGTH}\r\n\r\n"
            client.sendall(head.encode())
            while self.gave < self.LENGTH:
                self.gave += client.send(bytes(512))

    def close(self) -> None:
        self._listener.close()


def test_parallel_downloads_share_the_bandwidth(tmp_path: Path) -> None:
    """Three at a time, by the real clock: 1.2 MB at 400 kB/s take three seconds."""
    limit, size = 400_000, 400_000
    (tmp_path / "pack").write_bytes(bytes(size))
    got: list[int] = []
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, SystemClock(), limit)

        def pull() -> None:
            got.extend(map(len, transport.get(site.url + "pack").chunks))

        threads = [threading.Thread(target=pull) for _ in range(3)]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - begun
        transport.close()
    assert sum(got) == 3 * size
    assert took >= 0.95 * 3 * size / limit
    assert max(got) <= limit / 16, "no bursts"


def test_connections_that_begin_together_begin_one_after_the_other(
    tmp_path: Path,
) -> None:
    """Each takes in some kilobytes at once; together they would be a burst."""
    (tmp_path / "pack").write_bytes(DATA)
    clock = FakeClock(0)
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, clock, 10_000)
        mine = transport.pay(5000)
        transport.pay(5000)  # another connection's
        transport.wait(mine)
        assert 0.4 < clock.boottime() < 0.6
        chunks = transport.get(site.url + "pack").chunks
        begun = clock.boottime()
        transport.pay(100_000)
        next(chunks)
        assert clock.boottime() == begun, "it is paid for, and due"
        transport.close()
