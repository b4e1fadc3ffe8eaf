"""Leases and stolen laptops."""

import pytest

from olpc_update_query.perform_update.install import Installed
from olpc_update_query.policy.decide import Nothing
from olpc_update_query.report import (
    Answered,
    Decided,
    LeaseKept,
    LeaseRefused,
    Result,
)
from olpc_update_query.run import facts
from olpc_update_query.run.carry_out import CarryOut
from tests.run.polled import NEW, NOW, Laptop, order
from tests.simulator import (
    DAY,
    HOUR,
    Mischief,
    ServerSimulator,
    lease,
)

# --- leases ------------------------------------------------------------------------


def test_a_lease_is_installed(laptop: Laptop, server: ServerSimulator) -> None:
    server.lease = lease(NOW + 21 * DAY)
    code, heard = laptop.poll()
    assert code == 0
    assert laptop.lease() == server.lease
    assert heard.heard(LeaseKept) == [LeaseKept(True, NOW + 21 * DAY)]
    _, heard = laptop.ask()
    assert heard.heard(LeaseKept) == [LeaseKept(False, NOW + 21 * DAY)]


def test_only_the_good_line_is_installed(
    laptop: Laptop, server: ServerSimulator
) -> None:
    good = lease(NOW + DAY)
    others = lease(NOW + DAY, serial="SHC99999999") + lease(NOW - DAY)
    server.lease = others + lease(NOW + 9 * DAY, key="stranger") + good
    laptop.poll()
    assert laptop.lease() == good


def test_a_lease_may_be_shortened(laptop: Laptop, server: ServerSimulator) -> None:
    server.lease = lease(None)
    laptop.poll()
    server.lease = lease(NOW + DAY)
    laptop.ask()
    assert laptop.lease() == server.lease


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lease(NOW + DAY, key="stranger"), id="signed by a stranger"),
        pytest.param(lease(NOW + DAY, serial="SHC99999999"), id="another laptop's"),
        pytest.param(lease(NOW), id="expired"),
        pytest.param("act01: garbage\n", id="garbage"),
        pytest.param("", id="empty"),
    ],
)
def test_a_bad_lease_leaves_the_old_one(
    laptop: Laptop, server: ServerSimulator, bad: str
) -> None:
    server.lease = lease(NOW + 21 * DAY)
    laptop.poll()
    old, server.lease = laptop.lease(), bad
    code, heard = laptop.ask()
    assert code == 22
    assert laptop.lease() == old
    assert heard.heard(LeaseRefused)
    assert heard.heard(Decided), "the order is followed all the same"
    assert laptop.wait() > HOUR, "the answer was good: no backoff"


def test_a_lease_pulls_the_next_query(laptop: Laptop, server: ServerSimulator) -> None:
    server.lease = lease(NOW + 8 * HOUR)
    laptop.poll()
    assert laptop.wait() <= 4 * HOUR


def test_a_lease_that_is_refused_pulls_nothing(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.lease = lease(NOW + 8 * HOUR, key="stranger")
    laptop.poll()
    assert laptop.wait() == DAY


def test_a_new_lease_pulls_the_query_after_an_update_too(
    school_laptop: Laptop, server: ServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = Installed(NEW, new_bytes=5)
    monkeypatch.setattr(CarryOut, "_fetch", lambda *_: None)
    monkeypatch.setattr(CarryOut, "_install", lambda *_: done)
    server.update, server.lease = order(server), lease(NOW + 8 * HOUR)
    code, heard = school_laptop.poll()
    assert (code, heard.outcome.result) == (0, Result.INSTALLED)
    assert school_laptop.wait() <= 4 * HOUR


# --- stolen ------------------------------------------------------------------------


def test_stolen(laptop: Laptop, server: ServerSimulator) -> None:
    server.lease = lease(NOW + 21 * DAY)
    laptop.poll()
    server.stolen = True
    code, heard = laptop.ask()
    assert code == 0
    assert heard.outcome.result is Result.STOLEN
    assert laptop.lease() is None, "even if the answer holds one"
    assert laptop.is_marked()
    assert "stolen" in laptop.history()


def test_stolen_twice_and_found_again(laptop: Laptop, server: ServerSimulator) -> None:
    server.stolen = True
    laptop.poll()
    assert laptop.ask()[0] == 0
    server.stolen, server.lease = False, lease(NOW + DAY)
    laptop.ask()
    assert laptop.lease() == server.lease
    assert not laptop.is_marked()


def test_unsigned_answers_never_say_stolen(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.lease = lease(NOW + 21 * DAY)
    laptop.poll()
    (laptop.root / "etc/oats-ignore-signature").touch()
    server.stolen, server.mischief = True, Mischief.UNSIGNED
    server.time = NOW + 999 * DAY
    code, heard = laptop.ask()
    assert code == 0
    assert not heard.heard(Answered)[0].trusted.signed
    assert laptop.lease() == server.lease
    assert not laptop.is_marked()
    assert facts.floor(laptop.machine()) == NOW, "an unsigned time is no floor"


@pytest.mark.parametrize(
    "place", ["etc/update-stream", "security/update-stream", "etc/olpc-update"]
)
def test_no_updates_is_not_no_leases(
    school_laptop: Laptop, server: ServerSimulator, place: str
) -> None:
    """``echo none > /security/update-stream``, as the old wiki has it."""
    path = school_laptop.root / place
    if path.name == "olpc-update":
        path /= "update-stream"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("none\n")
    server.update, server.lease = order(server), lease(NOW + 21 * DAY)
    code, heard = school_laptop.poll()
    assert code == 0
    assert school_laptop.lease() == server.lease
    assert isinstance(heard.heard(Decided)[0].decision, Nothing)
    assert server.queries[0].stream == "none"
