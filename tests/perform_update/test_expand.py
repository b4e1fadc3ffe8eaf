"""Expanding what was downloaded, by whomever, and what hostile packs come to."""

import gzip
import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from olpc_update_query.model.delta import encode_delta_frame
from olpc_update_query.model.inside import Copy, Inside, Kind, Member, Part
from olpc_update_query.model.pack import Frame, Segment, pack_segment
from olpc_update_query.perform_update import expand as module
from olpc_update_query.perform_update.expand import Expanded, Wishes, expand
from olpc_update_query.perform_update.store import DELTA, SPOOL, Downloads
from olpc_update_query.perform_update.vault import Vault
from tests.perform_update.builds import (
    Build,
    Patch,
    assemble_delta,
    put_delta,
    put_full_pack,
)
from tests.perform_update.conftest import BIG

ONE, TWO = b"the first content" * 50, b"the second content" * 70


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


class Bench:
    """A vault, downloads, and wishes for some contents."""

    def __init__(self, path: Path, old: Build, new: Build) -> None:
        self.old, self.new = old, new
        self.downloads = path / "asker/downloads/x"
        self.downloads.mkdir(parents=True)
        self.store = path / "store"
        self.sizes = {sha(content): len(content) for content in (ONE, TWO)}
        self.bases: dict[bytes, Path] = {}
        self.refuse: set[bytes] = set()
        self.most = 100

    def put(self, *patches: Patch) -> None:
        put_delta(self.downloads, self.old, self.new, patches)

    def put_raw(self, index: bytes, frames: bytes) -> None:
        delta = assemble_delta(self.old, self.new, index, frames)
        (self.downloads / DELTA).write_bytes(delta)

    def expand(self) -> Expanded:
        with Downloads(self.downloads) as downloads, Vault(self.store) as vault:
            wishes = Wishes(self.sizes.get, self.open_base, self.refuse, self.most)
            result = expand(downloads, vault, wishes)
        for name in os.listdir(self.store):
            content = (self.store / name).read_bytes()
            assert sha(content).hex() == name, "what is in the vault is proven"
        return result

    def open_base(self, digest: bytes) -> int | None:
        path = self.bases.get(digest)
        return None if path is None else os.open(path, os.O_RDONLY)

    def found(self) -> set[str]:
        return set(os.listdir(self.store))


@pytest.fixture
def bench(tmp_path: Path, old: Build, new: Build) -> Bench:
    return Bench(tmp_path, old, new)


def names(*contents: bytes) -> set[str]:
    return {sha(content).hex() for content in contents}


# --- what is right ------------------------------------------------------------------


def test_wanted_contents_are_made_and_others_are_not(bench: Bench) -> None:
    bench.put(Patch(ONE), Patch(b"not wanted"), Patch(TWO))
    result = bench.expand()
    assert bench.found() == names(ONE, TWO)
    assert (result.patched, result.fetched, result.bad) == (0, 2, set())


def test_a_patch_is_applied_to_its_base(bench: Bench, tmp_path: Path) -> None:
    base = ONE[:-1] + b"?"
    bench.bases[sha(base)] = tmp_path / "base"
    (tmp_path / "base").write_bytes(base)
    bench.put(Patch(ONE, base))
    assert bench.expand().patched == 1
    assert bench.found() == names(ONE)


def test_a_content_of_many_segments(bench: Bench, tmp_path: Path) -> None:
    base = random.Random(1).randbytes(300_000)
    content = base[100_000:] + base[:100_000] + b"end"
    parts = [
        content[start : start + 70_000] for start in range(0, len(content), 70_000)
    ]
    packed = [pack_segment(part, base[100_000:], 3) for part in parts]
    segments = tuple(
        Segment(100_000, 200_000, len(one), len(part))
        for one, part in zip(packed, parts, strict=True)
    )
    frame = Frame(sha(content), len(content), sha(base), 0, segments)
    bench.put_raw(encode_delta_frame(frame), b"".join(packed))
    (tmp_path / "base").write_bytes(base)
    bench.bases[sha(base)] = tmp_path / "base"
    bench.sizes = {sha(content): len(content)}
    assert bench.expand().patched == 1
    assert bench.found() == names(content)


def test_a_large_content_in_many_packets(bench: Bench) -> None:
    bench.sizes[sha(BIG * 9)] = len(BIG * 9)
    bench.put(Patch(BIG * 9), Patch(ONE))
    bench.expand()
    assert bench.found() == names(BIG * 9, ONE)


