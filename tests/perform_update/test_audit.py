"""Whatever differs between a tree and its manifest is found, and nothing else."""

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query.errors import Malformed
from olpc_update_query.model.entry import TreePath
from olpc_update_query.perform_update.audit import audit
from olpc_update_query.perform_update.differences import Aspect, Difference
from tests.perform_update.builds import make_build
from tests.trees import Dir, File, Hard, Link, Spec, build_tree, every_kind

BIG = 300_000
SPEC: Spec = {
    "a": "first",
    "b": Hard("a"),
    "dir/inner/file": "deep",
    "dir-x": "sorts between",
    "empty/": Dir(),
    "large": b"l" * BIG,
    "link": Link("a"),
    "mode": File("mode", mode=0o4755),
    "twin": "first",
}


class Case:
    """A tree, its manifest, and what a change to the tree should bring up."""

    def __init__(self, path: Path) -> None:
        self.tree = build_tree(path / "tree", SPEC)
        self.contents = path / "contents"
        self.contents.write_bytes(make_build("1", self.tree).contents)

    def audit(self) -> list[tuple[str, Aspect]]:
        return [(os.fsdecode(d.path), d.aspect) for d in self.differences()]

    def differences(self) -> list[Difference]:
        return list(audit(self.contents, self.tree))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def keep_time(path: Path, change: Callable[[Path], object]) -> None:
    facts = path.lstat()
    change(path)
    os.utime(path, ns=(0, facts.st_mtime_ns), follow_symlinks=False)


def keep_times(*paths: Path) -> Callable[[Callable[[], object]], None]:
    def run(change: Callable[[], object]) -> None:
        times = [path.lstat().st_mtime_ns for path in paths]
        change()
        for path, time in zip(paths, times, strict=True):
            os.utime(path, ns=(0, time), follow_symlinks=False)

    return run


def test_a_whole_tree_has_no_differences(case: Case) -> None:
    assert case.audit() == []


def test_every_kind_of_path_is_whole(tmp_path: Path) -> None:
    tree = every_kind(tmp_path / "tree")
    contents = tmp_path / "contents"
    contents.write_bytes(make_build("1", tree).contents)
    assert list(audit(contents, tree)) == []


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")


def replace(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    make(path)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("path", "change", "expected"),
    [
        pytest.param("dir-x", overwrite, [Aspect.CONTENT], id="a byte"),
        pytest.param("large", overwrite, [Aspect.CONTENT], id="a byte of a large file"),
        pytest.param(
            "large",
            lambda p: os.truncate(p, BIG - 1),
            [Aspect.SIZE, Aspect.CONTENT],
            id="a byte less",
        ),
        pytest.param("mode", lambda p: p.chmod(0o755), [Aspect.MODE], id="set-uid bit"),
        pytest.param(
            "empty", lambda p: p.chmod(0o700), [Aspect.MODE], id="a directory"
        ),
        pytest.param(
            "mode",
            lambda p: replace(p, lambda q: q.symlink_to("a")),
            [Aspect.KIND],
            id="a link for a file",
        ),
        pytest.param(
            "mode",
            lambda p: replace(p, Path.mkdir),
            [Aspect.KIND],
            id="a directory for a file",
        ),
        pytest.param(
            "mode",
            lambda p: replace(p, os.mkfifo),
            [Aspect.KIND],
            id="a fifo for a file",
        ),
        pytest.param(
            "mode", lambda p: replace(p, bind), [Aspect.KIND], id="a socket for a file"
        ),
        pytest.param(
            "link",
            lambda p: replace(p, lambda q: q.symlink_to("b")),
            [Aspect.TARGET],
            id="another target",
        ),
        pytest.param(
            "link",
            lambda p: replace(p, lambda q: q.write_text("a")),
            [Aspect.KIND],
            id="a file for a link",
        ),
        pytest.param(
            "empty",
            lambda p: replace(p, Path.touch),
            [Aspect.KIND],
            id="a file for a directory",
        ),
        pytest.param(
            "mode",
            lambda p: os.setxattr(p, "user.x", b""),
            [Aspect.XATTRS],
            id="an attribute",
        ),
        pytest.param(
            "empty",
            lambda p: os.setxattr(p, "user.x", b""),
            [Aspect.XATTRS],
            id="an attribute of a directory",
        ),
    ],
)
def test_one_change(
    case: Case, path: str, change: Callable[[Path], object], expected: list[Aspect]
) -> None:
    keep = keep_times(case.tree, case.tree / path)
    keep(lambda: change(case.tree / path))
    assert case.audit() == [(path, aspect) for aspect in expected]


@pytest.mark.parametrize("path", ["", "a", "empty", "link", "dir/inner"])
def test_another_time(case: Case, path: str) -> None:
    facts = (case.tree / path).lstat()
    times = (0, facts.st_mtime_ns + 1)
    os.utime(case.tree / path, ns=times, follow_symlinks=False)
    expected = [(path, Aspect.TIME)]
    if path == "a":
        expected.append(("b", Aspect.TIME))
    assert case.audit() == expected


def test_whole_seconds_are_good_enough(case: Case) -> None:
    facts = (case.tree / "large").stat()
    seconds = facts.st_mtime_ns // 10**9 * 10**9
    os.utime(case.tree / "large", ns=(seconds, seconds))
    assert case.audit() == []


