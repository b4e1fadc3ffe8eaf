import contextlib
import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from olpc_update_query.errors import DamagedSite, DiskFailed, NoSpace, NotPermitted
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server import records, reports
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.overview import Progress, look, look_at
from olpc_update_query.server.recorder import Recorder
from olpc_update_query.server.records import Concern, Event, Poll, StoredLease
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Assignment, Kind, Scope
from olpc_update_query.server.site import DAY
from olpc_update_query.server.words import ENGLISH
from tests.keys import SERIAL, UUID
from tests.server.sites import (
    LAPTOP,
    NOW,
    OTHER,
    add_build,
    assign,
    list_laptops,
    make_site,
)

POLL = Poll(
    SERIAL,
    NOW,
    "10.0.0.7",
    build="760",
    stream="testing",
    lease_expiry=NOW + 9,
    ordered="762",
    report={"free": 1024, "result": "fetching"},
)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Reports]:
    found = Reports(tmp_path / "reports.db")
    yield found
    found.close()


def write(kept: Reports, *polls: records.Record) -> None:
    for poll in polls:
        kept.record(poll)
    kept.flush()


def kinds(kept: Reports, serial: str | None = None) -> list[tuple[str, str]]:
    return [(event.kind, event.detail) for event in kept.events(serial)][::-1]


# --- what is kept -------------------------------------------------------------


def test_the_latest_poll_is_kept_and_counted(kept: Reports) -> None:
    later = Poll(SERIAL, NOW + 60, "10.0.0.8", build="762", stolen=True)
    write(kept, POLL)
    write(kept, later, later._replace(asked=NOW + 90))
    state = kept.state(SERIAL)
    assert state is not None
    assert (state.first, state.asked, state.polls) == (NOW, NOW + 90, 3)
    assert (state.address, state.build, state.ordered) == ("10.0.0.8", "762", None)
    assert (state.stream, state.lease_expiry, state.stolen) == (None, None, True)
    assert state.report == '{"free":1024,"result":"fetching"}'
    assert state.result == "fetching"
    assert kept.state(OTHER) is None


def test_everything_of_a_poll_is_kept(kept: Reports) -> None:
    write(kept, POLL)
    state = kept.state(SERIAL)
    assert state is not None
    for name in ("serial", "asked", "address", "listed", "build", "stream"):
        assert getattr(state, name) == getattr(POLL, name)
    for name in ("lease_expiry", "ordered", "stolen"):
        assert getattr(state, name) == getattr(POLL, name)


def test_only_changes_are_events(kept: Reports) -> None:
    write(kept, POLL)
    write(kept, POLL._replace(asked=NOW + 1), POLL._replace(asked=NOW + 2))
    write(kept, POLL._replace(build="762", ordered=None, report={"result": "done"}))
    write(kept, POLL._replace(build="762", ordered=None, report=None, stolen=True))
    assert kinds(kept) == [
        ("new", "10.0.0.7"),
        ("build", "760"),
        ("ordered", "762"),
        ("report", '{"free":1024,"result":"fetching"}'),
        ("build", "762"),
        ("report", '{"result":"done"}'),
        ("stolen", "10.0.0.7"),
    ]
    write(kept, Poll(OTHER, NOW, "10.0.0.9"))
    assert kinds(kept, OTHER) == [("new", "10.0.0.9")]


def test_free_space_is_no_news(kept: Reports) -> None:
    """Laptops repeat a report with each query, and only that is another one then."""
    told: dict[str, Json] = {"build": "762", "code": 33, "result": 'no "free":1'}
    for turn in range(3):
        write(kept, Poll(SERIAL, NOW + turn, "h", report={**told, "free": 700 + turn}))
    assert [kind for kind, _ in kinds(kept)] == ["new", "report"]
    assert kept.attempts("762", NOW + 1) == (0, 0)
    state = kept.state(SERIAL)
    assert state is not None
    assert (state.tried_at, '"free":702' in str(state.report)) == (NOW, True)
    told["result"] = 'no "free":2'
    write(kept, Poll(SERIAL, NOW + 9, "h", report={**told, "free": 702}))
    assert [kind for kind, _ in kinds(kept)] == ["new", "report", "report"]


