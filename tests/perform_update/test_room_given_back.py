"""What was fetched gives its room back while the tree is made of it."""

import errno
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.perform_update import expand, store
from olpc_update_query.perform_update.hooks import run_hooks
from olpc_update_query.perform_update.plan import Plan
from olpc_update_query.perform_update.stage import Staged, stage
from olpc_update_query.perform_update.vault import Vault
from tests.http_server import serve
from tests.perform_update import published
from tests.perform_update.published import make_build, publish
from tests.perform_update.test_fetch_and_install import update
from tests.perform_update.test_fetch_lies import spoil_pack
from tests.perform_update.world import World

pytestmark = pytest.mark.root

STEP = 64 << 10
_random = random.Random(9)
FILES = {f"lib/{number}": _random.randbytes(30_000) for number in range(40)}
SIZE = 40 * 30_000


class PowerCutError(Exception):
    """The laptop goes off."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(expand, "_RELEASED", STEP)
    old = make_build(tmp_path / "old", "760", {"etc/motd": b"old"})
    new = make_build(tmp_path / "new", "762", {**FILES, "etc/motd": b"new"})
    layout = published.install(tmp_path / "laptop", old)
    near = publish(tmp_path / "near", new, old)
    shutil.copytree(near, tmp_path / "far")
    downloads = layout.root / "versions/updates/olpc-update-query/asker/downloads/x"
    with serve(near) as one, serve(tmp_path / "far") as two:
        yield World(old, new, layout, one, two, downloads)


def held(world: World) -> int:
    """Return the bytes of disk that what was fetched takes."""
    found = (path.stat() for path in world.downloads.rglob("*") if path.is_file())
    return sum({facts.st_ino: facts.st_blocks * 512 for facts in found}.values())


def asked(world: World) -> list[str]:
    return world.near.names()


@pytest.fixture
def cut(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Cut the power once, when all contents are made; tell what was held then."""
    seen: list[int] = []

    def once(plan: Plan, vault: Vault, target: Path) -> Staged:
        if seen:
            return stage(plan, vault, target)
        seen.append(held(world))
        raise PowerCutError

    monkeypatch.setattr("olpc_update_query.perform_update.making.stage", once)
    return seen


def assert_installed(world: World) -> None:
    tree = world.layout.root / "versions/pristine/762"
    for path, content in FILES.items():
        assert (tree / path).read_bytes() == content
    assert world.layout.current() == "762"
    assert not [path for path in world.downloads.rglob("*") if path.is_file()]


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_little_is_held_when_all_is_made(
    world: World, cut: list[int], delta: bool
) -> None:
    if not delta:
        world.without_delta()
    with pytest.raises(PowerCutError):
        update(world)
    assert cut[0] < SIZE / 4, "of what came whole and incompressible"
    world.near.seen.clear()
    _, reports = update(world)
    assert_installed(world)
    assert asked(world) == [], "what is safe is not fetched again"
    assert len(reports) == 1


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_what_was_safe_is_lost(world: World, cut: list[int], delta: bool) -> None:
    """The disk forgets: then it is fetched again, and only that."""
    if not delta:
        world.without_delta()
    with pytest.raises(PowerCutError):
        update(world)
    safe = sorted((world.downloads.parents[2] / "installer/store").glob("?" * 64))
    assert len(safe) == 41
    for path in safe[:5]:
        path.write_bytes(bytes(path.stat().st_size))
    received = update(world)[1][-1].received
    assert_installed(world)
    assert 4 * 30_000 < received < 9 * 30_000


def test_a_lie_costs_no_more_than_itself(world: World) -> None:
    """Others of its pack that are safe, and whose room is given back, stay."""
    world.without_delta()
    data = bytearray((world.near.root / "pack").read_bytes())
    spoil_pack(world.near)
    spoilt = (world.near.root / "pack").read_bytes()
    data[-40_000:] = spoilt[-40_000:]
    (world.near.root / "pack").write_bytes(data)
    _, reports = update(world)
    assert_installed(world)
    assert len(reports) == 2
    assert reports[1].received < 4 * 30_000


def test_a_file_system_without_holes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(descriptor: int, start: int, end: int) -> None:
        asked.append(start)
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(store, "punch_hole", refuse)
    update(world)
    assert_installed(world)
    assert len(asked) == 1, "it is not asked again"


def test_nobody_elses_file_gets_holes(world: World, cut: list[int]) -> None:
    """The asker may have put another name of some file there."""
    world.fetch()
    victim = world.layout.root / "victim"
    os.link(world.downloads / "delta", victim)
    before = victim.read_bytes()
    with pytest.raises(PowerCutError):
        update(world)
    assert victim.read_bytes() == before


def test_nothing_is_held_when_the_site_s_hooks_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def look(*words: object) -> None:
        seen.append(held(world))
        run_hooks(*words)  # type: ignore[arg-type] # just those
        raise errors.HookFailed("no")

    monkeypatch.setattr("olpc_update_query.perform_update.install.run_hooks", look)
    with pytest.raises(errors.HookFailed):
        update(world)
    manifest = len(world.new.manifest)
    assert seen[0] <= manifest + 4096
    monkeypatch.undo()
    world.near.seen.clear()
    update(world)
    assert_installed(world)
    assert asked(world) == []
