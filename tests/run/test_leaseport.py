"""A laptop that nobody answers by HTTP asks port 191."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.report import LeaseKept, LeaseRefused
from olpc_update_query.run.hand_over import ANSWER, FETCHED, LEASE
from olpc_update_query.run.poll import Wish
from olpc_update_query.run.two_units import AskerHalf, InstallerHalf
from tests.keys import SERIAL
from tests.run.polled import NOW, Laptop
from tests.server.served import serve
from tests.server.sites import LAPTOP, list_laptops, make_site
from tests.simulator import (
    DAY,
    Listener,
    Mischief,
    ServerSimulator,
    hang_up,
    lease,
)


class Port:
    """Somebody who listens there; ``asked`` is what came."""

    def __init__(self, reply: bytes) -> None:
        self.reply, self.asked = reply, list[bytes]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.number = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                with link, contextlib.suppress(OSError):
                    parts = []
                    while part := link.recv(100):
                        parts.append(part)
                    self.asked.append(b"".join(parts))
                    link.sendall(self.reply)


@pytest.fixture
def port(laptop: Laptop, server: ServerSimulator) -> Iterator[Port]:
    """Nobody answers by HTTP, and somebody listens on the other port."""
    hang_up(server)
    found = Port(lease(NOW + 21 * DAY).encode())
    configure(laptop, found.number)
    yield found
    found.close()


def configure(laptop: Laptop, port: int) -> None:
    with open(laptop.root / "etc/olpc-update-query/config.toml", "a") as file:
        file.write(f"lease_port = {port}\n")


def put_lease(laptop: Laptop, text: str) -> None:
    path = laptop.root / "security/lease.sig"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_a_laptop_without_a_lease_gets_one(laptop: Laptop, port: Port) -> None:
    code, heard = laptop.ask()
    assert code == 10, "nobody answered, and that is said"
    assert laptop.lease() == port.reply.decode()
    assert heard.heard(LeaseKept) == [LeaseKept(True, NOW + 21 * DAY)]
    assert port.asked == [SERIAL.encode()], "as the initramfs asks: no newline"
    laptop.ask()
    assert len(port.asked) == 1, "it has one now"


def test_a_lease_that_ends_soon_is_renewed(laptop: Laptop, port: Port) -> None:
    put_lease(laptop, lease(NOW + 2 * DAY))
    laptop.ask()
    assert laptop.lease() == port.reply.decode()


@pytest.mark.parametrize("end", [NOW + 30 * DAY, None], ids=["later", "for ever"])
def test_who_has_a_good_one_asks_nobody(
    laptop: Laptop, port: Port, end: int | None
) -> None:
    put_lease(laptop, lease(end))
    laptop.ask()
    assert port.asked == []


def test_a_shorter_one_is_not_taken(laptop: Laptop, port: Port) -> None:
    """What comes there is not fresh: it may be an old one, played back."""
    old = lease(NOW + 2 * DAY)
    put_lease(laptop, old)
    port.reply = lease(NOW + DAY).encode()
    laptop.ask()
    assert port.asked
    assert laptop.lease() == old


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"STOLEN", id="stolen, unsigned"),
        pytest.param(b"<html>log in</html>", id="a portal"),
        pytest.param(lease(NOW + DAY, key="stranger").encode(), id="stranger"),
        pytest.param(lease(NOW + DAY, key="oats").encode(), id="the other role"),
        pytest.param(lease(NOW).encode(), id="expired"),
        pytest.param(lease(NOW + DAY, serial="SHC99999999").encode(), id="other's"),
        pytest.param(b"x" * 1_000_000, id="endless"),
    ],
)
def test_bad_replies_change_nothing(laptop: Laptop, port: Port, reply: bytes) -> None:
    old = lease(NOW + DAY)
    put_lease(laptop, old)
    port.reply = reply
    code, heard = laptop.ask()
    assert code == 10
    assert laptop.lease() == old
    assert not laptop.is_marked()
    assert not heard.heard(LeaseKept)
    assert not heard.heard(LeaseRefused)


def test_a_stolen_laptop_takes_none(
    laptop: Laptop, server: ServerSimulator, port: Port
) -> None:
    """A thief may play back a lease from before it was stolen."""
    put_lease(laptop, lease(NOW + DAY))
    mark = laptop.root / "security/.private/stolen"
    mark.parent.mkdir(parents=True)
    mark.touch()
    (laptop.root / "security/lease.sig").unlink()
    laptop.ask()
    assert port.asked == []
    assert laptop.lease() is None
    assert laptop.is_marked()


def test_zero_turns_it_off(laptop: Laptop, server: ServerSimulator) -> None:
    hang_up(server)
    configure(laptop, 0)
    code, heard = laptop.ask()
    assert code == 10
    assert not [one for one in heard.events if "port" in str(one)]


def test_who_is_answered_asks_nobody_else(
    laptop: Laptop, server: ServerSimulator
) -> None:
    port = Port(lease(NOW + 21 * DAY).encode())
    configure(laptop, port.number)
    assert laptop.ask()[0] == 0
    assert laptop.lease() is None, "the server gives none, and that is its answer"
    assert port.asked == []
    server.mischief = Mischief.WRONG_KEY
    assert laptop.ask()[0] == 21
    assert laptop.lease() == port.reply.decode(), "nobody's answer counted"
    port.close()


def test_the_real_server(
    laptop: Laptop, server: ServerSimulator, private: Path
) -> None:
    site = make_site(private)
    list_laptops(site, LAPTOP)
    hang_up(server)
    with serve(site.path) as served:
        configure(laptop, served.lease_port)
        laptop.ask()
    assert laptop.lease() is not None


# --- by two units -------------------------------------------------------------------


def install(laptop: Laptop) -> tuple[int, Listener]:
    heard = Listener()
    return InstallerHalf(laptop.machine(), heard).run(), heard


def test_two_units_hand_it_over(laptop: Laptop, port: Port) -> None:
    install(laptop)
    assert AskerHalf(laptop.machine(), Listener(), Wish(now=True)).run() == 10
    assert laptop.lease() is None
    code, heard = install(laptop)
    assert code == 0
    assert laptop.lease() == port.reply.decode()
    assert "is installed" in heard.outcome.text
    assert install(laptop)[1].outcomes == [], "it is taken once"


@pytest.mark.parametrize(
    ("left", "code"),
    [
        pytest.param(lease(NOW + DAY).encode(), 0, id="shorter"),
        pytest.param(lease(NOW + 90 * DAY, key="stranger").encode(), 0, id="stranger"),
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"x" * 10_000, 72, id="too much"),
    ],
)
def test_what_a_hostile_asker_leaves(laptop: Laptop, left: bytes, code: int) -> None:
    install(laptop)
    put_lease(laptop, lease(NOW + 2 * DAY))
    before = laptop.lease()
    (laptop.root / "run/olpc-update-query/asker/lease").write_bytes(left)
    assert install(laptop)[0] == code
    assert laptop.lease() == before


def test_a_hostile_asker_brings_no_lease_back_after_a_theft(laptop: Laptop) -> None:
    install(laptop)
    mark = laptop.root / "security/.private/stolen"
    mark.parent.mkdir(parents=True)
    mark.touch()
    left = laptop.root / "run/olpc-update-query/asker/lease"
    left.write_text(lease(NOW + 90 * DAY))
    assert install(laptop)[0] == 0
    assert laptop.lease() is None
    assert laptop.is_marked()


def test_the_unit_waits_for_it() -> None:
    unit = Path(__file__).parents[2] / "systemd/olpc-update-installer.path"
    for name in (ANSWER, FETCHED, LEASE):
        line = f"PathExists=/run/olpc-update-query/asker/{name}"
        assert line in unit.read_text().splitlines()
