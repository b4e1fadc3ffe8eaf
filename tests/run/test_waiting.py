"""Builds that wait: gates and holds, on a laptop that polls."""

import pytest

from olpc_update_query import errors
from olpc_update_query.policy.decide import Install, Wait
from olpc_update_query.policy.gates import Gate
from olpc_update_query.policy.schedule import LINK_SPREAD, Trigger
from olpc_update_query.report import Decided, Result, Sleeps
from olpc_update_query.run.facts import look
from olpc_update_query.run.poll import Wish
from olpc_update_query.run.status import gather
from olpc_update_query.run.waiting import (
    LOOK_SECONDS,
    GatedProgress,
    current_hold,
    set_hold,
)
from tests.run.polled import NOW, Laptop, order
from tests.simulator import DAY, HOUR, Listener, ServerSimulator, lease

GATE = Wish(Trigger.GATE)


def run_on_battery(laptop: Laptop, percent: int, status: str = "Discharging") -> None:
    battery = laptop.root / "sys/class/power_supply/BAT0"
    battery.mkdir(parents=True, exist_ok=True)
    for name, text in (("status", status), ("capacity", percent), ("type", "Battery")):
        (battery / name).write_text(f"{text}\n")


def plug_in(laptop: Laptop) -> None:
    mains = laptop.root / "sys/class/power_supply/AC"
    mains.mkdir(parents=True, exist_ok=True)
    (mains / "type").write_text("Mains\n")
    (mains / "online").write_text("1\n")


def be_quiet(laptop: Laptop, hours: str) -> None:
    directory = laptop.root / "etc/olpc-update-query/config.d"
    directory.mkdir(exist_ok=True)
    (directory / "quiet.toml").write_text(f'[gates]\nquiet_hours = "{hours}"\n')


def held_back(laptop: Laptop) -> object:
    machine = laptop.machine()
    return gather(machine, look(machine))["held_back"]


@pytest.fixture
def waiting(school_laptop: Laptop, server: ServerSimulator) -> Laptop:
    """A laptop with a low battery, that was ordered a build."""
    run_on_battery(school_laptop, 12)
    server.update, server.lease = order(server), lease(NOW + 30 * DAY)
    return school_laptop


def test_a_low_battery_holds_a_build_back_but_no_lease(
    waiting: Laptop, server: ServerSimulator
) -> None:
    code, heard = waiting.poll()
    assert code == 0
    assert heard.outcome.result is Result.WAITING
    assert heard.outcome.text == "build 762 must wait: the battery is low"
    assert waiting.lease() == server.lease
    assert server.site.names() == [""], "nothing was fetched"
    assert waiting.wait() <= HOUR, "it looks again soon"
    assert held_back(waiting) == {
        "gate": "battery",
        "build": "762",
        "since": NOW,
        "until": NOW + 7 * DAY,
    }


def test_the_deadline_counts_from_the_first_time(waiting: Laptop) -> None:
    for day in range(7):
        waiting.clock.time = NOW + day * DAY
        _, heard = waiting.ask()
        assert isinstance(heard.heard(Decided)[0].decision, Wait), day
    waiting.clock.time = NOW + 7 * DAY
    _, heard = waiting.ask()
    assert isinstance(heard.heard(Decided)[0].decision, Install)
    assert held_back(waiting) is None


def test_another_gate_does_not_begin_anew(waiting: Laptop) -> None:
    waiting.ask()
    waiting.clock.time += DAY
    be_quiet(waiting, "00:00-23:59")
    waiting.ask()
    found = held_back(waiting)
    assert isinstance(found, dict)
    assert (found["gate"], found["since"]) == ("quiet-hours", NOW)


def test_another_order_does(waiting: Laptop, server: ServerSimulator) -> None:
    waiting.ask()
    waiting.clock.time += DAY
    server.update = order(server, contents="e" * 64)
    waiting.ask()
    found = held_back(waiting)
    assert isinstance(found, dict)
    assert found["since"] == NOW + DAY


