"""The child's side of the conversation, spoken with in the same process."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.perform_update.expander import NO_BASE, OFFER, serve
from olpc_update_query.perform_update.store import DELTA, Downloads
from tests.perform_update.builds import Build, Patch, put_delta
from tests.perform_update.test_expand import ONE, TWO, sha


class Talk:
    """The parent's end, packet by packet."""

    def __init__(self, downloads: Downloads, refuse: set[bytes], skip: int) -> None:
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(10)
        arguments = (theirs, downloads, DELTA, refuse, skip)
        self.thread = threading.Thread(target=self._run, args=arguments)
        self.theirs = theirs
        self.thread.start()

    def _run(self, *arguments: object) -> None:
        try:
            serve(*arguments)  # type: ignore[arg-type] # just those
        except (EOFError, ConnectionError):
            self.ended = True
        finally:
            self.theirs.close()

    def offer(self) -> tuple[bytes, int, bytes] | bytes:
        packet = self.link.recv(1 << 17)
        if packet[:1] != b"F":
            return packet
        digest, size, base, _ = OFFER.unpack(packet[1:])
        return digest, size, base

    def take(self, base: Path | None = None) -> bytes:
        if base is None:
            self.link.send(b"Y")
        else:
            with base.open("rb") as file:
                socket.send_fds(self.link, [b"Y"], [file.fileno()])
        content = b""
        while (packet := self.link.recv(1 << 17))[:1] == b"D":
            content += packet[1:]
        return content + packet[1:] if packet[:1] == b"L" else packet

    def close(self) -> None:
        self.link.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "base").write_bytes(TWO[:-1])
    return tmp_path / "base"


@pytest.fixture
def downloads(tmp_path: Path, old: Build, new: Build) -> Iterator[Downloads]:
    directory = tmp_path / "asker/downloads/x"
    patches = [Patch(ONE), Patch(TWO, TWO[:-1]), Patch(ONE * 400)]
    put_delta(directory, old, new, patches)
    with Downloads(directory) as downloads:
        yield downloads


def test_offers_come_in_order_and_contents_when_asked(
    downloads: Downloads, base: Path
) -> None:
    talk = Talk(downloads, set(), 0)
    assert talk.offer() == (sha(ONE), len(ONE), NO_BASE)
    assert talk.take() == ONE
    assert talk.offer() == (sha(TWO), len(TWO), sha(TWO[:-1]))
    assert talk.take(base) == TWO
    talk.offer()
    assert talk.take() == ONE * 400, "in many packets"
    assert talk.offer() == b"Q"
    talk.close()


def test_what_is_not_wanted_is_not_made(downloads: Downloads) -> None:
    talk = Talk(downloads, set(), 0)
    for _ in range(3):
        assert isinstance(talk.offer(), tuple)
        talk.link.send(b"N")
    assert talk.offer() == b"Q"
    talk.close()


def test_offers_are_skipped_and_refused(downloads: Downloads) -> None:
    talk = Talk(downloads, {sha(ONE)}, 1)
    assert talk.offer() == (sha(ONE * 400), len(ONE * 400), NO_BASE)
    talk.close()
    assert talk.ended


def test_a_base_that_is_too_short(downloads: Downloads, base: Path) -> None:
    base.write_bytes(b"short")
    talk = Talk(downloads, set(), 1)
    talk.offer()
    assert talk.take(base) == b"X"
    assert isinstance(talk.offer(), tuple), "it goes on"
    talk.close()


def test_a_patch_without_its_base(downloads: Downloads) -> None:
    talk = Talk(downloads, set(), 1)
    talk.offer()
    assert talk.take() == b"X"
    talk.close()


def test_nonsense_ends_it(downloads: Downloads) -> None:
    talk = Talk(downloads, set(), 0)
    talk.offer()
    talk.link.send(b"?")
    assert talk.link.recv(10) == b""
    talk.close()


def test_a_damaged_index_is_said_to_be(downloads: Downloads) -> None:
    path = f"/proc/self/fd/{downloads.descriptors()[DELTA]}"
    with open(path, "r+b") as file:
        file.truncate(50)
    talk = Talk(downloads, set(), 0)
    assert talk.offer() == b"B"
    talk.close()
