"""Disks that are too small: what is deleted, what is refused, and when."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.errors import NoSpace
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update import making
from olpc_update_query.perform_update.install import Installed
from olpc_update_query.perform_update.stage import stage
from tests.laptop import add_build, boots, boots_alternate, make_laptop
from tests.perform_update.builds import Build, Told, make_build, put_delta
from tests.perform_update.conftest import BIG, NEW_TREE, OLD_TREE, Laptop
from tests.trees import Spec, build_tree, difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.needs("e2fsprogs")]

MB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB with few inodes to spare."""
    image, where = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(24 * MB)
    subprocess.run(["mkfs.ext4", "-q", "-N", "600", "-m", "0", image], check=True)
    where.mkdir()
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.fixture
def laptop(disk: Path, old: Build, partitioned: bool) -> Laptop:
    root = make_laptop(
        disk, old.name, old.tree, partitioned=partitioned, contents=old.contents
    )
    return Laptop(root, old, Told())


def free(laptop: Laptop) -> int:
    os.sync()
    room = os.statvfs(laptop.root)
    return room.f_bavail * room.f_frsize


def fill(laptop: Laptop, leave: int) -> None:
    with (laptop.root / "home/olpc/music").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(laptop) - leave)


def add(laptop: Laptop, name: str, size: int) -> BuildId:
    spec: Spec = {"boot/k": name, "big": os.urandom(size)}
    build = make_build(name, build_tree(laptop.root.parent / name, spec))
    add_build(laptop.root, name, build.tree, contents=build.contents)
    return build.name


def left(laptop: Laptop) -> set[str]:
    return set(os.listdir(laptop.root / "versions/pristine"))


def big_build(laptop: Laptop, size: int) -> Build:
    spec: Spec = {**NEW_TREE, "big": os.urandom(size)}
    return make_build("763", build_tree(laptop.root.parent / "763", spec))


def test_what_cannot_fit_is_refused_before_anything_is_written(
    laptop: Laptop, new: Build
) -> None:
    before = snapshot(laptop.root / "versions/pristine")
    put_delta(laptop.downloads(new), laptop.old, new)
    fill(laptop, leave=MB)
    room = free(laptop)
    with pytest.raises(NoSpace) as caught:
        laptop.install(new)
    assert caught.value.needed > caught.value.free > 0
    assert "bytes needed" in str(caught.value)
    assert not list((laptop.work / "stage").iterdir())
    assert room - free(laptop) < MB // 4
    assert not difference(before, snapshot(laptop.root / "versions/pristine"))
    assert boots(laptop.root) == "760"


def test_builds_go_in_their_order_and_no_more_than_needed(laptop: Laptop) -> None:
    kept = add(laptop, "750", 2 * MB)
    laptop.layout.set_sticky(kept)
    add(laptop, "751", 2 * MB)
    add(laptop, "752", 2 * MB)
    new = big_build(laptop, 3 * MB)
    put_delta(laptop.downloads(new), laptop.old, new)
    fill(laptop, leave=4 * MB)
    laptop.install(new)
    assert left(laptop) == {"750", "752", "760", "763"}
    assert boots(laptop.root) == "763"
    assert boots_alternate(laptop.root) == "760"


def test_the_old_alternate_goes_last(laptop: Laptop) -> None:
    alternate = add(laptop, "750", 2 * MB)
    laptop.layout.activate(laptop.old.name, alternate)
    add(laptop, "751", 2 * MB)
    new = big_build(laptop, 3 * MB)
    put_delta(laptop.downloads(new), laptop.old, new)
    fill(laptop, leave=3 * MB // 2)
    laptop.install(new)
    assert left(laptop) == {"760", "763"}
    assert boots_alternate(laptop.root) == "760"


def test_neither_the_running_build_nor_a_sticky_one_goes(laptop: Laptop) -> None:
    laptop.layout.set_sticky(add(laptop, "750", 2 * MB))
    new = big_build(laptop, 3 * MB)
    put_delta(laptop.downloads(new), laptop.old, new)
    fill(laptop, leave=2 * MB)
    with pytest.raises(NoSpace):
        laptop.install(new)
    assert left(laptop) == {"750", "760"}


def test_downloads_for_other_builds_go_first(laptop: Laptop) -> None:
    add(laptop, "751", 2 * MB)
    new = big_build(laptop, 3 * MB)
    put_delta(laptop.downloads(new), laptop.old, new)
    other = laptop.downloads(new).with_name("0" * 64)
    other.mkdir()
    (other / "pack.spool").write_bytes(os.urandom(3 * MB))
    fill(laptop, leave=3 * MB)
    laptop.install(new)
    assert not other.exists()
    assert "751" in left(laptop)


def test_too_few_inodes_are_no_space(laptop: Laptop, tmp_path: Path) -> None:
    spec: Spec = {**NEW_TREE, **{f"many/{n}": f"{n}" for n in range(700)}}
    new = make_build("763", build_tree(tmp_path / "763", spec))
    put_delta(laptop.downloads(new), laptop.old, new)
    with pytest.raises(NoSpace):
        laptop.install(new)
    assert boots(laptop.root) == "760"


def test_a_disk_that_fills_up_meanwhile(
    laptop: Laptop, new: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else takes the room between the forecast and the writing."""
    before = snapshot(laptop.root / "versions/pristine")
    put_delta(laptop.downloads(new), laptop.old, new)

    def late(*arguments: object) -> object:
        fill(laptop, leave=0)
        return stage(*arguments)  # type: ignore[arg-type] # passed on

    monkeypatch.setattr(making, "stage", late)
    with pytest.raises(NoSpace):
        laptop.install(new)
    assert boots(laptop.root) == "760"
    assert not difference(before, snapshot(laptop.root / "versions/pristine"))
    monkeypatch.undo()
    (laptop.root / "home/olpc/music").unlink()
    assert isinstance(laptop.install(new), Installed)
    assert boots(laptop.root) == "762"


@pytest.mark.parametrize(
    "partitioned", [pytest.param(True, id="partitioned")], indirect=True
)
def test_a_small_boot_partition(laptop: Laptop, tmp_path: Path) -> None:
    bootpart = laptop.root / "bootpart"
    spare = tmp_path / "spare"
    subprocess.run(["cp", "-a", bootpart, spare], check=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", bootpart], check=True
    )
    try:
        subprocess.run(["cp", "-a", f"{spare}/.", bootpart], check=True)
        spec: Spec = {**OLD_TREE, "boot/vmlinuz": BIG * 6}
        new = make_build("763", build_tree(tmp_path / "763", spec))
        put_delta(laptop.downloads(new), laptop.old, new)
        with pytest.raises(NoSpace, match="bootpart"):
            laptop.install(new)
        assert boots(laptop.root) == "760"
        assert left(laptop) == {"760"}
    finally:
        subprocess.run(["umount", bootpart], check=True)
