"""Walking: every path of a tree, once, in order, or the reason why not."""

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from olpc_update_query.errors import (
    UnfitTree,
    UpdateError,
)
from olpc_update_query.model.manifest import Kind, TreePath
from olpc_update_query.server import walk
from tests.server.published import (
    Story,
    noise,
)
from tests.trees import (
    File,
    Hard,
    Socket,
    Spec,
    build_tree,
    snapshot,
)
from tests.walked import walk_tree


def test_every_kind_of_path_is_told(tree: Path) -> None:
    found = {entry.path: entry for entry in walk_tree(tree)}
    pictures = snapshot(tree)
    assert list(found) == sorted(pictures)
    for path, entry in found.items():
        picture = pictures[path]
        letter = "-" if entry.kind is Kind.FILE else entry.kind
        group = path if entry.leader is None else entry.leader
        names = tuple((os.fsdecode(name), value) for name, value in entry.xattrs)
        assert picture == (
            *(letter, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size),
            *(entry.digest.hex(), entry.target, entry.device, group, names),
        )


def test_the_order_is_that_of_the_bytes(tmp_path: Path) -> None:
    names = ["a/", "a/b/", "a/b/c", "a-b", "a.c/", "a.c/x", "a0", "a/b-", "a/b0", "a b"]
    build_tree(tmp_path, dict.fromkeys(names))
    found = [entry.path for entry in walk_tree(tmp_path)]
    assert found == sorted(name.rstrip("/").encode() for name in ["", *names])


def test_large_files_are_hashed_in_order(tmp_path: Path) -> None:
    spec: Spec = {
        f"{number}": noise(200_000 if number % 3 else 9, number)
        for number in range(600)
    }
    build_tree(tmp_path, spec)
    for entry in list(walk_tree(tmp_path))[1:]:
        content = (tmp_path / entry.path.decode()).read_bytes()
        assert entry.digest == hashlib.sha256(content).digest()


def test_every_inode_is_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tree(tmp_path, {"a": noise(99_999), "b/c": Hard("a"), "d": Hard("a")})
    opened: list[bytes] = []
    really_open = walk.open_content

    def count(path: bytes) -> object:
        opened.append(path)
        return really_open(path)

    monkeypatch.setattr(walk, "open_content", count)
    found = {entry.path: entry for entry in walk_tree(tmp_path)}
    assert len(opened) == 1
    assert found[TreePath(b"a")].leader is None
    for name in (b"b/c", b"d"):
        entry = found[TreePath(name)]
        assert entry.leader == b"a"
        assert entry.digest == found[TreePath(b"a")].digest


def test_sockets_are_left_out(tmp_path: Path) -> None:
    build_tree(tmp_path, {"run/log": Socket(), "run/pid": "1"})
    story = Story()
    found = [entry.path for entry in walk_tree(tmp_path, progress=story)]
    assert found == [b"", b"run", b"run/pid"]
    assert story.steps == ["leaving out the socket run/log"]
    assert found == [entry.path for entry in walk_tree(tmp_path)]


@pytest.mark.root
def test_what_belongs_to_the_machine_is_left_out(tmp_path: Path) -> None:
    marks = {"trusted.overlay.opaque": b"y", "user.note": b"mine"}
    build_tree(tmp_path, {"a": File("x", xattrs=marks)})
    _, entry = walk_tree(tmp_path)
    assert entry.xattrs == ((b"user.note", b"mine"),)


def test_attributes_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(code: int) -> Callable[..., list[str]]:
        def listxattr(path: bytes, *, follow_symlinks: bool) -> list[str]:
            raise OSError(code, os.strerror(code), path)

        return listxattr

    monkeypatch.setattr(os, "listxattr", fail(errno.ENOTSUP))
    assert [entry.xattrs for entry in walk_tree(tmp_path)] == [()]
    monkeypatch.setattr(os, "listxattr", fail(errno.EIO))
    with pytest.raises(UnfitTree):
        list(walk_tree(tmp_path))


def test_an_unreadable_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    build_tree(tmp_path, {"etc/shadow\n": "secret"})
    monkeypatch.setattr(walk, "open_content", refuse)
    with pytest.raises(UnfitTree, match=r"^etc/shadow%0A: Permission denied$"):
        list(walk_tree(tmp_path))


def test_an_unreadable_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UnfitTree, match=r"^\.: Permission denied$"):
        list(walk_tree(tmp_path))


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_tree_is_a_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnfitTree):
        list(walk_tree(tmp_path / name))


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A tree with a path of more than 4095 bytes, which few programs can remove."""
    here = os.open(tmp_path, os.O_DIRECTORY)
    for _ in range(17):
        os.mkdir("n" * 250, dir_fd=here)
        inner = os.open("n" * 250, os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path / ("n" * 250)], check=True)


def test_a_path_no_laptop_could_make_is_refused(deep: Path) -> None:
    with pytest.raises(UpdateError):
        list(walk_tree(deep))


@pytest.mark.parametrize("lines", [1, 99_999], ids=["small", "large"])
@pytest.mark.parametrize("when", ["before the file is read", "meanwhile"])
def test_a_file_that_changes_is_refused(tmp_path: Path, when: str, lines: int) -> None:
    build_tree(tmp_path, {"log": "one\n" * lines})
    directory = walk.Directory(tmp_path)
    _, entry = directory.entries(Story())
    reading = directory.read(entry.path, entry.size)
    if when == "meanwhile":
        next(reading)
    with open(tmp_path / "log", "a", encoding="ascii") as log:
        log.write("two\n")
    with pytest.raises(UnfitTree, match="log: it changed"):
        list(reading)


def test_a_file_that_goes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tree(tmp_path, {"a": "x"})
    really_list = walk.tree_paths

    def list_and_remove(root: Path, progress: object) -> Iterator[TreePath]:
        paths = list(really_list(root))
        (root / "a").unlink()
        return iter(paths)

    monkeypatch.setattr(walk, "tree_paths", list_and_remove)
    with pytest.raises(UnfitTree, match="a: No such file"):
        list(walk_tree(tmp_path))


def test_a_file_that_became_a_link_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tree(tmp_path, {"a": "mine", "b": "x"})
    really_open = walk.open_content

    def swap_and_open(path: bytes) -> object:
        os.unlink(path)
        os.symlink("/etc/hostname", path)
        return really_open(path)

    monkeypatch.setattr(walk, "open_content", swap_and_open)
    with pytest.raises(UnfitTree):
        list(walk_tree(tmp_path))
