"""Compressed contents, taken apart and put together again by what a laptop uses."""

import gzip
import hashlib
import lzma
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model.inside import Kind
from olpc_update_query.server import takeapart
from olpc_update_query.server.takeapart import cpio_files, taken_apart
from olpc_update_query.system.assembly import expand_base, put_together
from tests.system.test_compressors import text

INNER = text(200_000)
MODULE, OTHER = text(70_000), text(50_000)


def again(content: bytes, tmp_path: Path, *known: bytes) -> tuple[bytes, int] | None:
    """Put a content together again; say how many bytes the segments have."""
    files = {hashlib.sha256(one).digest(): one for one in known}

    def copied(digest: bytes) -> Iterator[bytes]:
        yield files[digest]

    with taken_apart(content, tmp_path) as apart:
        found = (
            (file for file in apart.files() if file.digest in files) if apart else ()
        )
        described = apart.describe(found) if apart else None
        if apart is None or described is None:
            return None
        inside, raw = described
        flat = expand_base(apart.members(), lambda at, size: content[at : at + size])
        assert flat == apart.flat(), "the base as a laptop sees it"
        assert len(flat) == apart.flat_size
    made = put_together(inside, iter([raw]), len(raw), copied)
    return b"".join(made), len(raw)


def cpio(files: dict[str, bytes]) -> bytes:
    out = b""
    for number, (name, content) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        fields = [number, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0]
        head = b"070701" + b"".join(
            b"%08X" % field for field in [*fields, len(name) + 1, 0]
        )
        for part in (head + name.encode() + b"\0", content):
            out += part + bytes(-len(part) % 4 if part is content else 0)
            out += bytes(-len(out) % 4)
    return out + bytes(-len(out) % 512)


def compressed(program: str, *options: str, content: bytes) -> bytes:
    words = [program, *options]
    return subprocess.run(words, input=content, stdout=-1, check=True).stdout


def bzimage(payload: bytes) -> bytes:
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    head[0x248:0x24C] = (300).to_bytes(4, "little")
    return bytes(head) + b"\x90" * 300 + payload + b"the end"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gzip.compress(INNER, 9, mtime=0), id="gzip, of Python"),
        pytest.param(gzip.compress(INNER, 1, mtime=5) + b"rest", id="gzip and more"),
        pytest.param(lzma.compress(INNER, preset=2), id="xz"),
        pytest.param(bzimage(lzma.compress(INNER, preset=1)), id="a kernel"),
    ],
)
def test_the_same_bytes_come_out(content: bytes, tmp_path: Path) -> None:
    made = again(content, tmp_path)
    assert made is not None
    assert made[0] == content
    assert made[1] >= len(INNER)


@pytest.mark.parametrize("option", ["-9", "-6", "-n"])
def test_gzip(tmp_path: Path, option: str) -> None:
    content = compressed("gzip", "-c", option, content=INNER[:20_000])
    made = again(content, tmp_path)
    assert made is not None
    assert made[0] == content


@pytest.mark.needs("zstd")
@pytest.mark.parametrize("options", [["-9"], ["-3"], ["-15", "--no-check"]])
def test_zstd(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "file").write_bytes(INNER)
    words = ["-q", *options, "-c", str(tmp_path / "file")]
    content = compressed("zstd", *words, content=b"")
    made = again(content, tmp_path)
    assert made is not None
    assert made[0] == content


@pytest.mark.needs("zstd")
def test_an_initrd_is_made_of_the_modules_of_its_tree(tmp_path: Path) -> None:
    archive = cpio({"a": b"small", "m.ko": MODULE, "dir": b"", "o.ko": OTHER})
    (tmp_path / "file").write_bytes(archive)
    packed = compressed("zstd", "-q9c", str(tmp_path / "file"), content=b"")
    content = cpio({"early/microcode": b"\1\2\3"}) + packed
    made = again(content, tmp_path, MODULE, OTHER)
    assert made is not None
    assert made[0] == content
    assert made[1] < 3000, "what is left are the headers"
    assert again(content, tmp_path, MODULE)[1] > len(OTHER)  # type: ignore[index]


def test_much_between_copies_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known before it is in memory, and before settings are looked for."""
    monkeypatch.setattr(takeapart, "_MAX_GAPS", 60_000)
    monkeypatch.setattr(takeapart, "_IN_MEMORY", 1000)
    content = gzip.compress(cpio({"m.ko": MODULE}), 9, mtime=0)
    made = again(content, tmp_path, MODULE)
    assert made is not None
    assert made[0] == content
    monkeypatch.setattr(takeapart, "make", None)
    assert again(content, tmp_path, OTHER) is None


def test_files_of_an_archive() -> None:
    archive = cpio({"one": b"1", "two": b"22", "empty": b""})
    found = [archive[begin:end] for begin, end in cpio_files(archive)]
    assert found == [b"1", b"22", b"", b""]
    assert list(cpio_files(archive[:150]))[1:] == []
    assert list(cpio_files(b"070701" + b"z" * 200)) == []
    assert list(cpio_files(b"070701")) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"text", id="text"),
        pytest.param(gzip.compress(INNER)[:-1000], id="gzip, cut short"),
        pytest.param(b"\x1f\x8b\x08", id="gzip, nothing but its magic"),
        pytest.param(b"\x1f\x8b\x08" + b"\xff" * 99, id="gzip, garbage"),
        pytest.param(b"\xfd7zXZ\0" + bytes(99), id="xz, garbage"),
        pytest.param(b"\x28\xb5\x2f\xfd" + b"\xff" * 99, id="zstd, garbage"),
        pytest.param(b"\x28\xb5\x2f\xfd\0", id="zstd, cut short"),
        pytest.param(bytes(0x202) + b"HdrS", id="a kernel, cut short"),
        pytest.param(gzip.compress(b"", mtime=0), id="gzip of nothing"),
    ],
)
def test_what_cannot_be_taken_apart(content: bytes, tmp_path: Path) -> None:
    with taken_apart(content, tmp_path) as apart:
        assert apart is None


def test_what_no_known_setting_makes(tmp_path: Path) -> None:
    packed = lzma.compress(
        INNER,
        filters=[{"id": lzma.FILTER_LZMA2, "preset": 6, "nice_len": 33}],
    )
    with taken_apart(packed, tmp_path) as apart:
        assert apart is not None
        assert apart.stretch.kind is Kind.XZ
        assert apart.describe() is None


def test_what_would_take_too_much_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 32 << 20}]
    packed = lzma.compress(INNER, filters=filters)
    with taken_apart(packed, tmp_path) as apart:
        assert apart is not None
        assert apart.describe() is None


def test_other_bytes_inside_do_not_go_unnoticed() -> None:
    content = gzip.compress(INNER, mtime=0)
    with taken_apart(content, Path("/var/tmp")) as apart:
        assert apart is not None
        described = apart.describe()
    assert described is not None
    inside, raw = described
    for wrong in (raw[:-1], raw + b"!"):
        with pytest.raises(CorruptContent):
            list(put_together(inside, iter([wrong]), len(wrong), lambda _: iter([])))
