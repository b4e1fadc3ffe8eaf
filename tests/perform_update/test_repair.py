"""An installed build that was damaged is made whole, and nothing else is touched."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query.errors import Incomplete, NotInstalled, TreeError
from olpc_update_query.perform_update.differences import Aspect
from olpc_update_query.perform_update.repair import (
    Repaired,
    look,
    note_damage,
    repair,
)
from tests.laptop import add_build, boots
from tests.perform_update.builds import Build, make_build, put_full_pack
from tests.perform_update.conftest import Laptop, LaptopMaker
from tests.trees import (
    Dir,
    Hard,
    Link,
    Spec,
    build_tree,
    difference,
    every_kind,
    snapshot,
)

SPEC: Spec = {
    "a": "first words",
    "b": Hard("a"),
    "boot/k": "kernel",
    "dir/inner/file": "deep",
    "dir/other": "other",
    "empty/": Dir(),
    "etc/void": "",
    "large": b"l" * 300_000,
    "link": Link("a"),
    "z": Hard("a"),
}


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return make_build("760", build_tree(tmp_path / "tree", SPEC))


@pytest.fixture
def laptop(make: LaptopMaker, build: Build) -> Laptop:
    return make(build)


def mend(laptop: Laptop) -> Repaired:
    return repair(
        laptop.old.order,
        layout=laptop.layout,
        downloads=laptop.downloads(laptop.old),
        work=laptop.work,
        progress=laptop.told,
    )


def mend_with_fetch(laptop: Laptop) -> tuple[Repaired, set[bytes]]:
    """Mend; return also the digests that had to be fetched."""
    try:
        return mend(laptop), set()
    except Incomplete:
        lines = (laptop.work / "wanted").read_text().split()
        wanted = {bytes.fromhex(line) for line in lines}
        put_full_pack(laptop.downloads(laptop.old), laptop.old, fetched=wanted)
        return mend(laptop), wanted


def tree(laptop: Laptop) -> Path:
    return laptop.layout.pristine(laptop.old.name)


def run(laptop: Laptop) -> Path:
    return laptop.layout.run(laptop.old.name)


def flip(path: Path) -> None:
    """Change a byte as a bad medium does: in place, and no time tells."""
    facts = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bit": ("large", flip),
    "a bit of a linked file": ("b", flip),
    "cut short": ("large", lambda p: os.truncate(p, 5)),
    "longer": ("dir/other", lambda p: p.write_text("more than it should be")),
    "gone": ("dir/inner/file", Path.unlink),
    "a link gone": ("z", Path.unlink),
    "the first of a group gone": ("a", Path.unlink),
    "a directory gone": ("dir", shutil.rmtree),
    "a mode": ("large", lambda p: p.chmod(0o600)),
    "a mode of a directory": ("empty", lambda p: p.chmod(0o700)),
    "a time": ("large", lambda p: os.utime(p, (1, 1))),
    "an attribute": ("large", lambda p: os.setxattr(p, "user.x", b"")),
    "an attribute of a directory": ("dir", lambda p: os.setxattr(p, "user.x", b"")),
    "a directory for a file": ("dir/other", lambda p: replace(p, Path.mkdir)),
    "a file for a directory": ("dir", lambda p: replace(p, Path.touch)),
    "a link for a file": ("large", lambda p: replace(p, lambda q: q.symlink_to("a"))),
    "another target": ("link", lambda p: replace(p, lambda q: q.symlink_to("b"))),
    "a stray": ("stray", Path.touch),
    "a stray tree": ("dir/more/deep", lambda p: p.mkdir(parents=True)),
    "a group that should be none": ("dir/x", lambda p: os.link(p.parent / "other", p)),
    "a copy for a link": (
        "z",
        lambda p: replace(p, lambda q: shutil.copy2(q.with_name("a"), q)),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_found_and_mended(laptop: Laptop, name: str) -> None:
    before = laptop.pristine(laptop.old)
    path, damage = DAMAGES[name]
    damage(tree(laptop) / path)
    assert difference(before, laptop.pristine(laptop.old))
    assert look(laptop.layout, laptop.old.name)
    mend_with_fetch(laptop)
    assert not difference(before, laptop.pristine(laptop.old))
    assert look(laptop.layout, laptop.old.name) == []
    assert not list(laptop.work.iterdir()), "nothing is left of the work"


@pytest.mark.parametrize(
    "gone", [("z",), ("a",), ("a", "b"), ("dir/copy",), ("a", "dir/other")], ids=str
)
def test_what_is_there_by_another_name_is_not_fetched(
    make: LaptopMaker, tmp_path: Path, gone: tuple[str, ...]
) -> None:
    spec: Spec = {**SPEC, "dir/copy": SPEC["large"]}
    laptop = make(make_build("760", build_tree(tmp_path / "tree", spec)))
    before = laptop.pristine(laptop.old)
    for name in gone:
        (tree(laptop) / name).unlink()
    _, wanted = mend_with_fetch(laptop)
    assert not difference(before, laptop.pristine(laptop.old))
    assert look(laptop.layout, laptop.old.name) == []
    assert len(wanted) == ("dir/other" in gone), "that is nowhere else"


def test_a_group_of_which_all_are_gone_or_rotten_is_fetched(laptop: Laptop) -> None:
    before = laptop.pristine(laptop.old)
    flip(tree(laptop) / "a")
    (tree(laptop) / "a").unlink()
    _, wanted = mend_with_fetch(laptop)
    assert not difference(before, laptop.pristine(laptop.old))
    assert len(wanted) == 1


def test_everything_at_once(laptop: Laptop) -> None:
    before = laptop.pristine(laptop.old)
    for path in ("large", "a", "boot/k"):
        flip(tree(laptop) / path)
    (tree(laptop) / "dir/inner/file").unlink()
    (tree(laptop) / "stray").touch()
    (tree(laptop) / "link").unlink()
    done, wanted = mend_with_fetch(laptop)
    assert not difference(before, laptop.pristine(laptop.old))
    assert (done.mended, done.strays) == (8, 1)  # a link, two directories' times
    assert len(wanted) == 4, "only what is damaged is fetched"


def test_a_whole_build_needs_nothing(laptop: Laptop) -> None:
    before = snapshot(laptop.root / "versions/pristine")
    done = mend(laptop)
    assert (done.mended, done.strays, done.fetched) == (0, 0, 0)
    assert not difference(before, snapshot(laptop.root / "versions/pristine"))


def test_rot_is_mended_in_the_run_copy_too(laptop: Laptop) -> None:
    """The system that runs has its own hold on a file: it must not change under it."""
    flip(tree(laptop) / "large")
    with (run(laptop) / "large").open("rb") as held:
        seen = held.read()
        mend_with_fetch(laptop)
        held.seek(0)
        assert held.read() == seen, "an open file is never written into"
    assert (run(laptop) / "large").read_bytes() == b"l" * 300_000
    assert boots(laptop.root) == laptop.old.name  # each file is its twin's inode


def test_a_run_copy_that_cannot_be_opened_is_not_passed_over(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tree would be whole, its run copy rotten, and nobody look again."""
    inode = (run(laptop) / "dir/inner").stat().st_ino
    really_open = os.open

    def refuse(path: bytes, flags: int, mode: int = 0o777, **more: int | None) -> int:
        descriptor = really_open(path, flags, mode, **more)
        if path == b"inner" and os.fstat(descriptor).st_ino == inode:
            os.close(descriptor)
            raise OSError(errno.EMFILE, "too many open files")
        return descriptor

    flip(tree(laptop) / "dir/inner/file")
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(TreeError):
            mend_with_fetch(laptop)
    assert mend(laptop).mended == 1
    assert (run(laptop) / "dir/inner/file").read_text() == "deep"
    assert boots(laptop.root) == laptop.old.name


