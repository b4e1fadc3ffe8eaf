import io
import time
from collections.abc import Iterator

import pytest

from olpc_update_query import errors
from olpc_update_query.cli import render
from olpc_update_query.cli.console import Console, Level
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Answer, BareOrder, BuildId, Order, Sha256
from olpc_update_query.policy.decide import Install, Nothing, Refuse, Wait
from olpc_update_query.policy.schedule import Ask, Trigger
from olpc_update_query.report import (
    Answered,
    ClockSet,
    Decided,
    Event,
    LeaseKept,
    LeaseRefused,
    Outcome,
    Result,
    Sleeps,
    Unanswered,
    Woken,
    failure,
)
from olpc_update_query.trust.answer import TrustedAnswer
from tests.simulator import FakeClock

NOW = 1_795_000_000
DUE = Ask("the query is due")
ORDER = Order(BuildId("762"), Sha256("a" * 64), 9, ("http://x/762/",), not_before=NOW)


@pytest.fixture
def asuncion(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "XYZ4")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("asuncion")
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(
            NOW, "Wed 2026-11-18 07:06:40 XYZ (11:06:40 UTC)", id="on the same day"
        ),
        pytest.param(
            NOW + 50_000,
            "Wed 2026-11-18 21:00:00 XYZ (2026-11-19 01:00:00 UTC)",
            id="on another day",
        ),
        pytest.param(10**15, "1000000000000000 seconds since 1970", id="absurd"),
    ],
)
def test_moments(seconds: int, expected: str) -> None:
    assert render.moment(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (3605, "1 h"),
        (86_400, "1 d"),
        (90_061, "1 d 1 h"),
        (-61, "1 min 1 s"),
    ],
)
def test_durations(seconds: int, expected: str) -> None:
    assert render.duration(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (26_050_000, "26.1 MB")],
)
def test_sizes(count: int, expected: str) -> None:
    assert render.size(count) == expected


def answered(answer: Answer, *, signed: bool = True) -> Answered:
    trusted = TrustedAnswer(answer, b"x" * 700, ("ab" * 32,), signed, NOW)
    keys = (("ab" * 32, "a file"),) if signed else ()
    return Answered("http://school/", trusted, keys)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        pytest.param(
            Woken(
                Trigger.BOOT, NOW, (NOW - 60, NOW - 1), Ask("the query is due"), False
            ),
            ["trigger: boot", "due 1 s ago", "drawn 1 min ago", "the query is due"],
            id="woken",
        ),
        pytest.param(
            Woken(Trigger.MANUAL, NOW, None, Ask("x"), True),
            ["the command line says to ask now"],
            id="forced",
        ),
        pytest.param(Sleeps(NOW + 30), ["asking in 30 s"], id="sleeps"),
        pytest.param(
            Unanswered("http://a/", errors.NoAnswer("http://a/", "a page")),
            ["no answer that counts from http://a/", "a page"],
            id="unanswered",
        ),
        pytest.param(
            answered(Answer("1", NOW - 5, update=ORDER, faults=("lease refused: x",))),
            [
                "signed by key abababababababab, from a file",
                "5 s ago by our clock",
                "build 762",
                "http://x/762/",
                "not before",
                "left out: lease refused: x",
            ],
            id="answer with an order",
        ),
        pytest.param(
            answered(Answer("1", NOW, stolen=True, update=BareOrder(BuildId("9")))),
            ["stolen: YES", "build 9, of which nothing is signed but the name"],
            id="stolen",
        ),
        pytest.param(
            answered(Answer("1", NOW, lease="x" * 70, message="hi"), signed=False),
            ["SIGNATURES ARE NOT CHECKED", "lease: 70 characters", "message: hi"],
            id="unsigned",
        ),
        pytest.param(LeaseKept(True, None), ["new lease", "for ever"], id="lease"),
        pytest.param(LeaseKept(False, NOW + 60), ["in 1 min"], id="old lease"),
        pytest.param(
            LeaseRefused(errors.UntrustedLease("lease", "it expired")),
            ["it expired", "the lease on the disk stays"],
            id="bad lease",
        ),
        pytest.param(ClockSet(0, NOW), ["1970-01-01", "2026-11-18"], id="clock"),
        pytest.param(Decided(Install(ORDER, "so")), ["install build"], id="install"),
        pytest.param(Decided(Nothing("so")), ["nothing to do, because"], id="none"),
        pytest.param(Decided(Refuse("so")), ["refuse it, because so"], id="refuse"),
        pytest.param(Decided(Wait(NOW, "so")), ["wait until Wed"], id="wait"),
        pytest.param(Decided(Wait(None, "so")), ["wait, because so"], id="wait on"),
    ],
)
def test_the_story(event: Event, told: list[str]) -> None:
    story = "\n".join(render.story(event, NOW))
    assert [text for text in told if text not in story] == []


