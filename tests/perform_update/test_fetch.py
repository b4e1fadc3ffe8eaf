"""Fetching from web servers and sticks, and saying why when it fails."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.wire import BuildId
from olpc_update_query.perform_update.fetch import FetchReport, fetch
from olpc_update_query.perform_update.sources import spool as spool_module
from olpc_update_query.system import files, privilege
from olpc_update_query.system.http import HttpTransport
from tests.http_server import Trouble, unused_port
from tests.perform_update.published import (
    contents_of,
    install,
    make_build,
    publish,
)
from tests.perform_update.world import (
    DELTA_NAME,
    OLD_FILES,
    World,
    make_world,
    shell,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as world:
        yield world


# --- one source that works ----------------------------------------------------


def test_delta_is_one_request(world: World) -> None:
    report = world.fetch()
    world.assert_complete()
    size = (world.near.root / "delta" / DELTA_NAME).stat().st_size
    assert world.near.names() == [DELTA_NAME]
    assert not world.far.seen
    assert report.requests == 1
    assert size < report.received < size + 300
    assert report.sent < 250
    assert report.source == "delta"
    assert report.gave == (("delta", size),)
    assert world.progress.counts[-1] == (size, size)


def test_nothing_is_asked_for_when_all_is_there(world: World) -> None:
    world.fetch()
    world.near.seen.clear()
    assert world.fetch() == FetchReport()
    assert not world.near.seen


def test_without_delta_ranges_of_the_pack(world: World) -> None:
    world.without_delta()
    report = world.fetch()
    world.assert_complete()
    assert world.near.names()[:3] == [DELTA_NAME, "contents.zst", "pack.index.zst"]
    assert set(world.near.names()[3:]) == {"pack"}
    assert report.source == "manifest+pack"
    whole = (world.near.root / "pack").stat().st_size
    assert dict(report.gave)["pack"] < whole


def test_files_that_are_not_compressed_will_do(world: World) -> None:
    world.without_delta()
    for name in ("contents.zst", "pack.index.zst"):
        (world.near.root / name).unlink()
    world.fetch(world.near.url)
    world.assert_complete()


def test_other_installed_builds_may_be_the_base(world: World, tmp_path: Path) -> None:
    running = make_build(tmp_path / "running", "761", {"x": b"unlike any other"})
    world.layout = install(tmp_path / "two", running, world.old)
    world.fetch(world.near.url)
    world.assert_complete()
    assert world.near.names() == ["761.pack", DELTA_NAME]


def test_first_installation_takes_the_whole_pack(world: World, tmp_path: Path) -> None:
    world.layout = install(tmp_path / "empty")
    world.fetch(world.near.url)
    assert set(contents_of(world.new)) <= world.arrived()
    assert world.near.names() == ["contents.zst", "pack.index.zst", "pack"]


@pytest.mark.parametrize(
    "manifest", [None, b"", b"\x00\x1fan old one"], ids=["none", "empty", "of old"]
)
def test_a_build_whose_files_are_not_known_is_told(
    world: World, manifest: bytes | None
) -> None:
    contents = world.layout.contents(BuildId("760"))
    contents.unlink()
    if manifest is not None:
        contents.write_bytes(manifest)
    world.fetch()
    told = [step for step in world.progress.steps if "build 760" in step]
    assert str(contents) in told[0]
    assert len(told) == 1


def test_nothing_is_told_of_builds_that_are_known(world: World) -> None:
    world.fetch()
    assert not [step for step in world.progress.steps if "could serve" in step]


def test_build_with_the_same_contents_costs_only_its_manifest(
    world: World, tmp_path: Path
) -> None:
    again = make_build(tmp_path / "again", "763", OLD_FILES)
    shutil.rmtree(world.near.root)
    publish(world.near.root, again, world.old)
    world.new, world.downloads = again, world.downloads.with_name(again.digest)
    world.fetch(world.near.url)
    assert os.listdir(world.downloads / "files") == []
    assert sorted(os.listdir(world.downloads)) == ["contents", "files"]
    assert world.fetch(world.near.url) == FetchReport()


def test_a_stick_is_read_without_any_network(world: World) -> None:
    report = world.fetch(f"file://{world.near.root}/")
    world.assert_complete()
    assert (report.received, report.sent, report.requests) == (0, 0, 0)
    assert report.source == "delta"


def test_a_path_is_as_good_as_a_file_url(world: World) -> None:
    world.without_delta()
    world.fetch(str(world.near.root))
    world.assert_complete()


# --- ranges -------------------------------------------------------------------


def test_many_scattered_contents_take_few_requests(
    world: World, tmp_path: Path
) -> None:
    """Even of a server that gives only one range at a time."""
    contents = {f"f{n:03}": os.urandom(20_000) for n in range(120)}
    changed = {n: (b"new" + c if int(n[1:]) % 2 else c) for n, c in contents.items()}
    world.old = make_build(tmp_path / "old2", "770", contents)
    world.new = make_build(tmp_path / "new2", "772", changed)
    world.layout = install(tmp_path / "laptop2", world.old)
    world.downloads = world.downloads.with_name(world.new.digest)
    shutil.rmtree(world.near.root)
    publish(world.near.root, world.new)
    world.near.misbehave("pack", Trouble.RANGES_FORBIDDEN)
    report = world.fetch(world.near.url)
    world.assert_complete()
    assert 46 <= world.near.names().count("pack") <= 52
    assert report.requests <= 60
    assert dict(report.gave)["pack"] < 120 * 20_100 - 40 * 20_000


def test_what_was_passed_by_is_fetched_later(world: World) -> None:
    """A content from before the spool's end becomes needed in a later run."""
    world.without_delta()
    world.fetch(world.near.url)
    (world.layout.pristine(world.layout.installed()[0].build) / "bin/sh").unlink()
    world.fetch(world.near.url)
    assert shell() in world.arrived()
    world.assert_complete()


