"""Reaching directories by descriptor, and removing trees."""

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.perform_update.walk import Descent, open_file, remove_tree
from tests.perform_update.cuts import run_until
from tests.trees import Spec, build_tree, every_kind


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    spec: Spec = {f"{'/'.join('abcdefgh'[:depth])}/file": "x" for depth in range(1, 9)}
    return build_tree(tmp_path / "tree", {**spec, "a-b/c/file": "x"})


@pytest.fixture(params=[2, 3, 48])
def descent(request: pytest.FixtureRequest, tree: Path) -> Iterator[Descent]:
    with Descent(tree, keep=request.param) as descent:
        yield descent


def test_every_directory_is_reached_from_every_other(
    descent: Descent, tree: Path
) -> None:
    paths = [b"/".join(b"abcdefgh"[i : i + 1] for i in range(n)) for n in range(9)]
    paths += [b"a-b", b"a-b/c"]
    for one in paths:
        for other in paths:
            for path in (one, other):
                found = os.fstat(descent.enter(path))
                expected = os.stat(os.fsencode(tree) + b"/" + path)
                assert found.st_ino == expected.st_ino


def test_few_descriptors_are_open(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Descent(tree, keep=3) as descent:
        descent.enter(b"a/b/c/d/e/f/g/h")
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("path", [b"link", b"link/c", b"a/up", b"a/b/file", b"none"])
def test_links_and_files_are_no_directories(tree: Path, path: bytes) -> None:
    (tree / "link").symlink_to("a-b")
    (tree / "a/up").symlink_to("..")
    with Descent(tree) as descent:
        descent.enter(b"a/b")
        with pytest.raises(OSError, match=r"Not a directory|No such file"):
            descent.enter(path)
        assert os.fstat(descent.enter(b"a-b/c")), "it goes on"


def test_a_directory_that_was_left_and_replaced_is_not_followed(tree: Path) -> None:
    with Descent(tree, keep=2) as descent:
        descent.enter(b"a/b/c/d/e")
        (tree / "a").rename(tree / "moved")
        (tree / "a").symlink_to("moved")
        with pytest.raises(OSError, match="Not a directory"):
            descent.enter(b"a/b")


def test_only_regular_files_are_opened(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("a/file")
    with Descent(tree) as descent:
        top = descent.enter(b"")
        for name in (b"fifo", b"link", b"a", b"none"):
            with pytest.raises(OSError, match=r"."):
                open_file(name, top)
        os.close(open_file(b"file", descent.enter(b"a")))


# --- removing -----------------------------------------------------------------------


def test_every_kind_is_removed(tmp_path: Path) -> None:
    remove_tree(every_kind(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "none"])
def test_what_is_no_tree_is_removed(tmp_path: Path, kind: str) -> None:
    target = build_tree(tmp_path / "target", {"file": "kept"})
    path = tmp_path / "path"
    if kind == "file":
        path.touch()
    elif kind != "none":
        path.symlink_to(target if kind == "link" else "nowhere")
    remove_tree(path)
    assert not os.path.lexists(path)
    assert (target / "file").exists()


def test_links_below_are_not_followed(tmp_path: Path) -> None:
    target = build_tree(tmp_path / "target", {"file": "kept"})
    (build_tree(tmp_path / "tree", {"a/": None}) / "a/link").symlink_to(target)
    remove_tree(tmp_path / "tree")
    assert (target / "file").exists()


def test_shared_files_keep_their_mode(tmp_path: Path) -> None:
    tree = build_tree(tmp_path / "tree", {"a/file": "shared"})
    (tree / "a/file").chmod(0)
    os.link(tree / "a/file", tmp_path / "kept")
    remove_tree(tree)
    assert stat.S_IMODE((tmp_path / "kept").lstat().st_mode) == 0


@pytest.mark.root
def test_an_ordinary_user_can_remove_what_forbids_writing(tmp_path: Path) -> None:
    tree = build_tree(tmp_path / "mine/tree", {"a/b/file": "x", "c/": None})
    for where in (tree / "a/b", tree / "a", tree / "c", tree):
        where.chmod(0o500)
    for path in (tmp_path / "mine").rglob("*"):
        os.chown(path, 1234, 1234)
    os.chown(tmp_path / "mine", 1234, 1234)

    def as_user() -> None:
        os.setresuid(1234, 1234, 1234)
        remove_tree(tree)

    assert run_until(-1, as_user)
    assert os.listdir(tmp_path / "mine") == []


def test_a_tree_that_is_deeper_than_files_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = tmp_path / "tree"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        remove_tree(top)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not top.exists()
