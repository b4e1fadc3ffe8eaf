"""Every wrong clock against everything that has a time: the real poll, a fake clock."""

from pathlib import Path

import pytest

from olpc_update_query import config
from olpc_update_query.model.canonical import Json
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.report import ClockSet, Result
from olpc_update_query.run import clock as running
from olpc_update_query.run.machine import Machine
from olpc_update_query.run.poll import Wish
from tests.attacks.forge import Forge, delegated, new_lease
from tests.attacks.victim import Victim
from tests.cli.school import School
from tests.http_server import Reply, Seen
from tests.laptop import boots
from tests.run.polled import CRON, DIGEST, NOW
from tests.simulator import DAY, HOUR, Mischief, lease, set_due, work_of

YEAR = 365 * DAY
RIGHT, AHEAD = NOW, NOW + 10 * YEAR
CLOCKS = {"right": RIGHT, "1970": 100, "last year": NOW - YEAR, "ahead": AHEAD}
every_clock = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
behind_or_right = pytest.mark.parametrize(
    "clock", [CLOCKS[name] for name in ("right", "1970", "last year")]
)


def floor_of(victim: Victim) -> tuple[object, object]:
    machine = victim.laptop.machine()
    return (
        machine.installer.load("floor").get("time"),
        machine.asker.load("state").get("floor"),
    )


def boot(victim: Victim, clock: int, name: str) -> None:
    """Switch the laptop off and on: its clock shows something else."""
    path = victim.laptop.root / "proc/sys/kernel/random/boot_id"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{name}\n")
    victim.laptop.clock.time = clock


# --- answers, leases, orders -------------------------------------------------------


@every_clock
def test_an_answer_is_accepted(victim: Victim, clock: int) -> None:
    boot(victim, clock, "another")
    victim.obeys(Forge.genuine)
    assert victim.laptop.lease() == new_lease()
    assert floor_of(victim) == (NOW, NOW)


@every_clock
def test_a_lease_that_has_ended_is_refused(victim: Victim, clock: int) -> None:
    boot(victim, clock, "another")
    ended = lease(NOW)
    victim.is_unmoved_by(
        lambda forge: forge.signed(forge.data(lease=ended, message=None)),
        22,
        "it expired on 20261118T110640Z, and here it is 20261118T110640Z",
        answered=True,
    )


@every_clock
def test_a_lease_that_ends_in_a_second_is_kept(victim: Victim, clock: int) -> None:
    boot(victim, clock, "another")
    soon = lease(NOW + 1)
    victim.obeys(lambda forge: forge.signed(forge.data(lease=soon)))
    assert victim.laptop.lease() == soon


@behind_or_right
def test_a_delegation_counts_until_its_end(victim: Victim, clock: int) -> None:
    boot(victim, clock, "another")
    victim.is_unmoved_by(
        lambda forge: forge.with_line(lambda data: delegated(data, until=NOW)),
        21,
        "its signature expired on 20261118T110640Z, and here it is",
    )
    victim.obeys(
        lambda forge: forge.with_line(lambda data: delegated(data, until=NOW + 1))
    )


def test_a_delegate_is_refused_while_the_clock_is_ahead(victim: Victim) -> None:
    """Whose time is right is not for the delegate to say; the line tells both."""
    victim.laptop.clock.time = AHEAD
    victim.is_unmoved_by(
        lambda forge: forge.with_line(delegated),
        21,
        "its signature expired on 2027.*, and here it is 2036",
    )
    victim.obeys(Forge.genuine)


@every_clock
@pytest.mark.parametrize(
    ("not_before", "result"),
    [
        pytest.param("20261118T110641Z", Result.WAITING, id="in a second"),
        pytest.param("20261118T110640Z", Result.FAILED, id="now"),
    ],
)
def test_an_order_waits_for_its_time(
    victim: Victim, clock: int, not_before: str, result: Result
) -> None:
    boot(victim, clock, "another")
    url = f"{victim.server.url}builds/762/"
    order: dict[str, Json] = {
        "build": "762",
        "contents": str(DIGEST),
        "not_before": not_before,
        "size": 9,
        "urls": [url],
    }
    victim.attack(lambda forge: forge.signed(forge.data(update=order)))
    code, heard = victim.laptop.ask()
    assert heard.outcome.result is result
    assert code == (0 if result is Result.WAITING else 13), "nobody has this build"


# --- when to ask next ----------------------------------------------------------------


@every_clock
def test_the_next_query_is_a_day_off_by_any_clock(victim: Victim, clock: int) -> None:
    boot(victim, clock, "another")
    victim.laptop.ask()
    asked = victim.server.asked
    assert victim.laptop.wait() == DAY
    victim.laptop.clock.time += DAY - 1
    victim.laptop.poll(CRON)
    assert victim.server.asked == asked
    victim.laptop.clock.time += 1
    victim.laptop.poll(CRON)
    assert victim.server.asked == asked + 1


@every_clock
def test_a_lease_pulls_by_any_clock(victim: Victim, clock: int) -> None:
    boot(victim, clock, "another")
    victim.server.lease = lease(NOW + 5 * HOUR)
    victim.laptop.ask()
    assert victim.laptop.wait() <= 2.5 * HOUR


@every_clock
def test_a_stamp_in_the_future_counts_as_none(victim: Victim, clock: int) -> None:
    boot(victim, clock, "another")
    set_due(victim.laptop.root, clock + YEAR, clock + YEAR + DAY)
    asked = victim.server.asked
    victim.laptop.poll(CRON)
    assert victim.server.asked == asked + 1


