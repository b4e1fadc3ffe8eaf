"""Builds that a signed order names and that are hostile, and trees that were planted.

Whatever happens, nothing outside of the work area changes, and the old build boots.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query.errors import (
    Incomplete,
    Malformed,
    NoSpace,
    TreeError,
    TrustError,
)
from olpc_update_query.model.entry import Entry, Kind, TreePath
from olpc_update_query.model.messages import BuildId
from tests.laptop import boots
from tests.perform_update.builds import (
    Build,
    encode_manifest,
    make_build,
    put_files,
    put_manifest,
)
from tests.perform_update.conftest import Laptop
from tests.trees import Hard, Link, Spec, build_tree, difference, snapshot

Change = Callable[[list[Entry]], list[Entry]]


def hostile(new: Build, change: Change) -> Build:
    entries = change(list(new.entries))
    contents = encode_manifest(new.name, entries)
    return Build(new.name, new.tree, contents, tuple(entries))


def put_everything(laptop: Laptop, build: Build, content: Build) -> None:
    put_manifest(laptop.downloads(build), build.contents)
    put_files(laptop.downloads(build), content.bytes_of().values())


def assert_unharmed(laptop: Laptop, before: dict[bytes, object]) -> None:
    """The laptop is as it was, but for the work area and times of directories."""
    after = {
        path: what._replace(mtime_ns=0)
        for path, what in snapshot(laptop.root).items()
        if not path.startswith(b"versions/updates")
    }
    assert after == before
    assert boots(laptop.root) == "760"


def picture(laptop: Laptop) -> dict[bytes, object]:
    return {
        path: what._replace(mtime_ns=0)
        for path, what in snapshot(laptop.root).items()
        if not path.startswith(b"versions/updates")
    }


def renamed(old: bytes, new: bytes) -> Change:
    """Give one path another name, without putting it where that belongs."""
    return lambda entries: [
        entry._replace(path=TreePath(new)) if entry.path == old else entry
        for entry in entries
    ]


def changed(path: bytes, **fields: object) -> Change:
    return lambda entries: [
        entry._replace(**fields) if entry.path == path else entry  # type: ignore[arg-type] # any field
        for entry in entries
    ]


def through_a_link(entries: list[Entry]) -> list[Entry]:
    """``etc`` is a link out of the tree, and there are files below it."""
    return [
        entry._replace(kind=Kind.SYMLINK, target=b"../../../../../etc")
        if entry.path == b"etc"
        else entry
        for entry in entries
    ]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(renamed(b"etc/same", b"etc/../../../evil"), id="upwards"),
        pytest.param(renamed(b"bin", b"/bin"), id="absolute"),
        pytest.param(renamed(b"etc/same", b"etc//same"), id="an empty step"),
        pytest.param(renamed(b"etc/same", b"etc/same\x00"), id="a zero byte"),
        pytest.param(renamed(b"etc/same", b"a/same"), id="no parent"),
        pytest.param(through_a_link, id="through a link"),
        pytest.param(lambda entries: entries[::-1], id="out of order"),
        pytest.param(lambda entries: entries + entries[-1:], id="twice"),
        pytest.param(lambda entries: entries[1:], id="no root"),
        pytest.param(
            changed(b"etc/same", leader=TreePath(b"bin/gone")), id="led by nothing"
        ),
        pytest.param(
            changed(b"etc/same", leader=TreePath(b"bin/sh")), id="led by another"
        ),
        pytest.param(
            changed(b"etc/same", leader=TreePath(b"boot")), id="led by a directory"
        ),
        pytest.param(
            changed(b"etc/same", leader=TreePath(b"../etc/x")), id="led from outside"
        ),
    ],
)
def test_a_manifest_that_is_none(laptop: Laptop, new: Build, change: Change) -> None:
    before = picture(laptop)
    build = hostile(new, change)
    put_everything(laptop, build, new)
    with pytest.raises((Malformed, TreeError)) as caught:
        laptop.install(build)
    assert not isinstance(caught.value, Incomplete)
    assert isinstance(caught.value, TrustError) or "path" in str(caught.value)
    assert_unharmed(laptop, before)


def test_a_link_out_of_the_tree_is_only_a_link(laptop: Laptop, tmp_path: Path) -> None:
    outside = build_tree(tmp_path / "outside", {"file": "untouched"})
    links: Spec = {"out": Link(str(outside)), "out2": Link("../../../../..")}
    spec: Spec = {"boot/k": "", **links}
    new = make_build("762", build_tree(tmp_path / "762", spec))
    before = snapshot(outside)
    laptop.fetch_and_install(new)
    assert boots(laptop.root) == "762"
    assert not difference(before, snapshot(outside))


def test_a_member_of_a_group_with_another_digest(
    laptop: Laptop, tmp_path: Path
) -> None:
    tree = build_tree(tmp_path / "762", {"boot/k": "", "a": "aaaa", "b": Hard("a")})
    new = make_build("762", tree)
    other = make_build("763", build_tree(tmp_path / "763", {"b": "bbbb"}))
    digest = other.entries[-1].digest
    build = hostile(new, changed(b"b", digest=digest))
    put_everything(laptop, build, new)
    put_files(laptop.downloads(build), [b"bbbb"])
    before = picture(laptop)
    with pytest.raises(TreeError, match=digest.hex()):
        laptop.install(build)
    assert_unharmed(laptop, before)


def test_a_size_that_fits_nowhere_is_refused_at_once(
    laptop: Laptop, new: Build
) -> None:
    before = picture(laptop)
    build = hostile(new, changed(b"etc/fresh", size=1 << 60, digest=bytes(32)))
    put_everything(laptop, build, new)
    with pytest.raises(NoSpace) as caught:
        laptop.install(build)
    assert caught.value.needed > 1 << 60
    assert_unharmed(laptop, before)


def test_very_deep_directories(simple: Laptop, tmp_path: Path) -> None:
    """Deeper than a process may open files, or a function call itself."""
    depth = 1500
    entries = list(simple.old.entries)[:1]
    path = b"d"
    for _ in range(depth):
        entries.append(entries[0]._replace(path=TreePath(path)))
        path += b"/d"
    build = Build(
        BuildId("762"), tmp_path, encode_manifest("762", entries), tuple(entries)
    )
    put_manifest(simple.downloads(build), build.contents)
    simple.install(build)
    assert simple.layout.current() == "762"
    simple.layout.rollback()
    simple.layout.purge(build.name)
    assert os.listdir(simple.root / "versions/pristine") == ["760"]


# --- planted in the old tree --------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory with just the file that the old build has, of same size and time."""
    return build_tree(tmp_path / "outside", {"same": "same", "motd": "old words"})


