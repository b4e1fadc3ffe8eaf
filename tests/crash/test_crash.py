"""A sample of `make crash`; docs/crash-safety.md says what is swept and assumed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.block import prove
from tests.crash.faults import SHORT, sabotage
from tests.crash.kills import Shooter
from tests.crash.scenes import Scene, Stage
from tests.crash.server import CHORES, sweep_chore
from tests.crash.sweep import Bounds, scratch, sweep

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("strace"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]
SHARES = {
    "poll_and_install": 40,
    "from_original": 40,
    "lease_only": 4,
    "by_hand": 40,
    "by_stick": 40,
    "confirm": 2,
    "failed_trial": 5,
    "rollback": 3,
    "purge": 6,
    "repair": 40,
    "stolen": 4,
}


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as found:
        yield found


@pytest.mark.parametrize("number", range(len(SHARES)), ids=list(SHARES))
def test_a_sample_of_cuts(place: Path, number: int) -> None:
    """One of so many states of each scene, on every other kind of disk."""
    name, share = list(SHARES.items())[number]
    stage = Stage(place, partitioned=number % 2 == 0)
    with stage.scene(name) as scene:
        found = sweep(scene, Bounds(most=10, share=share))
    print(f"{scene.name}: {found.states} states")  # noqa: T201 - pytest -rP shows it
    assert found.failures == []
    assert found.states >= 10, "the sample is too small to find anything"


def test_without_syncs_it_would_fail(place: Path) -> None:
    """The control: the same program, as if no sync had done anything."""
    stage = Stage(place, partitioned=False)
    with stage.poll_and_install() as scene:
        found = sweep(scene, Bounds(most=8, share=5, synced=False, stop=3))
    assert any("power cut" in line for line in found.failures)
    assert not any("killed" in line for line in found.failures), "syncs do not matter"


CHORE_SHARES = {"rotate": 12, "statement": 6, "publish": 16, "poll": 80}


@pytest.mark.parametrize("name", CHORE_SHARES)
def test_a_sample_of_cuts_of_the_server(place: Path, name: str) -> None:
    chore = next(one for one in CHORES if one.name == name)
    found = sweep_chore(chore, place, Bounds(most=9, share=CHORE_SHARES[name]))
    print(f"{name}: {found.states} states")  # noqa: T201 - pytest -rP shows it
    assert found.failures == []
    assert found.states >= 5, "the sample is too small to find anything"


def test_without_syncs_the_server_would_fail(place: Path) -> None:
    chore = next(one for one in CHORES if one.name == "poll")
    found = sweep_chore(chore, place, Bounds(most=4, share=30, synced=False, stop=1))
    assert any("power cut" in line for line in found.failures)


def shooter(place: Path, scene: Scene) -> Shooter:
    shots = place / "shots"
    shots.mkdir(mode=0o755)
    return Shooter(scene, shots)


@pytest.mark.needs("e2fsprogs", "fuse3")
def test_cuts_below_the_file_system(place: Path) -> None:
    """Some of them; the control, a disk that ignores flushes, is in `make crash`."""
    pytest.importorskip("mfusepy")
    found = prove(place, stride=60)
    assert found.flushes > 50
    assert found.states >= 8
    assert found.failures == []


def test_real_kills_leave_what_the_replay_says(place: Path) -> None:
    with Stage(place, partitioned=True).poll_and_install() as scene:
        hits = list(shooter(place, scene).kills(stride=150))
    assert len(hits) > 10
    assert [hit for hit in hits if hit.wrong] == []


def test_refused_calls_and_short_writes(place: Path) -> None:
    shots = place / "shots"
    shots.mkdir(mode=0o755)
    with Stage(place, partitioned=True).poll_and_install() as scene:
        seen = list(sabotage(scene, shots, 90))
    print(f"{len(seen)} calls refused")  # noqa: T201 - pytest -rP shows it
    assert [one for one in seen if one.wrong] == []
    assert SHORT in {one.fault.call for one in seen}
    assert len({one.fault.error for one in seen}) > 4, "some errors were not tried"