def test_laptops_are_counted_by_build_and_time(kept: Reports) -> None:
    for number in range(5):
        build = "760" if number < 2 else None
        write(kept, Poll(f"SN{number}", NOW + number, "h", build=build))
    write(kept, Poll("SN9", NOW + 9, "h", listed=False, build="760"))
    assert kept.running() == {"760": 2, "": 3}
    assert kept.asked_since(NOW + 3) == 2
    assert [state.serial for state in kept.latest(2)] == ["SN9", "SN4"]
    assert [state.serial for state in kept.unlisted(9)] == ["SN9"]


def test_a_laptop_is_listed_from_the_poll_on_that_found_it_so(kept: Reports) -> None:
    write(kept, POLL._replace(listed=False))
    assert kept.unlisted(9)
    write(kept, POLL)
    assert not kept.unlisted(9)


def test_the_last_lease_is_kept(kept: Reports) -> None:
    lease = StoredLease(SERIAL, UUID, "ab", NOW, NOW + 9, "act01: ...\n")
    write(kept, lease, lease._replace(made=NOW + 1), lease._replace(serial=OTHER))
    write(kept, lease._replace(made=NOW + 2))
    assert kept.lease(SERIAL) == lease._replace(made=NOW + 2)
    assert kept.lease(OTHER) == lease._replace(serial=OTHER)
    assert kept.lease("SN") is None


def test_other_events_are_kept_too(kept: Reports) -> None:
    event = Event(NOW, SERIAL, "lease", "made by hand")
    write(kept, event)
    assert kept.events(SERIAL) == [event]


def test_a_report_may_hold_anything(kept: Reports) -> None:
    odd: dict[str, Json] = {"result": "\x00\n\x1b[31m\"'\\ñ", "list": [1, None, True]}
    write(kept, POLL._replace(report=odd))
    state = kept.state(SERIAL)
    assert state is not None
    assert state.result == "??[31m\"'\\ñ"
    write(kept, POLL._replace(report={"result": ["no", "text"]}))
    state = kept.state(SERIAL)
    assert state is not None
    assert state.result == ""


def test_the_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_EVENTS", 50)
    monkeypatch.setattr(records, "MAX_UNLISTED", 20)
    monkeypatch.setattr(reports, "_TRIM_AFTER", 10)
    kept = Reports(tmp_path / "reports.db")
    write(kept, Poll("SN", NOW, "h"))
    for number in range(300):
        kept.record(Poll(f"X{number}", NOW + number, "h", listed=False))
    write(kept, POLL)
    write(kept, *(POLL._replace(build=str(number)) for number in range(20)))
    assert len(kept.events(limit=1000)) <= 60
    assert [state.serial for state in kept.unlisted(99)][:2] == ["X299", "X298"]
    assert len(kept.unlisted(99)) <= 30
    assert kept.state("SN") is not None
    kept.close()


