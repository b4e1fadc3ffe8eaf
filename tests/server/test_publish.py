"""Publishing: what a tree becomes, and that it is the same again and whole."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from olpc_update_query.errors import (
    Busy,
    NoSpace,
    SiteExists,
    UnfitTree,
    UnknownBuild,
)
from olpc_update_query.model.manifest import TreePath
from olpc_update_query.model.pack import read_pack_index
from olpc_update_query.model.whole import pack_content, pack_whole
from olpc_update_query.model.wire import Sha256
from olpc_update_query.server import packing, publish, walk
from olpc_update_query.server.publish import (
    NORMAL_TIME_NS,
    OrderFacts,
    check_build,
)
from olpc_update_query.server.verify import Checked
from olpc_update_query.system.files import hold_lock
from tests.sample_builds import NEW, OLD, TREES
from tests.server.published import (
    FIRST,
    SAMPLES,
    SECOND,
    THIRD,
    Story,
    entries,
    files_of,
    flip,
    noise,
)
from tests.trees import (
    Hard,
    Spec,
    build_tree,
)
from tests.walked import walk_tree


def test_what_is_published(tree: Path, builds: Path) -> None:
    story = Story()
    found = publish.publish(builds, tree, FIRST, progress=story)
    build = builds / "1"
    assert set(files_of(build)) == {
        *("contents", "contents.zst", "pack", "pack.index", "pack.index.zst")
    }
    assert sorted(os.listdir(builds)) == [".lock", "1"]
    assert entries(build) == list(walk_tree(tree))
    manifest = (build / "contents").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    assert found.facts == OrderFacts(FIRST, Sha256(digest), len(manifest))
    assert found.path == build
    assert found.pack == (build / "pack").stat().st_size
    assert found.deltas == {}
    assert found.header.entries == len(entries(build))
    assert check_build(build) == Checked(found.contents, (), ())
    assert story.done[-1][0] == story.done[-1][1] > 0


def test_whoever_serves_it_can_read_it(tree: Path, builds: Path) -> None:
    mask = os.umask(0o077)
    try:
        publish.publish(builds, tree, FIRST)
        publish.publish(builds, tree, SECOND, delta_from=[FIRST])
    finally:
        os.umask(mask)
    for path in (builds / "2").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)
    assert (builds / "2").stat().st_mode & 0o777 == 0o755


@pytest.mark.root  # the samples hold devices
def test_same_tree_same_bytes(tmp_path: Path, builds: Path) -> None:
    """However it is published: alone or after another, its files made in any order."""
    for build, spec in TREES.items():
        tree = build_tree(tmp_path / build, spec)
        publish.publish(builds, tree, build, delta_from=[OLD] if build == NEW else [])
        backwards = list(spec.items())[::-1]
        backwards.sort(key=lambda one: isinstance(one[1], Hard))
        again = build_tree(tmp_path / "again" / build, dict(backwards))
        publish.publish(tmp_path / "alone" / build, again, build)
        found = files_of(builds / build)
        found.pop("delta/760.pack", None)
        assert found == files_of(tmp_path / "alone" / build / build)


@pytest.mark.root
def test_the_sample_is_what_is_published(tmp_path: Path, builds: Path) -> None:
    for build, spec in TREES.items():
        publish.publish(builds, build_tree(tmp_path / build, spec), build)
        sample = SAMPLES / build
        for name in ("contents", "order"):
            made = builds / build / name
            assert made.exists() == (sample / name).exists()
        made = builds / build / "contents"
        assert made.read_bytes() == (sample / "contents").read_bytes()


def test_the_samples_are_sound() -> None:
    assert check_build(SAMPLES / OLD) == Checked(8, (), ())
    assert check_build(SAMPLES / NEW) == Checked(8, (OLD,), ())


def test_one_time_for_all(tree: Path, builds: Path) -> None:
    publish.publish(builds, tree, FIRST)
    publish.publish(builds, tree, SECOND, normalize_times=True, with_root=True)
    plain, normal = entries(builds / "1"), entries(builds / "2")
    assert {entry.mtime_ns for entry in normal} == {NORMAL_TIME_NS}
    assert normal == [entry._replace(mtime_ns=NORMAL_TIME_NS) for entry in plain]
    assert list(walk_tree(builds / "2/root")) == normal
    assert {entry.mtime_ns for entry in walk_tree(tree)} != {NORMAL_TIME_NS}


def test_the_order_is_signed_for_what_is_published(tree: Path, builds: Path) -> None:
    asked: list[OrderFacts] = []

    def sign(facts: OrderFacts) -> bytes:
        asked.append(facts)
        return b"signed"

    found = publish.publish(builds, tree, FIRST, sign_order=sign)
    assert asked == [found.facts]
    assert (builds / "1/order").read_bytes() == b"signed"


def test_nothing_is_published_twice(tree: Path, builds: Path) -> None:
    publish.publish(builds, tree, FIRST)
    before = files_of(builds / "1")
    with pytest.raises(SiteExists):
        publish.publish(builds, tree, FIRST)
    assert files_of(builds / "1") == before


def test_a_delta_starts_from_a_published_build(tree: Path, builds: Path) -> None:
    publish.publish(builds, tree, FIRST)
    with pytest.raises(UnknownBuild, match="2") as refused:
        publish.publish(builds, tree, THIRD, delta_from=[FIRST, SECOND])
    assert refused.value.published == "1"
    assert sorted(os.listdir(builds)) == [".lock", "1"]


def test_two_at_once_are_one_too_many(tree: Path, builds: Path) -> None:
    builds.mkdir(parents=True)
    with hold_lock(builds / ".lock", "a test"), pytest.raises(Busy):
        publish.publish(builds, tree, FIRST)


def test_what_a_crash_left_behind_is_removed(tree: Path, builds: Path) -> None:
    build_tree(builds, {".tmp-0/root/a": "x", ".tmp-0/contents": ""})
    publish.publish(builds, tree, FIRST)
    assert sorted(os.listdir(builds)) == [".lock", "1"]


def test_a_failure_leaves_nothing(tree: Path, builds: Path) -> None:
    def fail(facts: OrderFacts) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoSpace):
        publish.publish(builds, tree, FIRST, sign_order=fail)
    assert os.listdir(builds) == [".lock"]


def test_it_is_on_the_disk_before_it_has_its_name(
    tree: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, list[str]]] = []
    for name in ("sync_filesystem", "fsync_directory"):
        monkeypatch.setattr(
            publish, name, lambda path: synced.append((path, os.listdir(builds)))
        )
    publish.publish(builds, tree, FIRST)
    first, second = synced
    assert first[0] == builds / ".tmp-1"
    assert "1" not in first[1]
    assert second[0] == builds
    assert "1" in second[1]


def test_a_tree_that_changes_later_is_refused(tmp_path: Path, builds: Path) -> None:
    tree = build_tree(tmp_path / "tree", {"a": "one", "b": noise(3 << 20)})

    class Changes(Story):
        def step(self, text: str) -> None:
            if text.startswith("packing"):
                (tree / "b").write_bytes(noise(3 << 20, seed=1))

    with pytest.raises(UnfitTree, match="b: it changed"):
        publish.publish(builds, tree, FIRST, progress=Changes())
    assert os.listdir(builds) == [".lock"]


@pytest.mark.parametrize("content", [b"", b"shorter", b"longer than it was"])
def test_a_file_of_another_length_is_refused(
    tmp_path: Path, builds: Path, content: bytes
) -> None:
    tree = build_tree(tmp_path / "tree", {"a": "as long as"})

    class Changes(Story):
        def step(self, text: str) -> None:
            if text.startswith("packing"):
                (tree / "a").write_bytes(content)

    with pytest.raises(UnfitTree):
        publish.publish(builds, tree, FIRST, progress=Changes())


def test_a_file_that_is_gone_is_refused(tmp_path: Path, builds: Path) -> None:
    tree = build_tree(tmp_path / "tree", {"a": "x"})

    class Removes(Story):
        def step(self, text: str) -> None:
            if text.startswith("packing"):
                (tree / "a").unlink()

    with pytest.raises(UnfitTree, match="a: No such file"):
        publish.publish(builds, tree, FIRST, progress=Removes())


def test_a_line_too_long_for_a_manifest_is_refused(
    tree: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "MAX_LINE", 300)
    with pytest.raises(UnfitTree, match="nnn: its attributes are too long"):
        publish.publish(builds, tree, FIRST)


@pytest.mark.parametrize("which", [0, 7, 299])
def test_one_bad_file_among_many(tmp_path: Path, builds: Path, which: int) -> None:
    spec: Spec = {f"{number:03}": f"content {number}" for number in range(300)}
    tree = build_tree(tmp_path / "tree", spec)

    class Changes(Story):
        def step(self, text: str) -> None:
            if text.startswith("packing"):
                (tree / f"{which:03}").write_text("CONTENT")

    with pytest.raises(UnfitTree, match=f"{which:03}: it changed"):
        publish.publish(builds, tree, FIRST, progress=Changes())
    assert os.listdir(builds) == [".lock"]


def count_packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with the size of every content that is compressed."""
    sizes: list[int] = []
    really_pack = pack_whole

    def pack(content: bytes, level: int) -> bytes:
        sizes.append(len(content))
        return really_pack(content, level)

    monkeypatch.setattr(packing, "pack_whole", pack)
    return sizes


