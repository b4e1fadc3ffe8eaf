"""What a run leaves for the next one, and what becomes of it when the power fails."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model import canonical
from olpc_update_query.system import state
from olpc_update_query.system.state import StateStore


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "asker")


def damage(store: StateStore, name: str, data: bytes) -> None:
    store.directory.mkdir(exist_ok=True)
    (store.directory / name).write_bytes(data)


def test_due_time_is_kept(store: StateStore) -> None:
    assert store.read_due() is None
    store.write_due((5, 9))
    assert store.read_due() == (5, 9)
    assert (store.directory / "due").read_bytes() == b"5 9\n"


def test_damaged_due_time_counts_as_none(
    store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    damage(store, "due", b"\0\0\xff")
    assert store.read_due() is None
    assert "counts as absent" in caplog.text


def test_facts_are_kept(store: StateStore) -> None:
    assert store.load("state") == {}
    facts: dict[str, canonical.Json] = {"floor": 12, "lease": None, "a": [True, "é"]}
    store.save("state", facts)
    assert store.load("state") == facts
    assert store.load("other") == {}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"floor":1', id="torn"),
        pytest.param(b'{"a":1}{"a":2}', id="twice"),
        pytest.param(b"[1]", id="no object"),
        pytest.param(b"\0" * 4096, id="zeros"),
        pytest.param(b'{"a":"' + b"x" * state.LARGEST_STATE + b'"}', id="too large"),
    ],
)
def test_damaged_facts_count_as_absent(
    store: StateStore, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    damage(store, "state.json", data)
    assert store.load("state") == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert store.require("state") == {}
    store.save("state", {"floor": 2})
    assert store.load("state") == {"floor": 2}


def test_facts_that_cannot_be_read_are_not_absent_where_that_matters(
    store: StateStore,
) -> None:
    assert store.require("state") == {}
    (store.directory / "state.json").mkdir(parents=True)
    assert store.load("state") == {}
    with pytest.raises(errors.DiskFailed, match=r"state\.json"):
        store.require("state")


def test_unwritable_directory_is_one_of_our_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = StateStore(tmp_path / "file")
    with pytest.raises(errors.TreeError):
        store.save("state", {})
    with pytest.raises(errors.TreeError):
        store.append_history({})


# --- history -------------------------------------------------------------------


def test_history_is_in_order(store: StateStore) -> None:
    assert store.history() == []
    for number in range(5):
        store.append_history({"n": number})
    assert store.history() == [{"n": number} for number in range(5)]
    assert store.history(2) == [{"n": 3}, {"n": 4}]
    assert store.history(0) == []


def test_each_event_is_one_line(store: StateStore) -> None:
    store.append_history({"text": "two\nlines\r\x85"})
    store.append_history({"n": 1})
    assert store.history() == [{"text": "two lines\r\x85"}, {"n": 1}]


def test_torn_last_line_costs_only_itself(store: StateStore) -> None:
    store.append_history({"n": 1})
    with open(store.directory / "history.jsonl", "ab") as file:
        file.write(b'{"n":')
    store.append_history({"n": 3})
    assert store.history() == [{"n": 1}, {"n": 3}]


def test_long_history_is_trimmed(store: StateStore) -> None:
    path = store.directory / "history.jsonl"
    event = canonical.encode({"n": 7}) + b"\n"
    damage(store, "history.jsonl", event * (state.LONGEST_HISTORY // len(event)))
    store.append_history({"text": "short of the limit" * 20})
    kept = store.history(10_000)
    assert len(kept) == state.KEPT_EVENTS
    assert kept[-1] == {"text": "short of the limit" * 20}
    assert path.stat().st_size < state.LONGEST_HISTORY // 2


def test_history_of_long_events_is_trimmed_by_size(store: StateStore) -> None:
    for number in range(30):
        store.append_history({"n": number, "text": "x" * 20_000})
    size = (store.directory / "history.jsonl").stat().st_size
    assert size <= state.LONGEST_HISTORY
    kept = [event["n"] for event in store.history()]
    assert kept == list(range(30 - len(kept), 30))
    assert len(kept) >= 6


def test_several_processes_append_at_once(store: StateStore) -> None:
    """The history is trimmed many times meanwhile; no event gets lost to that."""
    code = (
        "import sys; from pathlib import Path;"
        "from olpc_update_query.system import state;"
        "state.LONGEST_HISTORY = 20_000;"
        f"store = state.StateStore(Path({str(store.directory)!r}));"
        "[store.append_history({'who': int(sys.argv[1]), 'n': n, 'text': 'x' * 100})"
        " for n in range(150)]"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(who)]) for who in range(3)
    ]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    events = store.history()
    assert 60 < len(events) < 450
    for who in range(3):
        numbers = [event["n"] for event in events if event["who"] == who]
        assert numbers == list(range(150 - len(numbers), 150))