def test_what_is_in_the_vault_is_not_made_again(bench: Bench) -> None:
    bench.put(Patch(ONE))
    bench.expand()
    assert bench.expand().fetched == 0


def test_without_downloads_nothing_is_made(bench: Bench) -> None:
    assert bench.expand().bad == set()
    assert bench.found() == set()


def test_parts_of_a_full_pack(bench: Bench) -> None:
    contents = bench.new.bytes_of()
    some = set(list(contents)[::2])
    put_full_pack(bench.downloads, bench.new, fetched=some)
    bench.sizes = {digest: len(content) for digest, content in contents.items()}
    assert bench.expand().bad == set()
    assert bench.found() == {digest.hex() for digest in some}


def test_ranges_that_continue_one_another_are_one(bench: Bench) -> None:
    put_full_pack(bench.downloads, bench.new)
    spool = bench.downloads / SPOOL
    half = spool.stat().st_size // 2
    lines = f"{half} {spool.stat().st_size} http://a.test\n0 {half} rsync://b.test\n"
    (bench.downloads / "pack.spool.have").write_text(lines)
    contents = bench.new.bytes_of()
    bench.sizes = {digest: len(content) for digest, content in contents.items()}
    bench.expand()
    assert bench.found() == names(*contents.values())


def test_a_spool_that_is_still_growing_gives_what_is_whole(bench: Bench) -> None:
    put_full_pack(bench.downloads, bench.new)
    spool = bench.downloads / SPOOL
    os.truncate(spool, spool.stat().st_size - 1)
    contents = bench.new.bytes_of()
    bench.sizes = {digest: len(content) for digest, content in contents.items()}
    assert bench.expand().bad == set()
    assert bench.found() == names(*list(contents.values())[:-1])


# --- contents taken apart -------------------------------------------------------------


def put_inside(
    bench: Bench, content: bytes, inside: Inside, raw: bytes, *more: Patch
) -> None:
    """Leave a delta pack with a content that is put together, and others before it."""
    index, frames = b"", b""
    for patch in more:
        frame, packed = patch.frame(len(frames))
        index += encode_delta_frame(frame)
        frames += packed
    packed = pack_segment(raw, b"", 3)
    segments = (Segment(0, 0, len(packed), len(raw)),)
    frame = Frame(sha(content), len(content), None, 0, segments, inside)
    bench.put_raw(index + encode_delta_frame(frame), frames + packed)
    bench.sizes[sha(content)] = len(content)


def deflated(size: int) -> Part:
    return Part(Kind.DEFLATE, size, (9, 8))


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def test_a_content_is_made_of_others_of_its_build(bench: Bench, tmp_path: Path) -> None:
    installed = b"installed already" * 20
    bench.bases[sha(installed)] = tmp_path / "installed"
    (tmp_path / "installed").write_bytes(installed)
    inner = b"<" + ONE + b"|" + installed + b">"
    content = gzipped(inner)
    copies = (Copy(11, sha(ONE)), Copy(1, sha(installed)))
    parts = (Part(Kind.RAW, 10), deflated(len(inner)), Part(Kind.RAW, 8))
    raw = content[:10] + b"<|>" + content[-8:]
    put_inside(bench, content, Inside(parts, (), copies), raw, Patch(ONE), Patch(TWO))
    assert bench.expand().bad == set()
    assert bench.found() == names(ONE, TWO, content)


def test_a_patch_of_what_is_inside(bench: Bench, tmp_path: Path) -> None:
    old, inner = gzipped(TWO), TWO[:-1] + b"?"
    content = gzipped(inner)
    raw = content[:10] + inner + content[-8:]
    base = old[:10] + TWO + old[-8:]
    packed = pack_segment(raw, base, 3)
    member = Member(Kind.DEFLATE, 10, len(old) - 18, len(TWO))
    parts = (Part(Kind.RAW, 10), deflated(len(inner)), Part(Kind.RAW, 8))
    segments = (Segment(0, len(base), len(packed), len(raw)),)
    inside = Inside(parts, (member,))
    frame = Frame(sha(content), len(content), sha(old), 0, segments, inside)
    bench.put_raw(encode_delta_frame(frame), packed)
    bench.sizes[sha(content)] = len(content)
    bench.expand()
    assert bench.found() == set(), "without its base"
    bench.bases[sha(old)] = tmp_path / "old.gz"
    (tmp_path / "old.gz").write_bytes(old)
    assert bench.expand().bad == set()
    assert bench.found() == names(content)
    os.unlink(bench.store / sha(content).hex())
    (tmp_path / "old.gz").write_bytes(old[:-9])
    assert bench.expand().bad == {DELTA}, "with a damaged base"


