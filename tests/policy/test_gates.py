import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.policy.gates import (
    CLOCK_SLACK,
    DAY,
    HOUR,
    LONGEST_HOLD,
    Gate,
    Gates,
    HeldBack,
    Surroundings,
    closed_gate,
    draw_reopening,
    hold_end,
)

NOW = 1_795_000_000
NOON = 12 * 60
SCHOOL_DAY, NIGHT = (8 * 60, 15 * 60), (22 * 60, 6 * 60)
HERE = Surroundings(minute=NOON)
ALMOST_1 = 1 - 2**-48

minutes = st.integers(0, 24 * 60 - 1)
draws = st.floats(0, ALMOST_1)


@pytest.mark.parametrize(
    ("gates", "around", "gate"),
    [
        pytest.param(Gates(), HERE, None, id="all is well"),
        pytest.param(Gates(), HERE._replace(metered=True), Gate.METERED, id="metered"),
        pytest.param(
            Gates(metered=False), HERE._replace(metered=True), None, id="who cares"
        ),
        pytest.param(Gates(), HERE._replace(charge=29), Gate.BATTERY, id="low battery"),
        pytest.param(Gates(), HERE._replace(charge=30), None, id="battery is enough"),
        pytest.param(Gates(battery=0), HERE._replace(charge=0), None, id="any battery"),
        pytest.param(Gates(quiet=SCHOOL_DAY), HERE, Gate.QUIET, id="in class"),
        pytest.param(
            Gates(quiet=SCHOOL_DAY),
            Surroundings(minute=8 * 60),
            Gate.QUIET,
            id="class begins",
        ),
        pytest.param(
            Gates(quiet=SCHOOL_DAY), Surroundings(minute=15 * 60), None, id="class ends"
        ),
        pytest.param(
            Gates(quiet=NIGHT), Surroundings(minute=5), Gate.QUIET, id="past midnight"
        ),
        pytest.param(
            Gates(quiet=NIGHT),
            Surroundings(minute=23 * 60),
            Gate.QUIET,
            id="before midnight",
        ),
        pytest.param(Gates(quiet=NIGHT), HERE, None, id="by day"),
    ],
)
def test_which_gate_is_closed(
    gates: Gates, around: Surroundings, gate: Gate | None
) -> None:
    held = closed_gate(gates, around, NOW)
    assert (held and held.gate) == gate
    if held is not None:
        assert held.since == NOW
        assert len(held.reason) > 10, "a person must be told why"


def test_quiet_hours_say_when_they_end() -> None:
    held = closed_gate(Gates(quiet=SCHOOL_DAY), HERE, NOW)
    assert held == HeldBack(Gate.QUIET, NOW, NOW + 3 * HOUR)


@given(minutes, minutes, minutes)
def test_quiet_hours_end_outside_of_themselves(
    begin: int, end: int, minute: int
) -> None:
    held = closed_gate(Gates(quiet=(begin, end)), Surroundings(minute), NOW)
    if held is None:
        return
    later = (minute + (held.until - NOW) // 60) % (24 * 60)
    assert closed_gate(Gates(quiet=(begin, end)), Surroundings(later), NOW) is None
    assert held.until - NOW <= DAY


WORST = Surroundings(NOON, metered=True, charge=1)
STRICTEST = Gates(quiet=SCHOOL_DAY, battery=100, days=7)


@given(st.integers(-DAY, 30 * DAY), st.integers(1, 90))
def test_no_gate_starves_a_laptop(later: int, days: int) -> None:
    gates = STRICTEST._replace(days=days)
    held = closed_gate(gates, WORST, NOW + later, since=NOW)
    assert (held is None) == (later >= days * DAY)
    if held is not None:
        assert held.until <= max(NOW, NOW + later) + days * DAY


@given(st.integers(0, 7 * DAY - 1), draws)
def test_it_is_looked_at_again_in_time(later: int, draw: float) -> None:
    held = closed_gate(STRICTEST._replace(quiet=None), WORST, NOW + later, since=NOW)
    assert held is not None
    drawn, due = draw_reopening(held, NOW + later, draw)
    assert drawn == NOW + later
    assert 0 <= due - drawn <= HOUR
    assert due <= held.until + HOUR


def test_a_school_does_not_come_back_in_one_second() -> None:
    held = HeldBack(Gate.QUIET, NOW, NOW + HOUR)
    due = {draw_reopening(held, NOW, at / 100)[1] for at in range(100)}
    assert len(due) == 100
    assert min(due) >= held.until


@pytest.mark.parametrize(
    ("since", "until", "now", "end"),
    [
        pytest.param(NOW, NOW + 9, NOW, NOW + 9, id="just set"),
        pytest.param(NOW, NOW + 9, NOW + 9, None, id="over"),
        pytest.param(NOW, None, NOW, NOW + LONGEST_HOLD, id="without an end"),
        pytest.param(NOW, None, NOW + LONGEST_HOLD, None, id="as long as can be"),
        pytest.param(NOW, NOW + 999 * DAY, NOW, NOW + LONGEST_HOLD, id="too long"),
        pytest.param(
            NOW + CLOCK_SLACK, None, NOW, NOW + CLOCK_SLACK + LONGEST_HOLD, id="slack"
        ),
        pytest.param(NOW + CLOCK_SLACK + 1, None, NOW, None, id="from the future"),
    ],
)
def test_a_hold_ends(since: int, until: int | None, now: int, end: int | None) -> None:
    assert hold_end(since, until, now) == end
