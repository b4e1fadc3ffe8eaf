"""Manifests: what one pass says about all lines, and about two trees."""

import io
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed
from olpc_update_query.model.manifest import (
    MAX_HEADER,
    MAX_LINE,
    Change,
    Difference,
    Entry,
    Header,
    Kind,
    ManifestReader,
    compare,
    encode_entry,
    encode_header,
    parse_header,
    same_time,
)
from olpc_update_query.model.wire import BuildId
from tests.model.entries import directory, entries, file, path

SAMPLE = Path(__file__).parents[2] / "docs/samples/builds/762/contents"


def manifest(tree: list[Entry], **changes: int) -> io.BytesIO:
    files = [entry for entry in tree if entry.kind is Kind.FILE]
    size = sum(entry.size for entry in files if entry.leader is None)
    counts = {"entries": len(tree), "files": len(files), "bytes": size} | changes
    header = Header(BuildId("762"), **counts)
    return io.BytesIO(encode_header(header) + b"".join(map(encode_entry, tree)))


def read(tree: list[Entry], **changes: int) -> list[Entry]:
    return list(ManifestReader(manifest(tree, **changes)))


HEADER = b'["olpc-update-contents",1,{"build":"762","bytes":9,"entries":3,"files":2}]\n'


def test_header() -> None:
    assert parse_header(HEADER) == Header(BuildId("762"), 3, 2, 9)
    assert encode_header(parse_header(HEADER)) == HEADER


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEADER[:-1], id="no newline"),
        pytest.param(HEADER + b"\n", id="two newlines"),
        pytest.param(HEADER.replace(b"contents", b"pack"), id="another format"),
        pytest.param(HEADER.replace(b",1,", b",2,"), id="another version"),
        pytest.param(HEADER.replace(b",1,", b",true,"), id="version true"),
        pytest.param(HEADER.replace(b"762", b"../762"), id="unsafe build"),
        pytest.param(HEADER.replace(b'"762"', b"762"), id="build of no text"),
        pytest.param(HEADER.replace(b":9", b":-9"), id="negative"),
        pytest.param(HEADER.replace(b":9", b":true"), id="bool"),
        pytest.param(HEADER.replace(b":9", b':"9"'), id="text"),
        pytest.param(HEADER.replace(b'"bytes":9,', b""), id="a field less"),
        pytest.param(HEADER.replace(b"}", b',"x":1}'), id="a field more"),
        pytest.param(HEADER.replace(b"}]", b"},1]"), id="an item more"),
        pytest.param(b'"olpc-update-contents"\n', id="a string"),
        pytest.param(b'["olpc-update-contents",1,[]]\n', id="fields in a list"),
    ],
)
def test_refused_headers(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse_header(line)
    with pytest.raises(Malformed):
        list(ManifestReader(io.BytesIO(line)))


def test_a_long_header_is_not_even_parsed() -> None:
    line = HEADER.replace(b"762", b"7" * MAX_HEADER)
    with pytest.raises(Malformed, match="longer than"):
        ManifestReader(io.BytesIO(line))


TREE = [
    directory(""),
    directory("a"),
    directory("a-b"),
    file("a-b/x"),
    file("a.c"),
    directory("a/b"),
    file("a/b/deep"),
    file("a/c"),
    directory("b"),
    file("b0", leader=path("a.c")),
    file("b/x")._replace(path=path("b1")),
]


def test_reads_what_was_written() -> None:
    reader = ManifestReader(manifest(TREE))
    assert list(reader) == TREE
    assert reader.header == Header(BuildId("762"), len(TREE), 6, 15)


@pytest.mark.parametrize(
    "tree",
    [
        pytest.param([], id="empty"),
        pytest.param([directory("a")], id="no tree directory"),
        pytest.param([file("")], id="the tree is a file"),
        pytest.param([directory(""), directory("")], id="the tree twice"),
        pytest.param([directory(""), file("b"), file("a")], id="out of order"),
        pytest.param([directory(""), file("a"), file("a")], id="twice"),
        pytest.param([directory(""), file("a/b")], id="no parent"),
        pytest.param([directory(""), file("a"), file("a/b")], id="parent is a file"),
        pytest.param(
            [directory(""), directory("a"), file("a/b/c")], id="grandparent only"
        ),
        pytest.param(
            [directory(""), directory("a"), directory("a-b"), file("ab/c")],
            id="parent is a prefix only",
        ),
        pytest.param(
            [directory(""), directory("a"), file("a/x"), file("b/x")],
            id="parent of another",
        ),
    ],
)
def test_refused_trees(tree: list[Entry]) -> None:
    with pytest.raises(Malformed):
        read(tree)


@pytest.mark.parametrize("field", ["entries", "files", "bytes"])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_counts_must_be_right(field: str, count: int) -> None:
    with pytest.raises(Malformed, match="counts"):
        read(TREE, **{field: count})


def test_a_wrong_line_is_named() -> None:
    data = manifest(TREE).getvalue().replace(b'"a.c"', b'"%61.c"', 1)
    with pytest.raises(Malformed, match="line 6"):
        list(ManifestReader(io.BytesIO(data)))


def test_a_cut_manifest_is_refused() -> None:
    data = manifest(TREE).getvalue()
    for end in range(len(data)):
        with pytest.raises(Malformed):
            list(ManifestReader(io.BytesIO(data[:end])))


def test_an_endless_line_is_refused_before_it_is_read() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            self.given += len(buffer)
            buffer[:] = b"x" * len(buffer)
            return len(buffer)

    stream = Endless()
    with pytest.raises(Malformed, match="longer"):
        ManifestReader(io.BufferedReader(stream))
    assert stream.given < MAX_LINE + 100_000


def test_memory_does_not_grow_with_the_manifest() -> None:
    wide = [directory(""), *(directory(f"d{number:05}") for number in range(30_000))]
    stream = manifest(wide)
    wide.clear()
    tracemalloc.start()
    try:
        for _ in ManifestReader(stream):
            pass
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def build_of(found: dict[bytes, Entry]) -> list[Entry]:
    """Return a whole tree: what was found, and directories for all parents."""
    tree: dict[bytes, Entry] = {b"": directory("")}
    for name, entry in found.items():
        parts = name.split(b"/")
        for depth in range(1, len(parts)):
            parent = b"/".join(parts[:depth])
            tree[parent] = Entry(path(parent), Kind.DIRECTORY, 0o755, 0, 0, 0)
        tree.setdefault(name, entry._replace(path=path(name), leader=None))
    return [tree[name] for name in sorted(tree)]


few = st.lists(
    st.sampled_from([b"a", b"a-", b"a0", b"b", b"\xff"]), min_size=1, max_size=3
).map(b"/".join)
trees = st.dictionaries(few, entries(), max_size=6).map(build_of)


@given(trees)
def test_every_tree_can_be_read(tree: list[Entry]) -> None:
    assert read(tree) == tree


def apply(changes: Iterable[Change], tree: Iterable[Entry]) -> list[Entry]:
    found = {entry.path: entry for entry in tree}
    for change in changes:
        if change.new is None:
            assert change.old is not None
            del found[change.old.path]
        else:
            assert found.get(change.new.path) == change.old
            found[change.new.path] = change.new
    return [found[name] for name in sorted(found)]


@given(trees, trees)
def test_comparing_tells_how_to_get_there(old: list[Entry], new: list[Entry]) -> None:
    changes = list(compare(old, new))
    assert apply(changes, old) == new
    readers = (ManifestReader(manifest(tree)) for tree in (old, new))
    assert list(compare(*readers)) == changes
    found = [(change.new or change.old) for change in changes]
    assert [entry.path for entry in found if entry] == sorted(
        {entry.path for entry in [*old, *new]}
    )


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        pytest.param(None, file("a"), Difference.ADDED, id="added"),
        pytest.param(file("a"), None, Difference.REMOVED, id="removed"),
        pytest.param(file("a"), file("a"), Difference.UNCHANGED, id="unchanged"),
        pytest.param(file("a"), file("a", mode=0), Difference.METADATA, id="mode"),
        pytest.param(file("a"), file("a", uid=7), Difference.METADATA, id="owner"),
        pytest.param(file("a"), file("a", mtime_ns=7), Difference.METADATA, id="time"),
        pytest.param(
            file("b"), file("b", leader=path("a")), Difference.METADATA, id="linked"
        ),
        pytest.param(
            file("a"),
            file("a", xattrs=((b"user.a", b""),)),
            Difference.METADATA,
            id="attributes",
        ),
        pytest.param(
            file("a"), file("a", digest=bytes(32)), Difference.CONTENT, id="content"
        ),
        pytest.param(file("a"), directory("a"), Difference.CONTENT, id="kind"),
        pytest.param(
            Entry(path("a"), Kind.SYMLINK, 0o777, 0, 0, 0, target=b"b"),
            Entry(path("a"), Kind.SYMLINK, 0o777, 0, 0, 0, target=b"c"),
            Difference.CONTENT,
            id="target",
        ),
        pytest.param(
            Entry(path("a"), Kind.CHAR, 0o666, 0, 0, 0, device=(1, 3)),
            Entry(path("a"), Kind.CHAR, 0o666, 0, 0, 0, device=(1, 5)),
            Difference.CONTENT,
            id="device",
        ),
    ],
)
def test_kinds_of_change(
    old: Entry | None, new: Entry | None, kind: Difference
) -> None:
    assert Change(old, new).kind is kind


