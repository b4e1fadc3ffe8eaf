"""Downloads that are cut go on where they stopped, with whatever server is left."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.perform_update.fetch import fetch
from olpc_update_query.system.http import HttpTransport
from tests.http_server import Trouble
from tests.perform_update.published import (
    make_delta,
    publish,
)
from tests.perform_update.world import (
    DELTA_NAME,
    QUICK,
    World,
    make_world,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as world:
        yield world


# --- cuts ---------------------------------------------------------------------


@pytest.mark.parametrize("where", [0.0, 0.001, 0.01, 0.3, 0.5, 0.97, 0.9999])
def test_cut_delta_goes_on_by_itself(world: World, where: float) -> None:
    size = (world.near.root / "delta" / DELTA_NAME).stat().st_size
    cut = int(size * where)
    world.near.misbehave(DELTA_NAME, Trouble.TRUNCATE, after=cut, times=1)
    report = world.fetch(world.near.url) if cut else world.fetch()
    world.assert_complete()
    if cut:
        assert report.received < size + 64 * 1024
        assert len(world.starts(DELTA_NAME)) <= 2
        assert world.starts(DELTA_NAME)[-1] > cut - 64 * 1024


@pytest.mark.parametrize("name", ["contents.zst", "pack.index.zst", "pack"])
@pytest.mark.parametrize("cut", [1, 100, 100_000])
def test_cut_full_pack_goes_on_by_itself(world: World, name: str, cut: int) -> None:
    world.without_delta()
    world.near.misbehave(name, Trouble.TRUNCATE, after=cut, times=1)
    world.fetch(world.near.url)
    world.assert_complete()


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_next_run_goes_on_where_the_last_one_stopped(world: World, delta: bool) -> None:
    """Each run is cut off after 40 kB; what has come is never asked for again."""
    if not delta:
        world.without_delta()
    received, runs, is_done = 0, 0, False
    name = DELTA_NAME if delta else "pack"
    while not is_done and runs < 20:
        runs += 1
        world.near.misbehave(name, Trouble.DIES, after=40_000)
        with contextlib.closing(HttpTransport("test/1", timeouts=QUICK)) as transport:
            with contextlib.suppress(errors.SourceFailed):
                fetch(
                    world.new.order(world.near.url),
                    layout=world.layout,
                    downloads=world.downloads,
                    transport=transport,
                    progress=world.progress,
                    clock=world.clock,
                )
                is_done = True
            received += transport.received
    world.assert_complete()
    names = ["delta/760.pack"] if delta else ["contents.zst", "pack.index.zst", "pack"]
    size = sum((world.near.root / name).stat().st_size for name in names)
    assert 3 < runs < 20
    assert received < size + runs * 6000


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_another_mirror_goes_on_where_the_first_one_died(
    world: World, delta: bool
) -> None:
    if not delta:
        world.without_delta()
    name = DELTA_NAME if delta else "pack"
    world.near.misbehave(name, Trouble.DIES, after=90_000)
    report = world.fetch()
    world.assert_complete()
    assert world.starts(name, world.far)[0] >= 90_000 - 64 * 1024
    whole = (world.near.root / ("delta/760.pack" if delta else "pack")).stat().st_size
    assert report.received < whole + 64 * 1024


def test_stalled_source_is_left_when_it_brings_nothing_more(world: World) -> None:
    world.near.misbehave(DELTA_NAME, Trouble.STALL)
    world.fetch()
    world.assert_complete()
    assert len(world.starts(DELTA_NAME)) <= 3
    assert any("silent for too long" in step for step in world.progress.steps)


def test_download_that_moves_is_never_given_up(world: World) -> None:
    """The link is cut after every 5 kB."""
    world.near.misbehave(DELTA_NAME, Trouble.TRUNCATE, after=5000)
    world.fetch(world.near.url)
    world.assert_complete()
    size = (world.near.root / "delta" / DELTA_NAME).stat().st_size
    assert len(world.starts(DELTA_NAME)) == pytest.approx(size / 5000, abs=2)


def test_download_that_starts_over_again_and_again_is_given_up(world: World) -> None:
    """The server is cut off every time, and has another file every time."""
    site = world.near
    site.misbehave(DELTA_NAME, Trouble.TRUNCATE, after=30_000)
    original = site.take
    path = site.root / "delta" / DELTA_NAME
    versions = itertools.cycle(make_delta(world.old, world.new, n) for n in (3, 9, 15))

    def take(name: str) -> object:
        path.write_bytes(next(versions))
        return original(name)

    site.take = take  # type: ignore[assignment, method-assign]
    world.fetch()
    world.assert_complete()
    assert len(site.seen) < 20
    assert world.far.seen


# --- servers that know little -------------------------------------------------


def test_server_without_ranges_is_read_from_the_start(world: World) -> None:
    world.near.misbehave(DELTA_NAME, Trouble.DIES, after=60_000)
    with pytest.raises(errors.SourceFailed):
        world.fetch(world.near.url)
    world.near.misbehave(DELTA_NAME, Trouble.IGNORE_RANGE)
    report = world.fetch(world.near.url)
    world.assert_complete()
    size = (world.near.root / "delta" / DELTA_NAME).stat().st_size
    assert dict(report.gave)["delta"] < size - 40_000


def test_full_pack_of_a_server_without_ranges_is_one_pass(world: World) -> None:
    world.without_delta()
    world.near.misbehave("pack", Trouble.IGNORE_RANGE)
    world.fetch(world.near.url)
    world.assert_complete()
    assert world.near.names().count("pack") <= 2


@pytest.mark.parametrize(
    "trouble", [Trouble.NO_TAG, Trouble.CHANGED_TAG, Trouble.CHUNKED]
)
@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_servers_that_vouch_for_nothing(
    world: World, trouble: Trouble, delta: bool
) -> None:
    if not delta:
        world.without_delta()
    name = DELTA_NAME if delta else "pack"
    world.near.misbehave(name, Trouble.DIES, after=90_000)
    with pytest.raises(errors.SourceFailed):
        world.fetch(world.near.url)
    world.near.misbehave(name, trouble)
    world.fetch(world.near.url)
    world.assert_complete()


# --- files that change --------------------------------------------------------


def test_changed_delta_starts_over(world: World) -> None:
    world.near.misbehave(DELTA_NAME, Trouble.DIES, after=90_000)
    with pytest.raises(errors.SourceFailed):
        world.fetch(world.near.url)
    other = make_delta(world.old, world.new, level=9)
    path = world.near.root / "delta" / DELTA_NAME
    assert path.read_bytes() != other
    path.write_bytes(other)
    world.near.plans.clear()
    world.fetch(world.near.url)
    world.assert_complete()
    assert (world.downloads / "delta").read_bytes() == other


def test_pack_that_was_made_anew_keeps_what_has_come(world: World) -> None:
    world.without_delta()
    world.near.misbehave("pack", Trouble.DIES, after=160_000)
    with pytest.raises(errors.SourceFailed):
        world.fetch(world.near.url)
    come = len(world.arrived())
    shutil.rmtree(world.near.root)
    publish(world.near.root, world.new, backwards=True)
    world.near.plans.clear()
    world.fetch(world.near.url)
    world.assert_complete()
    assert come > 0
    assert len(os.listdir(world.downloads / "files")) == come


# --- power cuts ---------------------------------------------------------------


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_spool_after_a_power_cut(world: World, delta: bool) -> None:
    """The disk has kept garbage of which the journal says nothing, and a torn line."""
    if not delta:
        world.without_delta()
    name = DELTA_NAME if delta else "pack"
    world.near.misbehave(name, Trouble.DIES, after=100_000)
    with pytest.raises(errors.SourceFailed):
        world.fetch(world.near.url)
    part = world.downloads / ("delta.part" if delta else "pack.spool")
    journal = part.with_name(f"{part.name}.have")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:-1])
    spans = [[int(number) for number in line.split()[:2]] for line in lines]
    kept = sum(end - start for start, end in spans[:-1])
    with open(part, "r+b") as file:
        file.seek(spans[-1][0])
        file.write(bytes(spans[-1][1] - spans[-1][0]))
    world.near.plans.clear()
    report = world.fetch(world.near.url)
    world.assert_complete()
    whole = (world.near.root / ("delta/760.pack" if delta else "pack")).stat().st_size
    assert report.received < whole - kept + 20_000