# --- what may not be seen -----------------------------------------------------


@pytest.mark.root
def test_files_that_the_asker_may_not_see_are_taken_to_be_there(
    world: World,
) -> None:
    """Otherwise each update would fetch what lies in /root once more."""
    tree = world.layout.installed()[0].tree
    os.chmod(tree / "boot", 0o700)
    world.downloads.mkdir(parents=True)
    world.downloads.chmod(0o777)
    for path in world.downloads.parents:
        if "pytest-of" in str(path):
            path.chmod(0o755)

    def as_nobody() -> int:
        world.fetch(world.near.url)
        return 0

    assert privilege.run_as(("nobody",), as_nobody) == 0
    assert world.near.names() == [DELTA_NAME]
    world.assert_complete()


# --- when nothing helps -------------------------------------------------------


def test_no_source_has_the_build(world: World) -> None:
    for site in (world.near, world.far):
        site.misbehave("*", Trouble.LOST)
    with pytest.raises(errors.BuildNotFound) as caught:
        world.fetch()
    assert str(caught.value).count(": 404 Not Found") == 2


def test_order_without_sources(world: World) -> None:
    world.near.close()
    order = world.new.order()
    with pytest.raises(errors.BuildNotFound, match="names no source"):
        fetch(
            order,
            layout=world.layout,
            downloads=world.downloads,
            transport=HttpTransport("test/1"),
            progress=world.progress,
            clock=world.clock,
        )


def test_portal_in_front_of_all(world: World) -> None:
    for site in (world.near, world.far):
        site.misbehave("*", Trouble.HTML)
    with pytest.raises(errors.NoAnswer, match="a web page came"):
        world.fetch()


def test_each_source_is_named_with_its_reason(world: World) -> None:
    dead = f"http://127.0.0.1:{unused_port()}/x"
    world.near.misbehave("*", Trouble.LOST)
    world.far.misbehave("*", Trouble.ERROR)
    with pytest.raises(errors.SourceFailed) as caught:
        world.fetch(dead, world.near.url, world.far.url, "ftp://x.test/")
    text = str(caught.value)
    for words in ("build 762", dead, "Connection refused", "404", "503", "ftp://"):
        assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("delta", [True, False], ids=["delta", "full pack"])
def test_no_space_is_said_before_the_download(
    world: World, monkeypatch: pytest.MonkeyPatch, delta: bool
) -> None:
    if not delta:
        world.without_delta()
    monkeypatch.setattr(spool_module, "free_bytes", lambda _: 1024 * 1024 + 100_000)
    with pytest.raises(errors.NoSpace) as caught:
        world.fetch(world.near.url)
    assert caught.value.needed > 1024 * 1024 + 100_000
    spools = [world.downloads / "delta.part", world.downloads / "pack.spool"]
    assert all(not path.exists() or path.stat().st_size < 70_000 for path in spools)


def test_full_disk_in_mid_download_keeps_what_has_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    real = files.write_all

    def write(descriptor: int, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, data)

    monkeypatch.setattr(spool_module, "write_all", write)
    with pytest.raises(errors.NoSpace):
        world.fetch()
    monkeypatch.setattr(spool_module, "write_all", real)
    report = world.fetch()
    world.assert_complete()
    size = (world.near.root / "delta" / DELTA_NAME).stat().st_size
    assert report.received < size - 50_000


# --- the disk -----------------------------------------------------------------


def test_at_most_64_kib_are_not_on_the_disk_yet(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag, most = 0, 0
    real_sync, real_write = os.fdatasync, files.write_all

    def sync(descriptor: int) -> None:
        nonlocal lag
        lag = 0
        real_sync(descriptor)

    def write(descriptor: int, data: bytes) -> None:
        nonlocal lag, most
        lag += len(data)
        most = max(most, lag)
        real_write(descriptor, data)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(spool_module, "write_all", write)
    world.fetch()
    assert 0 < most <= 64 * 1024 + 16 * 1024


def test_planted_link_is_not_written_through(world: World, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    world.downloads.mkdir(parents=True)
    (world.downloads / "delta.part").symlink_to(precious)
    with pytest.raises(errors.TreeError):
        world.fetch()
    assert precious.read_text() == "precious"
