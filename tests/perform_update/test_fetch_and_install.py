"""Fetch and install take turns until the tree is right, whatever was damaged."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.perform_update import perform_update
from olpc_update_query.perform_update.fetch import FetchReport
from olpc_update_query.perform_update.install import Installed, install
from tests.http_server import Trouble, serve
from tests.perform_update import published
from tests.perform_update.published import TIME, make_build, publish
from tests.perform_update.world import (
    DELTA_NAME,
    KERNEL,
    NEW_FILES,
    OLD_FILES,
    World,
)

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    old = make_build(tmp_path / "old", "760", {**OLD_FILES, "etc/passwd": b""})
    new = make_build(tmp_path / "new", "762", {**NEW_FILES, "etc/passwd": b""})
    layout = published.install(tmp_path / "laptop", old)
    near = publish(tmp_path / "near", new, old)
    shutil.copytree(near, tmp_path / "far")
    downloads = layout.root / "versions/updates/olpc-update-query/asker/downloads/x"
    with serve(near) as one, serve(tmp_path / "far") as two:
        yield World(old, new, layout, one, two, downloads)


def update(world: World) -> tuple[Installed, list[FetchReport]]:
    """Do what a run does; return how it went."""
    work = world.downloads.parents[2] / "installer"
    reports: list[FetchReport] = []

    def fetch() -> None:
        note = work / "wanted"
        lines = note.read_text().split() if note.exists() else []
        reports.append(world.fetch(wanted=[bytes.fromhex(line) for line in lines]))

    def run() -> Installed:
        return install(
            world.new.order(),
            layout=world.layout,
            downloads=world.downloads,
            work=work,
            hooks=world.layout.root / "hooks",
            progress=world.progress,
        )

    return perform_update(fetch, run), reports


def assert_installed(world: World) -> None:
    tree = world.layout.root / "versions/pristine/762"
    for path, content in NEW_FILES.items():
        assert (tree / path).read_bytes() == content
    assert world.layout.current() == "762"


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_one_round(world: World, delta: bool) -> None:
    if not delta:
        world.without_delta()
    installed, reports = update(world)
    assert_installed(world)
    assert len(reports) == 1
    assert installed.build == "762"
    assert world.far.names() == ([] if delta else [DELTA_NAME])  # it might have one


@pytest.mark.parametrize("path", ["bin/sh", "boot/vmlinuz"], ids=["linked", "base"])
def test_damaged_installed_file_is_fetched(world: World, path: str) -> None:
    """It has the size and the time that it should, but other bytes."""
    damaged = world.layout.root / "versions/pristine/760" / path
    damaged.write_bytes(OLD_FILES[path][::-1])
    os.utime(damaged, (TIME, TIME))
    _, reports = update(world)
    assert_installed(world)
    assert len(reports) == 2
    assert reports[1].source == "manifest+pack"


@pytest.mark.parametrize("name", [DELTA_NAME, "pack"])
def test_source_that_lies_about_contents_is_left(world: World, name: str) -> None:
    if name == "pack":
        world.without_delta()
    world.near.misbehave(name, Trouble.WRONG_BYTES, after=len(KERNEL) // 2)
    world.near.misbehave("pack", Trouble.WRONG_BYTES)
    update(world)
    assert_installed(world)
    assert "pack" in world.far.names()


def test_sources_that_all_lie_end_in_an_error(world: World) -> None:
    world.without_delta()
    for site in (world.near, world.far):
        site.misbehave("pack", Trouble.WRONG_BYTES)
    with pytest.raises(errors.UpdateError):
        update(world)
    assert world.layout.current() == "760"