RAW = Part(Kind.RAW, 30)


@pytest.mark.parametrize(
    "inside",
    [
        pytest.param(
            Inside((Part(Kind.RAW, 30),), (), (Copy(0, sha(b"?")),)), id="gone"
        ),
        pytest.param(Inside((Part(Kind.RAW, 31),)), id="more than there is"),
        pytest.param(Inside((Part(Kind.RAW, 29),)), id="less than there is"),
        pytest.param(Inside(()), id="of nothing"),
        pytest.param(
            Inside((Part(Kind.RAW, 9),), (), (Copy(31, sha(ONE)),)), id="skips"
        ),
        pytest.param(Inside((Part(Kind.ZSTD, 30, (9, 1, 1)),)), id="another release"),
        pytest.param(Inside((Part(Kind.XZ, 30, (6, 1, 1 << 31, 0)),)), id="memory"),
        pytest.param(Inside((deflated(30),)), id="other bytes"),
        pytest.param(Inside((RAW,), (Member(Kind.ZSTD, 0, 9, 9),)), id="no base"),
    ],
)
def test_a_hostile_description_costs_one_content(bench: Bench, inside: Inside) -> None:
    put_inside(bench, b"never made", inside, b"x" * 30, Patch(ONE), Patch(TWO))
    assert bench.expand().bad == {DELTA}
    assert bench.found() == names(ONE, TWO)


def test_contents_cannot_be_asked_for_without_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_COPIES", 3)
    copies = (Copy(0, sha(ONE)),) * 4
    content = ONE * 4
    parts = (Part(Kind.RAW, len(content)),)
    put_inside(bench, content, Inside(parts, (), copies), b"", Patch(ONE), Patch(TWO))
    assert bench.expand().bad == {DELTA}
    assert bench.found() == names(ONE, TWO)


# --- what is wrong ------------------------------------------------------------------


def test_wrong_bytes_are_one_content_less(bench: Bench) -> None:
    frames = pack_segment(b"X" * len(ONE), b"", 3) + pack_segment(TWO, b"", 3)
    first = len(pack_segment(b"X" * len(ONE), b"", 3))
    index = encode_delta_frame(
        Frame(sha(ONE), len(ONE), None, 0, (Segment(0, 0, first, len(ONE)),))
    ) + encode_delta_frame(
        Frame(
            sha(TWO), len(TWO), None, 0, (Segment(0, 0, len(frames) - first, len(TWO)),)
        )
    )
    bench.put_raw(index, frames)
    assert bench.expand().bad == {DELTA}
    assert bench.found() == names(TWO)


def test_a_refused_content_is_not_taken_from_the_delta_pack(bench: Bench) -> None:
    bench.put(Patch(ONE), Patch(TWO))
    bench.refuse = {sha(ONE)}
    bench.expand()
    assert bench.found() == names(TWO)


def test_a_frame_that_expands_without_end_stops_at_its_size(bench: Bench) -> None:
    bomb = pack_segment(bytes(1 << 30), b"", 3)
    frames = bomb + pack_segment(TWO, b"", 3)
    index = encode_delta_frame(
        Frame(sha(ONE), len(ONE), None, 0, (Segment(0, 0, len(bomb), len(ONE)),))
    ) + encode_delta_frame(
        Frame(
            sha(TWO),
            len(TWO),
            None,
            0,
            (Segment(0, 0, len(frames) - len(bomb), len(TWO)),),
        )
    )
    bench.put_raw(index, frames)
    assert bench.expand().bad == {DELTA}
    assert bench.found() == names(TWO)


def test_an_index_that_expands_without_end_is_left(bench: Bench) -> None:
    line = encode_delta_frame(Frame(sha(b""), 0, None, 0, (Segment(0, 0, 0, 0),)))
    bench.put_raw(line * 300_000, b"")
    bench.most = 1000
    assert bench.expand().bad == {DELTA}


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        pytest.param(1 << 40, 100, id="behind the end"),
        pytest.param(0, 1 << 20, id="longer than the base"),
    ],
)
def test_a_patch_that_reads_beyond_its_base(
    bench: Bench, tmp_path: Path, offset: int, length: int
) -> None:
    (tmp_path / "base").write_bytes(b"base")
    bench.bases[sha(b"base")] = tmp_path / "base"
    packed = pack_segment(ONE, b"", 3)
    frame = Frame(
        sha(ONE),
        len(ONE),
        sha(b"base"),
        0,
        (Segment(offset, length, len(packed), len(ONE)),),
    )
    bench.put_raw(encode_delta_frame(frame), packed)
    assert bench.expand().bad == {DELTA}
    assert bench.found() == set()


