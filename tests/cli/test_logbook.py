"""What a run writes into the journal."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.cli.logbook import MESSAGE_IDS, Logbook
from olpc_update_query.model.canonical import Json
from olpc_update_query.report import (
    Asking,
    ClockSet,
    LeaseKept,
    Outcome,
    Result,
    failure,
)
from olpc_update_query.system import journal
from tests.run.polled import NOW
from tests.simulator import FakeClock

PAGE = Path(__file__).parents[2] / "docs/logging.md"
Records = list[Mapping[str, str | int]]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Records:
    found: Records = []

    def send(fields: Mapping[str, str | int]) -> bool:
        found.append(fields)
        return True

    monkeypatch.setattr(journal, "send", send)
    return found


def book() -> Logbook:
    return Logbook("olpc-update-query", clock=FakeClock(NOW))


def test_what_a_run_came_to(records: Records) -> None:
    facts: dict[str, Json] = {
        "build": "762",
        "next_due": NOW + 3600,
        "received": 9,
        "x": None,
    }
    book().end(Outcome(Result.INSTALLED, "build 762 is installed", facts=facts))
    (record,) = records
    assert str(record["MESSAGE"]).startswith(
        "build 762 is installed; next query in 1 h"
    )
    assert record["PRIORITY"] == 5
    assert record["MESSAGE_ID"] == MESSAGE_IDS["installed"]
    assert record["OLPC_BUILD"] == "762"
    assert record["OLPC_NEXT_DUE"] == NOW + 3600
    assert record["OLPC_EXIT_CODE"] == 0
    assert "OLPC_X" not in record


@pytest.mark.parametrize(
    ("error", "priority"),
    [
        pytest.param(errors.NetworkError("u", "r"), 4, id="passes by itself"),
        pytest.param(errors.UntrustedAnswer("w", "r"), 3, id="somebody must act"),
    ],
)
def test_a_failure(records: Records, error: errors.UpdateError, priority: int) -> None:
    book().end(failure(error))
    assert records[0]["PRIORITY"] == priority
    assert records[0]["OLPC_ERROR"] == type(error).__name__
    assert error.hint() in str(records[0]["MESSAGE"])


def test_not_due_says_nothing(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    book().end(Outcome(Result.NOT_DUE, "not due"))
    assert records == []
    assert capsys.readouterr() == ("", "")


def test_events(records: Records) -> None:
    book().tell(LeaseKept(True, NOW + 60))
    book().tell(LeaseKept(False, NOW + 60))
    book().tell(ClockSet(0, NOW))
    assert [record["OLPC_EVENT"] for record in records] == [
        "lease-installed",
        "clock-set",
    ]


def test_systemd_is_told_what_the_unit_does(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place)
        listener = book()
        listener.tell(Asking("http://schoolserver/", b""))
        listener.step("staging\nREADY=1")
        listener.transferred(0, 12)
        listener.transferred(6, 12)  # in the same second
        listener.transferred(12, 12)
        listener.end(Outcome(Result.NOT_DUE, "the next query is not due yet"))
        said = [manager.recv(1000).decode() for _ in range(5)]
    assert said == [
        "STATUS=asking http://schoolserver/",
        "STATUS=staging READY=1",
        "STATUS=0 of 12 bytes",
        "STATUS=12 of 12 bytes",
        "STATUS=the next query is not due yet",
    ]
    assert records == []


def test_a_journal_that_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    if journal.SOCKET.exists():
        pytest.skip("a journal is here")
    book().end(Outcome(Result.NOTHING, "all is well"))
    assert "all is well" in capsys.readouterr().err


def test_every_result_has_a_kind_or_is_not_for_the_journal() -> None:
    silent = {Result.NOT_DUE, Result.DRY_RUN}
    assert {str(result) for result in set(Result) - silent} <= set(MESSAGE_IDS)
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)


def test_the_page_lists_them() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| `([0-9a-f]{32})` \|", PAGE.read_text(), re.MULTILINE
    )
    assert dict(rows) == MESSAGE_IDS
