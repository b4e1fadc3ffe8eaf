import os
import subprocess
import sys
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.report import (
    PROGRESS_SECONDS,
    Outcome,
    Report,
    Result,
    failure,
    process_start,
    read_status,
)
from olpc_update_query.system.state import StateStore
from tests.simulator import FakeClock, Listener

NOW = 1_795_000_000
WELL = Outcome(Result.NOTHING, "nothing to do", facts={"next_due": NOW + 5})
BAD = failure(errors.NoAnswer("http://x/", "a page"))


class World:
    """A report with everything around it."""

    def __init__(self, directory: Path) -> None:
        self.store = StateStore(directory)
        self.clock = FakeClock(NOW)
        self.listener = Listener()
        self.report = Report(self.store, self.listener, self.clock, "cron")

    def history(self) -> list[object]:
        return [event["text"] for event in self.store.history()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state")


def test_an_outcome_is_told_and_kept(world: World) -> None:
    world.report.end(WELL)
    assert world.listener.outcomes == [WELL]
    (event,) = world.store.history()
    assert event == {
        "exit_code": 0,
        "next_due": NOW + 5,
        "result": "nothing-to-do",
        "text": "nothing to do",
        "time": "20261118T110640Z",
        "trigger": "cron",
    }
    assert read_status(world.store).last == event


def test_a_failure_tells_its_kind_its_code_and_what_to_do() -> None:
    found = BAD.to_json()
    assert found["error"] == "NoAnswer"
    assert found["exit_code"] == errors.NoAnswer.exit_code
    assert found["hint"] == errors.NoAnswer.advice
    assert found["retry"] is True
    assert found["text"] == "http://x/: a page"


def test_a_failure_that_repeats_itself_is_kept_once(world: World) -> None:
    for outcome in (BAD, BAD, WELL, WELL, BAD):
        world.report.end(outcome)
    assert world.history() == [BAD.text, WELL.text, WELL.text, BAD.text]
    assert len(world.listener.outcomes) == 5, "whoever listens is told each time"


def test_status_before_anything() -> None:
    status = read_status(StateStore(Path("/nonexistent")))
    assert (status.run, status.last, status.alive) == ({}, {}, False)


def test_status_while_at_work(world: World) -> None:
    world.report.end(BAD)
    world.report.begin("asking")
    status = read_status(world.store)
    assert status.alive
    assert status.run["pid"] == os.getpid()
    assert status.run["step"] == "asking"
    assert status.run["since"] == NOW
    assert status.last["text"] == BAD.text, "the last word stays until there is another"
    world.report.step("unpacking")
    assert read_status(world.store).run["step"] == "unpacking"
    assert world.listener.events == ["unpacking"]
    world.report.end(WELL)
    status = read_status(world.store)
    assert (status.run, status.alive) == ({}, False)
    assert status.last["text"] == WELL.text


def test_resting_keeps_the_last_word(world: World) -> None:
    world.report.end(WELL)
    world.report.begin("asking")
    world.report.rest()
    status = read_status(world.store)
    assert (status.run, status.last["text"]) == ({}, WELL.text)


def test_progress_is_written_now_and_then(world: World) -> None:
    world.report.begin("fetching")
    world.report.transferred(1, 100)
    assert "done" not in read_status(world.store).run
    world.clock.time += PROGRESS_SECONDS
    world.report.transferred(50, 100)
    assert read_status(world.store).run["done"] == 50
    world.report.transferred(60, 100)
    assert read_status(world.store).run["done"] == 50
    world.report.step("unpacking")
    assert "done" not in read_status(world.store).run
    assert world.listener.events[:2] == ["1 of 100", "50 of 100"]


def test_a_run_that_was_killed_is_not_alive(world: World) -> None:
    script = (
        "import os, sys; from pathlib import Path;"
        "from olpc_update_query.report import Report;"
        "from olpc_update_query.system.state import StateStore;"
        "from tests.simulator import FakeClock, Listener;"
        "store = StateStore(Path(sys.argv[1]));"
        "Report(store, Listener(), FakeClock(1), 'cron').begin('asking');"
        "os.kill(os.getpid(), 9)"
    )
    directory = str(world.store.directory)
    done = subprocess.run(
        [sys.executable, "-c", script, directory],
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == -9
    status = read_status(world.store)
    assert status.run["step"] == "asking"
    assert not status.alive


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param({"started": 1}, id="the number was given to another process"),
        pytest.param({"boot": "another"}, id="before a reboot"),
        pytest.param({"pid": 2**22 + 5}, id="no such process"),
        pytest.param({"pid": "1"}, id="damaged"),
    ],
)
def test_another_process_of_the_same_number(
    world: World, lie: dict[str, int | str]
) -> None:
    world.report.begin("asking")
    found = world.store.load("status")
    assert isinstance(found["run"], dict)
    found["run"] |= lie
    world.store.save("status", found)
    assert not read_status(world.store).alive


def test_the_start_of_a_process() -> None:
    assert process_start(os.getpid()) > 0
    assert process_start(2**22 + 5) == 0


def test_a_status_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    world = World(tmp_path / "state")
    world.report.begin("asking")
    world.report.end(WELL)
    assert world.listener.outcomes == [WELL]
    assert "could not be written" in caplog.text
