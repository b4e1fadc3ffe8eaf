"""When a run is started: the daemon's decisions, with real child processes."""

from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.daemon.child import ChildRuns, Ended, Progress, Step, parse
from olpc_update_query.daemon.keeper import OFFLINE_PAUSE, PAUSE, Keeper
from olpc_update_query.daemon.links import Link
from olpc_update_query.policy.schedule import Trigger
from tests.simulator import FakeClock, set_due

NOW = 1_795_000_000
ONLINE = Link(70, 4, "/a")
PORTAL = Link(60, 2, "/a")


class Hand:
    """A timetable that is worked through by hand, and what was told."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.alarms: list[float] = []
        self.told: list[object] = []

    def post(self, work: Callable[[], object]) -> None:
        self.inbox.put(work)

    def alarm(self, seconds: float) -> None:
        self.alarms.append(seconds)

    def state(self, state: str, text: str) -> None:
        self.told.append((state, text))

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))


class Bench:
    """A keeper whose runs are a shell script that logs its trigger."""

    def __init__(self, root: Path, script: str = "") -> None:
        self.root, self.log = root, root / "runs"
        self.hand, self.clock = Hand(), FakeClock(NOW)
        code = f'echo "$*" >>"{self.log}"; {script}'
        command = ["/bin/sh", "-c", code, "sh"]
        runs = ChildRuns(command)
        self.keeper = Keeper(runs, root, self.clock, self.hand, self.hand)

    def work(self) -> None:
        """Do what was left until the run has ended."""
        while self.keeper._run is not None:
            self.hand.inbox.get(timeout=20)()

    def runs(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []


@pytest.fixture
def due(tmp_path: Path) -> Bench:
    set_due(tmp_path, NOW - 10, NOW - 1)
    return Bench(tmp_path)


@pytest.fixture
def early(tmp_path: Path) -> Bench:
    set_due(tmp_path, NOW - 1, NOW + 1000)
    return Bench(tmp_path)


def test_a_tick_before_the_due_time_starts_no_process(early: Bench) -> None:
    early.keeper.tick()
    assert early.keeper._run is None
    early.clock.time += 1000
    early.keeper.tick()
    early.work()
    assert early.runs() == ["--trigger timer"]


def test_an_unreadable_stamp_starts_a_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.keeper.tick()
    bench.work()
    assert bench.runs() == ["--trigger timer"]


def test_a_run_that_reached_nobody_is_not_repeated_at_each_tick(due: Bench) -> None:
    due.keeper.tick()
    due.work()
    due.clock.time += PAUSE - 1
    due.keeper.tick()
    due.work()
    assert len(due.runs()) == 1
    due.clock.time += 1
    due.keeper.tick()
    due.work()
    assert len(due.runs()) == 2


def test_without_a_link_it_tries_once_an_hour(due: Bench) -> None:
    due.keeper.link_changed(Link(20, 1))
    for _ in range(120):
        due.keeper.tick()
        due.work()
        due.clock.time += 60
    assert len(due.runs()) == 2 * 3600 / OFFLINE_PAUSE


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        pytest.param([ONLINE], ["network"], id="a link"),
        pytest.param([ONLINE, ONLINE, ONLINE], ["network"], id="70 again and again"),
        pytest.param([PORTAL], [], id="a portal"),
        pytest.param([PORTAL, ONLINE], ["portal"], id="somebody logged in"),
        pytest.param([Link(20, 1), Link(30)], [], id="no link"),
    ],
)
def test_what_a_link_leads_to(
    due: Bench, links: list[Link], expected: list[str]
) -> None:
    for link in links:
        due.keeper.link_changed(link)
        due.work()
    assert due.runs() == [f"--trigger {trigger}" for trigger in expected]


def test_a_link_ends_the_pause(due: Bench) -> None:
    due.keeper.tick()
    due.work()
    due.keeper.link_changed(ONLINE)
    due.work()
    assert due.runs() == ["--trigger timer", "--trigger network"]


def test_a_link_before_the_due_time_starts_no_process(early: Bench) -> None:
    early.keeper.link_changed(ONLINE)
    assert early.keeper._run is None
    early.keeper.mains_came_back()
    early.work()
    assert early.runs() == ["--trigger gate"], "the run knows whether a build waits"


def test_one_run_at_a_time_and_the_weightiest_reason_is_next(due: Bench) -> None:
    assert due.keeper.wake(Trigger.TIMER) == "started"
    for trigger in (Trigger.NETWORK, Trigger.PORTAL, Trigger.TIMER):
        assert due.keeper.wake(trigger) == "running"
    due.work()
    assert due.runs() == ["--trigger timer", "--trigger portal"]


def test_by_force(early: Bench) -> None:
    assert early.keeper.wake(Trigger.DBUS) == "not-due"
    assert early.keeper.wake(Trigger.DBUS, now=True) == "started"
    early.work()
    assert early.runs() == ["--trigger dbus --now"]


def test_a_moment_soon_gets_an_alarm(tmp_path: Path) -> None:
    work = tmp_path / "var/lib/olpc-update-query/asker/due"
    bench = Bench(tmp_path, f"mkdir -p {work.parent}; echo {NOW} {NOW + 20} >{work}")
    bench.keeper.tick()
    bench.work()
    assert bench.hand.alarms == [20]


def test_what_a_run_tells_is_passed_on(tmp_path: Path) -> None:
    script = "echo step fetching; echo bytes 3 9; echo nonsense; echo end done; exit 6"
    bench = Bench(tmp_path, script)
    bench.keeper.tick()
    bench.work()
    assert bench.hand.told == [
        ("running", "woken by: timer"),
        ("running", "fetching"),
        (3, 9),
        ("running", "done"),
        ("idle", "the last run ended with exit code 6"),
    ]


def test_a_run_that_cannot_be_started_is_no_end(tmp_path: Path) -> None:
    hand = Hand()
    runs = ChildRuns(["/nonexistent"])
    keeper = Keeper(runs, tmp_path, FakeClock(NOW), hand, hand)
    keeper.tick()
    keeper.tick()


def test_a_run_that_will_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("olpc_update_query.daemon.child.PATIENCE", 0.5)
    bench = Bench(tmp_path, "trap '' INT; echo step deaf; while :; do sleep 1; done")
    bench.keeper.tick()
    while ("running", "deaf") not in bench.hand.told:
        bench.hand.inbox.get(timeout=20)()
    bench.keeper.close()
    bench.work()
    assert bench.hand.told[-1] == ("idle", "the last run ended with exit code -9")


# --- what a run tells ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"step fetching build 762\n", Step("fetching build 762")),
        (b"end nothing to do\n", Ended("nothing to do")),
        (b"bytes 0 12\n", Progress(0, 12)),
        (b"bytes 1\n", None),
        (b"bytes -1 2\n", None),
        (b"bytes 1 99999999999999999999\n", None),
        (b"\n", None),
        (b"hello world\n", None),
        (b"step a\x1b[2J\x00\xff\n", Step("a [2J \ufffd")),
    ],
)
def test_lines(line: bytes, told: object) -> None:
    assert parse(line) == told


@given(st.binary(max_size=80))
def test_no_line_is_too_strange(line: bytes) -> None:
    match parse(line):
        case Progress(done, total):
            assert 0 <= done < 2**64 > total >= 0
        case Step(text) | Ended(text):
            assert text.isprintable()
        case None:
            pass
