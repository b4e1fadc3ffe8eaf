"""One poll against a server that signs: schedule, query, and who believes whom."""

import os
import struct
from collections.abc import Callable

import pytest

from olpc_update_query.model.canonical import encode
from olpc_update_query.model.messages import format_time
from olpc_update_query.policy.decide import Install, Nothing
from olpc_update_query.policy.schedule import SPREAD, Trigger
from olpc_update_query.report import Decided, Outcome, Result, Sleeps
from olpc_update_query.run import facts
from olpc_update_query.run.machine import Numbers, Parcel, Slip
from olpc_update_query.run.poll import Wish
from olpc_update_query.system.files import hold_lock
from tests.http_server import Seen
from tests.keys import SERIAL
from tests.run.polled import CRON, HAND, NOW, Laptop, order
from tests.simulator import (
    DAY,
    HOUR,
    Mischief,
    ServerSimulator,
    lease,
    set_due,
    work_of,
)
from tests.trees import difference, snapshot

# --- an answer without news --------------------------------------------------------


def test_nothing_to_do(laptop: Laptop, server: ServerSimulator) -> None:
    code, heard = laptop.poll()
    assert code == 0
    assert heard.outcome.result is Result.NOTHING
    assert server.asked == 1
    assert isinstance(heard.heard(Decided)[0].decision, Nothing)
    assert laptop.due() == (NOW, NOW + DAY)
    assert heard.outcome.facts["next_due"] == NOW + DAY
    assert laptop.lease() is None


@pytest.mark.parametrize(("draw", "days"), [(0.0, 0.75), (0.5, 1.0), (0.999, 1.2495)])
def test_the_next_query_is_drawn_once(laptop: Laptop, draw: float, days: float) -> None:
    laptop.draw = draw
    laptop.poll()
    assert laptop.wait() == pytest.approx(days * DAY, abs=2)


def test_the_servers_interval_is_kept(laptop: Laptop, server: ServerSimulator) -> None:
    server.interval = 6 * HOUR
    laptop.poll()
    assert laptop.wait() == 6 * HOUR
    server.interval = None
    laptop.ask()
    assert laptop.wait() == 6 * HOUR


def test_an_absurd_interval_is_clamped(laptop: Laptop, server: ServerSimulator) -> None:
    server.interval = 10
    laptop.poll()
    assert laptop.wait() == 15 * 60


def test_what_is_sent(laptop: Laptop, server: ServerSimulator) -> None:
    (laptop.root / "etc/update-stream").write_text("testing\n")
    server.lease = lease(NOW + 30 * DAY)
    laptop.poll()
    laptop.ask()
    first, second = server.queries
    assert first.serial == SERIAL
    assert first.stream == "testing"
    assert (first.lease, first.build, first.report) == (None, None, None)
    assert second.lease == server.lease
    assert first.nonce != second.nonce
    assert len(first.nonce) > 30


def test_the_running_build_is_sent(
    school_laptop: Laptop, server: ServerSimulator
) -> None:
    school_laptop.poll()
    assert server.queries[0].build == "760"


def test_message_and_time_are_kept(laptop: Laptop, server: ServerSimulator) -> None:
    server.message, server.time = "holidays", NOW + HOUR
    laptop.poll()
    machine = laptop.machine()
    assert machine.asker.load("state")["message"] == "holidays"
    assert machine.asker.load("state")["floor"] == NOW + HOUR
    assert facts.floor(machine) == NOW + HOUR


def test_the_time_floor_never_falls(laptop: Laptop, server: ServerSimulator) -> None:
    server.time = NOW + HOUR
    laptop.poll()
    server.time = NOW - HOUR
    code, _ = laptop.ask()
    assert code == 0, "the nonce proves that it is fresh"
    assert facts.floor(laptop.machine()) == NOW + HOUR


# --- the schedule ------------------------------------------------------------------


@pytest.mark.parametrize("wish", [CRON, HAND], ids=["cron", "by hand"])
def test_too_early_asks_nobody(
    laptop: Laptop, server: ServerSimulator, wish: Wish
) -> None:
    set_due(laptop.root, NOW - 5, NOW + 5)
    before = snapshot(laptop.root)
    code, heard = laptop.poll(wish)
    assert (code, server.asked) == (0, 0)
    assert heard.outcome.result is Result.NOT_DUE
    assert heard.outcome.facts["next_due"] == NOW + 5
    assert not difference(before, snapshot(laptop.root))


def test_now_skips_the_schedule(laptop: Laptop, server: ServerSimulator) -> None:
    set_due(laptop.root, NOW - 5, NOW + 5)
    laptop.poll(Wish(Trigger.CRON, now=True))
    assert server.asked == 1
    assert laptop.clock.slept == []


@pytest.mark.parametrize(
    "due", [None, (NOW - DAY, NOW - HOUR)], ids=["first contact", "overdue"]
)
def test_an_overdue_laptop_draws_a_moment_once(
    laptop: Laptop, server: ServerSimulator, due: tuple[int, int] | None
) -> None:
    if due is not None:
        set_due(laptop.root, *due)
    laptop.clock.on_sleep = lambda: seen.append((laptop.due(), server.asked))
    seen: list[tuple[tuple[int, int], int]] = []
    _, heard = laptop.poll(CRON)
    moment = heard.heard(Sleeps)[0].until
    assert NOW < moment <= NOW + SPREAD
    assert seen == [((NOW, moment), 0)], "it is on disk before anybody is asked"
    assert laptop.clock.slept == [moment - NOW]
    assert server.asked == 1


