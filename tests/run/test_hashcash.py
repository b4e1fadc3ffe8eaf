"""A server that asks for work first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.model.hashcash import parse_credentials, zero_bits
from olpc_update_query.report import Unanswered
from olpc_update_query.server.site import Site
from tests.http_server import Reply, Seen
from tests.run.polled import NOW, Laptop
from tests.server.served import Served, serve
from tests.server.sites import LAPTOP, list_laptops, make_site, settle
from tests.simulator import FakeClock, ServerSimulator, prepare_laptop


def asks_for(bits: int, then: Reply, server: ServerSimulator) -> list[Seen]:
    """Let a server ask for work, and say something to whoever shows a stamp."""
    requests: list[Seen] = []

    def reply(seen: Seen) -> Reply:
        requests.append(seen)
        if "Authorization" in seen.headers:
            return then
        challenge = f'OLPC-hashcash bits="{bits}", nonce="n0nce"'
        return Reply(401, {"WWW-Authenticate": challenge}, b"work first")

    server.site.reply = reply
    return requests


# --- against the real server ----------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path)
    settle(made, "hashcash_bits = 10")
    list_laptops(made, LAPTOP)
    return made


@pytest.fixture
def real(site: Site) -> Iterator[Served]:
    with serve(site.path) as served:
        yield served


def test_the_round_trip(real: Served, site: Site, private: Path) -> None:
    url = f"http://127.0.0.1:{real.port}/"
    laptop = Laptop(prepare_laptop(private / "laptop", url), FakeClock(NOW))
    code, heard = laptop.ask()
    assert code == 0, heard.outcome
    assert laptop.lease() is not None
    plain = real.post(b"serialnum=A1&version=1&nonce=5")
    assert plain.status == 401
    assert plain.headers["www-authenticate"].startswith('OLPC-hashcash bits="10", ')
    assert plain.headers["cache-control"].startswith("no-store")


# --- against others ----------------------------------------------------------


@pytest.mark.parametrize("bits", [21, 160, 999])
def test_too_much_is_refused_without_work(
    laptop: Laptop, server: ServerSimulator, bits: int
) -> None:
    requests = asks_for(bits, Reply(), server)
    code, heard = laptop.ask()
    assert code == 28
    assert f"wants {bits} bits of hashcash" in heard.outcome.text
    assert len(requests) == 1
    assert laptop.wait() > 60, "it is backed off"


def test_the_work_is_done_once(laptop: Laptop, server: ServerSimulator) -> None:
    again = Reply(401, {"WWW-Authenticate": 'OLPC-hashcash bits="1", nonce="m"'})
    requests = asks_for(4, again, server)
    code, _ = laptop.ask()
    assert code == 28
    first, second = requests
    assert first.body == second.body, "the same query again"
    stamp = parse_credentials(second.headers["Authorization"])
    assert stamp is not None
    assert stamp.split(":")[3] == "n0nce"
    assert zero_bits(stamp) >= 4


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(Reply(404, body=b"no"), id="404"),
        pytest.param(Reply(302, {"Location": "http://portal/"}), id="portal"),
        pytest.param(Reply(200, body=b"<html>"), id="page"),
    ],
)
def test_work_for_nothing_is_backed_off(
    laptop: Laptop, server: ServerSimulator, then: Reply
) -> None:
    asks_for(2, then, server)
    code, heard = laptop.ask()
    assert code == 28
    assert "took the hashcash" in heard.outcome.text
    assert laptop.wait() > 60


def test_time_is_bounded(laptop: Laptop, server: ServerSimulator) -> None:
    """By the clock, whatever the number of bits."""

    class Slow(FakeClock):
        def boottime(self) -> float:
            self.time += 20
            return self.time

    laptop.clock = Slow(NOW)
    requests = asks_for(20, Reply(), server)
    code, heard = laptop.ask()
    assert code == 28
    assert "take over 30 seconds" in heard.outcome.text
    assert len(requests) == 1


def test_the_next_server_is_asked(laptop: Laptop, server: ServerSimulator) -> None:
    plain = server.site.reply
    asks_for(99, Reply(), server)
    dear = server.site.reply
    assert callable(plain)
    assert callable(dear)
    first, second = dear, plain

    def reply(seen: Seen) -> Reply:
        return second(seen) if "second" in seen.path else first(seen)

    server.site.reply = reply
    code, heard = laptop.ask(server.url, f"{server.url}second/")
    assert code == 0
    [unanswered] = heard.heard(Unanswered)
    assert unanswered.error.exit_code == 28


def test_another_challenge_is_no_hashcash(
    laptop: Laptop, server: ServerSimulator
) -> None:
    realm = {"WWW-Authenticate": 'Basic realm="school"'}
    server.site.reply = Reply(401, realm, b"who are you?")
    code, _ = laptop.ask()
    assert code == 11
    assert laptop.machine().asker.read_due() is None, "a portal is not backed off"
