"""Many sources at once, most of them bad: how long that takes, and what is remembered.

Time is real here, so the bounds are generous: a machine under test is slow.
"""

import contextlib
import json
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.relay import Relay
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.fetch import FetchReport, fetch
from olpc_update_query.perform_update.sources.health import Health, Trouble
from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.throttle import ThrottledTransport
from tests.http_server import Site, serve
from tests.http_server import Trouble as Mischief
from tests.perform_update.published import (
    Build,
    Recorder,
    StillClock,
    install,
    make_build,
    publish,
)

PIECES = {f"lib/{n}": random.Random(n).randbytes(200_000) for n in range(6)}


@dataclass
class Crowd:
    """A laptop, and as many sources as a test wants."""

    scratch: Path
    old: Build
    new: Build
    layout: Layout
    downloads: Path
    stack: contextlib.ExitStack
    progress: Recorder = field(default_factory=Recorder)
    limit: int = 10**9

    def site(self, name: str) -> Site:
        """Serve the build once more."""
        root = self.scratch / name
        shutil.copytree(self.scratch / "www", root)
        return self.stack.enter_context(serve(root))

    def silent(self) -> str:
        """Return the address of a server that takes connections and says nothing."""
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    def fetch(self, *urls: str) -> FetchReport:
        transport = ThrottledTransport("test/1", {}, SystemClock(), self.limit)
        with contextlib.closing(transport):
            return fetch(
                self.new.order(*urls),
                layout=self.layout,
                downloads=self.downloads,
                transport=transport,
                progress=self.progress,
                clock=SystemClock(),
                state=self.scratch / "state",
            )

    def is_whole(self) -> bool:
        served = self.scratch / "www/delta/760.pack"
        return (self.downloads / "delta").read_bytes() == served.read_bytes()


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    old = make_build(tmp_path / "old", "760", {"etc/motd": b"hello\n"})
    new = make_build(tmp_path / "new", "762", PIECES)
    publish(tmp_path / "www", new, old)
    layout = install(tmp_path / "laptop", old)
    downloads = tmp_path / "work/downloads" / new.digest
    with contextlib.ExitStack() as stack:
        yield Crowd(tmp_path, old, new, layout, downloads, stack)


def seconds(crowd: Crowd, *urls: str) -> float:
    begun = time.monotonic()
    crowd.fetch(*urls)
    return time.monotonic() - begun


def test_seven_dead_sources_before_a_good_one(crowd: Crowd) -> None:
    """Nobody answers; one after the other would take more than a minute."""
    dead = [crowd.silent() for _ in range(7)]
    good = crowd.site("good")
    assert seconds(crowd, *dead, good.url) < 15
    assert crowd.is_whole()


@pytest.mark.needs("rsync")
def test_silent_rsync_daemon_before_a_good_server(crowd: Crowd) -> None:
    silent = crowd.silent().replace("http:", "rsync:")
    good = crowd.site("good")
    assert seconds(crowd, f"{silent}build-762", good.url) < 20
    assert crowd.is_whole()


def test_source_that_falls_silent_in_the_middle(crowd: Crowd) -> None:
    """What it gave stays, and what it owes comes from the next."""
    stalls, good = crowd.site("stalls"), crowd.site("good")
    stalls.misbehave("760.pack", Mischief.STALL, after=150_000)
    assert seconds(crowd, stalls.url, good.url) < 20
    assert crowd.is_whole()
    first = min(
        int(seen.headers["Range"].removeprefix("bytes=").partition("-")[0])
        for seen in good.seen
    )
    assert first >= 150_000 - 2048
    assert any("left for the next source" in step for step in crowd.progress.steps)


def test_source_that_drips_is_left_for_a_fast_one(crowd: Crowd) -> None:
    drips, good = crowd.site("drips"), crowd.site("good")
    drips.misbehave("760.pack", Mischief.DRIP, pace=0.002)
    assert seconds(crowd, drips.url, good.url) < 25
    assert crowd.is_whole()


def test_stale_lying_and_failing_ones_among_good_ones(crowd: Crowd) -> None:
    """Eight at once, six of them bad in six ways."""
    sites = [crowd.site(f"bad{n}") for n in range(6)]
    shutil.copy(crowd.scratch / "www/pack", sites[0].root / "delta/760.pack")
    sites[1].misbehave("760.pack", Mischief.WRONG_BYTES)
    sites[2].misbehave("*", Mischief.ERROR)
    sites[3].misbehave("*", Mischief.LOST)
    sites[4].misbehave("*", Mischief.HTML)
    sites[5].misbehave("760.pack", Mischief.WRONG_RANGE)
    good = [crowd.site("good1"), crowd.site("good2")]
    urls = [site.url for site in (*sites, *good)]
    assert seconds(crowd, *urls) < 20
    assert crowd.is_whole()


