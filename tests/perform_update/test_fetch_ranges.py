"""Small contents all over a full pack: many ranges in one request, or another way."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.perform_update.sources.mirrors import RANGES
from tests.http_server import Trouble
from tests.perform_update.published import install, make_build, publish
from tests.perform_update.test_fetch_lies import spoil_pack
from tests.perform_update.world import World, make_world

FILES = 300
EVERY = 2  # files, one changes: too many, and too close, for a request each
_random = random.Random(760)
OLD = {f"f{number:03}": _random.randbytes(900) for number in range(FILES)}
NEW = {
    name: b"new" + content if number % EVERY == 0 else content
    for number, (name, content) in enumerate(OLD.items())
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as world:
        world.old = make_build(tmp_path / "before", "770", OLD)
        world.new = make_build(tmp_path / "after", "772", NEW)
        world.layout = install(tmp_path / "school laptop", world.old)
        world.downloads = world.downloads.with_name(world.new.digest)
        for site in (world.near, world.far):
            shutil.rmtree(site.root)
            publish(site.root, world.new)
        yield world


def size_of_missing(world: World) -> int:
    return len(world.missing()) * 920


def asked(world: World) -> list[int]:
    """Return how many ranges of the pack each request was for."""
    return [
        seen.headers["Range"].count(",") + 1
        for seen in world.near.seen
        if seen.name == "pack"
    ]


def test_many_ranges_are_one_request(world: World) -> None:
    report = world.fetch(world.near.url)
    world.assert_complete()
    assert asked(world) == [RANGES, 150 - RANGES]
    assert dict(report.gave)["pack"] < size_of_missing(world)
    # what is around a range is less than what is between two
    other = sum(
        (world.near.root / f"{name}.zst").stat().st_size
        for name in ("contents", "pack.index")
    )
    assert report.received - other < size_of_missing(world) + 150 * 160 + 4096
    ports = {seen.port for seen in world.near.seen if seen.name == "pack"}
    assert len(ports) == 1, "the connection is used again"


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble.FIRST_RANGE,
        Trouble.RANGES_FORBIDDEN,
        Trouble.RANGES_IGNORED,
        Trouble.RANGES_JOINED,
        Trouble.RANGES_REVERSED,
        Trouble.RANGES_UNMET,
    ],
    ids=str,
)
def test_a_server_that_gives_no_ranges_is_asked_for_one(
    world: World, trouble: Trouble
) -> None:
    world.near.misbehave("pack", trouble)
    report = world.fetch(world.near.url)
    world.assert_complete()
    ranges = asked(world)
    assert ranges[0] == RANGES
    assert set(ranges[1:]) == {1}, "it is remembered"
    assert len(ranges) <= 3
    assert dict(report.gave)["pack"] < size_of_missing(world)
    # the old way, and no more of what nobody wanted than a connection holds
    assert report.received < (world.near.root / "pack").stat().st_size + 300_000


def test_a_server_that_gives_few_ranges_is_asked_for_few(world: World) -> None:
    world.near.misbehave("pack", Trouble.FEW_RANGES)
    report = world.fetch(world.near.url)
    world.assert_complete()
    assert asked(world) == [RANGES, *[3] * 49]
    assert dict(report.gave)["pack"] < size_of_missing(world)


@pytest.mark.parametrize("after", [0, 40, 20_000, 60_000])
def test_a_cut_among_ranges_costs_what_was_not_on_the_disk(
    world: World, after: int
) -> None:
    world.near.misbehave("pack", Trouble.TRUNCATE, after=after, times=1)
    whole = world.fetch(world.near.url).received
    world.assert_complete()
    cut = asked(world)
    world.reset()
    assert whole - world.fetch(world.near.url).received < 4096
    assert set(cut[1:]) <= set(range(2, RANGES + 1)), "it goes on with ranges"


def test_the_next_run_goes_on_among_the_ranges(world: World) -> None:
    world.near.misbehave("pack", Trouble.DIES, after=50_000)
    first = world.fetch(world.near.url, world.far.url)
    world.assert_complete()
    begun = [s.headers["Range"] for s in world.far.seen if s.name == "pack"]
    again = int(begun[0].removeprefix("bytes=").partition("-")[0])
    assert again > 40_000
    assert dict(first.gave)["pack"] < size_of_missing(world)


def test_lies_in_ranges_are_found_and_fetched_elsewhere(world: World) -> None:
    spoil_pack(world.near)
    world.fetch()
    lost = world.missing() - world.arrived()
    assert lost
    world.fetch(wanted=lost)
    world.assert_complete()
    assert [seen for seen in world.far.seen if seen.name == "pack"]


def test_ranges_that_are_mixed_up_are_noticed_at_once(world: World) -> None:
    world.near.misbehave("pack", Trouble.RANGES_MIXED)
    world.fetch()
    world.assert_complete()
    assert [seen for seen in world.far.seen if seen.name == "pack"]


def test_a_pack_that_was_made_anew_is_noticed_among_ranges(world: World) -> None:
    """It is as long as before, and the next range begins where nothing has come."""
    world.near.misbehave("pack", Trouble.DIES, after=50_000)
    with pytest.raises(errors.SourceFailed):
        world.fetch(world.near.url)
    shutil.rmtree(world.near.root)
    publish(world.near.root, world.new, backwards=True)
    world.near.plans.clear()
    world.near.seen.clear()
    world.fetch(world.near.url)
    world.assert_complete()
    assert "pack.index.zst" in world.near.names()