def test_the_file_is_ours_alone(kept: Reports, tmp_path: Path) -> None:
    write(kept, POLL)
    for path in tmp_path.glob("reports.db*"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_two_servers_share_one_database(tmp_path: Path) -> None:
    both = [Reports(tmp_path / "reports.db") for _ in range(2)]

    def poll(kept: Reports, begin: int) -> None:
        for number in range(begin, begin + 60):
            kept.wait(kept.record(Poll(f"SN{number}", NOW, "h"), confirm=True))

    threads = [
        threading.Thread(target=poll, args=(kept, begin))
        for kept, begin in zip(both, (0, 30), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert both[0].running() == {"": 90}
    counted = sum(state.polls for state in both[1].latest(200))
    assert counted == 120
    for kept in both:
        kept.close()


# --- what survives -------------------------------------------------------------

CONFIRM = """
import os, signal, sys
from pathlib import Path
from olpc_update_query.server.records import Poll
from olpc_update_query.server.reports import Reports
kept = Reports(Path(sys.argv[1]))
for number in range(30):
    report = {"result": str(number)}
    poll = Poll("SHC12900018", 1800000000 + number, "h", report=report)
    kept.wait(kept.record(poll, confirm=True))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "reports.db"
    done = subprocess.run([sys.executable, "-c", CONFIRM, path], check=False)
    assert done.returncode == -signal.SIGKILL
    kept = Reports(path)
    state = kept.state("SHC12900018")
    assert state is not None
    assert (state.polls, state.result) == (30, "29")
    kept.close()


def test_a_plain_copy_of_what_is_written_is_whole(tmp_path: Path) -> None:
    """As a backup makes one while the server goes on, with many pages in between."""
    kept = Reports(tmp_path / "reports.db")
    stop, count = threading.Event(), 0

    def go_on() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            write(kept, Poll(f"SN{number % 50}", NOW, "h", build=str(number)))

    thread = threading.Thread(target=go_on)
    thread.start()
    for turn in range(4):
        done = kept.events(limit=1)
        count = max(count, sum(one.polls for one in kept.latest(99)))
        copy = tmp_path / f"copy{turn}"
        copy.mkdir()
        for part in tmp_path.glob("reports.db*"):
            subprocess.run(["cp", "-a", part, copy], check=True)
        restored = Reports(copy / "reports.db")
        assert sum(one.polls for one in restored.latest(99)) >= count
        if done:
            assert restored.events(limit=1)[0].serial.startswith("SN")
        restored.close()
        assert not list(copy.glob("*.damaged"))
    stop.set()
    thread.join()
    kept.close()
    assert count > 0


def test_a_torn_copy_is_put_aside(tmp_path: Path) -> None:
    """The database from before a checkpoint, without the log it was made with."""
    path, torn = tmp_path / "reports.db", tmp_path / "torn.db"
    kept = Reports(path)
    write(kept, *(Poll(f"SN{number}", NOW, "h") for number in range(400)))
    kept.close()
    whole = path.read_bytes()
    torn.write_bytes(whole[:8192] + whole[4096:8192] + whole[12288:])
    restored = Reports(torn)
    assert restored.latest(9) == []
    restored.close()
    assert (tmp_path / "torn.db.damaged").exists()


def test_each_commit_is_synced(tmp_path: Path) -> None:
    kept = Reports(tmp_path / "reports.db")
    with kept._opened().connect() as connection:
        for name, value in (("journal_mode", "wal"), ("synchronous", 2)):
            pragma = connection.exec_driver_sql(f"PRAGMA {name}")
            assert pragma.scalar() == value
    kept.close()


def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    kept = Reports(tmp_path / "reports.db")
    kept.record(POLL)
    kept.close()
    kept = Reports(tmp_path / "reports.db")
    assert kept.state(SERIAL) is not None
    kept.close()


def test_what_nobody_waits_for_is_written_soon(tmp_path: Path) -> None:
    kept = Reports(tmp_path / "reports.db")
    kept.record(POLL)
    other = Reports(tmp_path / "reports.db")
    pause = threading.Event()
    for _ in range(40):
        if other.state(SERIAL) is not None:
            break
        pause.wait(0.05)
    assert other.state(SERIAL) is not None
    other.close()
    kept.close()


@pytest.mark.parametrize("damage", ["no database at all" * 500, "\0" * 8192])
def test_a_damaged_file_is_put_aside(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "reports.db"
    path.write_text(damage)
    kept = Reports(path)
    write(kept, POLL)
    assert kept.state(SERIAL) is not None
    assert (tmp_path / "reports.db.damaged").read_text() == damage
    assert "damaged" in caplog.text
    kept.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports.db").mkdir()
    with pytest.raises((DiskFailed, NotPermitted), match=r"reports\.db"):
        Reports(tmp_path / "reports.db")


def test_a_disk_that_refuses_costs_reports_only(
    kept: Reports, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(kept, POLL)
    with sqlite3.connect(tmp_path / "reports.db") as raw:
        raw.execute("DROP TABLE laptops")
    raw.close()
    kept.wait(kept.record(POLL, confirm=True))
    assert "reports are not kept until this is mended" in caplog.text
    with pytest.raises(DiskFailed, match="no such table"):
        kept.state(SERIAL)


# --- the queue -------------------------------------------------------------


def test_those_that_wait_share_a_commit() -> None:
    begun, go_on = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def write_slowly(batch: Sequence[int]) -> None:
        batches.append(list(batch))
        begun.set()
        go_on.wait(5)

    queue: Recorder[int] = Recorder(write_slowly)
    queue.add(0, urgent=True)
    begun.wait(5)
    tickets = [queue.add(number, urgent=True) for number in range(1, 9)]
    go_on.set()
    for ticket in tickets:
        queue.wait(ticket)
    assert batches == [[0], list(range(1, 9))]
    queue.close()


def test_nobody_waits_twice_for_a_disk_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("olpc_update_query.server.recorder.PATIENCE", 0.2)
    go_on = threading.Event()

    def hang(_batch: Sequence[int]) -> None:
        go_on.wait(10)

    queue: Recorder[int] = Recorder(hang)
    queue.wait(queue.add(0, urgent=True))
    monkeypatch.setattr("olpc_update_query.server.recorder.PATIENCE", 1000.0)
    queue.wait(queue.add(1, urgent=True))  # would never return
    go_on.set()
    queue.flush()
    queue.close()


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olpc_update_query.server.recorder.BACKLOG", 10)
    begun, go_on = threading.Event(), threading.Event()
    written: list[int] = []

    def write_slowly(batch: Sequence[int]) -> None:
        begun.set()
        go_on.wait(5)
        written.extend(batch)

    queue: Recorder[int] = Recorder(write_slowly)
    queue.add(0, urgent=True)
    begun.wait(5)
    for number in range(1, 101):
        queue.add(number)
    go_on.set()
    queue.flush()
    assert written == [0, *range(91, 101)]
    queue.close()


# --- the overview -------------------------------------------------------------


def test_the_overview_tells_who_runs_what(kept: Reports, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    stolen = LAPTOP._replace(serial=OTHER, stolen=True)
    list_laptops(site, LAPTOP, stolen)
    new, old = parse_build_id("762"), parse_build_id("760")
    assign(site, DEFAULT, Assignment(new, 10, old, changed=NOW, by="maria"))
    kept.record(POLL)
    kept.record(Poll("SN", NOW - 90_000, "10.0.0.1", listed=False))
    kept.record(Poll(OTHER, NOW - 90_000, "10.0.0.2", stolen=True))
    view = look(site, kept, NOW)
    assert (view.site, view.listed, view.stolen) == ("Escuela 1", 2, 1)
    assert (view.today, view.week) == (1, 2)
    assert view.builds == ["762"]
    assert view.running == {"760": 1, "": 1}
    assert [share.told(ENGLISH) for share in view.shares] == [
        "build 762 for 10 percent, the others build 760"
    ]
    found = view.to_json()
    assert found["laptops"] == {
        "listed": 2,
        "asked_today": 1,
        "asked_this_week": 2,
        "never_asked": 0,
        "stolen": 1,
        "unlisted": 1,
    }
    latest = found["latest"]
    assert isinstance(latest, list)
    assert latest[0] == {
        "serial": SERIAL,
        "name": "Ana",
        "group": "5B",
        "listed": True,
        "asked": "20270115T080000Z",
        "polls": 1,
        "address": "10.0.0.7",
        "build": "760",
        "stream": "testing",
        "ordered": "762",
        "stolen": False,
        "lease": "2027-01-15 08:00",
        "result": "fetching",
    }
    assert "uuid" not in str(found)
    assert UUID not in str(found)


GOOD = Poll(SERIAL, NOW, "10.0.0.7", build="762", lease_expiry=NOW + 9 * DAY)
FAILED: dict[str, Json] = {"build": "762", "code": 30, "result": "it is damaged"}


@pytest.mark.parametrize(
    ("polls", "concerns"),
    [
        pytest.param([GOOD], set(), id="all is well"),
        pytest.param([GOOD._replace(report=FAILED)], {"failing"}, id="failed"),
        pytest.param(
            [GOOD._replace(report=FAILED | {"code": 14})], set(), id="no link"
        ),
        pytest.param(
            [GOOD._replace(report=FAILED), GOOD._replace(report=FAILED | {"code": 0})],
            set(),
            id="failed and mended",
        ),
        pytest.param(
            [GOOD._replace(ordered="763"), GOOD._replace(ordered="763")],
            set(),
            id="told just now",
        ),
        pytest.param(
            [
                GOOD._replace(asked=NOW - 3 * DAY, ordered="763"),
                GOOD._replace(ordered="763"),
            ],
            {"stuck"},
            id="told for three days",
        ),
        pytest.param(
            [
                GOOD._replace(asked=NOW - 3 * DAY, ordered="763"),
                GOOD._replace(ordered="764"),
            ],
            set(),
            id="told something else",
        ),
        pytest.param(
            [GOOD._replace(lease_expiry=NOW + 7 * DAY - 1)], {"ending"}, id="lease ends"
        ),
        pytest.param([GOOD._replace(asked=NOW - 4 * DAY)], set(), id="a long weekend"),
        pytest.param(
            [GOOD._replace(asked=NOW - 4 * DAY - 1)], {"overdue"}, id="not asked"
        ),
        pytest.param(
            [GOOD._replace(report=FAILED, listed=False)], set(), id="a stranger"
        ),
    ],
)
def test_whom_somebody_should_look_at(
    kept: Reports, tmp_path: Path, polls: list[Poll], concerns: set[str]
) -> None:
    site = make_site(tmp_path)
    list_laptops(site, LAPTOP)
    write(kept, *polls)
    view = look(site, kept, NOW)
    assert {trouble.concern for trouble in view.troubles if trouble.number} == concerns
    assert all(len(trouble.rows) == trouble.number for trouble in view.troubles)


def test_how_far_a_rollout_is(kept: Reports, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    names = ("RUNS", "FAILED", "TOLD", "SILENT", "OTHER")
    list_laptops(site, *(Laptop(name) for name in names), Laptop("IN5B", group="5B"))
    assign(site, DEFAULT, Assignment(parse_build_id("762")))
    assign(site, Scope(Kind.GROUP, "5B"), Assignment(parse_build_id("763")))
    write(
        kept,
        GOOD._replace(serial="RUNS", report=FAILED),
        GOOD._replace(serial="FAILED", build="760", report=FAILED),
        GOOD._replace(serial="TOLD", build="760"),
        GOOD._replace(serial="OTHER", build="760", report=FAILED | {"build": "761"}),
    )
    view = look(site, kept, NOW)
    assert view.silent == 2
    assert {share.whom.name: share.progress for share in view.shares} == {
        "": Progress(whole=5, running=1, failed=1, told=3),
        "5B": Progress(whole=1, told=1),
    }


def test_when_each_asked_and_the_states_of_a_few(kept: Reports) -> None:
    write(kept, GOOD, GOOD._replace(serial="A_B%C", lease_expiry=GOOD.asked))
    assert kept.asked() == {SERIAL: GOOD.asked, "A_B%C": GOOD.asked}
    ending = kept.asked(Concern.ENDING, GOOD.asked, DAY)
    assert ending == {"A_B%C": GOOD.asked}
    assert kept.states([SERIAL, "NOBODY"]) == {SERIAL: kept.state(SERIAL)}
    assert kept.states([]) == {}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_laptop_is_told_once(
    kept: Reports, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whatever part of them is read at a time."""
    monkeypatch.setattr(reports, "BATCH", size)
    write(kept, *(GOOD._replace(serial=name) for name in ("c", "A", "b")))
    assert [state.serial for state in kept.every()] == ["A", "b", "c"]


def test_one_laptop_is_told_in_full(kept: Reports, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    list_laptops(site, LAPTOP)
    assign(site, DEFAULT, Assignment(parse_build_id("762")))
    before = look_at(site, kept, LAPTOP, NOW)
    assert before["to_run"] == "762"
    assert before["because"] == "assigned to every other laptop"
    assert "last_asked" not in before
    write(kept, POLL)
    after = look_at(site, kept, LAPTOP, NOW)
    assert after["last_address"] == "10.0.0.7"
    assert after["stream"] == "testing"
    events = after["events"]
    assert isinstance(events, list)
    assert len(events) == 4


@pytest.mark.root
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    """A real one; and what is there stays as it was."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)]
    subprocess.run(mount, check=True)
    try:
        (small / "site.toml").write_bytes(b"x" * 4096)
        with contextlib.suppress(OSError), open(small / "filler", "wb") as filler:
            filler.write(b"x" * 100_000)
        with pytest.raises(NoSpace, match=r"reports\.db"):
            Reports(small / "reports.db")
        assert (small / "site.toml").read_bytes() == b"x" * 4096
    finally:  # SQLAlchemy 1.4 may hold its file a little longer
        subprocess.run(["umount", "--lazy", small], check=True)


def test_what_is_no_database_is_named_without_its_password() -> None:
    with pytest.raises(DamagedSite, match="reports_url is no URL"):
        Reports("nonsense")
    kept = Reports("sqlite:////nowhere/of:secret@all")  # is not there now
    with pytest.raises(DiskFailed, match="nowhere") as caught:
        kept.state("SN")
    kept.close()
    assert len(str(caught.value).splitlines()) == 1
