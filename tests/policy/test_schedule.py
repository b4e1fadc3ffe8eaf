from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.model.wire import format_time
from olpc_update_query.policy.due import EARLIEST, LONGEST, format_due, may_skip
from olpc_update_query.policy.schedule import (
    CRON_SPREAD,
    DAY,
    FIRST_BACKOFF,
    HOUR,
    LAST_BACKOFF,
    LEASE_PULL,
    LINK_SPREAD,
    LONGEST_RETRY_AFTER,
    MIN_INTERVAL,
    MINUTE,
    ON_TIME,
    PORTAL_SPREAD,
    SPREAD,
    Ask,
    AskSoon,
    NotDue,
    Trigger,
    draw_next,
    draw_retry,
    judge,
    next_slot,
    place_of,
)
from olpc_update_query.trust import moment

NOW = 1_795_000_000
MANUAL, CRON, NETWORK = Trigger.MANUAL, Trigger.CRON, Trigger.NETWORK
TIMER, PORTAL, GATE = Trigger.TIMER, Trigger.PORTAL, Trigger.GATE
PEOPLE = [MANUAL, Trigger.DBUS]
AUTOMATIC = [trigger for trigger in Trigger if trigger not in PEOPLE]
ALMOST_1 = 1 - 2**-48

draws = st.floats(0, ALMOST_1)
intervals = st.integers(MIN_INTERVAL, 30 * DAY)
times = st.integers(0, 2**33)


@pytest.mark.parametrize(
    ("trigger", "drawn", "due", "kind"),
    [
        pytest.param(CRON, NOW - DAY, NOW + 1, NotDue, id="a second too early"),
        pytest.param(MANUAL, NOW - DAY, NOW + 1, NotDue, id="a person, too early"),
        pytest.param(NETWORK, NOW - DAY, NOW + 1, NotDue, id="a link, too early"),
        pytest.param(CRON, NOW, NOW + 1, NotDue, id="drawn this very second"),
        pytest.param(TIMER, NOW - DAY, NOW, Ask, id="due this second"),
        pytest.param(TIMER, NOW - DAY, NOW - ON_TIME + 1, Ask, id="late as ticks are"),
        pytest.param(TIMER, NOW - DAY, NOW - ON_TIME, AskSoon, id="missed"),
        pytest.param(CRON, NOW - DAY, NOW, AskSoon, id="cron wakes all at once"),
        pytest.param(Trigger.DBUS, NOW - DAY, NOW - DAY, Ask, id="a person, by D-Bus"),
        pytest.param(PORTAL, NOW - DAY, NOW + 1, NotDue, id="a portal, too early"),
        pytest.param(PORTAL, NOW, NOW + LINK_SPREAD, AskSoon, id="a moment is drawn"),
        pytest.param(PORTAL, NOW, NOW + LINK_SPREAD + 1, NotDue, id="backing off"),
        pytest.param(GATE, NOW - DAY, NOW + 1, NotDue, id="a gate, and nothing waits"),
        pytest.param(CRON, NOW - 9 * DAY, NOW - 8 * DAY, AskSoon, id="slept for long"),
        pytest.param(MANUAL, NOW - DAY, NOW - HOUR, Ask, id="missed, a person asks"),
        pytest.param(NETWORK, NOW - DAY, NOW, AskSoon, id="due, and a link comes up"),
        pytest.param(CRON, NOW + 1, NOW + DAY, AskSoon, id="the clock went back"),
        pytest.param(MANUAL, NOW + 1, NOW + DAY, Ask, id="clock went back, a person"),
        pytest.param(CRON, NOW - 1, NOW + LONGEST, AskSoon, id="absurdly far off"),
    ],
)
def test_judge(trigger: Trigger, drawn: int, due: int, kind: type) -> None:
    assert type(judge(trigger, (drawn, due), NOW)) is kind


def test_a_build_that_waited_is_asked_for_when_the_gate_opens() -> None:
    due = (NOW - DAY, NOW + DAY)
    assert isinstance(judge(GATE, due, NOW, waits=True), AskSoon)
    assert isinstance(judge(CRON, due, NOW, waits=True), NotDue)


