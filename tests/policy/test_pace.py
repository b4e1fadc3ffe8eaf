import pytest

from olpc_update_query.policy.pace import WINDOW, Pace


def test_nothing_is_known_at_first() -> None:
    pace = Pace()
    assert (pace.rate, pace.remaining(100)) == (0, None)
    pace.note(50, 10.0)
    assert (pace.rate, pace.remaining(100)) == (0, None)


@pytest.mark.parametrize("step", [0.01, 0.3, 1.0, 20.0])
def test_steady_download(step: float) -> None:
    pace = Pace()
    for number in range(1000):
        pace.note(int(number * step * 1000), number * step)
    assert pace.rate == pytest.approx(1000, rel=0.02)
    left = pace.remaining(int(999 * step * 1000) + 60_000)
    assert left == pytest.approx(60, abs=2)


def test_only_the_last_half_minute_counts() -> None:
    pace = Pace()
    for second in range(100):
        pace.note(second * 10_000, float(second))
    for second in range(100, 100 + 2 * int(WINDOW)):
        pace.note(1_000_000 + (second - 100) * 100, float(second))
    assert pace.rate == 100


def test_standing_download_has_no_end() -> None:
    pace = Pace()
    for second in range(2 * int(WINDOW)):
        pace.note(5000, float(second))
    assert (pace.rate, pace.remaining(9000)) == (0, None)


def test_another_download_begins_anew() -> None:
    pace = Pace()
    for second in range(10):
        pace.note(1000 * second, float(second))
    pace.note(0, 10.0)
    pace.note(5, 11.0)
    assert pace.rate == 5


def test_done_is_done() -> None:
    pace = Pace()
    pace.note(0, 0.0)
    pace.note(1000, 10.0)
    assert pace.remaining(1000) == 0
