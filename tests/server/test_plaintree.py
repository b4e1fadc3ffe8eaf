"""The plain tree beside a pack is the tree."""

import errno
import os
from pathlib import Path

import pytest

from olpc_update_query.errors import (
    NoSpace,
    UnfitTree,
)
from olpc_update_query.server import publish, walk
from olpc_update_query.server.plaintree import make_plain_tree
from tests.server.published import (
    FIRST,
)
from tests.trees import (
    Dir,
    Picture,
    Socket,
    build_tree,
    difference,
    snapshot,
)
from tests.walked import walk_tree


def without_sockets(tree: Path) -> dict[bytes, Picture]:
    return {path: one for path, one in snapshot(tree).items() if one.kind != "s"}


def test_the_plain_tree_is_linked(tree: Path, builds: Path) -> None:
    build_tree(tree, {"run/": Dir(), "run/log": Socket()})
    before = snapshot(tree)
    publish.publish(builds, tree, FIRST, with_root=True)
    root = builds / "1/root"
    assert not difference(without_sockets(tree), snapshot(root))
    assert not difference(before, snapshot(tree))
    for path in (b"bin/busybox", b"link/dangling", b"dev/fifo"):
        one, two = (
            os.lstat(os.path.join(os.fsencode(top), path)) for top in (tree, root)
        )
        assert one.st_ino == two.st_ino


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(errno.EXDEV, id="on another file system"),
        pytest.param(errno.EPERM, id="of another user"),
        pytest.param(errno.EMLINK, id="too many links"),
    ],
)
def test_the_plain_tree_is_copied(
    tree: Path, builds: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    really_link = os.link

    def link(source: bytes, target: bytes, *, follow_symlinks: bool = True) -> None:
        if source.startswith(os.fsencode(tree)):
            raise OSError(code, os.strerror(code), target)
        really_link(source, target, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", link)
    publish.publish(builds, tree, FIRST, with_root=True)
    root = builds / "1/root"
    assert not difference(snapshot(tree), snapshot(root))
    assert (root / "bin/busybox").stat().st_ino != (tree / "bin/busybox").stat().st_ino


def test_a_link_that_fails_otherwise_fails(
    tree: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: bytes, target: bytes, *, follow_symlinks: bool = True) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(NoSpace):
        publish.publish(builds, tree, FIRST, with_root=True)


def test_what_cannot_be_copied_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    tree = build_tree(tmp_path / "tree", {"secret": "x"})
    found = list(walk_tree(tree))
    monkeypatch.setattr(walk, "open_content", refuse)
    with pytest.raises(UnfitTree, match="secret: Permission denied"):
        make_plain_tree(walk.Directory(tree), found, tmp_path / "copy", link=False)