@pytest.mark.parametrize(
    ("trigger", "spread"),
    [
        # What comes now and then must leave room for the wait until it comes.
        (CRON, 10 * MINUTE - 300),
        (TIMER, 10 * MINUTE - 330),
        (NETWORK, 10 * MINUTE - 60),
        (Trigger.BOOT, 10 * MINUTE - 60),
        (GATE, 10 * MINUTE - 60),
        (PORTAL, 15),
    ],
)
def test_how_far_the_moment_is_drawn(trigger: Trigger, spread: int) -> None:
    verdict = judge(trigger, (NOW - 9 * DAY, NOW - 8 * DAY), NOW)
    assert isinstance(verdict, AskSoon)
    assert spread - 20 <= verdict.spread <= spread


@pytest.mark.parametrize("trigger", AUTOMATIC)
def test_the_first_contact_is_spread_too(trigger: Trigger) -> None:
    assert isinstance(judge(trigger, None, NOW), AskSoon)


def test_a_person_on_a_new_laptop_does_not_wait() -> None:
    assert isinstance(judge(MANUAL, None, NOW), Ask)


def test_too_early_says_until_when() -> None:
    verdict = judge(CRON, (NOW - 5, NOW + 77), NOW)
    assert isinstance(verdict, NotDue)
    assert verdict.until == NOW + 77


@pytest.mark.parametrize(
    ("now", "floor", "kind"),
    [
        pytest.param(NOW, NOW - 5 * DAY, NotDue, id="stamp after the floor"),
        pytest.param(NOW, NOW - 1 * DAY, NotDue, id="as far before as clocks differ"),
        pytest.param(NOW, NOW, AskSoon, id="stamp from before the floor"),
        pytest.param(NOW, NOW + 9 * DAY, NotDue, id="the clock is still wrong"),
    ],
)
def test_a_stamp_from_before_the_floor(now: int, floor: int, kind: type) -> None:
    due = (NOW - 2 * DAY, NOW + DAY)
    assert type(judge(CRON, due, now, floor=floor)) is kind


@given(times, times, times, st.sampled_from(AUTOMATIC))
def test_the_cheap_rule_never_keeps_a_due_query_waiting(
    drawn: int, due: int, now: int, trigger: Trigger
) -> None:
    skipped = may_skip(format_due((drawn, due)), now)
    waits = isinstance(judge(trigger, (drawn, due), now), NotDue)
    assert skipped == (waits and drawn >= EARLIEST)


def test_a_clock_that_begins_anew_at_each_boot() -> None:
    """Its stamps say nothing after the boot in which they were drawn."""
    due = (400, 400 + DAY)
    assert not may_skip(format_due(due), 500), "the cheap rule leaves it to the other"
    again = judge(CRON, due, 500, floor=NOW, same_boot=False)
    assert isinstance(again, AskSoon)
    assert isinstance(judge(CRON, due, 500, floor=NOW), NotDue)
    assert isinstance(judge(CRON, due, 500, same_boot=False), NotDue), "never set"


def test_both_rules_know_the_same_earliest_time() -> None:
    assert EARLIEST == moment.EARLIEST
    assert format_time(EARLIEST) == "20261101T000000Z"


# --- drawing -----------------------------------------------------------------------


@given(intervals, draws)
def test_the_next_query_is_about_an_interval_away(interval: int, draw: float) -> None:
    drawn, due = draw_next(interval, NOW, draw)
    assert drawn == NOW
    assert interval * 0.75 - 1 <= due - NOW <= min(interval * 1.25, LONGEST)
    assert may_skip(format_due((drawn, due)), NOW + 1), "it must be honoured"


def test_the_average_is_the_interval() -> None:
    count = 1000
    waits = [draw_next(DAY, NOW, at / count)[1] - NOW for at in range(count)]
    assert sum(waits) / count == pytest.approx(DAY, rel=0.002)


@given(intervals, draws, st.integers(1, 400 * DAY))
def test_a_lease_pulls_to_half_way(interval: int, draw: float, left: int) -> None:
    plain = draw_next(interval, NOW, draw)[1]
    due = draw_next(interval, NOW, draw, lease_expiry=NOW + left)[1]
    assert due <= plain
    if left >= 2 * LEASE_PULL:
        assert due <= NOW + left / 2
    assert due - NOW >= 0.75 * min(interval, LEASE_PULL) - 1, "no hammering at the end"


