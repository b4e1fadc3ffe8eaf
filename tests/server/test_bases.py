"""Bases: what a new content is a patch of."""

import hashlib
from collections.abc import Callable, Sequence

import pytest

from olpc_update_query.model.manifest import Entry, Kind, TreePath
from olpc_update_query.model.pack import (
    BASE_WINDOW,
    SEGMENT,
)
from olpc_update_query.server.bases import Content, Windows, choose_bases
from tests.server.published import noise


def content(path: str, size: int = 10) -> Content:
    return Content(
        hashlib.sha256(path.encode()).digest(), size, TreePath(path.encode())
    )


def file(path: str, size: int = 10) -> Entry:
    digest, _, raw = content(path)
    return Entry(raw, Kind.FILE, 0o644, 0, 0, 0, size, digest)


@pytest.mark.parametrize(
    ("path", "old", "base"),
    [
        pytest.param("a/x", ["a/w", "a/x", "b/x"], "a/x", id="same path"),
        pytest.param("a/x", ["b/y"], None, id="nothing alike"),
        pytest.param(
            "lib/libz.so.1.3", ["lib/libz.so.1.2"], "lib/libz.so.1.2", id="so"
        ),
        pytest.param(
            "lib/modules/6.1.0-10/a/x.ko",
            *(["a/x.ko", "lib/modules/6.1.0-9/a/x.ko", "lib/modules/x/a/x.ko"],),
            "lib/modules/6.1.0-9/a/x.ko",
            id="kernel",
        ),
        pytest.param(
            "usr/share/doc/z2/copyright",
            *(["usr/share/doc/a/copyright", "usr/share/doc/z1/copyright"],),
            "usr/share/doc/z1/copyright",
            id="among many",
        ),
        pytest.param(
            "etc/a/conf", ["x/etc/a/conf", "etc/b/conf"], "x/etc/a/conf", id="d"
        ),
    ],
)
def test_bases(path: str, old: Sequence[str], base: str | None) -> None:
    missing = content(path)
    expected = {} if base is None else {missing.digest: content(base)}
    assert choose_bases([missing], [file(name) for name in old]) == expected


def test_of_equals_the_one_of_similar_size() -> None:
    old = [file("lib/1/a", 5), file("lib/2/a", 900), file("lib/3/a", 5000)]
    missing = content("lib/4/a", 1000)
    assert choose_bases([missing], old)[missing.digest].path == b"lib/2/a"


def test_only_files_with_a_content_are_bases() -> None:
    link = Entry(TreePath(b"a"), Kind.SYMLINK, 0o777, 0, 0, 0, target=b"b")
    assert choose_bases([content("a")], [link]) == {}
    assert choose_bases([content("a")], [file("a", 0)]) == {}


BASE = noise(24 << 20)


@pytest.mark.parametrize(
    ("start", "made", "window"),
    [
        pytest.param(0, lambda at: BASE[at : at + SEGMENT], 0, id="at the start"),
        pytest.param(
            *(12 << 20, lambda at: BASE[at : at + SEGMENT], 10 << 20),
            id="in the middle",
        ),
        pytest.param(
            *(20 << 20, lambda at: BASE[at : at + SEGMENT], 16 << 20), id="at the end"
        ),
        pytest.param(0, lambda _: BASE[-SEGMENT:], 16 << 20, id="moved far"),
        pytest.param(
            *(8 << 20, lambda at: bytes(3 << 20) + BASE[at + 3 : at + 3 + (1 << 20)]),
            (3 << 20) + 3 + (0 << 20),
            id="mostly zeros",
        ),
        pytest.param(
            *(8 << 20, lambda _: noise(SEGMENT, 7), 6 << 20), id="proportional"
        ),
        pytest.param(8 << 20, lambda _: b"", 4 << 20, id="nothing"),
    ],
)
def test_windows(start: int, made: Callable[[int], bytes], window: int) -> None:
    found = Windows(BASE, len(BASE)).choose(made(start), start)
    assert found == (window, BASE_WINDOW)


def test_a_short_base_is_one_window() -> None:
    assert Windows(b"short", 100).choose(b"x", 0) == (0, 5)


def test_windows_follow_the_segment_before() -> None:
    shifted = noise(5 << 20, 1) + BASE
    windows = Windows(BASE, len(shifted))
    for start in range(8 << 20, 24 << 20, SEGMENT):
        offset, _ = windows.choose(shifted[start : start + SEGMENT], start)
        assert offset == min(max(start - (7 << 20), 0), 16 << 20)


@pytest.mark.parametrize("before", [1, 31, 32, 0])
def test_what_is_searched_for_may_lie_across_two_pieces(before: int) -> None:
    """A large base is searched in pieces; the one sample that is there counts."""
    place = (12 << 20) - before
    sample = BASE[place : place + 32]
    segment = sample + bytes(SEGMENT - 32)
    found, _ = Windows(BASE, len(BASE)).choose(segment, 0)
    assert found == place - (BASE_WINDOW - SEGMENT) // 2