def test_nothing_is_linked_through_a_planted_link(
    laptop: Laptop, new: Build, outside: Path
) -> None:
    etc = laptop.layout.pristine(laptop.old.name) / "etc"
    etc.rename(etc.with_name("etc.away"))
    etc.symlink_to(outside)
    with pytest.raises(Incomplete):
        laptop.fetch_and_install(new)
    assert (outside / "same").stat().st_nlink == 1
    assert laptop.layout.current() == "760"


def test_nothing_is_copied_through_a_planted_link(
    simple: Laptop, tmp_path: Path, outside: Path
) -> None:
    etc = simple.layout.pristine(simple.old.name) / "etc"
    etc.rename(etc.with_name("etc.away"))
    etc.symlink_to(outside)
    spec: Spec = {"etc/copy": "same", "boot/vmlinuz": "old kernel"}
    new = make_build("762", build_tree(tmp_path / "762", spec))
    with pytest.raises(Incomplete):
        simple.fetch_and_install(new)


def test_downloads_behind_a_link_are_not_read(
    simple: Laptop, new: Build, tmp_path: Path
) -> None:
    put_everything(simple, new, new)
    downloads = simple.downloads(new)
    downloads.rename(tmp_path / "moved")
    downloads.symlink_to(tmp_path / "moved")
    with pytest.raises(Incomplete):
        simple.install(new)
    assert (tmp_path / "moved/contents").exists()


def test_a_fifo_among_the_downloads_does_not_hang(simple: Laptop, new: Build) -> None:
    put_everything(simple, new, new)
    for name in ("delta", "pack.index", "pack.spool.have", "pack.spool"):
        os.mkfifo(simple.downloads(new) / name)
    plain = next((simple.downloads(new) / "files").iterdir())
    plain.unlink()
    os.mkfifo(plain)
    with pytest.raises(Incomplete) as caught:
        simple.install(new)
    assert caught.value.count <= 1
