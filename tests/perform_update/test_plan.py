"""What is missing, what can be linked, and what it takes to find out."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from olpc_update_query.errors import Malformed, UnsafePath
from olpc_update_query.model.entry import Entry, Kind, TreePath, encode_entry
from olpc_update_query.model.manifest import Header, encode_header
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import InstalledTree
from olpc_update_query.perform_update.plan import Origin, Plan, make_plan
from tests.perform_update.builds import Build, encode_manifest, make_build
from tests.perform_update.conftest import BIG
from tests.trees import File, Hard, Spec, build_tree


def sha(content: str | bytes) -> bytes:
    return hashlib.sha256(
        content.encode() if isinstance(content, str) else content
    ).digest()


def installed(path: Path, build: Build) -> InstalledTree:
    contents = path / f"{build.name}.contents"
    contents.write_bytes(build.contents)
    return InstalledTree(build.name, build.tree, contents)


@pytest.fixture
def plan(tmp_path: Path, old: Build, new: Build) -> Iterator[Plan]:
    with plan_for(tmp_path, new, old) as plan:
        yield plan


def plan_for(
    path: Path, new: Build, *olds: Build, distrust: set[bytes] | None = None
) -> Plan:
    contents = path / "new.contents"
    contents.write_bytes(new.contents)
    trees = [installed(path, old) for old in olds]
    return make_plan(contents, trees, path / "plan.db", distrust=distrust or ())


def origins(plan: Plan) -> dict[bytes, Origin | None]:
    return {
        entry.path: origin for entry, origin in plan.steps() if entry.kind is Kind.FILE
    }


def test_what_is_missing_comes_in_the_order_of_the_manifest(plan: Plan) -> None:
    contents = [b"new kernel", b"fresh", b"new words", BIG + b"more"]
    assert list(plan.missing()) == [(sha(one), len(one)) for one in contents]
    assert plan.missing_bytes == sum(map(len, contents))
    assert plan.missing_size(sha("fresh")) == 5
    assert plan.missing_size(sha("same")) is None


def test_what_is_the_same_is_linked(plan: Plan) -> None:
    linked = {path for path, origin in origins(plan).items() if origin}
    assert linked == {b"bin/sh", b"etc/same"}
    assert plan.linked == 2
    assert plan.new_bytes == plan.missing_bytes


def test_every_installed_content_can_be_located(plan: Plan, old: Build) -> None:
    for entry in old.entries:
        if entry.kind is Kind.FILE:
            found = plan.locate(entry.digest)
            assert found is not None
            tree, path = found
            content = (tree.tree / os.fsdecode(path)).read_bytes()
            assert sha(content) == entry.digest
    assert plan.locate(sha("nowhere")) is None


def test_the_scratch_file_goes_with_the_plan(plan: Plan, tmp_path: Path) -> None:
    assert (tmp_path / "plan.db").exists()
    plan.close()
    assert not (tmp_path / "plan.db").exists()


def test_without_anything_installed_all_is_missing(tmp_path: Path, new: Build) -> None:
    with plan_for(tmp_path, new) as plan:
        assert {digest for digest, _ in plan.missing()} == set(new.bytes_of())
        assert plan.linked == 0


def test_the_first_tree_that_has_a_file_gives_it(
    tmp_path: Path, old: Build, new: Build
) -> None:
    with plan_for(tmp_path, new, old, new) as plan:
        found = origins(plan)
        assert found[b"etc/same"] == Origin(0, TreePath(b"etc/same"))
        assert found[b"etc/fresh"] == Origin(1, TreePath(b"etc/fresh"))
        assert plan.missing_bytes == 0


def test_distrusted_contents_are_missing(
    tmp_path: Path, old: Build, new: Build
) -> None:
    with plan_for(tmp_path, new, old, distrust={sha("same")}) as plan:
        assert plan.missing_size(sha("same")) == 4
        assert plan.locate(sha("same")) is None
        assert origins(plan)[b"etc/same"] is None


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: path.write_text("SAME"), id="another time"),
        pytest.param(lambda path: path.write_text("longer"), id="another size"),
        pytest.param(
            lambda path: (path.unlink(), path.symlink_to("motd")), id="another kind"
        ),
    ],
)
def test_a_file_that_has_changed_does_not_count(
    tmp_path: Path, old: Build, new: Build, spoil: "object"
) -> None:
    assert callable(spoil)
    spoil(old.tree / "etc/same")
    with plan_for(tmp_path, new, old) as plan:
        assert plan.missing_size(sha("same")) == 4
        assert plan.locate(sha("same")) is None


@pytest.mark.parametrize(
    ("known", "disk", "wanted", "is_linked"),
    [
        pytest.param(5, 5.5, 5, True, id="both from archives"),
        pytest.param(5.5, 5.5, 5, True, id="the new one from an archive"),
        pytest.param(5, 5.5, 5.5, True, id="the old one from an archive"),
        pytest.param(5.5, 5, 5.25, True, id="on a disk of whole seconds"),
        pytest.param(5, 5.5, 5.25, False, id="only between them"),
        pytest.param(5, 5.5, 6, False, id="another second"),
    ],
)
def test_time_is_as_fine_as_the_coarser_of_disk_and_manifest(
    tmp_path: Path,
    old: Build,
    known: float,
    disk: float,
    wanted: float,
    is_linked: bool,
) -> None:
    os.utime(old.tree / "etc/same", ns=(0, round(disk * 10**9)))
    with plan_for(tmp_path, dated(old, wanted), dated(old, known)) as plan:
        assert plan.missing_size(sha("same")) is None
        assert (origins(plan)[b"etc/same"] is not None) is is_linked


def dated(build: Build, seconds: float) -> Build:
    """Return a build with another time of one file."""
    entries = tuple(
        entry._replace(mtime_ns=round(seconds * 10**9))
        if entry.path == b"etc/same"
        else entry
        for entry in build.entries
    )
    return replace(
        build, contents=encode_manifest(build.name, entries), entries=entries
    )


def test_a_file_with_another_mode_counts_but_is_not_linked(
    tmp_path: Path, old: Build, new: Build
) -> None:
    (old.tree / "etc/same").chmod(0o600)
    with plan_for(tmp_path, new, old) as plan:
        assert plan.missing_size(sha("same")) is None
        assert plan.locate(sha("same")) is not None
        assert origins(plan)[b"etc/same"] is None


def test_empty_files_are_never_missing(tmp_path: Path) -> None:
    new = make_build("2", build_tree(tmp_path / "2", {"empty": "", "also": ""}))
    with plan_for(tmp_path, new) as plan:
        assert list(plan.missing()) == []


def test_a_content_is_missing_once(tmp_path: Path) -> None:
    spec: Spec = {"a": "xx", "b": "xx", "c": File("xx", mode=0o600), "d": Hard("a")}
    new = make_build("2", build_tree(tmp_path / "2", spec))
    with plan_for(tmp_path, new) as plan:
        assert list(plan.missing()) == [(sha("xx"), 2)]
        assert (plan.missing_bytes, plan.new_bytes) == (2, 6)


def test_two_new_files_are_not_linked_to_one_old(tmp_path: Path) -> None:
    old = make_build("1", build_tree(tmp_path / "1", {"old": "xx"}))
    new = make_build("2", build_tree(tmp_path / "2", {"a": "xx", "b": "xx"}))
    with plan_for(tmp_path, new, old) as plan:
        assert origins(plan) == {b"a": Origin(0, TreePath(b"old")), b"b": None}


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'["legacy"]\n', id="of another format"),
        pytest.param(None, id="not there"),
    ],
)
def test_a_manifest_of_no_use_is_no_error(
    tmp_path: Path, old: Build, new: Build, contents: bytes | None
) -> None:
    tree = installed(tmp_path, old)
    tree.contents.unlink()
    if contents is not None:
        tree.contents.write_bytes(contents)
    (tmp_path / "new").write_bytes(new.contents)
    with make_plan(tmp_path / "new", [tree], tmp_path / "plan.db") as plan:
        assert plan.linked == 0


def test_half_a_manifest_is_half_a_use(tmp_path: Path, old: Build, new: Build) -> None:
    tree = installed(tmp_path, old)
    lines = old.contents.splitlines(keepends=True)
    tree.contents.write_bytes(b"".join(lines[:4]) + b"garbage\n")
    (tmp_path / "new").write_bytes(new.contents)
    with make_plan(tmp_path / "new", [tree], tmp_path / "plan.db") as plan:
        assert set(origins(plan)) > {b"bin/sh"}
        assert origins(plan)[b"bin/sh"] is not None


@pytest.mark.parametrize(
    ("old_line", "new_line", "error"),
    [
        pytest.param(b'"etc/motd"', b'"etc/../motd"', UnsafePath, id="an unsafe path"),
        pytest.param(b'"etc/motd"', b'"etc/aaa"', Malformed, id="no order"),
        pytest.param(b'"entries":', b'"entries":1', Malformed, id="another count"),
    ],
)
def test_a_wrong_manifest_leaves_nothing(
    tmp_path: Path, new: Build, old_line: bytes, new_line: bytes, error: type[Exception]
) -> None:
    contents = new.contents.replace(old_line, new_line)
    assert contents != new.contents
    (tmp_path / "new").write_bytes(contents)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(error):
        make_plan(tmp_path / "new", [], tmp_path / "plan.db")
    assert not (tmp_path / "plan.db").exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)


# --- many paths ---------------------------------------------------------------------

_MANY = 300_000
_MOST_MEMORY = 64 << 10  # KiB
_MEASURED = """
import sys
from pathlib import Path
from olpc_update_query.perform_update.plan import make_plan
from olpc_update_query.perform_update.activate import InstalledTree