def test_what_is_packed_already_is_not_packed_again(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = build_tree(tmp_path / "tree", {"a": noise(1000), "b": noise(2000, 1)})
    publish.publish(builds, tree, FIRST)
    packed = count_packed(monkeypatch)
    build_tree(tree, {"b": noise(3000, 2)})
    publish.publish(builds, tree, SECOND)
    assert packed == [3000]
    check_build(builds / "2")


def test_the_newest_contents_come_first(tmp_path: Path, builds: Path) -> None:
    day = 86_400 * 10**9
    times = {"a": 5 * day, "b": 9 * day, "c": 9 * day + 7, "d": 9 * day - 1, "e": -1}
    spec: Spec = {name: name for name in times}
    tree = build_tree(tmp_path / "tree", spec)
    for name, time in times.items():
        os.utime(tree / name, ns=(time, time))
    publish.publish(builds, tree, FIRST)
    with (builds / "1/pack.index").open("rb") as index:
        found = [frame.digest for frame in read_pack_index(index)[1]]
    wanted = [hashlib.sha256(name.encode()).digest() for name in "bcdae"]
    assert found == wanted


def test_a_content_stands_where_its_newest_file_does(
    tmp_path: Path, builds: Path
) -> None:
    day = 86_400 * 10**9
    times = {"a": 1 * day, "b": 5 * day, "c": 9 * day}
    tree = build_tree(tmp_path / "tree", {"a": "twice", "b": "once", "c": "twice"})
    for name, time in times.items():
        os.utime(tree / name, ns=(time, time))
    publish.publish(builds, tree, FIRST)
    with (builds / "1/pack.index").open("rb") as index:
        found = [frame.digest for frame in read_pack_index(index)[1]]
    assert found == [hashlib.sha256(text).digest() for text in (b"twice", b"once")]


def test_what_cannot_be_held_is_streamed(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone of its size or not, there twice, or in an earlier build."""
    spec: Spec = {
        "a": noise(5000),
        "again": noise(5000),
        "as long": noise(5000, 1),
        "b": noise(6000),
        "small": noise(40),
    }
    tree = build_tree(tmp_path / "tree", spec)
    publish.publish(builds, tree, FIRST)
    monkeypatch.setattr(packing, "IN_MEMORY", 1000)
    others = builds.with_name("others")
    assert publish.publish(others, tree, FIRST).contents == 4
    assert check_build(others / "1") == Checked(4, (), ())
    assert entries(others / "1") == entries(builds / "1") == list(walk_tree(tree))
    again = publish.publish(builds, tree, SECOND)
    pack = (builds / "1/pack").read_bytes()
    assert (builds / "2/pack").read_bytes() == pack
    assert again.pack == len(pack)


def test_a_large_frame_is_copied_when_it_is_sound(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "IN_MEMORY", 1000)
    sizes: list[int] = []
    really_pack = pack_content

    def pack(chunks: Iterable[bytes], size: int, level: int) -> Iterator[bytes]:
        sizes.append(size)
        return really_pack(chunks, size, level)

    monkeypatch.setattr(packing, "pack_content", pack)
    tree = build_tree(tmp_path / "tree", {"a": noise(5000), "b": noise(6000, 1)})
    publish.publish(builds, tree, FIRST)
    flip(builds / "1/pack", 500)
    publish.publish(builds, tree, SECOND)
    assert sizes == [5000, 6000, 5000]
    assert check_build(builds / "2") == Checked(2, (), ())


@pytest.mark.parametrize("size", [50, 5000], ids=["held", "streamed"])
def test_a_file_that_lies_about_its_size_is_refused(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(packing, "IN_MEMORY", 1000)
    really_read = walk.Directory.read

    def read(self: walk.Directory, path: TreePath, size: int) -> Iterator[bytes]:
        for chunk in really_read(self, path, size):
            yield chunk[:-1]

    monkeypatch.setattr(walk.Directory, "read", read)
    tree = build_tree(tmp_path / "tree", {"a": noise(size)})
    with pytest.raises(UnfitTree, match="a: it changed"):
        publish.publish(builds, tree, FIRST)


def test_little_waits_for_what_is_slow() -> None:
    taken: list[int] = []

    def take() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    done = packing.in_order(str, take(), ahead=30, weigh=lambda _: 10)
    assert next(done) == "0"
    assert taken == [0, 1, 2, 3]
    assert list(done) == [str(number) for number in range(1, 50)]


class Killer:
    """A progress that kills the program half-way."""

    def step(self, text: str) -> None:
        pass

    def transferred(self, done: int, total: int) -> None:
        if done > total // 2:
            os._exit(9)


def test_a_publication_that_was_killed_is_gone_on_with(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: Spec = {f"{number:03}": noise(50_000, number) for number in range(300)}
    tree = build_tree(tmp_path / "tree", spec)
    publish.publish(builds.with_name("others"), tree, FIRST)
    for _ in range(2):
        if (pid := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                publish.publish(builds, tree, FIRST, progress=Killer())
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    packed = count_packed(monkeypatch)
    publish.publish(builds, tree, FIRST)
    assert 50 < len(packed) < 250
    assert sorted(os.listdir(builds)) == [".lock", "1"]
    for name in ("pack", "pack.index"):
        other = builds.with_name("others") / "1" / name
        assert (builds / "1" / name).read_bytes() == other.read_bytes()


class Interrupter:
    """Presses Ctrl-C in the middle."""

    def step(self, text: str) -> None:
        pass

    def transferred(self, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt


def test_a_publication_that_was_interrupted_is_gone_on_with(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: Spec = {f"{number:03}": noise(50_000, number) for number in range(300)}
    tree = build_tree(tmp_path / "tree", spec)
    with pytest.raises(KeyboardInterrupt):
        publish.publish(builds, tree, FIRST, progress=Interrupter())
    assert not (builds / FIRST).exists()
    packed = count_packed(monkeypatch)
    publish.publish(builds, tree, FIRST)
    assert 50 < len(packed) < 250
    assert sorted(os.listdir(builds)) == [".lock", "1"]
    check_build(builds / "1")


@pytest.mark.root
def test_what_root_publishes_belongs_to_who_owns_the_site(
    tmp_path: Path, builds: Path
) -> None:
    builds.mkdir(parents=True)
    os.chown(builds, 65534, 65534)
    tree = build_tree(tmp_path / "tree", {"a": "one", "d/b": "two"})
    with pytest.raises(KeyboardInterrupt):
        publish.publish(builds, tree, FIRST, progress=Interrupter())
    (stage,) = builds.glob(".tmp-*")
    assert stage.stat().st_uid == 65534, "so that its owner can go on or delete it"
    publish.publish(builds, tree, FIRST, with_root=True)
    publish.publish(builds, tree, SECOND, delta_from=[FIRST])
    for name in ("1", "1/pack", "1/contents", "2", "2/delta", "2/delta/1.pack"):
        assert (builds / name).stat().st_uid == 65534, name
    assert (builds / "1/root/a").stat().st_uid == 0, "as it is on the laptops"


def test_a_damaged_frame_is_made_anew(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = build_tree(tmp_path / "tree", {"a": noise(1000), "b": noise(2000, 1)})
    publish.publish(builds, tree, FIRST)
    flip(builds / "1/pack", 500)
    packed = count_packed(monkeypatch)
    publish.publish(builds, tree, SECOND)
    assert packed == [1000]
    check_build(builds / "2")


@pytest.mark.parametrize("name", ["pack", "pack.index"])
def test_a_damaged_build_is_told_and_left_alone(
    tree: Path, builds: Path, name: str
) -> None:
    publish.publish(builds, tree, FIRST)
    with open(builds / "1" / name, "ab") as file:
        file.write(b"more\n")
    story = Story()
    publish.publish(builds, tree, SECOND, progress=story)
    assert any(step.startswith("build 1 is damaged") for step in story.steps)
    check_build(builds / "2")