def test_liar_is_asked_last_next_time(crowd: Crowd) -> None:
    liar, good = crowd.site("liar"), crowd.site("good")
    liar.misbehave("760.pack", Mischief.WRONG_BYTES)
    crowd.fetch(liar.url, good.url)
    kept = json.loads((crowd.scratch / "state/sources.json").read_text())
    assert kept[liar.url.rstrip("/")][0] == Trouble.LIED
    assert kept[good.url.rstrip("/")][0] == 0
    shutil.rmtree(crowd.downloads)
    liar.seen.clear()
    liar.plans.clear()
    crowd.fetch(liar.url, good.url)
    assert crowd.is_whole()
    assert not liar.seen


class OneAtATime(Relay):
    """A way to a server that hangs up on a second connection, as xinetd does."""

    refused = 0

    def __init__(self, target: int) -> None:
        self._free = threading.Lock()
        super().__init__(target)

    def _join(self, client: socket.socket) -> None:
        if self._free.acquire(blocking=False):
            super()._join(client)
        else:
            self.refused += 1
            client.close()

    def _pump_down(self, client: socket.socket, server: socket.socket) -> None:
        try:
            super()._pump_down(client, server)
        finally:
            self._free.release()


def test_server_that_takes_one_connection_is_asked_for_one_at_a_time(
    crowd: Crowd,
) -> None:
    """The link is slow, so more are tried; to be refused is no failure.

    Such a server may refuse the next request too, while it takes leave of the last.
    """
    relay = OneAtATime(crowd.site("small").port)
    crowd.stack.callback(relay.close)
    crowd.limit = 100_000
    crowd.fetch(f"http://127.0.0.1:{relay.port}/")
    assert crowd.is_whole()
    assert 1 <= relay.refused <= 6
    assert not any("left for" in step for step in crowd.progress.steps)


# --- what is remembered ---------------------------------------------------------


def test_order_of_trouble(tmp_path: Path) -> None:
    clock = StillClock()
    health = Health(tmp_path, clock)
    urls = [f"http://{name}.test/builds/762" for name in ("a", "b", "c", "d")]
    health.note(urls[0], Trouble.LIED)
    health.note(urls[1], Trouble.FAILED)
    health.note(urls[2], Trouble.SLOW)
    health.save()
    again = Health(tmp_path, clock)
    assert again.order(urls) == urls[::-1]
    assert again.order(["http://a.test/builds/763", "rsync://a.test/b"])[0] == (
        "rsync://a.test/b"
    )


@pytest.mark.parametrize(
    ("trouble", "hours"),
    [(Trouble.SLOW, 6), (Trouble.FAILED, 24), (Trouble.LIED, 30 * 24)],
)
def test_trouble_is_forgotten_in_time(
    tmp_path: Path, trouble: Trouble, hours: int
) -> None:
    clock = StillClock()
    health = Health(tmp_path, clock)
    urls = ["http://a.test/", "http://b.test/"]
    health.note(urls[0], trouble)
    clock.time += hours * 3600 - 1
    assert health.order(urls) == urls[::-1]
    clock.time += 1
    assert health.order(urls) == urls
    clock.time -= hours * 3600 + 5  # the clock was set back: it may be anything
    assert health.order(urls) == urls


def test_doing_well_clears_all_but_a_lie(tmp_path: Path) -> None:
    health = Health(tmp_path, StillClock())
    urls = ["http://a.test/", "http://b.test/"]
    health.note(urls[0], Trouble.FAILED)
    health.note(urls[0], None)
    assert health.order(urls) == urls
    assert health.is_good(urls[0])
    health.note(urls[0], Trouble.LIED)
    health.note(urls[0], None)
    assert health.order(urls) == urls[::-1]
    assert not health.is_good(urls[0])


@pytest.mark.parametrize(
    "text", ["", "[]", '{"http://a.test":3}', '{"http://a.test":[9,"x"]}', "\\0"]
)
def test_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "sources.json").write_text(text)
    assert Health(tmp_path, StillClock()).order(["http://a.test/"]) == [
        "http://a.test/"
    ]