@pytest.mark.root
@pytest.mark.parametrize("path", ["empty", "large", "link"])
@pytest.mark.parametrize("owner", [(1, -1), (-1, 1)])
def test_another_owner(case: Case, path: str, owner: tuple[int, int]) -> None:
    os.chown(case.tree / path, *owner, follow_symlinks=False)
    assert case.audit() == [(path, Aspect.OWNER)]


@pytest.mark.root
def test_another_device(tmp_path: Path) -> None:
    tree = every_kind(tmp_path / "tree")
    contents = tmp_path / "contents"
    contents.write_bytes(make_build("1", tree).contents)
    null = tree / "dev/null"
    facts = null.stat()

    def change() -> None:
        null.unlink()
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        null.chmod(0o666)

    keep_times(tree / "dev")(change)
    os.utime(null, ns=(0, facts.st_mtime_ns))
    assert [d.aspect for d in audit(contents, tree)] == [Aspect.DEVICE]


def test_a_missing_file(case: Case) -> None:
    keep_times(case.tree)((case.tree / "twin").unlink)
    assert case.audit() == [("twin", Aspect.MISSING)]


def test_everything_below_a_missing_directory_is_told(case: Case) -> None:
    keep_times(case.tree)(lambda: shutil.rmtree(case.tree / "dir"))
    paths = ["dir", "dir/inner", "dir/inner/file"]
    assert case.audit() == [(path, Aspect.MISSING) for path in paths]


def test_nothing_is_looked_at_through_a_link(case: Case) -> None:
    def change() -> None:
        (case.tree / "dir").rename(case.tree.parent / "away")
        (case.tree / "dir").symlink_to("../away")

    keep_times(case.tree)(change)
    assert case.audit() == [
        ("dir", Aspect.KIND),
        ("dir/inner", Aspect.MISSING),
        ("dir/inner/file", Aspect.MISSING),
    ]


@pytest.mark.parametrize("where", ["", "dir", "dir/inner", "empty"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Path.touch, id="a file"),
        pytest.param(Path.mkdir, id="a directory"),
        pytest.param(lambda path: path.symlink_to("x"), id="a link"),
        pytest.param(os.mkfifo, id="a fifo"),
    ],
)
def test_a_stray(case: Case, where: str, make: Callable[[Path], object]) -> None:
    stray = case.tree / where / "stray"
    keep_times(stray.parent)(lambda: make(stray))
    assert case.audit() == [(str(Path(where) / "stray"), Aspect.STRAY)]


def test_one_stray_for_one_missing_is_both(case: Case) -> None:
    def change() -> None:
        (case.tree / "twin").rename(case.tree / "other")

    keep_times(case.tree)(change)
    assert case.audit() == [("twin", Aspect.MISSING), ("other", Aspect.STRAY)]


def test_a_group_that_is_parted(case: Case) -> None:
    def change() -> None:
        (case.tree / "b").unlink()
        shutil.copy2(case.tree / "a", case.tree / "b")

    keep_times(case.tree)(change)
    assert case.audit() == [("b", Aspect.GROUP)]


def test_two_files_that_are_one(case: Case) -> None:
    def change() -> None:
        (case.tree / "twin").unlink()
        os.link(case.tree / "a", case.tree / "twin")

    keep_times(case.tree)(change)
    assert case.audit() == [("twin", Aspect.GROUP)]


def test_many_differences_are_all_told(tmp_path: Path) -> None:
    tree = build_tree(tmp_path / "tree", {f"d/{n:04}": "x" * n for n in range(3000)})
    contents = tmp_path / "contents"
    contents.write_bytes(make_build("1", tree).contents)
    for number in range(0, 3000, 3):
        path = tree / f"d/{number:04}"
        keep_time(path, lambda path: path.write_bytes(b"y" * path.stat().st_size))
    found = list(audit(contents, tree))
    assert {d.aspect for d in found} == {Aspect.CONTENT}
    assert len(found) == 999, "the empty one is as it was"


def test_many_large_files_are_hashed_by_two_threads(tmp_path: Path) -> None:
    tree = build_tree(tmp_path / "tree", {f"{n:03}": b"x" * 70_000 for n in range(200)})
    contents = tmp_path / "contents"
    contents.write_bytes(make_build("1", tree).contents)
    assert list(audit(contents, tree)) == []
    keep_time(tree / "150", overwrite)
    assert [d.path for d in audit(contents, tree)] == [b"150"]


def test_stopping_in_the_middle_closes_everything(case: Case) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (case.tree / "a").chmod(0o600)
    differences = audit(case.contents, case.tree)
    next(differences)
    differences.close()  # type: ignore[attr-defined] # it is a generator
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_tree_that_is_not_there(case: Case) -> None:
    shutil.rmtree(case.tree)
    with pytest.raises(FileNotFoundError):
        case.audit()


def test_a_manifest_that_is_none(case: Case) -> None:
    case.contents.write_bytes(case.contents.read_bytes()[:-20])
    with pytest.raises(Malformed):
        case.audit()


def test_a_difference_reads_well() -> None:
    line = str(Difference(TreePath(b"etc/a\n"), Aspect.MODE, "0644", "0600"))
    assert line == "etc/a%0A: mode: expected 0644, found 0600"
