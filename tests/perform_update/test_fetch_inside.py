"""An initrd that is made of the tree's own modules, instead of being downloaded."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.perform_update.expand import Wishes, expand
from olpc_update_query.perform_update.store import Downloads
from olpc_update_query.perform_update.vault import Vault
from olpc_update_query.system import compressors
from tests.perform_update.published import contents_of, make_build, write_inside
from tests.perform_update.published import publish as publish_by_hand
from tests.perform_update.world import World, make_world
from tests.server.test_takeapart import cpio

pytestmark = pytest.mark.needs("zstd")
MODULES = {f"m{number}.ko": os.urandom(700_000) for number in range(2)}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "cpio").write_bytes(cpio(MODULES))
    words = ["zstd", "-q9c", str(tmp_path / "cpio")]
    initrd = subprocess.run(words, stdout=-1, check=True).stdout
    files = {f"lib/modules/{name}": content for name, content in MODULES.items()}
    with make_world(tmp_path) as world:
        tree = {**files, "boot/initrd": initrd, "other": os.urandom(900_000)}
        world.new = make_build(tmp_path / "with initrd", "762", tree)
        directory = tmp_path / "published with initrd"
        publish_by_hand(directory, world.new)
        assert write_inside(directory) == 1
        world.near.root = directory
        yield world


def made(world: World, tmp_path: Path) -> set[bytes]:
    """Expand what was fetched as the installer does, and return what came of it."""
    sizes = {digest: len(content) for digest, content in contents_of(world.new).items()}
    with (
        Downloads(world.downloads) as downloads,
        Vault(tmp_path / "vault") as vault,
    ):
        wishes = Wishes(sizes.get, lambda _: None, (), 100)
        assert expand(downloads, vault, wishes).bad == set()
    return {bytes.fromhex(name) for name in os.listdir(tmp_path / "vault")}


def test_it_is_made_and_not_fetched(world: World, tmp_path: Path) -> None:
    report = world.fetch(world.near.url)
    assert "inside.pack" in world.near.names()
    assert report.received < 2_600_000, "all but the initrd"
    assert world.missing() <= made(world, tmp_path)


def test_it_is_fetched_where_zstd_is_of_another_release(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressors, "zstd_version", lambda: 10000)
    report = world.fetch(world.near.url)
    assert report.received > 3_600_000
    assert world.missing() <= made(world, tmp_path)


def test_it_is_fetched_when_it_did_not_come_out_right(
    world: World, tmp_path: Path
) -> None:
    world.fetch(world.near.url)
    initrd = (world.new.tree / "boot/initrd").read_bytes()
    wanted = hashlib.sha256(initrd).digest()
    world.near.seen.clear()
    report = world.fetch(world.near.url, wanted={wanted})
    assert len(initrd) < report.received < len(initrd) + 10_000
    assert wanted in made(world, tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"cut"])
def test_a_damaged_description_costs_nothing_else(
    world: World, tmp_path: Path, content: bytes
) -> None:
    path = world.near.root / "inside.pack"
    path.write_bytes(path.read_bytes()[:-50] if content == b"cut" else content)
    world.fetch(world.near.url)
    assert world.missing() <= made(world, tmp_path)
