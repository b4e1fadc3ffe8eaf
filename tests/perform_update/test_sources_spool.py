"""Spools remember what has come, and a crew of places fills them."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olpc_update_query import errors
from olpc_update_query.perform_update.sources import spool as spool_module
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.health import Health
from olpc_update_query.perform_update.sources.spool import (
    OVERLAP,
    AnotherFile,
    Spool,
    most_packed,
    need_room,
)
from olpc_update_query.perform_update.spans import Span
from olpc_update_query.ports import Pieces, RangesRefused, Stream
from tests.perform_update.published import Recorder, StillClock


@dataclass
class Shelf:
    """Files in memory, at a place that may know little and be cut off."""

    data: bytes
    url: str = "http://a.test"
    knows_ranges: bool = True
    tells_length: bool = True
    cut: int | None = None
    asked: list[tuple[int, int | None]] = field(default_factory=list)

    def open_ranges(self, name: str, spans: Sequence[Span]) -> Pieces:
        raise RangesRefused(self.url, "one range at a time")

    def open(self, name: str, *, start: int = 0, length: int | None = None) -> Stream:
        self.asked.append((start, length))
        is_partial = self.knows_ranges and start < len(self.data)
        if not is_partial:
            start, length = 0, None
        end = len(self.data) if length is None else start + length
        total = len(self.data) if self.tells_length or is_partial else None
        body = self._chunks(self.data[start:end])
        return Stream(start, total, body, is_partial=is_partial)

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        sent = body if self.cut is None else body[: self.cut]
        yield from (sent[at : at + 700] for at in range(0, len(sent), 700))
        if len(sent) < len(body):
            raise errors.NetworkError(self.url, "cut off")


def crew_of(*shelves: Shelf) -> Crew:
    clock = StillClock()
    return Crew(shelves, Health(None, clock), clock, Recorder())


def pull(crew: Crew, spool: Spool, *spans: Span, limit: int = 1 << 30) -> None:
    download = crew.download("f", spool, limit=limit, tell=lambda: None)
    if spans:
        download.fill(spans)
    else:
        download.fetch_all()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "f.part") as spool:
        yield spool


DATA = os.urandom(20_000)


# --- going on --------------------------------------------------------------------


def test_rest_is_asked_for_with_an_overlap(spool: Spool) -> None:
    pull(crew_of(Shelf(DATA)), spool, Span(0, 10_000))
    mirror = Shelf(DATA, url="http://b.test")
    pull(crew_of(mirror), spool)
    assert spool.read(0, 99_999) == DATA
    assert mirror.asked[0][0] == 10_000 - OVERLAP
    assert spool.givers(0, 10_000) == {"http://a.test"}
    assert spool.givers(10_000, 20_000) == {"http://b.test"}


def test_holes_are_filled_wherever_they_are(spool: Spool) -> None:
    spool.write(5000, DATA[5000:9000], "http://x.test")
    shelf = Shelf(DATA)
    pull(crew_of(shelf), spool)
    assert spool.read(0, 99_999) == DATA
    assert sum(length or 0 for _, length in shelf.asked) < 600_000


@pytest.mark.parametrize("tells_length", [True, False])
@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("size", [1, 699, 700, 20_000])
def test_any_server_brings_a_whole_file(
    spool: Spool, knows_ranges: bool, tells_length: bool, size: int
) -> None:
    shelf = Shelf(DATA[:size], knows_ranges=knows_ranges, tells_length=tells_length)
    pull(crew_of(shelf), spool)
    assert (spool.read(0, 99_999), spool.length) == (DATA[:size], size)


@pytest.mark.parametrize("tells_length", [True, False])
def test_empty_file_is_none_of_a_build(spool: Spool, tells_length: bool) -> None:
    shelf = Shelf(b"", tells_length=tells_length)
    with pytest.raises(errors.CorruptContent, match="an empty one"):
        pull(crew_of(shelf), spool)


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(os.urandom(20_000), id="another"),
        pytest.param(DATA[:7000] + os.urandom(13_000), id="from some place on"),
        pytest.param(os.urandom(3000), id="a shorter one"),
    ],
)
def test_another_file_is_not_mixed_in(
    spool: Spool, knows_ranges: bool, other: bytes
) -> None:
    pull(crew_of(Shelf(DATA)), spool, Span(0, 10_000))
    with pytest.raises(AnotherFile):
        pull(crew_of(Shelf(other, knows_ranges=knows_ranges)), spool)
    assert spool.read(0, 10_000) == DATA[:10_000]


def test_place_with_another_file_is_left_for_one_with_the_same(spool: Spool) -> None:
    pull(crew_of(Shelf(DATA)), spool, Span(0, 10_000))
    liar = Shelf(DATA[::-1], url="http://liar.test")
    pull(crew_of(liar, Shelf(DATA)), spool)
    assert spool.read(0, 99_999) == DATA
    assert spool.givers(0, 99_999) == {"http://a.test"}


def test_server_without_ranges_costs_no_progress(spool: Spool) -> None:
    pull(crew_of(Shelf(DATA)), spool, Span(0, 10_000))
    with pytest.raises(errors.NetworkError, match="cut off"):
        pull(crew_of(Shelf(DATA, knows_ranges=False, cut=5000)), spool)
    assert spool.size == 10_000
    pull(crew_of(Shelf(DATA, knows_ranges=False)), spool)
    assert spool.read(0, 99_999) == DATA


def test_file_beyond_its_limit_is_refused(spool: Spool) -> None:
    for tells_length in (True, False):
        shelf = Shelf(DATA, knows_ranges=False, tells_length=tells_length)
        with pytest.raises(errors.CorruptContent):
            pull(crew_of(shelf), spool, limit=15_000)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"one", b"two"]),
            st.booleans(),
            st.booleans(),
            st.integers(0, 25_000),
            st.sampled_from(["http://a.test", "http://b.test"]),
        ),
        max_size=5,
    )
)
def test_whatever_happened_before_what_comes_is_of_one_file(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[tuple[bytes, bool, bool, int, str]],
) -> None:
    versions = {b"one": DATA, b"two": DATA[::-1]}
    path = tmp_path_factory.mktemp("spool") / "f.part"
    for name, knows_ranges, tells, cut, url in history:
        shelf = Shelf(versions[name], url, knows_ranges, tells, cut)
        with Spool(path) as spool, contextlib.suppress(errors.NetworkError):
            pull(crew_of(shelf), spool)
        with Spool(path) as spool:
            come = spool.read(0, 99_999)
        assert any(version.startswith(come) for version in versions.values())


# --- persistence -----------------------------------------------------------------


def test_moving_download_is_repeated_a_standing_one_is_not(spool: Spool) -> None:
    shelf = Shelf(DATA, cut=6000)
    pull(crew_of(shelf), spool)
    assert spool.read(0, 99_999) == DATA
    assert len(shelf.asked) >= 4
    spool.clear()
    dead = Shelf(DATA, cut=0)
    with pytest.raises(errors.NetworkError, match="cut off"):
        pull(crew_of(dead), spool)
    assert len(dead.asked) == 2


class Refusing(Shelf):
    """A place that gives the same answer to everything."""

    error: errors.NetworkError

    def open(self, name: str, *, start: int = 0, length: int | None = None) -> Stream:
        self.asked.append((start, length))
        raise self.error


@pytest.mark.parametrize(
    "kind", [errors.NoAnswer, errors.BuildNotFound, errors.ProxyRefused, AnotherFile]
)
def test_some_failures_do_not_pass(
    spool: Spool, kind: type[errors.NetworkError]
) -> None:
    shelf = Refusing(DATA)
    shelf.error = kind("http://a.test", "no")
    with pytest.raises(kind):
        pull(crew_of(shelf), spool)
    assert len(shelf.asked) == 1


# --- the file ----------------------------------------------------------------------


def test_finished_spool_gets_its_name(tmp_path: Path) -> None:
    with Spool(tmp_path / "f.part") as spool:
        pull(crew_of(Shelf(DATA)), spool)
        spool.finish("f")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == DATA


def test_removed_spool_leaves_nothing(tmp_path: Path) -> None:
    with Spool(tmp_path / "f.part") as spool:
        pull(crew_of(Shelf(DATA)), spool)
        spool.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("journal", [b"", b"[1,2]", b"\0\0", b"0 99999", None])
def test_spool_without_a_good_journal_is_empty(
    tmp_path: Path, journal: bytes | None
) -> None:
    (tmp_path / "f.part").write_bytes(DATA)
    if journal is not None:
        (tmp_path / "f.part.have").write_bytes(journal)
    with Spool(tmp_path / "f.part") as spool:
        assert (spool.size, spool.have.total) == (0, 0)


def test_journal_never_says_more_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(DATA[:100])
    (tmp_path / "f.part.have").write_bytes(b"0 20000 http://a.test\n")
    with Spool(tmp_path / "f.part") as spool:
        assert spool.size == 100


def test_several_threads_may_write(tmp_path: Path) -> None:
    def write(into: Spool, number: int) -> None:
        for at in range(number * 500, len(DATA), 2000):
            into.write(at, DATA[at : at + 500], f"http://{number}.test")

    with Spool(tmp_path / "f.part") as spool:
        threads = [threading.Thread(target=write, args=(spool, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with Spool(tmp_path / "f.part") as spool:
        assert spool.read(0, 99_999) == DATA
        assert spool.givers(500, 1000) == {"http://1.test"}


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
