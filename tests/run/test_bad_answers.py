"""Answers that do not count change nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query.policy.schedule import (
    FIRST_BACKOFF,
    LAST_BACKOFF,
    Trigger,
)
from olpc_update_query.report import Answered, Asking, Result, Unanswered
from olpc_update_query.run.poll import Wish
from tests.http_server import unused_port
from tests.run.polled import NOW, Laptop
from tests.simulator import (
    DAY,
    HOUR,
    Mischief,
    ServerSimulator,
    hang_up,
    lease,
    redirect,
    set_due,
    simulate,
)
from tests.trees import difference, snapshot

# --- answers that do not count -----------------------------------------------------

BAD_ANSWERS = [
    pytest.param(Mischief.UNSIGNED, 21, True),
    pytest.param(Mischief.WRONG_KEY, 21, True),
    pytest.param(Mischief.ALTERED, 21, True),
    pytest.param(Mischief.TRUNCATED, 25, False),
    pytest.param(Mischief.ERROR, 15, True),
    pytest.param(Mischief.UNAVAILABLE, 15, True),
    pytest.param(Mischief.HTML, 11, False),
    pytest.param(Mischief.NOT_FOUND, 11, False),
    pytest.param(Mischief.ENDLESS, 11, False),
    pytest.param(Mischief.UNKNOWN, 11, False),
    pytest.param(Mischief.HONEST_PORTAL, 11, False),
    pytest.param(Mischief.TOO_MANY, 15, True),
]


@pytest.mark.parametrize(("mischief", "expected", "backs_off"), BAD_ANSWERS)
def test_bad_answers_change_nothing(
    laptop: Laptop,
    server: ServerSimulator,
    mischief: Mischief,
    expected: int,
    backs_off: bool,
) -> None:
    server.lease = lease(NOW + 21 * DAY)
    laptop.poll()
    before, due = snapshot(laptop.root / "security"), laptop.due()
    server.mischief, server.stolen, server.lease = mischief, True, lease(None)
    code, heard = laptop.ask()
    assert code == expected
    assert heard.outcome.result is Result.FAILED
    assert heard.outcome.hint
    assert heard.heard(Unanswered)
    assert not heard.heard(Answered)
    assert not difference(before, snapshot(laptop.root / "security"))
    if backs_off:
        assert FIRST_BACKOFF <= laptop.wait() <= server.retry_after * 1.25
    else:
        assert laptop.due() == due, "neither an answer nor a failure"


def test_a_replayed_answer(laptop: Laptop, server: ServerSimulator) -> None:
    laptop.poll()
    server.mischief, server.stolen = Mischief.REPLAYED, True
    code, _ = laptop.ask()
    assert code == 21
    assert not laptop.is_marked()


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        pytest.param(redirect, 11, id="redirect"),
        pytest.param(hang_up, 10, id="hang-up"),
    ],
)
def test_no_network_is_no_failure(
    laptop: Laptop,
    server: ServerSimulator,
    trouble: Callable[[ServerSimulator], None],
    expected: int,
) -> None:
    set_due(laptop.root, NOW - DAY, NOW - 5)
    trouble(server)
    code, heard = laptop.poll(Wish(Trigger.TIMER))
    assert code == expected
    assert laptop.due() == (NOW - DAY, NOW - 5), "the next trigger asks again"
    if trouble is redirect:
        assert "http://portal.test/login" in heard.outcome.text


def test_nobody_listens(laptop: Laptop) -> None:
    code, heard = laptop.ask(f"http://127.0.0.1:{unused_port()}/")
    assert code == 10
    assert "127.0.0.1" in heard.outcome.text


def test_backoff_grows_and_ends(laptop: Laptop, server: ServerSimulator) -> None:
    server.mischief = Mischief.ERROR
    waits = []
    for _ in range(10):
        laptop.ask()
        waits.append(laptop.wait())
    assert waits == sorted(waits)
    assert waits[0] == FIRST_BACKOFF * 1.5
    assert waits[-1] == LAST_BACKOFF * 0.75
    server.mischief = None
    laptop.ask()
    server.mischief = Mischief.ERROR
    laptop.ask()
    assert laptop.wait() == waits[0], "an answer ends the count"


def test_retry_after(laptop: Laptop, server: ServerSimulator) -> None:
    server.mischief, server.retry_after = Mischief.UNAVAILABLE, 5 * HOUR
    laptop.ask()
    assert 5 * HOUR <= laptop.wait() <= 6.25 * HOUR


def test_a_failing_server_is_asked_before_the_lease_is_half_over(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.lease = lease(NOW + 4 * HOUR)
    laptop.poll()
    server.mischief = Mischief.ERROR
    for _ in range(10):
        laptop.ask()
    assert laptop.wait() <= 2 * HOUR


def test_the_next_server_is_asked(
    laptop: Laptop, server: ServerSimulator, tmp_path: Path
) -> None:
    nobody = f"http://127.0.0.1:{unused_port()}/"
    with simulate(tmp_path) as portal:
        portal.mischief = Mischief.WRONG_KEY
        code, heard = laptop.ask(nobody, portal.url, server.url)
        assert portal.asked == 1
    assert code == 0
    asked = [event.server for event in heard.heard(Asking)]
    assert asked == [nobody, portal.url, server.url]
    assert heard.heard(Answered)[0].server == server.url
    assert laptop.wait() == DAY


def test_of_several_failures_the_most_telling_is_told(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.mischief = Mischief.HTML
    nobody = f"http://127.0.0.1:{unused_port()}/"
    assert laptop.ask(server.url, nobody)[0] == 11
    server.mischief = Mischief.WRONG_KEY
    assert laptop.ask(nobody, server.url)[0] == 21


def test_the_same_failure_fills_no_history(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.mischief = Mischief.HTML
    for _ in range(5):
        laptop.ask()
    assert laptop.history() == ["failed"]