def test_long_values_are_cut() -> None:
    lines = list(render._form(b"lease=" + b"x" * 600))
    assert lines == [f"  lease = {'x' * 60}... (600 characters)"]


# --- the console ---------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def console(level: Level, *, as_json: bool = False) -> Console:
    return Console("olpc-update", level, as_json=as_json, clock=FakeClock(NOW))


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    shown = console(Level.LINE)
    shown.transferred(500_000, 2_000_000)
    shown.end(Outcome(Result.NOTHING, "done"))
    text = screen.getvalue()
    assert "[#######                       ]  25%  500.0 kB of 2.0 MB" in text
    assert text.endswith("\r\x1b[Kdone\n"), "the bar is gone before the last word"


@pytest.mark.parametrize(
    ("level", "as_json", "lines"),
    [
        pytest.param(Level.STORY, False, 10, id="a story"),
        pytest.param(Level.LINE, False, 0, id="one line"),
        pytest.param(Level.QUIET, False, 0, id="quiet"),
        pytest.param(Level.STORY, True, 0, id="json"),
    ],
)
def test_lines_elsewhere(
    capsys: pytest.CaptureFixture[str], level: Level, as_json: bool, lines: int
) -> None:
    clock = FakeClock(NOW)
    shown = Console("olpc-update", level, as_json=as_json, clock=clock)
    for done in range(0, 10_001, 10):
        clock.time += 1
        shown.transferred(done, 10_000)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == lines
    assert lines == 0 or "2.0 kB of 10.0 kB, 10 bytes/s, about 13 min 20 s to go" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("step", "most"),
    [
        pytest.param(0.01, 1, id="a fast one"),
        pytest.param(30.0, 10, id="one of hours: each tenth"),
    ],
)
def test_a_log_is_not_flooded(
    capsys: pytest.CaptureFixture[str], step: float, most: int
) -> None:
    clock = FakeClock(NOW)
    shown = Console("olpc-update", Level.STORY, clock=clock)
    for done in range(1001):
        clock.time += step
        shown.transferred(done, 1000)
    assert 1 <= len(capsys.readouterr().out.splitlines()) <= most


def test_status_tells_speed_and_remaining_time() -> None:
    work: dict[str, Json] = {"state": "running", "done": 1000, "total": 5000}
    moving = {"work": {**work, "rate": 100, "remaining": 40}}
    assert "100 bytes/s, about 40 s to go" in next(render.status(moving, NOW))
    standing = {"work": {**work, "rate": 0, "remaining": None}}
    assert "standing, nobody knows" in next(render.status(standing, NOW))


def test_a_failure_tells_the_next_query_in_a_story(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = failure(errors.NetworkError("http://x/", "refused\nby it"))
    outcome = Outcome(error.result, error.text, 10, "wait", {"next_due": NOW + 60})
    console(Level.STORY).end(outcome)
    out, err = capsys.readouterr()
    assert err == "olpc-update: http://x/: refused by it\n  hint: wait\n"
    assert out.startswith("next query in 1 min")


def test_a_reader_that_left_does_not_stop_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return spare.fileno()

    with io.FileIO("/dev/null", "w") as spare:
        monkeypatch.setattr("sys.stdout", Broken())
        console(Level.STORY).step("still at work")
