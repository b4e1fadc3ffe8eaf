"""A build without a manifest of ours: its files serve all the same."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.model.manifest import Entry, Kind, ManifestReader
from olpc_update_query.model.wire import BuildId
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.install import install
from olpc_update_query.perform_update.unknown import trees_to_use
from tests.perform_update import published
from tests.perform_update.builds import Told, encode_manifest
from tests.perform_update.published import make_build
from tests.perform_update.test_user import as_user, give
from tests.perform_update.world import NEW_FILES, World, make_world
from tests.trees import build_tree, every_kind
from tests.walked import walk_tree

NAME = BuildId("760")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Nobody knows what 760 consists of, and a file has moved since."""
    with make_world(tmp_path) as world:
        world.layout.contents(NAME).unlink()
        shell = world.layout.pristine(NAME) / "bin/sh"
        shell.rename(shell.with_name("ash"))
        yield world


def install_into(world: World) -> Path:
    """Install what was fetched; return the new tree."""
    install(
        world.new.order(),
        layout=world.layout,
        downloads=world.downloads,
        work=world.downloads.parents[2] / "installer",
        hooks=world.layout.root / "hooks",
        progress=world.progress,
    )
    return world.layout.pristine(BuildId("762"))


# --- what it is good for ------------------------------------------------------


def test_only_new_contents_are_fetched(world: World) -> None:
    report = world.fetch(world.near.url)
    assert world.missing() <= world.arrived()
    # the kernel, which has grown, and what else is new; not the shell
    new = sum(len(packed) for packed in _packed(world))
    index = (world.near.root / "pack.index.zst").stat().st_size
    assert dict(report.gave)["pack"] < new + 100
    assert dict(report.gave)["manifest"] < len(world.new.manifest) + index
    assert world.fetch(world.near.url).requests == 0


def _packed(world: World) -> Iterator[bytes]:
    for digest, content in published.contents_of(world.new).items():
        if digest in world.missing():
            yield published.packed(content)


@pytest.mark.root
def test_what_has_not_changed_is_linked(world: World) -> None:
    world.fetch(world.near.url)
    old = world.layout.pristine(NAME) / "bin/ash"
    before = old.stat()
    new = install_into(world) / "bin/sh"
    assert new.stat().st_ino == before.st_ino
    assert old.stat().st_mtime_ns == before.st_mtime_ns
    for path, content in NEW_FILES.items():
        assert (new.parents[1] / path).read_bytes() == content


@pytest.mark.root
def test_a_second_update_starts_from_the_first(world: World, tmp_path: Path) -> None:
    world.fetch(world.near.url)
    install_into(world)
    newest = make_build(tmp_path / "newest", "763", {**NEW_FILES, "etc/motd": b"!"})
    shutil.rmtree(world.near.root)
    published.publish(world.near.root, newest, world.new)
    world.new = newest
    world.downloads = world.downloads.with_name(newest.digest)
    world.near.seen.clear()
    world.progress.steps.clear()
    assert world.fetch(world.near.url).source == "delta"
    assert not [step for step in world.progress.steps if "could serve" in step]


# --- the list -----------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A laptop with a build of every kind of path, most of which is wanted."""
    tree = every_kind(tmp_path / "laptop/versions/pristine/760")
    build_tree(tree, {"usr/other": "x" * 7777})
    published.install(tmp_path / "laptop")
    wanted = [one for one in walk_tree(tree) if one.path != b"usr/other"]
    (tmp_path / "wanted").write_bytes(encode_manifest("762", wanted))
    (tmp_path / "area").mkdir()
    return tmp_path


def listed(place: Path) -> list[Entry]:
    """Make the list, and read it as a plan does."""
    layout = Layout.detect(place / "laptop")
    trees = trees_to_use(layout, place / "wanted", place / "area", Told())
    assert [one.tree for one in trees] == [layout.pristine(NAME)]
    with trees[0].contents.open("rb") as file:
        return list(ManifestReader(file))


def expected(place: Path) -> list[Entry]:
    """Return what the publisher says of directories, and of files that could serve."""
    return [
        entry._replace(leader=None, xattrs=entry.xattrs if entry.size else ())
        for entry in walk_tree(place / "laptop/versions/pristine/760")
        if entry.kind is Kind.DIRECTORY
        or (entry.kind is Kind.FILE and entry.size and entry.path != b"usr/other")
    ]


def test_the_list_says_what_a_manifest_says(place: Path) -> None:
    assert listed(place) == expected(place)
    assert len(os.listdir(place / "area")) == 1


def test_a_list_that_is_there_is_not_made_again(place: Path) -> None:
    before = listed(place)
    shutil.rmtree(place / "laptop/versions/pristine/760/name")
    assert listed(place) == before


@pytest.mark.parametrize(
    "tail",
    [b"", b'["old","f",420', bytes(5000), b"\n"],
    ids=["", "cut", "zeros", "line"],
)
def test_it_goes_on_where_it_was_cut(place: Path, tail: bytes) -> None:
    whole = listed(place)
    (made,) = (place / "area").iterdir()
    lines = made.read_bytes().splitlines(keepends=True)[1:]
    made.unlink()
    half = len(lines) // 2
    begun = made.with_name(f"{made.name}.begun")
    begun.write_bytes(b"".join(lines[:half]) + tail)
    read = next(one for one in whole if one.kind is Kind.FILE)
    file = place / "laptop/versions/pristine/760" / os.fsdecode(read.path)
    mode = stat.S_IMODE(file.stat().st_mode)
    file.chmod(0o600)
    file.write_bytes(bytes(read.size))  # so that it would show, were it read again
    file.chmod(mode)
    assert listed(place) == whole
    assert os.listdir(place / "area") == [made.name]


@pytest.mark.root
def test_what_a_user_may_not_read_is_left_out(place: Path) -> None:
    give(place / "area")
    os.chmod(place, 0o755)
    as_user(lambda: listed(place))
    everything = {entry.path for entry in expected(place)}
    with next((place / "area").iterdir()).open("rb") as file:
        found = {entry.path for entry in ManifestReader(file)}
    assert found < everything
    assert {b"etc/private", b"etc/unreadable"} <= everything - found
    assert b"usr/copy" in found


def test_with_a_build_that_is_known_nothing_is_read(
    place: Path, tmp_path: Path
) -> None:
    known = make_build(tmp_path / "known", "761", {"x": b"y"})
    versions = place / "laptop/versions"
    shutil.copytree(known.tree, versions / "pristine/761")
    (versions / "contents").mkdir()
    (versions / "contents/761").write_bytes(known.manifest)
    layout = Layout.detect(place / "laptop")
    trees = trees_to_use(layout, place / "wanted", place / "area", Told())
    assert [one.build for one in trees] == ["761"]
    assert os.listdir(place / "area") == []


def test_a_laptop_without_builds_has_none_to_use(tmp_path: Path) -> None:
    layout = published.install(tmp_path / "laptop")
    assert trees_to_use(layout, tmp_path / "none", tmp_path, Told()) == []