def test_what_the_system_changed_in_its_run_copy_stays(laptop: Laptop) -> None:
    """It wrote in place, so the untouched tree was changed with it."""
    edited = run(laptop) / "dir/other"
    edited.write_text("my own setting")
    assert (tree(laptop) / "dir/other").read_text() == "my own setting"
    mend_with_fetch(laptop)
    assert (tree(laptop) / "dir/other").read_text() == "other"
    assert edited.read_text() == "my own setting"


def test_a_mode_that_the_system_changed_stays_in_its_run_copy(laptop: Laptop) -> None:
    os.chmod(run(laptop) / "large", 0o600)
    _, wanted = mend_with_fetch(laptop)
    assert stat.S_IMODE((tree(laptop) / "large").stat().st_mode) == 0o644
    assert stat.S_IMODE((run(laptop) / "large").stat().st_mode) == 0o600
    assert not wanted, "its bytes are good"


def test_another_build_keeps_its_links(laptop: Laptop, tmp_path: Path) -> None:
    """A file that two builds share is replaced in the one, untouched in the other."""
    other = make_build("750", build_tree(tmp_path / "750", {"boot/k": "o", "a": "a"}))
    add_build(laptop.root, "750", other.tree, contents=other.contents)
    shared = laptop.root / "versions/pristine/750/boot/k"
    shared.unlink()
    os.link(tree(laptop) / "boot/k", shared)
    flip(shared)
    rotten = shared.read_bytes()
    mend_with_fetch(laptop)
    assert shared.read_bytes() == rotten
    assert (tree(laptop) / "boot/k").read_text() == "kernel"


