"""TCP port 191, asked as the initramfs asks, and by people who mean no good."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.model.wire import format_time
from olpc_update_query.server import leaseport
from olpc_update_query.server.leaseport import served as serving
from olpc_update_query.server.serve import listen
from olpc_update_query.server.site import Site
from tests.firmware import boots
from tests.keys import SERIAL, UUID, signer
from tests.server.served import Served, serve
from tests.server.sites import LAPTOP, OTHER, list_laptops, make_site


def activate(port: int, sent: bytes, *, host: str = "127.0.0.1") -> bytes:
    """Ask as ``activate.py`` does: send, close our side, read to the end."""
    with socket.create_connection((host, port), timeout=20) as link:
        link.sendall(sent)
        link.shutdown(socket.SHUT_WR)
        parts = []
        with contextlib.suppress(ConnectionResetError):
            while part := link.recv(4096):
                parts.append(part)
        return b"".join(parts)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("site"))
    stolen = LAPTOP._replace(serial=OTHER, stolen=True)
    list_laptops(made, LAPTOP, stolen, LAPTOP._replace(serial="SHC1", uuid=None))
    return made


@pytest.fixture(scope="module")
def served(site: Site) -> Iterator[Served]:
    with serve(site.path) as found:
        yield found


def test_a_lease_that_the_firmware_obeys(served: Served) -> None:
    line = activate(served.lease_port, SERIAL.encode())
    now = format_time(int(time.time()))
    assert boots(line.decode(), SERIAL, UUID, trusted=[signer("lease").public], now=now)
    assert activate(served.lease_port, SERIAL.encode()) == line, "it is signed once"
    query = f"serialnum={SERIAL}&version=1&nonce=1".encode()
    reply = served.post(query)
    assert line in reply.body, "HTTP gives the same"


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        pytest.param(OTHER.encode(), b"STOLEN", id="stolen"),
        pytest.param(b"SHC12999999", b"", id="unknown"),
        pytest.param(b"SHC1", b"", id="no uuid"),
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"../../etc/passwd", b"", id="no serial number"),
        pytest.param(b"\xff\x00" * 5, b"", id="binary"),
        pytest.param(b"rtcreset SHC12900018 1 2", b"", id="rtcreset"),
        pytest.param(b"A" * 100_000, b"", id="too much"),
    ],
)
def test_replies(served: Served, sent: bytes, reply: bytes) -> None:
    assert activate(served.lease_port, sent) == reply


def test_by_hand_with_a_newline(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.lease_port), 20) as link:
        link.sendall(SERIAL.lower().encode() + b"\n")
        assert link.recv(4096).startswith(b"act01: ")


def test_what_it_serves_follows_the_site(served: Served, site: Site) -> None:
    before = dict(site.laptops())
    list_laptops(site, LAPTOP._replace(stolen=True))
    try:
        assert activate(served.lease_port, SERIAL.encode()) == b"STOLEN"
    finally:
        list_laptops(site, *before.values())


# --- people who mean no good --------------------------------------------------------


@contextlib.contextmanager
def small(monkeypatch: pytest.MonkeyPatch, patience: float = 0.5) -> Iterator[int]:
    monkeypatch.setattr(leaseport, "_PATIENCE", patience)
    monkeypatch.setattr(leaseport, "_CONNECTIONS", 3)
    [listener] = listen("127.0.0.1", 0)
    with listener, serving([listener], lambda asked: b"to " + asked):
        yield listener.getsockname()[1]


def test_the_silent_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        small(monkeypatch) as port,
        socket.create_connection(("127.0.0.1", port), 20) as link,
    ):
        link.sendall(b"SHC")
        with contextlib.suppress(ConnectionResetError):
            assert link.recv(100) == b""
        assert activate(port, b"me") == b"to me"


def test_a_crowd_does_not_keep_others_out_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with small(monkeypatch) as port, contextlib.ExitStack() as stack:
        for _ in range(20):
            link = socket.create_connection(("127.0.0.1", port), 20)
            stack.enter_context(link)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if activate(port, b"me") == b"to me":
                    return
        pytest.fail("nobody is served any more")


def test_who_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaseport, "_PATIENCE", 0.5)
    [listener] = listen("127.0.0.1", 0)
    with listener, serving([listener], lambda _asked: b"x" * 50_000_000):
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 20) as link:
            link.sendall(b"me\n")
            time.sleep(1)
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while part := link.recv(1 << 20):
                    got += len(part)
            assert got < 50_000_000


def test_many_at_once(served: Served) -> None:
    replies: list[bytes] = []

    def ask() -> None:
        replies.append(activate(served.lease_port, SERIAL.encode()))

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(replies)) == 1
    assert len(replies) == 30


def test_without_the_port_nothing_is_lost() -> None:
    with serving([], lambda asked: asked):
        pass


def test_a_port_that_is_taken_is_told(site: Site) -> None:
    from olpc_update_query.cli.admin_serve import _listen_for_leases
    from olpc_update_query.errors import PortTaken

    [held] = listen("127.0.0.1", 0)
    with held, pytest.raises(PortTaken):
        _listen_for_leases("127.0.0.1", held.getsockname()[1])


@pytest.mark.root
def test_root_takes_191_or_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from olpc_update_query.cli.admin_serve import _listen_for_leases

    [held] = listen("127.0.0.1", 0)
    with held:
        monkeypatch.setattr(leaseport, "PORT", held.getsockname()[1])
        assert _listen_for_leases("127.0.0.1", None) == []
    assert "No leases for the initramfs" in capsys.readouterr().err
    [found] = _listen_for_leases("127.0.0.1", None)
    found.close()


def test_a_site_that_cannot_sign_says_nothing(tmp_path: Path) -> None:
    from olpc_update_query.server.answers import Answerer
    from olpc_update_query.server.reports import Reports
    from tests.server.sites import HandClock

    site = make_site(tmp_path, keys=("oats",))
    list_laptops(site, LAPTOP)
    reports = Reports(site.reports)
    answerer = Answerer(site, reports, HandClock())
    assert answerer.answer_port(SERIAL.encode()) == b""
    reports.close()
