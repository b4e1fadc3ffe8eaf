"""A build on a stick."""

import os
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.perform_update.sources.local import LocalFiles, directory_of


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    (tmp_path / "f").write_bytes(b"0123456789")
    return LocalFiles("file:///media/stick/", tmp_path)


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("file:///media/a%20stick/762/", "/media/a stick/762"),
        ("/media/stick", "/media/stick"),
        ("http://a.test/", None),
        ("rsync://a.test/x", None),
    ],
)
def test_which_directory(url: str, directory: str | None) -> None:
    assert directory_of(url) == (None if directory is None else Path(directory))


@pytest.mark.parametrize(
    ("start", "length", "found"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (3, 4, b"3456"),
        (3, 99, b"3456789"),
        (0, 1, b"0"),
        (10, 5, b"0123456789"),
    ],
)
def test_parts(files: LocalFiles, start: int, length: int | None, found: bytes) -> None:
    stream = files.open("f", start=start, length=length)
    assert stream.start == (start if start < 10 else 0)
    assert stream.total == 10
    assert b"".join(stream.chunks) == found


@pytest.mark.parametrize("name", ["g", "f/x"])
def test_absent_file_is_a_missing_build(files: LocalFiles, name: str) -> None:
    with pytest.raises(errors.BuildNotFound, match="file:///media/stick/"):
        files.open(name)


def test_what_is_no_file_is_refused(files: LocalFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dir").mkdir()
    for name in ("pipe", "loop", "dir"):
        with pytest.raises(errors.NetworkError):
            files.open(name)


def test_stick_that_is_pulled_out_is_a_failed_source(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = files.open("f")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(errors.NetworkError, match="Input/output error"):
        list(stream.chunks)


def test_nothing_stays_open(files: LocalFiles) -> None:
    before = os.listdir("/proc/self/fd")
    assert list(files.open("f").chunks)
    next(files.open("f").chunks)
    assert os.listdir("/proc/self/fd") == before