def test_a_battery_that_is_dead_at_each_boot(victim: Victim) -> None:
    """Each session asks, though the clock never gets beyond the first hour of 1970."""
    for number, minutes in enumerate([9, 2, 5, 19, 3, 11, 2]):
        boot(victim, 60 * minutes, f"boot {number}")
        asked = victim.server.asked
        victim.laptop.poll(Wish(Trigger.BOOT))
        assert victim.server.asked == asked + 1, minutes
        victim.laptop.poll(CRON)
        victim.laptop.poll(CRON)
        assert victim.server.asked == asked + 1, "and only once"
    assert floor_of(victim) == (NOW, NOW)


def test_a_server_that_fails_is_backed_off_with_a_dead_battery(victim: Victim) -> None:
    boot(victim, 300, "second")
    victim.server.mischief = Mischief.ERROR
    victim.laptop.poll(CRON)
    asked = victim.server.asked
    victim.laptop.poll(CRON)
    assert victim.server.asked == asked
    assert victim.laptop.wait() > 0


@pytest.mark.parametrize("jump", [100, NOW - YEAR, NOW - 60, AHEAD])
def test_a_clock_that_jumps_in_the_middle_of_a_run(victim: Victim, jump: int) -> None:
    def reply(seen: Seen) -> Reply:
        victim.laptop.clock.time = jump
        return victim.server.reply(seen)

    victim.server.lease = new_lease()
    victim.server.site.reply = reply
    assert victim.laptop.ask()[0] == 0
    assert victim.laptop.lease() == new_lease()
    assert floor_of(victim) == (NOW, NOW)
    asked = victim.server.asked
    victim.server.site.reply = victim.server.reply
    victim.laptop.clock.time = NOW + 2 * DAY  # whatever it was, it is set right
    victim.laptop.poll(CRON)
    assert victim.server.asked == asked + 1


def test_a_year_asleep_with_the_clock_at_1970(customer: Victim, school: School) -> None:
    """Unattended: cron calls, it asks, it renews its lease and installs the build."""
    woke = NOW + YEAR
    boot(customer, 30, "after a year")
    school.server.time = woke
    school.server.lease = lease(woke + 21 * DAY)
    school.server.update = school.order()
    code, heard = customer.laptop.poll(CRON)
    assert code == 0, heard.outcome
    assert heard.outcome.result is Result.INSTALLED
    assert boots(customer.laptop.root) == "762"
    assert customer.laptop.lease() == school.server.lease


# --- the clock is set, or left alone -------------------------------------------------


@every_clock
@pytest.mark.parametrize("wanted", [True, False], ids=["set_clock", "left alone"])
def test_set_clock(
    victim: Victim, clock: int, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(victim, clock, "another")
    path = victim.laptop.root / "etc/olpc-update-query/config.d/clock.toml"
    path.parent.mkdir()
    path.write_text(f"set_clock = {str(wanted).lower()}\n")
    assert config.load(victim.laptop.root).set_clock is wanted

    def set_it(seconds: int) -> None:
        victim.laptop.clock.time = seconds

    monkeypatch.setattr(Machine, "is_real", lambda _: True)
    monkeypatch.setattr(running, "set_clock", set_it)
    _, heard = victim.laptop.ask()
    moved = wanted and clock != RIGHT
    assert bool(heard.heard(ClockSet)) is moved
    assert victim.laptop.clock.now() == (NOW if moved else clock)
    assert victim.laptop.wait() == DAY


# --- a floor that was poisoned -------------------------------------------------------


def poison(victim: Victim) -> None:
    """Let the server sign as if it were ten years later."""
    victim.attack(lambda f: f.signed(f.data(time="20361115T110640Z", message=None)))
    code, _ = victim.laptop.ask()
    assert code == 22, "a lease for three months ended long ago, as it seems"
    assert floor_of(victim) == (AHEAD, AHEAD)


def test_a_poisoned_floor_heals(victim: Victim) -> None:
    poison(victim)
    victim.obeys(Forge.genuine)
    assert victim.laptop.lease() == new_lease()
    assert floor_of(victim) == (NOW, NOW)


def test_the_healing_is_told(victim: Victim) -> None:
    poison(victim)
    victim.attack(Forge.genuine)
    _, heard = victim.laptop.ask()
    told = [event for event in heard.events if isinstance(event, str)]
    assert any("20361115T110640Z was the greatest signed time" in text for text in told)


def test_until_then_delegates_are_refused_but_cannot_stop_it(victim: Victim) -> None:
    poison(victim)
    victim.attack(lambda forge: forge.with_line(delegated))
    assert victim.laptop.ask()[0] == 21
    victim.attack(Forge.genuine)
    assert victim.laptop.ask()[0] == 0
    victim.attack(lambda forge: forge.with_line(delegated))
    assert victim.laptop.ask()[0] == 0


def test_a_delegate_cannot_poison_beyond_its_own_end(victim: Victim) -> None:
    def late(forge: Forge) -> bytes:
        data = forge.data(time="20361115T110640Z")
        return forge.wrap(data, delegated(data))

    victim.is_unmoved_by(late, 21, "expired on 20270216T110640Z, and here it is 2036")


def test_a_server_at_1970_lowers_nothing(victim: Victim) -> None:
    victim.attack(lambda f: f.signed(f.data(time="19700101T000100Z")))
    assert victim.laptop.ask()[0] == 0
    assert floor_of(victim) == (NOW, NOW)


def test_a_damaged_floor_is_none(victim: Victim) -> None:
    path = Path(work_of(victim.laptop.root)) / "installer/floor.json"
    path.write_bytes(b'{"time":"soon"}')
    victim.obeys(Forge.genuine)
    assert floor_of(victim) == (NOW, NOW)
