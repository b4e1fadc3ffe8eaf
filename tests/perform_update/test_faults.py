"""Disks and kernels that refuse, one call at a time."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olpc_update_query.errors import DiskFailed, Incomplete, NoSpace
from olpc_update_query.perform_update.plan import make_plan
from olpc_update_query.perform_update.runcopy import make_run_copy
from tests.laptop import boots
from tests.perform_update.builds import Build, make_build, put_delta, put_files
from tests.perform_update.conftest import OLD_TREE, Laptop
from tests.perform_update.test_plan import write_many
from tests.trees import File, build_tree, difference, snapshot


def refuse(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    when: Callable[..., bool],
) -> None:
    """Have a function of ``os`` fail for some arguments, as the kernel would."""
    plain = getattr(os, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if when(*arguments):
            raise OSError(code, os.strerror(code))
        return plain(*arguments, **named)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("code", [errno.EMLINK, errno.EXDEV, errno.EPERM])
def test_what_cannot_be_linked_is_copied(
    simple: Laptop, new: Build, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    put_delta(simple.downloads(new), simple.old, new)
    before = simple.pristine(simple.old)
    done: list[object] = []

    def is_first(name: object, *_: object) -> bool:
        done.append(name)
        return name == b"same" and done.count(name) == 1

    refuse(monkeypatch, "link", code, is_first)
    installed = simple.install(new)
    assert (installed.linked, installed.copied) == (1, 1)
    assert not difference(snapshot(new.tree), simple.pristine(new))
    assert not difference(before, simple.pristine(simple.old))


def test_a_run_copy_of_a_file_with_too_many_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"etc/a": File("a", mode=0o4750, xattrs={"user.note": b"x"}), "b": "b"}
    tree = build_tree(tmp_path / "tree", spec)  # type: ignore[arg-type] # a `Spec`
    refuse(monkeypatch, "link", errno.EMLINK, lambda name, *_: name == "a")
    make_run_copy(tree, tmp_path / "run")
    monkeypatch.undo()
    assert not os.path.samefile(tree / "etc/a", tmp_path / "run/etc/a")
    assert os.path.samefile(tree / "b", tmp_path / "run/b")
    found, expected = snapshot(tmp_path / "run"), snapshot(tree)
    assert found[b"etc/a"] == expected[b"etc/a"]


def test_any_other_refusal_of_a_link_is_an_error(
    simple: Laptop, new: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_delta(simple.downloads(new), simple.old, new)
    refuse(monkeypatch, "link", errno.EROFS, lambda name, *_: name == b"same")
    with pytest.raises(DiskFailed):
        simple.install(new)
    assert boots(simple.root) == "760"
    assert not list((simple.work / "stage").iterdir()), "no half tree is left"


def inode_of(laptop: Laptop, path: str) -> int:
    return (laptop.layout.pristine(laptop.old.name) / path).stat().st_ino


def test_a_linked_file_on_a_bad_block_is_fetched_again(
    simple: Laptop, new: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = inode_of(simple, "etc/same")
    refuse(monkeypatch, "readv", errno.EIO, lambda fd, _: os.fstat(fd).st_ino == bad)
    put_delta(simple.downloads(new), simple.old, new)
    with pytest.raises(Incomplete):
        simple.install(new)
    assert any("cannot be read" in step for step in simple.told.steps)
    put_files(simple.downloads(new), [b"same"])
    simple.install(new)
    assert not difference(snapshot(new.tree), simple.pristine(new))


def test_a_copied_file_on_a_bad_block_is_fetched_again(
    simple: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {**OLD_TREE, "etc/same": File("same", mode=0o600)}
    new = make_build("763", build_tree(tmp_path / "763", spec))
    bad = inode_of(simple, "etc/same")
    refuse(monkeypatch, "pread", errno.EIO, lambda fd, *_: os.fstat(fd).st_ino == bad)
    with pytest.raises(Incomplete):
        simple.fetch_and_install(new)
    put_files(simple.downloads(new), [b"same"])
    simple.install(new)
    assert not difference(snapshot(new.tree), simple.pristine(new))


@pytest.mark.parametrize(
    ("name", "code", "error"),
    [
        pytest.param("readv", errno.ESTALE, DiskFailed, id="reading"),
        pytest.param("rename", errno.EROFS, DiskFailed, id="renaming"),
        pytest.param("mkdir", errno.ENOSPC, NoSpace, id="no inode"),
        pytest.param("pwrite", errno.EDQUOT, NoSpace, id="quota"),
    ],
)
def test_a_refusal_is_told_and_the_old_build_boots(
    laptop: Laptop,
    new: Build,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    error: type[Exception],
) -> None:
    put_delta(laptop.downloads(new), laptop.old, new)
    laptop.work.mkdir(parents=True)
    before = laptop.pristine(laptop.old)
    refuse(monkeypatch, name, code, lambda *_: True)
    with pytest.raises(error):
        laptop.install(new)
    monkeypatch.undo()
    assert boots(laptop.root) == "760"
    assert not difference(before, laptop.pristine(laptop.old))
    laptop.install(new)
    assert boots(laptop.root) == "762"


@pytest.mark.root
@pytest.mark.slow
def test_a_plan_on_a_full_disk(tmp_path: Path) -> None:
    new = write_many(tmp_path / "new", "2", "two")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        with pytest.raises(NoSpace):
            make_plan(new, [], small / "plan.db")
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)
