"""The floor: what raises it, and what alone lowers it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.trust.moment import EARLIEST, SLACK, next_floor

NOW = 1_795_000_000
LATE = NOW + 365 * 24 * 3600
AHEAD = NOW + 10 * 365 * 24 * 3600


@pytest.mark.parametrize(
    ("floor", "time", "direct", "expected"),
    [
        pytest.param(0, NOW, True, NOW, id="the first answer"),
        pytest.param(NOW, NOW + 1, False, NOW + 1, id="a delegate raises it"),
        pytest.param(NOW, NOW - 1, True, NOW, id="a server a bit behind"),
        pytest.param(LATE, LATE - SLACK, True, LATE, id="a server a month behind"),
        pytest.param(LATE, LATE - SLACK - 1, True, LATE - SLACK - 1, id="more"),
        pytest.param(AHEAD, NOW, True, NOW, id="it was poisoned"),
        pytest.param(AHEAD, NOW, False, AHEAD, id="a delegate does not heal it"),
        pytest.param(AHEAD, 0, True, AHEAD, id="a server at 1970 does not either"),
        pytest.param(AHEAD, EARLIEST - 1, True, AHEAD, id="older than the program"),
    ],
)
def test_the_floor(floor: int, time: int, direct: bool, expected: int) -> None:
    assert next_floor(floor, time, direct=direct) == expected


@given(st.integers(0, 2**33), st.integers(0, 2**33), st.booleans())
def test_it_is_one_of_the_two_and_never_before_the_earliest(
    floor: int, time: int, direct: bool
) -> None:
    found = next_floor(floor, time, direct=direct)
    assert found in {floor, time}
    assert found >= min(floor, EARLIEST)