@pytest.mark.parametrize("side", [0, 1])
def test_a_damaged_manifest_stops_the_comparison(side: int) -> None:
    both = [manifest(TREE), manifest(TREE)]
    both[side] = manifest(TREE, files=9)
    with pytest.raises(Malformed):
        list(compare(*map(ManifestReader, both)))


def test_comparing_large_manifests_is_quick() -> None:
    tree = [directory("")] + [
        file(
            f"some-file-with-a-name-{number:06}.py", mtime_ns=1_600_000_000_123_456_789
        )
        for number in range(33_000)
    ]
    newer = [
        entry._replace(mtime_ns=7) if n % 9 == 0 else entry
        for n, entry in enumerate(tree)
    ]
    readers = [ManifestReader(manifest(one)) for one in (tree, newer)]
    start = time.process_time()
    changed = sum(
        change.kind is not Difference.UNCHANGED for change in compare(*readers)
    )
    assert time.process_time() - start < 1.5  # 0.25 s on an idle machine
    assert changed == 3667


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        pytest.param(1_500_000_000, 1_500_000_000, True, id="equal"),
        pytest.param(1_500_000_000, 1_000_000_000, True, id="whole seconds only"),
        pytest.param(1_000_000_000, 1_500_000_000, True, id="whole seconds wanted"),
        pytest.param(1_000_000_000, 2_500_000_000, False, id="another second"),
        pytest.param(1_500_000_000, 2_000_000_000, False, id="rounded up"),
        pytest.param(1_500_000_000, 1_500_000_001, False, id="a nanosecond"),
        pytest.param(-500_000_000, -1_000_000_000, True, id="before 1970"),
    ],
)
def test_same_time(wanted: int, found: int, same: bool) -> None:
    assert same_time(wanted, found) is same


def test_the_sample_is_a_manifest() -> None:
    with open(SAMPLE, "rb") as stream:
        found = list(ManifestReader(stream))
    assert {entry.kind for entry in found} == set(Kind)
    assert any(entry.leader for entry in found)
    assert any(entry.xattrs for entry in found)


def test_the_document_shows_the_sample() -> None:
    text = (SAMPLE.parents[3] / "manifest.md").read_text()
    assert SAMPLE.read_text() in text
