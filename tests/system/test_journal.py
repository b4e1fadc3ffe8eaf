"""The journal's protocol, read by a second writing of it."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.system import journal


def parse(record: bytes) -> dict[str, str]:
    found = {}
    while record:
        name, _, rest = record.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
        else:
            key, (size,) = name, struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest.startswith(b"\n")
            rest = rest[1:]
        found[key.decode()] = value.decode()
        record = rest
    return found


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(tmp_path / "socket"))
        there.settimeout(10)
        yield there


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("hello", id="a line"),
        pytest.param("", id="nothing"),
        pytest.param("a=b", id="an equals sign"),
        pytest.param("two\nlines\nPRIORITY=0\n", id="lines that look like fields"),
        pytest.param("é\u2028", id="letters"),
    ],
)
def test_a_record(listener: socket.socket, tmp_path: Path, text: str) -> None:
    assert journal.send({"MESSAGE": text, "PRIORITY": 5}, tmp_path / "socket")
    assert parse(listener.recv(65536)) == {"MESSAGE": text, "PRIORITY": "5"}


def test_a_value_of_any_length(listener: socket.socket, tmp_path: Path) -> None:
    assert journal.send({"MESSAGE": "x" * 10**6}, tmp_path / "socket")
    assert len(parse(listener.recv(65536))["MESSAGE"]) == journal.LONGEST


def test_without_a_journal(tmp_path: Path) -> None:
    assert not journal.send({"MESSAGE": "x"}, tmp_path / "nowhere")


LOOK = "from olpc_update_query.system import journal; print(journal.is_listening())"


@pytest.mark.parametrize("ours", [True, False])
def test_whether_it_listens(tmp_path: Path, ours: bool) -> None:
    with (tmp_path / "stream").open("w") as stream:
        facts = os.fstat(stream.fileno())
        name = f"{facts.st_dev}:{facts.st_ino}" if ours else "1:2"
        done = subprocess.run(
            [sys.executable, "-c", LOOK],
            env={**os.environ, "JOURNAL_STREAM": name},
            stderr=stream,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stdout.strip() == str(ours)
