"""Spools go on where they stopped, with whatever server is left."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olpc_update_query import errors
from olpc_update_query.perform_update.sources import spool as spool_module
from olpc_update_query.perform_update.sources.spool import (
    OVERLAP,
    AnotherFile,
    Feed,
    Spool,
    most_packed,
    need_room,
    persist,
    resume,
    resume_range,
)
from olpc_update_query.ports import Stream
from tests.perform_update.published import StillClock


@dataclass
class Shelf:
    """Files in memory, at a place that may know little and be cut off."""

    data: bytes
    url: str = "http://a.test"
    knows_ranges: bool = True
    tag: str | None = None
    tells_length: bool = True
    cut: int | None = None
    asked: list[tuple[int, int | None, str | None]] = field(default_factory=list)

    def open(
        self,
        name: str,
        *,
        start: int = 0,
        length: int | None = None,
        validator: str | None = None,
    ) -> Stream:
        self.asked.append((start, length, validator))
        fits = validator is None or validator == self.tag
        if not (self.knows_ranges and fits and start < len(self.data)):
            start, length = 0, None
        end = len(self.data) if length is None else start + length
        total = len(self.data) if self.tells_length else None
        return Stream(start, total, self._chunks(self.data[start:end]), self.tag)

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        sent = body if self.cut is None else body[: self.cut]
        yield from (sent[at : at + 700] for at in range(0, len(sent), 700))
        if len(sent) < len(body):
            raise errors.NetworkError(self.url, "cut off")


def pull(shelf: Shelf, spool: Spool) -> None:
    with resume(shelf, "f", spool) as feed:
        for chunk in feed.read():
            spool.append(chunk)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "f.part") as spool:
        yield spool


DATA = os.urandom(20_000)


def fill(spool: Spool, shelf: Shelf, size: int) -> None:
    with resume(shelf, "f", spool) as feed:
        for chunk in feed.read(size):
            spool.append(chunk)


# --- going on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "first"),
    [
        pytest.param('"1"', 10_000 - 1, id="vouched for: one byte"),
        pytest.param(None, 10_000 - OVERLAP, id="not vouched for: an overlap"),
    ],
)
def test_rest_is_asked_for(spool: Spool, tag: str | None, first: int) -> None:
    shelf = Shelf(DATA, tag=tag)
    fill(spool, shelf, 10_000)
    pull(shelf, spool)
    assert spool.read(0, 99_999) == DATA
    assert shelf.asked == [(0, None, None), (first, None, tag)]


def test_tag_of_one_server_says_nothing_to_another(spool: Spool) -> None:
    fill(spool, Shelf(DATA, tag='"1"'), 10_000)
    mirror = Shelf(DATA, url="http://b.test", tag='"2"')
    pull(mirror, spool)
    assert spool.read(0, 99_999) == DATA
    assert mirror.asked == [(10_000 - OVERLAP, None, None)]


def test_complete_spool_is_only_confirmed(spool: Spool) -> None:
    shelf = Shelf(DATA, tag='"1"')
    pull(shelf, spool)
    pull(shelf, spool)
    assert spool.read(0, 99_999) == DATA
    assert shelf.asked[1] == (19_999, None, '"1"')


@pytest.mark.parametrize("tag", [None, '"2"'])
@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(os.urandom(20_000), id="another"),
        pytest.param(DATA[:5000] + os.urandom(20_000), id="from some place on"),
        pytest.param(os.urandom(3000), id="a shorter one"),
        pytest.param(DATA[:7000], id="its beginning"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_changed_file_is_fetched_anew(
    spool: Spool, tag: str | None, knows_ranges: bool, other: bytes
) -> None:
    fill(spool, Shelf(DATA, tag='"1"'), 10_000)
    pull(Shelf(other, tag=tag, knows_ranges=knows_ranges), spool)
    assert spool.read(0, 99_999) == other


def test_server_without_ranges_costs_no_progress(spool: Spool) -> None:
    fill(spool, Shelf(DATA), 10_000)
    poor = Shelf(DATA, knows_ranges=False, cut=5000)
    with pytest.raises(errors.NetworkError, match="cut off"):
        pull(poor, spool)
    assert spool.size == 10_000
    pull(Shelf(DATA, knows_ranges=False), spool)
    assert spool.read(0, 99_999) == DATA


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"one", b"two"]),
            st.booleans(),
            st.booleans(),
            st.integers(0, 25_000),
            st.sampled_from(["http://a.test", "http://b.test"]),
        ),
        max_size=6,
    )
)
def test_whatever_happened_before_a_good_server_brings_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[bytes, bool, bool, int, str]],
) -> None:
    versions = {b"one": DATA, b"two": DATA[::-1]}
    path = tmp_path_factory.mktemp("spool") / "f.part"
    for name, knows_ranges, has_tag, cut, url in history:
        shelf = Shelf(versions[name], url, knows_ranges, cut=cut)
        shelf.tag = f'"{name!r}{url}"' if has_tag else None
        with Spool(path) as spool, contextlib.suppress(errors.NetworkError):
            pull(shelf, spool)
        come = path.read_bytes()
        assert any(version.startswith(come) for version in versions.values())
    with Spool(path) as spool:
        pull(Shelf(DATA), spool)
        assert spool.read(0, 99_999) == DATA


# --- ranges ----------------------------------------------------------------------


def test_range_goes_on_in_the_middle(spool: Spool) -> None:
    spool.append(b"other ranges" + DATA[5000:9000])
    shelf = Shelf(DATA)
    with resume_range(shelf, "f", spool, 4000, 9000, 500) as feed:
        assert b"".join(feed.read(9500)) == DATA[9000:9500]
    assert shelf.asked == [(5000, 4500, None)]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_range_of_another_file_is_noticed(spool: Spool, knows_ranges: bool) -> None:
    spool.append(os.urandom(4000))
    shelf = Shelf(DATA, knows_ranges=knows_ranges)
    with pytest.raises(AnotherFile):
        resume_range(shelf, "f", spool, 4000, 9000, 500)
    assert spool.size == 4000


def test_range_of_a_server_without_ranges_is_waited_for(spool: Spool) -> None:
    shelf = Shelf(DATA, knows_ranges=False)
    with resume_range(shelf, "f", spool, 0, 9000, 500) as feed:
        assert not feed.is_ranged
        assert b"".join(feed.read(9500)) == DATA[9000:9500]
        assert b"".join(feed.read(9600)) == DATA[9500:9600]


def test_range_beyond_the_end_is_an_error(spool: Spool) -> None:
    with pytest.raises(errors.NetworkError, match="it ends after 20000 bytes"):
        resume_range(Shelf(DATA), "f", spool, 0, 30_000, 500)


def test_feed_refuses_another_offset() -> None:
    class Confused(Shelf):
        def open(
            self,
            name: str,
            *,
            start: int = 0,
            length: int | None = None,
            validator: str | None = None,
        ) -> Stream:
            return Stream(start + 1, None, iter([]))

    with pytest.raises(errors.NetworkError, match="another offset"):
        Feed(Confused(DATA), "f", 5)


# --- persistence -----------------------------------------------------------------


def test_moving_download_is_repeated_a_standing_one_is_not(spool: Spool) -> None:
    clock = StillClock()
    shelf = Shelf(DATA, tag='"1"', cut=6000)
    persist(spool, clock, lambda: pull(shelf, spool))
    assert spool.read(0, 99_999) == DATA
    assert len(clock.slept) == 3
    shelf = Shelf(DATA * 2, tag='"2"', cut=0)
    with pytest.raises(errors.NetworkError, match="cut off"):
        persist(spool, clock, lambda: pull(shelf, spool))
    assert len(clock.slept) == 3


@pytest.mark.parametrize(
    "kind", [errors.NoAnswer, errors.BuildNotFound, errors.ProxyRefused, AnotherFile]
)
def test_some_failures_do_not_pass(
    spool: Spool, kind: type[errors.NetworkError]
) -> None:
    clock = StillClock()

    def attempt() -> None:
        spool.append(b"x")
        raise kind("http://a.test", "no")

    with pytest.raises(kind):
        persist(spool, clock, attempt)
    assert not clock.slept


# --- the file ----------------------------------------------------------------------


def test_finished_spool_gets_its_name(tmp_path: Path) -> None:
    with Spool(tmp_path / "f.part") as spool:
        pull(Shelf(DATA, tag='"1"'), spool)
        spool.finish("f")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == DATA


def test_removed_spool_leaves_nothing(tmp_path: Path) -> None:
    with Spool(tmp_path / "f.part") as spool:
        pull(Shelf(DATA, tag='"1"'), spool)
        spool.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("note", [b"", b"[1,2]", b"\0\0", b"x" * 10_000])
def test_damaged_note_is_none(tmp_path: Path, note: bytes) -> None:
    (tmp_path / "f.part.origin").write_bytes(note)
    with Spool(tmp_path / "f.part") as spool:
        assert spool.recall("http://a.test/f") is None


def test_room_is_needed_with_a_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "free_bytes", lambda _: 5_000_000)
    need_room(tmp_path, 5_000_000 - spool_module.RESERVE)
    with pytest.raises(errors.NoSpace) as caught:
        need_room(tmp_path, 5_000_001 - spool_module.RESERVE)
    assert (caught.value.needed, caught.value.free) == (5_000_001, 5_000_000)


@pytest.mark.parametrize("size", [0, 1, 1000, 1_000_000, 10_000_000])
def test_incompressible_data_stays_below_the_bound(size: int) -> None:
    import zstandard

    packed = zstandard.ZstdCompressor(level=1).compress(os.urandom(size))
    assert len(packed) <= most_packed(size)