new, old, scratch = map(Path, sys.argv[1:])
tree = InstalledTree("1", Path("/nowhere"), old)
with make_plan(new, [tree], scratch) as plan:
    print(sum(1 for _ in plan.missing()), sum(1 for _ in plan.steps()))
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])
"""


def write_many(path: Path, name: str, salt: str) -> Path:
    """Write a manifest of 300,000 files."""
    root = Entry(TreePath(b""), Kind.DIRECTORY, 0o755, 0, 0, 0)
    with path.open("wb") as file:
        file.write(encode_header(Header(BuildId(name), _MANY + 1, _MANY, 9 * _MANY)))
        file.write(encode_entry(root))
        for number in range(_MANY):
            file.write(
                encode_entry(
                    Entry(
                        TreePath(b"a-file-of-a-usual-name-%07d" % number),
                        Kind.FILE,
                        0o644,
                        0,
                        0,
                        1_600_000_000_000_000_000 + number,
                        9,
                        sha(f"{salt}{number}"),
                    )
                )
            )
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("salt", ["one", "two"])
def test_memory_does_not_grow_with_the_build(tmp_path: Path, salt: str) -> None:
    """Even when nothing is the same, or nothing that is the same is there."""
    old = write_many(tmp_path / "old", "1", "one")
    new = write_many(tmp_path / "new", "2", salt)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, new, old, tmp_path / "plan.db"],
        check=True,
        capture_output=True,
        text=True,
    )
    missing, steps, memory = map(int, done.stdout.split())
    assert (missing, steps) == (_MANY, _MANY + 1)
    assert memory < _MOST_MEMORY
