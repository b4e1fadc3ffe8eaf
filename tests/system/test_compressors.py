"""What the usual programs have compressed is made again, bit for bit."""

import gzip
import lzma
import random
import subprocess
import zlib
from pathlib import Path

import pytest

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model.inside import Kind, Member, Part
from olpc_update_query.system import compressors
from olpc_update_query.system.compressors import (
    Pieces,
    can_make,
    expand,
    header_length,
    make,
    zstd_version,
)


def text(size: int) -> bytes:
    """Return something that compresses about as programs do."""
    source = random.Random(size)
    words = [source.randbytes(source.randrange(2, 30)) for _ in range(5000)]
    parts = (source.choice(words) for _ in range(size // 10))
    return b"".join(parts)[:size]


def made(part: Part, inner: bytes, step: int = 10_000) -> bytes:
    pieces = (inner[start : start + step] for start in range(0, len(inner), step))
    return b"".join(make(part, pieces))


def packed_by(*words: str, stdin: bytes) -> bytes:
    return subprocess.run(words, input=stdin, stdout=-1, check=True).stdout


needs_zstd = pytest.mark.needs("zstd")


@needs_zstd
@pytest.mark.parametrize("size", [1000, 130_000, 400_000, 18 << 20])
@pytest.mark.parametrize("threads", ["-T1", "-T2"])
def test_what_the_zstd_program_makes(tmp_path: Path, size: int, threads: str) -> None:
    inner = text(size)
    (tmp_path / "file").write_bytes(inner)
    words = ("zstd", "-q", "-9", threads, "-c", str(tmp_path / "file"))
    frame = packed_by(*words, stdin=b"")
    part = Part(Kind.ZSTD, size, (9, 1, zstd_version()))
    assert can_make(part)
    assert made(part, inner) == frame[header_length(frame) : -4]


@needs_zstd
def test_a_zstd_frame_of_a_pipe() -> None:
    inner = text(17 << 20)
    frame = subprocess.run(
        ["bash", "-c", "cat | zstd -q -9"], input=inner, stdout=-1, check=True
    ).stdout
    part = Part(Kind.ZSTD, len(inner), (9, 0, zstd_version()))
    assert made(part, inner, 70_000) == frame[header_length(frame) : -4]


@pytest.mark.parametrize("level", [1, 6, 9])
def test_what_deflate_makes(level: int) -> None:
    inner = text(300_000)
    member = gzip.compress(inner, level, mtime=0)
    part = Part(Kind.DEFLATE, len(inner), (level, 8))
    assert made(part, inner) == member[10:-8]


@pytest.mark.needs("xz-utils")
def test_what_the_xz_program_makes() -> None:
    inner = text(200_000)
    words = ("xz", "-c", "--check=crc32", "--x86", "--lzma2=preset=6,dict=1MiB")
    packed = packed_by(*words, stdin=inner)
    part = Part(Kind.XZ, len(inner), (6, lzma.CHECK_CRC32, 1 << 20, 1))
    assert made(part, inner) == packed


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(Part(Kind.DEFLATE, 9, (0, 9)), id="deflate, level 0"),
        pytest.param(Part(Kind.DEFLATE, 9, (9, 10)), id="deflate, much memory"),
        pytest.param(Part(Kind.XZ, 9, (10, 1, 4096, 0)), id="xz, level 10"),
        pytest.param(Part(Kind.XZ, 9, (6, 99, 4096, 0)), id="xz, another check"),
        pytest.param(Part(Kind.XZ, 9, (6, 1, 4096, 2)), id="xz, another filter"),
        pytest.param(Part(Kind.XZ, 9, (6, 1, 1, 0)), id="xz, no dictionary"),
        pytest.param(Part(Kind.XZ, 9, (6, 1, 32 << 20, 0)), id="xz, as of kernels"),
        pytest.param(Part(Kind.XZ, 9 << 20, (6, 1, 8 << 20, 0)), id="xz, large"),
        pytest.param(Part(Kind.ZSTD, 9, (0, 1, zstd_version())), id="zstd, level 0"),
        pytest.param(Part(Kind.ZSTD, 9, (23, 1, zstd_version())), id="zstd, level 23"),
        pytest.param(Part(Kind.ZSTD, 9, (9, 2, zstd_version())), id="zstd, unclear"),
        pytest.param(Part(Kind.ZSTD, 9, (9, 1, 10000)), id="zstd, another release"),
        pytest.param(Part(Kind.ZSTD, 9, (9, 1, 0)), id="zstd, none"),
        pytest.param(
            Part(Kind.ZSTD, 99 << 20, (19, 1, zstd_version())), id="zstd, large"
        ),
    ],
)
def test_what_would_not_be_right_or_take_too_much_is_refused(part: Part) -> None:
    assert not can_make(part)
    with pytest.raises(CorruptContent):
        list(make(part, [bytes(9)]))


def test_without_the_library_there_is_no_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressors, "_library", lambda: None)
    assert zstd_version() == 0
    assert not can_make(Part(Kind.ZSTD, 9, (9, 1, 10504)))


def test_an_inside_that_is_too_short() -> None:
    part = Part(Kind.ZSTD, 100, (9, 1, zstd_version()))
    with pytest.raises(CorruptContent):
        made(part, bytes(99))
    with pytest.raises(CorruptContent):
        list(Pieces([b"abc"]).take(4))


@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        (Kind.DEFLATE, zlib.compress(b"x" * 999)[2:-4]),
        (Kind.XZ, lzma.compress(b"x" * 999)),
        (Kind.ZSTD, bytes.fromhex("28b52ffd 60e702 3b1f00 78")),
    ],
)
def test_bases_are_expanded_to_their_size_and_no_further(
    kind: Kind, packed: bytes
) -> None:
    size = 999
    assert expand(Member(kind, 0, len(packed), size), packed) == b"x" * size
    for wrong in (size + 1, 0 if kind is Kind.ZSTD else size + 5):
        with pytest.raises(CorruptContent):
            expand(Member(kind, 0, len(packed), wrong), packed)
    with pytest.raises(CorruptContent):
        expand(Member(kind, 0, len(packed), size), b"\xff" + packed)