def test_a_patch_of_a_base_that_is_not_there_is_passed_over(bench: Bench) -> None:
    bench.put(Patch(ONE, b"nowhere"), Patch(TWO))
    assert bench.expand().bad == set()
    assert bench.found() == names(TWO)


Spoil = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:-1], id="cut"),
        pytest.param(lambda data: data + b"x", id="longer"),
        pytest.param(lambda data: b"\n" + data, id="no header"),
        pytest.param(lambda data: b"[" * 100_000, id="nested"),
        pytest.param(lambda data: bytes(100_000), id="zeros"),
    ],
)
@pytest.mark.parametrize("file", [DELTA, SPOOL, "pack.index", "pack.spool.have"])
def test_a_damaged_file_gives_less_and_does_no_harm(
    bench: Bench, file: str, spoil: Spoil
) -> None:
    bench.put(Patch(ONE), Patch(TWO))
    put_full_pack(bench.downloads, bench.new)
    path = bench.downloads / file
    path.write_bytes(spoil(path.read_bytes()))
    bench.expand()
    assert (bench.found() == names(ONE, TWO)) == (file != DELTA)


def test_any_changed_byte_gives_less_and_does_no_harm(bench: Bench) -> None:
    bench.put(Patch(ONE), Patch(TWO))
    path = bench.downloads / DELTA
    good = path.read_bytes()
    draw = random.Random(2)
    for _ in range(150):
        at = draw.randrange(len(good))
        path.write_bytes(
            good[:at] + bytes([good[at] ^ draw.randrange(1, 256)]) + good[at + 1 :]
        )
        bench.expand()
        for name in bench.found():
            (bench.store / name).unlink()


# --- the child ----------------------------------------------------------------------


@pytest.fixture
def child(bench: Bench) -> Iterator[module._Child]:
    bench.put(Patch(ONE), Patch(TWO))
    with (
        Downloads(bench.downloads) as downloads,
        module._Child(downloads, DELTA, (), 0) as child,
    ):
        assert child.next_offer()
        yield child


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {
        name: rest.split() for name, _, rest in (one.partition(":") for one in lines)
    }


@pytest.mark.root
def test_the_child_is_nobody(child: module._Child) -> None:
    status = status_of(child._pid)
    nobody = ["65534"] * 4
    assert (status["Uid"], status["Gid"], status["Groups"]) == (nobody, nobody, [])
    assert status["CapEff"] == status["CapPrm"] == ["0000000000000000"]


def test_the_child_is_confined(child: module._Child) -> None:
    assert status_of(child._pid)["NoNewPrivs"] == ["1"]
    limits = Path(f"/proc/{child._pid}/limits").read_text()
    for name in ("Max file size", "Max processes", "Max core file size"):
        line = next(one for one in limits.splitlines() if one.startswith(name))
        assert line.removeprefix(name).split()[:2] == ["0", "0"]


@pytest.mark.root
def test_the_child_has_no_other_files(child: module._Child) -> None:
    base = Path(f"/proc/{child._pid}/fd")
    targets = sorted(os.readlink(base / name) for name in os.listdir(base))
    kinds = {Path(target).name.partition(":")[0] for target in targets}
    assert kinds == {"null", "socket", "delta"}


def test_a_child_that_is_killed_is_replaced(bench: Bench) -> None:
    bench.put(Patch(ONE), Patch(TWO))
    asked = 0

    def size_of(digest: bytes) -> int | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            for pid in (
                Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            ):
                os.kill(int(pid), signal.SIGKILL)
        return bench.sizes.get(digest)

    with Downloads(bench.downloads) as downloads, Vault(bench.store) as vault:
        wishes = Wishes(size_of, bench.open_base, (), 100)
        result = expand(downloads, vault, wishes)
    assert bench.found() == names(TWO)
    assert result.bad == {DELTA}


def test_no_child_is_left(bench: Bench) -> None:
    bench.put(Patch(ONE))
    bench.expand()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