def test_when_the_order_is_gone_nothing_waits(
    waiting: Laptop, server: ServerSimulator
) -> None:
    waiting.ask()
    server.update = None
    waiting.ask()
    assert held_back(waiting) is None


def test_when_the_gate_opens_it_asks_soon(
    waiting: Laptop, server: ServerSimulator
) -> None:
    waiting.ask()
    waiting.clock.time += 60
    _, heard = waiting.poll(GATE)
    assert heard.outcome.result is Result.NOT_DUE, "the battery is still low"
    plug_in(waiting)
    _, heard = waiting.poll(GATE)
    (moment,) = heard.heard(Sleeps)
    assert moment.until <= NOW + 60 + LINK_SPREAD
    assert isinstance(heard.heard(Decided)[0].decision, Install)
    assert server.asked == 2


def test_a_gate_that_opens_for_nobody_wakes_nobody(
    laptop: Laptop, server: ServerSimulator
) -> None:
    laptop.poll()
    _, heard = laptop.poll(GATE)
    assert heard.outcome.result is Result.NOT_DUE
    assert server.asked == 1


def test_who_does_not_wait_draws_a_moment_and_leaves(
    laptop: Laptop, server: ServerSimulator
) -> None:
    _, heard = laptop.poll(Wish(Trigger.NETWORK, waits=False))
    assert heard.outcome.result is Result.NOT_DUE
    assert laptop.clock.slept == []
    assert server.asked == 0
    assert 0 < laptop.wait() <= LINK_SPREAD
    laptop.clock.time += laptop.wait()
    laptop.poll(Wish(Trigger.TIMER, waits=False))
    assert server.asked == 1


# --- in the middle of a download ----------------------------------------------------


def test_a_gate_that_closes_stops_a_download(
    waiting: Laptop, server: ServerSimulator
) -> None:
    heard = Listener()
    progress = GatedProgress(waiting.machine(), order(server), heard)
    progress.transferred(1, 9)
    waiting.clock.time += LOOK_SECONDS
    with pytest.raises(errors.HeldBack, match="the battery is low"):
        progress.transferred(2, 9)
    assert heard.events == ["1 of 9", "2 of 9"]
    plug_in(waiting)
    waiting.clock.time += LOOK_SECONDS
    progress.transferred(3, 9)


# --- holds ----------------------------------------------------------------------------


@pytest.mark.parametrize("clock", [1000, NOW + 400 * DAY])
def test_a_hold_of_a_clock_that_was_wrong_ends(laptop: Laptop, clock: int) -> None:
    set_hold(laptop.machine(), since=clock, until=None)
    assert current_hold(laptop.machine(), NOW) is None


def test_a_hold_is_one(laptop: Laptop) -> None:
    set_hold(laptop.machine(), since=NOW, until=NOW + DAY)
    assert current_hold(laptop.machine(), NOW + DAY - 1) == (NOW, NOW + DAY)
    assert current_hold(laptop.machine(), NOW + DAY) is None


def test_gates_have_names_for_people() -> None:
    assert {str(gate) for gate in Gate} == {"metered", "battery", "quiet-hours"}


@pytest.mark.parametrize(
    ("clock", "is_drawn"),
    [
        pytest.param(NOW, False, id="a clock that may be right"),
        pytest.param(1000, True, id="1970 at each start"),
    ],
)
def test_a_clock_that_is_surely_wrong_has_no_slot(
    laptop: Laptop, clock: int, is_drawn: bool
) -> None:
    """Or a laptop that is on for five minutes at a time might never ask."""
    waits = set()
    for number in range(12):
        laptop.clock.time, laptop.draw = clock, number / 12
        (laptop.machine().work.asker / "due").unlink(missing_ok=True)
        laptop.poll(Wish(Trigger.BOOT, waits=False))
        waits.add(laptop.wait())
    assert len(waits) == (12 if is_drawn else 1)