def test_somebody_else_asked_while_it_slept(
    laptop: Laptop, server: ServerSimulator
) -> None:
    laptop.clock.on_sleep = lambda: set_due(laptop.root, NOW, NOW + DAY)
    _, heard = laptop.poll(CRON)
    assert server.asked == 0
    assert heard.outcome.result is Result.NOT_DUE


def test_a_person_does_not_wait(laptop: Laptop, server: ServerSimulator) -> None:
    set_due(laptop.root, NOW - DAY, NOW - HOUR)
    laptop.poll(HAND)
    assert laptop.clock.slept == []
    assert server.asked == 1


def test_asleep_for_a_year_with_the_clock_at_1970(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.lease = lease(NOW + 10 * DAY)
    laptop.poll()
    laptop.clock.time = 1000
    server.time = NOW + 365 * DAY
    server.lease = lease(NOW + 386 * DAY)
    code, _ = laptop.poll(CRON)
    assert code == 0
    assert server.asked == 2
    assert laptop.lease() == server.lease
    drawn, due = laptop.due()
    assert drawn < due <= drawn + 1.25 * DAY, "by the clock that the laptop has"


# --- the two sides -----------------------------------------------------------------


Swap = Callable[[Callable[[bytes], bytes]], None]
LIE = encode(["oatc-signed-resp", 1, [["oatc-resp", 1, {"stolen": True}]]])


@pytest.fixture
def swap(monkeypatch: pytest.MonkeyPatch) -> Swap:
    """Let the asker hand over other octets than those it verified."""
    put = Parcel.put

    def swap_by(change: Callable[[bytes], bytes]) -> None:
        def lie(parcel: Parcel, octets: bytes) -> None:
            put(parcel, change(octets))

        monkeypatch.setattr(Parcel, "put", lie)

    return swap_by


@pytest.mark.parametrize("octets", [LIE, b"", b"\0" * 1000], ids=["lie", "empty", "0"])
def test_the_installer_believes_nothing_that_the_asker_says(
    laptop: Laptop, server: ServerSimulator, swap: Swap, octets: bytes
) -> None:
    server.lease = lease(NOW + 21 * DAY)
    laptop.poll()
    swap(lambda _: octets)
    code, heard = laptop.ask()
    assert code == 25
    assert len(heard.outcomes) == 1
    assert laptop.lease() == server.lease
    assert not laptop.is_marked()


def test_the_installer_takes_no_earlier_answer(
    laptop: Laptop, server: ServerSimulator, swap: Swap
) -> None:
    server.stolen = True
    seen: list[bytes] = []

    def first(octets: bytes) -> bytes:
        seen.append(octets)
        return seen[0]

    swap(first)
    laptop.poll()
    os.unlink(laptop.root / "security/.private/stolen")
    code, _ = laptop.ask()
    assert code == 21
    assert not laptop.is_marked()


@pytest.mark.parametrize("length", [-1, -(2**63), 5, 2**62])
def test_a_parcel_with_a_wrong_label(length: int) -> None:
    parcel = Parcel(4)
    parcel.put(b"abcd")
    struct.pack_into("<q", parcel._shared, 0, length)
    assert parcel.take() == (b"abcd" if length > 0 else b"")
    with pytest.raises(ValueError, match="do not fit"):
        parcel.put(b"abcde")


def test_numbers_are_never_negative() -> None:
    slip = Slip()
    slip.write(Numbers(server=-1, received=7))
    assert slip.read() == Numbers(received=7)


def test_a_dry_run_that_fails_leaves_no_trace(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.mischief = Mischief.WRONG_KEY
    before = snapshot(laptop.root)
    assert laptop.poll(Wish(dry_run=True))[0] == 21
    assert not difference(before, snapshot(laptop.root))


def test_one_run_at_a_time(laptop: Laptop, server: ServerSimulator) -> None:
    laptop.poll()
    before = snapshot(work_of(laptop.root) / "installer")
    with hold_lock(work_of(laptop.root) / "lock", "the test"):
        code, heard = laptop.ask()
        assert code == 5
        assert "the test" in heard.outcome.text
        code, heard = laptop.poll(Wish(Trigger.CRON, now=True))
        assert code == 0, "another run is at work, that is all a timer need know"
    assert server.asked == 1
    assert not difference(before, snapshot(work_of(laptop.root) / "installer"))


def test_a_dry_run_changes_nothing(
    school_laptop: Laptop, server: ServerSimulator
) -> None:
    server.lease, server.update = lease(NOW + DAY), order(server)
    before = snapshot(school_laptop.root)
    code, heard = school_laptop.poll(Wish(dry_run=True))
    assert code == 0
    assert server.asked == 1
    assert isinstance(heard.heard(Decided)[0].decision, Install)
    assert "762" in heard.outcome.text
    assert not difference(before, snapshot(school_laptop.root))


# --- the rest ----------------------------------------------------------------------


def test_the_history_tells_when(laptop: Laptop) -> None:
    laptop.poll()
    (event,) = laptop.machine().installer.history()
    assert event["time"] == format_time(NOW)
    assert event["trigger"] == "manual"
    assert event["text"]


def test_outcomes_are_plain_lines(laptop: Laptop, server: ServerSimulator) -> None:
    server.message = "line\nbreak"
    _, heard = laptop.poll()
    assert "\n" not in heard.outcome.text
    assert isinstance(heard.outcome, Outcome)


def test_the_request(laptop: Laptop, server: ServerSimulator) -> None:
    laptop.poll()
    (seen,) = server.site.seen
    assert isinstance(seen, Seen)
    assert (seen.method, seen.path) == ("POST", "/antitheft/1/")
    assert seen.body.startswith(b"serialnum=" + SERIAL.encode() + b"&version=1&nonce=")