@given(intervals, draws, st.integers(0, NOW))
def test_an_expired_lease_pulls_no_more(interval: int, draw: float, ago: int) -> None:
    expired = draw_next(interval, NOW, draw, lease_expiry=NOW - ago)
    assert expired == draw_next(interval, NOW, draw)


def test_leases_that_end_together_do_not_ask_together() -> None:
    lease = NOW + 10 * DAY
    due = {
        draw_next(30 * DAY, NOW, at / 300, lease_expiry=lease)[1] for at in range(300)
    }
    assert len(due) == 300


def test_a_lease_is_renewed_in_few_queries() -> None:
    now, queries, end = NOW, 0, NOW + 21 * DAY
    while now < end:
        now = draw_next(DAY, now, 0.5, lease_expiry=end)[1]
        queries += 1
    assert queries < 21 + 12


@given(times, draws, st.sampled_from([SPREAD, LINK_SPREAD, PORTAL_SPREAD]))
def test_a_slot_comes_in_time_and_is_kept(now: int, place: float, spread: int) -> None:
    found, due = next_slot(now, place, spread)
    assert found == now
    assert now < due <= now + spread
    assert isinstance(judge(TIMER, (found, due), due), Ask), "no second slot"
    assert next_slot(due - 1, place, spread)[1] == due, "whenever it is woken"


@given(st.integers(0, 16**8 - 1001))
def test_laptops_made_one_after_the_other_ask_one_after_the_other(first: int) -> None:
    """Each second has two of a thousand, give or take two."""
    places = [place_of(f"CSN{first + number:08X}") for number in range(1000)]
    slots = Counter(next_slot(NOW, place, LINK_SPREAD) for place in places)
    assert max(slots.values()) <= 4


@pytest.mark.parametrize("serial", ["", "CSN74805A62", "PF-2XYZ", "ñ", "7" * 200])
def test_everybody_has_a_place(serial: str) -> None:
    assert 0 <= place_of(serial) < 1
    assert place_of(serial) == place_of(serial)


@pytest.mark.parametrize("spread", [SPREAD, CRON_SPREAD, LINK_SPREAD])
def test_who_is_on_for_five_minutes_a_day_has_the_slot_in_them(spread: int) -> None:
    mornings = [NOW + day * DAY for day in range(14)]
    for place in (0.0, 0.3, 0.7, 0.99):
        waits = [next_slot(now, place, spread)[1] - now for now in mornings]
        assert min(waits) < 5 * MINUTE


@given(st.integers(1, 10_000), draws)
def test_backoff_doubles_between_its_bounds(failures: int, draw: float) -> None:
    wait = draw_retry(failures, NOW, draw)[1] - NOW
    bound = min(2 ** min(failures, 20) * FIRST_BACKOFF, LAST_BACKOFF)
    assert bound / 2 - 1 <= wait <= bound
    assert FIRST_BACKOFF <= wait <= LAST_BACKOFF


@given(st.integers(0, 10), draws, st.integers(0, DAY))
def test_retry_after_is_obeyed(failures: int, draw: float, asked: int) -> None:
    wait = draw_retry(failures, NOW, draw, retry_after=asked)[1] - NOW
    assert wait >= asked
    assert wait <= max(LAST_BACKOFF, asked + max(MINUTE, asked / 4))


@pytest.mark.parametrize("asked", [10 * DAY, 10**9, -5])
def test_nobody_can_silence_a_laptop(asked: int) -> None:
    wait = draw_retry(1, NOW, ALMOST_1, retry_after=asked)[1] - NOW
    assert FIRST_BACKOFF <= wait <= LONGEST_RETRY_AFTER * 1.25


def test_laptops_told_to_come_back_together_do_not() -> None:
    due = {draw_retry(1, NOW, at / 60, retry_after=3600)[1] for at in range(60)}
    assert len(due) == 60


@given(st.integers(1, 20), draws, st.integers(1, 30 * DAY))
def test_a_lease_shortens_the_backoff(failures: int, draw: float, left: int) -> None:
    plain = draw_retry(failures, NOW, draw)[1] - NOW
    wait = draw_retry(failures, NOW, draw, lease_expiry=NOW + left)[1] - NOW
    assert FIRST_BACKOFF <= wait <= plain
    assert wait <= max(left / 2, 2 * FIRST_BACKOFF, LEASE_PULL)
