"""Contents on their way into a tree: proven, kept over a power cut, sparse."""

import errno
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.errors import CorruptContent
from olpc_update_query.perform_update.copying import Copier, write_sparse
from olpc_update_query.perform_update.vault import Vault

ONE = b"a content" * 1000
DIGEST = hashlib.sha256(ONE).digest()


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault(tmp_path / "store") as vault:
        yield vault


def put(vault: Vault, content: bytes = ONE) -> Path:
    digest = hashlib.sha256(content).digest()
    with vault.receive(digest, len(content)) as receiver:
        receiver.write(content)
    return vault.directory / digest.hex()


def wanted(digest: bytes) -> int | None:
    return len(ONE) if digest == DIGEST else None


def test_a_content_is_there_when_it_has_proved_right(vault: Vault) -> None:
    assert not vault.has(DIGEST)
    path = put(vault)
    assert vault.has(DIGEST)
    assert path.stat().st_mode & 0o7777 == 0o600
    descriptor = vault.open(DIGEST)
    assert descriptor is not None
    with open(descriptor, "rb") as file:
        assert file.read() == ONE


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([], id="nothing"),
        pytest.param([ONE[:-1]], id="less"),
        pytest.param([ONE, b"x"], id="more"),
        pytest.param([b"x" * len(ONE)], id="something else"),
    ],
)
def test_a_content_that_is_wrong_does_not_stay(
    vault: Vault, chunks: list[bytes]
) -> None:
    def put_chunks() -> None:
        with vault.receive(DIGEST, len(ONE)) as receiver:
            for chunk in chunks:
                receiver.write(chunk)

    with pytest.raises(CorruptContent):
        put_chunks()
    assert os.listdir(vault.directory) == []


def test_nobody_else_can_open_it(vault: Vault) -> None:
    assert vault.directory.stat().st_mode & 0o7777 == 0o700


def test_recovery_keeps_what_is_wanted_and_right(vault: Vault) -> None:
    put(vault)
    assert vault.recover(wanted) == 3 * 4096
    assert vault.has(DIGEST)


@pytest.mark.parametrize("how", ["not wanted", "zeros", "short", "in a tree", "a link"])
def test_recovery_drops_everything_else(vault: Vault, how: str, tmp_path: Path) -> None:
    path = put(vault, b"x" if how == "not wanted" else ONE)
    if how == "zeros":
        path.write_bytes(bytes(len(ONE)))
    elif how == "short":
        os.truncate(path, 100)
    elif how == "in a tree":
        os.link(path, tmp_path / "in a tree")
    elif how == "a link":
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")
    (vault.directory / "contents.part").touch()
    (vault.directory / "contents").touch()
    assert vault.recover(wanted) == 0
    assert os.listdir(vault.directory) == ["contents"]


def test_recovery_takes_attributes_off(vault: Vault) -> None:
    os.setxattr(put(vault), "user.note", b"of another file")
    vault.recover(wanted)
    assert os.listxattr(vault.directory / DIGEST.hex()) == []


# --- bytes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "blocks"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(bytes(1 << 20), 0, id="all zero"),
        pytest.param(b"x" + bytes(1 << 20), 1, id="zeros behind"),
        pytest.param(bytes(1 << 20) + b"x", 1, id="zeros before"),
        pytest.param(b"x" + bytes((1 << 20) - 2) + b"x", 2, id="zeros between"),
        pytest.param(bytes(4095) + b"x" * 4096 + bytes(4097), 2, id="over a border"),
        pytest.param(b"x" * (1 << 18), 64, id="no zeros"),
    ],
)
@pytest.mark.parametrize("piece", [1 << 16, 70_001, 999])
def test_zero_blocks_are_not_written(
    tmp_path: Path, content: bytes, blocks: int, piece: int
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        for start in range(0, len(content), piece):
            write_sparse(file.fileno(), content[start : start + piece], start)
        os.ftruncate(file.fileno(), len(content))
    assert path.read_bytes() == content
    if piece >= 1 << 16:
        assert path.stat().st_blocks * 512 <= (blocks + 1) * 4096


def copied(source: Path, target: Path) -> None:
    with source.open("rb") as here, target.open("xb") as there:
        assert Copier().copy(here.fileno(), there.fileno()) == source.stat().st_size


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 65_537, 3_000_001])
def test_a_copy_is_the_same(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(hashlib.shake_256(b"x").digest(size))
    copied(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_copy_of_a_sparse_file_is_sparse(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(5 << 20)
        file.write(b"start")
    copied(source, tmp_path / "target")
    assert (tmp_path / "target").stat().st_blocks <= 16
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("refusal", [errno.EXDEV, errno.ENOSYS])
def test_without_help_of_the_kernel_it_is_read_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(refusal, "refused")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    test_a_copy_is_the_same(tmp_path, 3_000_001)


def test_a_full_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with pytest.raises(OSError, match="full"):
        test_a_copy_is_the_same(tmp_path, 3_000_001)


@pytest.mark.root
@pytest.mark.needs("xfsprogs")
def test_a_clone_takes_no_space(tmp_path: Path) -> None:
    image, where = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    where.mkdir()
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        (where / "source").write_bytes(os.urandom(60 << 20))
        os.sync()
        before = os.statvfs(where).f_bfree
        copied(where / "source", where / "target")
        os.sync()
        used = (before - os.statvfs(where).f_bfree) * os.statvfs(where).f_frsize
        assert used < 10 << 20
    finally:
        subprocess.run(["umount", where], check=True)
