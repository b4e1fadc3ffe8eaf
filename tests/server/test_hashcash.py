"""The gate: what it lets through, and what that costs it."""

from pathlib import Path

import pytest

from olpc_update_query.model.hashcash import Challenge, credentials, mint
from olpc_update_query.server.hashcash import WINDOW, Gate
from olpc_update_query.server.keys import LoadedKey
from olpc_update_query.trust.keys import Role
from tests.server.sites import NOW, make_site

BODY = b"serialnum=A1&version=1&nonce=5"
BITS = 6


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(LoadedKey(make_site(tmp_path), Role.OATS))


def paid(challenge: Challenge, *, salt: str = "1") -> str:
    stamp = mint(challenge, date="261125", salt=salt, may_go_on=lambda: True)
    assert stamp is not None
    return credentials(stamp)


def test_work_is_taken_once(gate: Gate) -> None:
    shown = paid(gate.challenge(BITS, BODY, NOW))
    assert gate.admits(BITS, BODY, shown, NOW)
    assert not gate.admits(BITS, BODY, shown, NOW), "it is spent"
    again = paid(gate.challenge(BITS, BODY, NOW), salt="2")
    assert gate.admits(BITS, BODY, again, NOW)


def test_it_is_for_this_query_alone(gate: Gate) -> None:
    shown = paid(gate.challenge(BITS, BODY, NOW))
    assert not gate.admits(BITS, BODY + b"1", shown, NOW)


def test_it_is_for_a_while(gate: Gate) -> None:
    shown = paid(gate.challenge(BITS, BODY, NOW))
    assert not gate.admits(BITS, BODY, shown, NOW + 2 * WINDOW)
    assert not gate.admits(BITS, BODY, shown, NOW - WINDOW)
    assert gate.admits(BITS, BODY, shown, NOW + WINDOW)


def test_it_is_enough(gate: Gate) -> None:
    challenge = gate.challenge(0, BODY, NOW)
    cheap = paid(challenge)
    assert not gate.admits(30, BODY, cheap, NOW)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic abc",
        'OLPC-hashcash hc="1:6:x"',
        'OLPC-hashcash hc="' + "x" * 300 + '"',
        'OLPC-hashcash hc="0:6:x:n::s:0"',
    ],
)
def test_what_is_no_stamp(gate: Gate, header: str) -> None:
    assert not gate.admits(0, BODY, header, NOW)


def test_a_nonce_of_ones_own_is_none(gate: Gate) -> None:
    assert not gate.admits(BITS, BODY, paid(Challenge(BITS, "f" * 32)), NOW)


def test_copies_of_a_server_take_each_others_work(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    one, two = (Gate(LoadedKey(site, Role.OATS)) for _ in range(2))
    assert two.admits(BITS, BODY, paid(one.challenge(BITS, BODY, NOW)), NOW)


def test_a_stamp_buys_one_answer_from_each_worker(tmp_path: Path) -> None:
    """Not more, however often it is shown, to whom, and when."""
    site = make_site(tmp_path)
    workers = [Gate(LoadedKey(site, Role.OATS)) for _ in range(4)]
    shown = paid(workers[0].challenge(BITS, BODY, NOW))
    bought = sum(
        worker.admits(BITS, body, shown, NOW + later)
        for later in (0, WINDOW, 2 * WINDOW, 9 * WINDOW)
        for body in (BODY, BODY + b"1")
        for worker in workers * 3
    )
    assert bought == len(workers)


def test_memory_is_bounded(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olpc_update_query.server.hashcash._SPENT", 5)
    challenge = gate.challenge(0, BODY, NOW)
    for salt in range(20):
        assert gate.admits(0, BODY, paid(challenge, salt=str(salt)), NOW)
    assert len(gate._spent) == 5
