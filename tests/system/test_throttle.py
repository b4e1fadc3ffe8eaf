"""Downloads keep to a bandwidth, however many there are at a time."""

import threading
import time
from pathlib import Path

import pytest

from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.throttle import ThrottledTransport
from tests.http_server import serve
from tests.simulator import FakeClock

DATA = bytes(range(256)) * 1024


@pytest.mark.parametrize("limit", [1000, 50_000, 10**9])
def test_a_download_keeps_below_its_bandwidth(tmp_path: Path, limit: int) -> None:
    (tmp_path / "pack").write_bytes(DATA)
    clock = FakeClock(0)
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, clock, limit)
        chunks = transport.get(site.url + "pack").chunks
        assert b"".join(chunks) == DATA
        transport.close()
    assert clock.boottime() == pytest.approx(len(DATA) / limit, rel=0.01)


def test_time_that_passed_anyway_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "pack").write_bytes(DATA)
    clock = FakeClock(0)
    with serve(tmp_path) as site:
        transport = ThrottledTransport("test", {}, clock, 1000)
        for _ in transport.get(site.url + "pack", start=0, length=10_000).chunks:
            clock.time += 1000
        transport.close()
    assert clock.slept == []


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
    assert max(got) <= limit / 4, "no bursts"