def test_a_damaged_manifest_is_mended(laptop: Laptop) -> None:
    contents = laptop.layout.contents(laptop.old.name)
    whole = contents.read_bytes()
    contents.write_bytes(whole[:-20])
    put_full_pack(laptop.downloads(laptop.old), laptop.old, fetched=())
    mend(laptop)
    assert contents.read_bytes() == whole


def test_a_build_that_is_not_there(laptop: Laptop, tmp_path: Path) -> None:
    other = make_build("999", build_tree(tmp_path / "999", {"a": "a"}))
    with pytest.raises(NotInstalled):
        look(laptop.layout, other.name)
    with pytest.raises(NotInstalled):
        mend(Laptop(laptop.root, other, laptop.told))


def test_damage_is_noted_for_the_asker(laptop: Laptop) -> None:
    flip(tree(laptop) / "large")
    faults = look(laptop.layout, laptop.old.name)
    assert [fault.aspect for fault in faults] == [Aspect.CONTENT]
    note_damage(laptop.work, faults, laptop.layout.contents(laptop.old.name))
    assert (laptop.work / "wanted").read_text() == f"{faults[0].digest.hex()}\n"


BOOT_DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": lambda copy: flip(copy / "k"),
    "gone": lambda copy: (copy / "k").unlink(),
    "a stray": lambda copy: (copy / "more").mkdir(),
    "a directory": lambda copy: replace(copy / "k", Path.mkdir),
    "a link": lambda copy: replace(copy / "k", lambda p: p.symlink_to("alt")),
}


@pytest.mark.parametrize("partitioned", [True], indirect=True, ids=["partitioned"])
@pytest.mark.parametrize("damage", BOOT_DAMAGES)
def test_copy_on_the_boot_partition(laptop: Laptop, damage: str) -> None:
    copy = laptop.root / "bootpart/boot-versions/760"
    assert look(laptop.layout, laptop.old.name) == []
    before = snapshot(copy)
    BOOT_DAMAGES[damage](copy)
    (fault,) = look(laptop.layout, laptop.old.name)
    name = b"/more" if damage == "a stray" else b"/k"
    assert fault.path == b"/bootpart/boot-versions/760" + name
    assert mend_with_fetch(laptop) == (Repaired(laptop.old.name, mended=1), set())
    assert look(laptop.layout, laptop.old.name) == []
    assert snapshot(copy).keys() == before.keys()
    assert boots(laptop.root) == "760"


@pytest.mark.parametrize("partitioned", [True], indirect=True, ids=["partitioned"])
def test_boot_partition_without_the_copy(laptop: Laptop) -> None:
    shutil.rmtree(laptop.root / "bootpart/boot-versions/760")
    (fault,) = look(laptop.layout, laptop.old.name)
    assert fault.path == b"/bootpart/boot-versions/760"
    mend(laptop)
    assert boots(laptop.root) == "760"


@pytest.mark.root
def test_every_kind_of_path(make: LaptopMaker, tmp_path: Path) -> None:
    """All of it is deleted, but for the tree's own directory, and comes back."""
    every = every_kind(tmp_path / "every")
    if not (every / "boot").exists():
        build_tree(every, {"boot/k": "kernel"})
    build = make_build("770", every)
    laptop = make(build)
    before = laptop.pristine(build)
    for item in tree(laptop).iterdir():
        shutil.rmtree(
            item
        ) if item.is_dir() and not item.is_symlink() else item.unlink()
    mend_with_fetch(laptop)
    assert not difference(before, laptop.pristine(build))
