"""Seeds of the formats that nobody signs: manifests, packs, deltas and zstd frames."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from olpc_update_query.model import inside
from olpc_update_query.model.delta import (
    DeltaHeader,
    encode_delta_frame,
)
from olpc_update_query.model.entry import Entry, Kind, TreePath
from olpc_update_query.model.manifest import Header, encode_entry, encode_header
from olpc_update_query.model.pack import (
    BASE_WINDOW,
    SEGMENT,
    Frame,
    PackHeader,
    Segment,
    encode_pack_frame,
    encode_pack_header,
    read_pack_index,
    unpack_segment,
)
from olpc_update_query.model.wire import parse_build_id, parse_sha256
from tests.fuzz.facts import FRAME
from tests.trees import CAPABILITY, MTIME_NS

_BUILDS: Final = Path(__file__).parents[2] / "docs/samples/builds"
_DIGEST: Final = sha256(b"content").digest()


# --- manifests --------------------------------------------------------------------


def manifests() -> dict[str, bytes]:
    """Return manifests with all there can be in one."""
    root = _entry("", Kind.DIRECTORY, mode=0o755)
    plain = [
        root,
        _entry("bin", Kind.DIRECTORY, mode=0o755),
        _file("bin/sh", mode=0o4755, size=3),
        _file("bin/su", mode=0o755, size=4),
        _entry("etc", Kind.DIRECTORY, mode=0o1777),
        _file("etc/issue", size=0),
        _entry("sbin", Kind.SYMLINK, mode=0o777)._replace(target=b"bin"),
    ]
    return {
        "good-empty": _manifest([root]),
        "good-plain": _manifest(plain),
        "good-every-kind": _manifest([root, *sorted(_every_kind())]),
        "good-names": _manifest([root, *_names()]),
        "good-limits": _manifest([root, *_limits()]),
    }


def _every_kind() -> list[Entry]:
    xattrs = ((b"security.capability", CAPABILITY), (b"user.\xe9%", b""))
    leader = TreePath(b"a/file")
    return [
        _entry("a", Kind.DIRECTORY)._replace(xattrs=xattrs),
        _entry("a/block", Kind.BLOCK)._replace(device=(259, 70000)),
        _entry("a/char", Kind.CHAR)._replace(device=(1, 3)),
        _entry("a/fifo", Kind.FIFO),
        _file("a/file", size=7),
        _file("a/hard", size=7)._replace(leader=leader),
        _file("a/hard2", size=7)._replace(leader=leader, xattrs=xattrs),
        _entry("a/link", Kind.SYMLINK)._replace(target=b"../\xff\x01%/"),
        _entry("a-b", Kind.DIRECTORY),
    ]


def _names() -> list[Entry]:
    names = (b'"', b"%41", b"\\", b"\n\x7f", b"\xe2\x82", "\u20ac \U0001f9d2".encode())
    paths = [b"caf\xe9", *(b"caf\xe9/" + name for name in names)]
    kinds = [Kind.DIRECTORY, *(Kind.FIFO for _ in names)]
    pairs = zip(paths, kinds, strict=True)
    return sorted(_entry(path, kind) for path, kind in pairs)


def _limits() -> list[Entry]:
    last = (1 << 32) - 2
    deep = [TreePath(b"d" + b"/d" * depth) for depth in range(40)]
    return [
        *(_entry(path, Kind.DIRECTORY) for path in deep),
        _file("e", mode=0o7777, size=(1 << 63) - 1)._replace(uid=last, gid=last),
        _entry(b"f" * 255, Kind.FIFO, mode=0)._replace(mtime_ns=-(1 << 63) + 1),
        _entry("g", Kind.SYMLINK)._replace(target=b"t" * 300, mtime_ns=0),
    ]


def _entry(path: str | bytes, kind: Kind, *, mode: int = 0o644) -> Entry:
    raw = path.encode() if isinstance(path, str) else path
    return Entry(TreePath(raw), kind, mode, 0, 0, MTIME_NS)


def _file(path: str, *, size: int, mode: int = 0o644) -> Entry:
    return _entry(path, Kind.FILE, mode=mode)._replace(size=size, digest=_DIGEST)


def _manifest(entries: Iterable[Entry]) -> bytes:
    entries = list(entries)
    files = [entry for entry in entries if entry.kind is Kind.FILE]
    total = sum(entry.size for entry in files if entry.leader is None)
    header = Header(parse_build_id("762"), len(entries), len(files), total)
    return encode_header(header) + b"".join(map(encode_entry, entries))


# --- packs ------------------------------------------------------------------------


def packs() -> dict[str, bytes]:
    """Return indexes of full packs."""
    return {
        "good-sample": (_BUILDS / "762/pack.index").read_bytes(),
        "good-empty": _index([]),
        "good-wide": _index([(9, 5), (1 << 40, 1 << 41), (0, 0), (70000, 70001)] * 15),
    }


def _index(lengths: Iterable[tuple[int, int]]) -> bytes:
    frames = []
    for number, (packed, size) in enumerate(lengths):
        digest = sha256(b"%d" % number).digest()
        frames.append(Frame(digest, size, None, 0, (Segment(0, 0, packed, size),)))
    header = PackHeader(
        parse_sha256(_DIGEST.hex()), len(frames), sum(frame.packed for frame in frames)
    )
    return encode_pack_header(header) + b"".join(map(encode_pack_frame, frames))


def deltas() -> dict[str, bytes]:
    """Return headers of delta packs with what their index frame holds."""
    sample = (_BUILDS / "762/delta/760.pack").read_bytes()
    line = sample[: sample.index(b"\n") + 1]
    most = Segment((1 << 62), BASE_WINDOW, (1 << 33), SEGMENT)
    patches = [
        Frame(_DIGEST, SEGMENT, sha256(b"base").digest(), 0, (most,)),
        Frame(sha256(b"0").digest(), 0, None, 0, (Segment(0, 0, 9, 0),)),
        Frame(
            sha256(b"2").digest(),
            SEGMENT + 7,
            sha256(b"base2").digest(),
            0,
            (Segment(0, 9, 5, SEGMENT), Segment(9, 0, 3, 7)),
        ),
        Frame(sha256(b"none").digest(), 0, sha256(b"base").digest(), 0, ()),
    ]
    return {
        "good-sample": line + _sample_index(),
        "good-empty": _delta([], []),
        "good-patches": _delta([most, Segment(0, 0, 1, 1)], patches),
        "good-inside": _delta([], _taken_apart()),
    }


def _taken_apart() -> list[Frame]:
    """Return frames of contents taken apart, of every kind."""
    other, kind = sha256(b"other").digest(), inside.Kind
    initrd = inside.Inside(
        (
            inside.Part(kind.RAW, 10),
            inside.Part(kind.ZSTD, 130 << 20, (9, 1, 10504)),
            inside.Part(kind.XZ, 70_000, (6, 1, 1 << 20, 1)),
        ),
        (),
        (inside.Copy(110, other), inside.Copy(0, _DIGEST)),
    )
    manual = inside.Inside(
        (inside.Part(kind.DEFLATE, 900, (9, 9)),),
        (
            inside.Member(kind.DEFLATE, 10, 20, 30),
            inside.Member(kind.XZ, 0, 1, inside.MAX_INNER - 60),
        ),
    )
    return [
        Frame(_DIGEST, 500, other, 0, (Segment(0, 60, 20, 900),), manual),
        Frame(other, 30 << 20, None, 0, (Segment(0, 0, 9, SEGMENT),), initrd),
    ]


def _sample_index() -> bytes:
    sample = (_BUILDS / "762/delta/760.pack").read_bytes()
    header = DeltaHeader.parse(sample[: sample.index(b"\n") + 1])
    packed = sample[header.index_offset : header.frames_offset]
    return b"".join(unpack_segment(packed, b"", header.index_size))


def _delta(manifest: Iterable[Segment], frames: Iterable[Frame]) -> bytes:
    frames = list(frames)
    index = b"".join(map(encode_delta_frame, frames))
    digest = parse_sha256(_DIGEST.hex())
    header = DeltaHeader(digest, digest, 0, tuple(manifest), 100, len(index))
    packed = sum(frame.packed for frame in frames)
    while header.length != header.frames_offset + packed:
        header = header._replace(length=header.frames_offset + packed)
    return header.encode() + index


# --- frames -----------------------------------------------------------------------

_MAGIC: Final = bytes.fromhex("28b52ffd")
_RAW: Final = 0
_RLE: Final = 1


def frames() -> dict[str, bytes]:
    """Return packed segments, made by zstd and made by hand."""
    old = (_BUILDS / "760/contents").read_bytes()
    sample = (_BUILDS / "762/delta/760.pack").read_bytes()
    header = DeltaHeader.parse(sample[: sample.index(b"\n") + 1])
    start = header.manifest_offset
    part = header.manifest[0]
    patch = sample[start : start + part.packed]
    bomb = _by_hand([(_RLE, 128 << 10, b"\0")] * 120)
    return {
        "good-patch": _frame(part.size, patch, old[: part.base_length]),
        **{f"good-content-{size}": _frame(size, raw) for size, raw in _contents()},
        "good-raw": _frame(5, _by_hand([(_RAW, 3, b"abc"), (_RAW, 2, b"de")])),
        "good-run": _frame(120 * (128 << 10), bomb),
        "good-empty": _frame(0, _by_hand([(_RAW, 0, b"")])),
        "good-sized": _frame(2, _MAGIC + bytes.fromhex("2002 110000") + b"ab"),
        "other-bomb": _frame(4096, bomb),
        "other-window": _frame(3, _MAGIC + bytes.fromhex("0070 190000") + b"abc"),
        "other-window-31": _frame(3, _MAGIC + bytes.fromhex("00a8 190000") + b"abc"),
        "other-huge": _frame(3, _MAGIC + b"\xe0" + b"\xff" * 8 + b"\x19\0\0abc"),
        "other-number": _frame(
            3, _MAGIC + bytes.fromhex("2301020304 03 190000") + b"abc"
        ),
        "other-skipped": _frame(0, bytes.fromhex("502a4d18 03000000") + b"abc"),
        "other-two": _frame(6, _by_hand([(_RAW, 3, b"abc")]) * 2),
    }


def _contents() -> list[tuple[int, bytes]]:
    build = _BUILDS / "762"
    packed = (build / "pack").read_bytes()
    with (build / "pack.index").open("rb") as index:
        listed = list(read_pack_index(index)[1])
    some = (frame for frame in listed if frame.size in {5, 12, 10298})
    found = {frame.size: packed[frame.offset :][: frame.packed] for frame in some}
    return sorted(found.items())


def _by_hand(blocks: list[tuple[int, int, bytes]]) -> bytes:
    """Write a zstd frame of blocks of (type, size, content), its window 128 KiB."""
    out = _MAGIC + b"\x00\x38"
    for number, (kind, size, content) in enumerate(blocks, start=1):
        last = number == len(blocks)
        out += (last | kind << 1 | size << 3).to_bytes(3, "little") + content
    return out


def _frame(size: int, packed: bytes, base: bytes = b"") -> bytes:
    return FRAME.pack(size, len(base)) + base + packed
