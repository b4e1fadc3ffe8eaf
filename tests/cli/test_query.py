"""olpc-update-query, seen from outside, against a real HTTP server.

Run by root these are two processes, because the laptop lies where everybody may look.
"""

import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.cli.query import query as query_command
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.system.work import ASKER_USERS
from olpc_update_query.trust.rotation import join_statements
from tests.cli.black_box import TOP, command, query
from tests.keys import SERIAL, signer
from tests.rotations import statement
from tests.simulator import (
    DAY,
    HOUR,
    Mischief,
    ServerSimulator,
    hang_up,
    lease,
    now,
    prepare_laptop,
    set_due,
    simulate,
    work_of,
)
from tests.trees import difference, snapshot


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerSimulator]:
    (tmp_path / "www").mkdir()
    with simulate(tmp_path / "www") as simulator:
        yield simulator


@pytest.fixture
def root(tmp_path: Path, server: ServerSimulator) -> Path:
    return prepare_laptop(tmp_path / "laptop", server.url)


# --- what is told -----------------------------------------------------------------


def test_the_story_is_told_in_order(root: Path, server: ServerSimulator) -> None:
    server.lease = lease(now() + 21 * DAY)
    server.message = "holidays until Monday"
    server.interval = 12 * HOUR
    done = query(root, "-v")
    assert (done.code, done.err) == (0, "")
    told = [
        "trigger: manual",
        "clock: ",
        "schedule: no valid due time is known",
        f"asking {server.url}",
        f"serialnum = {SERIAL}",
        f"nonce = {server.queries[0].nonce}",
        f"answer from {server.url}",
        f"signed by key {signer('oats').key_id[:16]}, from ",
        "oats-test.public",
        "nonce: ours",
        "time: ",
        "lease: ",
        "stolen: no",
        "interval: ask every 12 h",
        "update: none ordered",
        "message: holidays until Monday",
        "a new lease is installed, good until ",
        "decision: nothing to do, because ",
        "next query in ",
    ]
    assert [text for text in told if text not in done.out] == []
    places = [done.out.index(text) for text in told]
    assert places == sorted(places)


def test_times_are_told_on_the_wall_and_in_utc(root: Path) -> None:
    os.environ["TZ"] = "America/Asuncion"
    try:
        done = query(root, "-v")
    finally:
        del os.environ["TZ"]
    assert re.search(r"clock: .* -0[34] \([0-9 :-]+ UTC\)", done.out)


def test_without_options_one_line(root: Path) -> None:
    done = query(root)
    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == 1
    assert "nothing to do" in done.out
    assert "next query in" in done.out


def test_too_early_one_line_says_until_when(
    root: Path, server: ServerSimulator
) -> None:
    query(root)
    done = query(root)
    assert (done.code, len(done.lines)) == (0, 1)
    assert "not due yet" in done.out
    assert "next query in" in done.out
    assert server.asked == 1


def test_the_story_of_coming_too_early(root: Path) -> None:
    set_due(root, now() - 60, now() + 2 * HOUR - 60)
    done = query(root, "-v", "--trigger", "cron")
    assert "trigger: cron" in done.out
    assert "a query is due in 1 h 5" in done.out
    assert "the next query is not due yet" in done.out


def test_quiet_means_quiet(root: Path, server: ServerSimulator) -> None:
    assert query(root, "-q") == (0, "", "")
    server.mischief = Mischief.ERROR
    done = query(root, "-q", "--now")
    assert (done.code, done.out) == (15, "")
    assert done.err


@pytest.mark.parametrize(
    ("mischief", "code", "seen"),
    [
        pytest.param(Mischief.HTML, 11, "HTTP 200, text/html", id="portal"),
        pytest.param(Mischief.NOT_FOUND, 11, "HTTP 404", id="not found"),
        pytest.param(Mischief.UNAVAILABLE, 15, "HTTP 503", id="unavailable"),
        pytest.param(Mischief.UNSIGNED, 21, "no trusted key", id="unsigned"),
        pytest.param(Mischief.WRONG_KEY, 21, "no trusted key", id="wrong key"),
        pytest.param(Mischief.TRUNCATED, 25, "refused", id="truncated"),
    ],
)
def test_errors_are_one_line_and_a_hint(
    root: Path, server: ServerSimulator, mischief: Mischief, code: int, seen: str
) -> None:
    server.mischief, server.stolen = mischief, True
    before = snapshot(root / "etc")
    done = query(root)
    assert (done.code, done.out) == (code, "")
    error, hint = done.err.splitlines()
    assert error.startswith("olpc-update-query: ")
    assert seen in error
    assert hint.startswith("  hint: ")
    assert not (root / "security").exists()
    assert not difference(before, snapshot(root / "etc"))


def test_json_is_one_object(root: Path, server: ServerSimulator) -> None:
    done = query(root, "--json")
    assert done.json["result"] == "nothing-to-do"
    assert done.json["exit_code"] == 0
    assert done.json["next_due"] > now()
    server.mischief = Mischief.WRONG_KEY
    done = query(root, "--json", "--now")
    assert (done.code, done.err) == (21, "")
    assert done.json["error"] == "UntrustedAnswer"
    assert done.json["exit_code"] == 21
    assert done.json["retry"] is False
    assert done.json["hint"]
    assert done.json["text"]


def test_json_tells_errors_of_the_configuration_too(root: Path) -> None:
    (root / "etc/olpc-update-query/config.toml").write_text("\nsevrer = 1\n")
    done = query(root, "--json")
    assert (done.code, done.err) == (3, "")
    assert "line 2" in done.json["text"]


def test_unchecked_signatures_are_loud(root: Path, server: ServerSimulator) -> None:
    (root / "etc/oats-ignore-signature").touch()
    server.mischief = Mischief.UNSIGNED
    done = query(root, "-q")
    assert done.code == 0
    assert "SIGNATURES ARE NOT CHECKED" in done.err
    assert "SIGNATURES ARE NOT CHECKED" in query(root, "-v", "--now").out


def test_no_identity(root: Path) -> None:
    (root / "ofw/mfg-data/SN").write_text("To be filled by O.E.M.")
    done = query(root)
    assert done.code == 29
    assert "serial" in done.err
    assert query(root, "status").lines[0].startswith("serial:         unknown: ")
    assert query(root, "hold").code == query(root, "release").code == 0
    assert "(exit code 29)" in query(root, "history").out


def test_a_directory_of_somebody_else(root: Path, server: ServerSimulator) -> None:
    if os.geteuid() != 0:
        root.chmod(0o500)
    words = command("olpc_update_query", root)
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    done = subprocess.run(words, capture_output=True, check=False, user=user, cwd=TOP)
    root.chmod(0o755)
    assert done.returncode == 4
    assert b"hint: " in done.stderr
    assert server.asked == 0


# --- the command line -------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--trigger", "moon"],
        ["--trigger"],
        ["--nonsense"],
        ["nonsense"],
        ["hold", "soon"],
        ["hold", "0d"],
        ["hold", "3"],
        ["--root"],
        ["--root", "/nonexistent"],
        ["--config", "/nonexistent"],
        ["keys", "add"],
        ["history", "-n", "x"],
    ],
    ids=" ".join,
)
def test_usage(root: Path, server: ServerSimulator, words: list[str]) -> None:
    before = snapshot(root)
    done = query(root, *words)
    assert done.code == 2
    assert done.err
    assert server.asked == 0
    assert not difference(before, snapshot(root))


def test_options_may_follow_the_subcommand(root: Path) -> None:
    words = [sys.executable, "-m", "olpc_update_query", "status", "--json"]
    done = subprocess.run(
        [*words, "--root", root], capture_output=True, check=True, cwd=TOP, text=True
    )
    assert f'"{SERIAL}"' in done.stdout


def test_servers_of_the_command_line(
    root: Path, server: ServerSimulator, tmp_path: Path
) -> None:
    with simulate(tmp_path) as other:
        done = query(root, "--server", other.url, "--server", server.url)
        assert done.code == 0
        assert (other.asked, server.asked) == (1, 0)


def test_another_configuration_file(
    root: Path, server: ServerSimulator, tmp_path: Path
) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f'server = "{server.url}"\nstream = "testing"\n')
    (root / "etc/olpc-update-query/config.toml").write_text("nonsense = 1\n")
    assert query(root, "--config", str(path)).code == 0
    assert server.queries[0].stream == "testing"


def test_every_trigger_is_offered() -> None:
    (option,) = [item for item in query_command.params if item.name == "trigger"]
    assert list(option.type.choices) == [str(trigger) for trigger in Trigger]  # type: ignore[attr-defined]  # click's


# --- two units ---------------------------------------------------------------------


def test_two_units(root: Path, server: ServerSimulator) -> None:
    """The commands as the units run them; `make machine` has the units themselves."""
    server.lease = lease(now() + 21 * DAY)
    refused = query(root, "--hand-over", "--now")
    assert refused.code == 73
    assert "olpc-update-installer.service" in refused.err
    assert query(root, "install") == (0, "", "")
    done = query(root, "--hand-over", "--now")
    assert (done.code, done.err) == (0, "")
    assert "the installer has the answer; next query in" in done.out
    assert not (root / "security/lease.sig").exists()
    assert query(root, "install").code == 0
    assert (root / "security/lease.sig").read_text() == server.lease


def test_the_unit_s_command_is_quick_when_it_is_too_early(root: Path) -> None:
    set_due(root, now(), now() + DAY)
    (root / "etc/olpc-update-query/config.toml").write_text("not read")
    assert query(root, "--hand-over", "--trigger", "timer") == (0, "", "")


# --- a run that comes too early ---------------------------------------------------

STARTED = "import sys; from olpc_update_query.__main__ import main; main()"
LIGHT = {"olpc_update_query", "__main__", "policy", "due"}


def imported(*words: str) -> set[str]:
    """Return the last names of all modules that a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=TOP,
    )
    assert done.stdout == ""
    rows = (line.split("|") for line in done.stderr.splitlines())
    return {row[-1].strip().rpartition(".")[2] for row in rows if len(row) == 3}


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--trigger", "cron"], id="cron"),
        pytest.param(["--trigger", "timer", "-q"], id="timer"),
        pytest.param(["--quiet", "--trigger", "network"], id="network"),
        pytest.param(["-q"], id="quiet"),
    ],
)
@pytest.mark.parametrize("shared", [False, True], ids=["own", "versions"])
def test_it_imports_next_to_nothing(
    tmp_path: Path, words: list[str], shared: bool
) -> None:
    if shared:
        (tmp_path / "versions/updates").mkdir(parents=True)
    set_due(tmp_path, now() - 60, now() + HOUR)
    before = snapshot(tmp_path)
    more = imported("-c", STARTED, *words, "--root", str(tmp_path))
    assert more - imported("-c", "import sys") <= LIGHT
    assert not difference(before, snapshot(tmp_path))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--trigger", "cron", "-v"], id="a story"),
        pytest.param(["--trigger", "cron", "--json"], id="json"),
        pytest.param([], id="by hand"),
        pytest.param(["--trigger", "manual"], id="said to be"),
    ],
)
def test_somebody_who_waits_is_told(root: Path, words: list[str]) -> None:
    set_due(root, now(), now() + HOUR)
    done = query(root, *words)
    assert done.code == 0
    assert "not due" in done.out


def test_a_damaged_stamp_counts_as_none(root: Path, server: ServerSimulator) -> None:
    set_due(root, now(), now() + HOUR)
    (work_of(root) / "asker/due").write_text("\0\0\0")
    assert query(root, "-q").code == 0
    assert server.asked == 1


def test_a_stamp_that_is_a_link_or_a_fifo_is_not_waited_for(
    root: Path, server: ServerSimulator
) -> None:
    due = work_of(root) / "asker/due"
    due.parent.mkdir(parents=True)
    os.mkfifo(due)
    assert query(root, "-q").code == 0
    assert server.asked == 1


# --- two processes ----------------------------------------------------------------


@pytest.mark.root
def test_the_asker_owns_its_part_and_no_more(
    root: Path, server: ServerSimulator
) -> None:
    server.lease = lease(now() + DAY)
    assert query(root).code == 0
    users = {user.pw_name: user.pw_uid for user in pwd.getpwall()}
    asker = next(users[name] for name in ASKER_USERS if name in users)
    for path in (work_of(root) / "asker").rglob("*"):
        assert path.stat().st_uid == asker, path
    for place in (work_of(root) / "installer", root / "security", root / "etc"):
        assert place.stat().st_uid == 0
        for path in place.rglob("*"):
            assert path.stat().st_uid == 0, path


@pytest.mark.root
def test_the_story_is_the_same_in_one_process(
    root: Path, server: ServerSimulator
) -> None:
    set_due(root, now(), now() + HOUR)
    query(root, "--now")
    two = query(root, "-v", "--now")
    root.parent.chmod(0o700)
    one = query(root, "-v", "--now")
    kept = re.compile(r"[0-9].*")
    assert kept.sub("", one.out) == kept.sub("", two.out)
    assert (one.code, two.code) == (0, 0)


# --- status and history -----------------------------------------------------------


def test_status_before_anything_happened(root: Path, server: ServerSimulator) -> None:
    before = snapshot(root)
    done = query(root, "status")
    assert done.code == 0
    assert SERIAL in done.out
    assert server.url in done.out
    assert not difference(before, snapshot(root)), "looking changes nothing"


def test_status_after_a_run(root: Path, server: ServerSimulator) -> None:
    until = now() + 21 * DAY
    server.lease, server.message = lease(until), "hello"
    query(root)
    found = query(root, "status", "--json").json
    assert found["lease"] == {"until": until}
    assert found["message"] == "hello"
    assert found["next_query"] > now()
    assert found["last_run"]["exit_code"] == 0
    assert found["last_answer"]["from"] == server.url
    assert found["work"] == {"state": "idle"}
    assert found["stolen"] is False
    story = query(root, "status").out
    assert "hello" in story
    assert "in 20 d" in story


def test_status_after_a_failure(root: Path, server: ServerSimulator) -> None:
    server.mischief = Mischief.WRONG_KEY
    query(root)
    last = query(root, "status", "--json").json["last_run"]
    assert last["exit_code"] == 21
    assert "no trusted key" in last["text"]


@contextlib.contextmanager
def run_that_waits(root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a run, and hold it where it waits for a server's reply."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        words = command("olpc_update_query", root, "-q", "--now", "--server", url)
        with subprocess.Popen(words, cwd=TOP, stderr=subprocess.DEVNULL) as process:
            try:
                connection, _ = silent.accept()
                with connection:
                    yield process
            finally:
                process.kill()


def test_status_during_a_run(root: Path) -> None:
    with run_that_waits(root) as process:
        work = query(root, "status", "--json").json["work"]
        assert work["state"] == "running"
        assert work["pid"] == process.pid
        assert work["step"] == "asking the servers"
        assert str(process.pid) in query(root, "status").out
        second = query(root, "--now")
        assert second.code == 5
        assert f"process {process.pid}" in second.err


def test_status_after_a_run_was_killed(root: Path) -> None:
    with run_that_waits(root) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        work = query(root, "status", "--json").json["work"]
    assert work["state"] == "interrupted"
    assert query(root, "--now").code == 0
    assert query(root, "status", "--json").json["work"] == {"state": "idle"}


def test_history(root: Path, server: ServerSimulator) -> None:
    query(root, "--now")
    server.mischief = Mischief.WRONG_KEY
    query(root, "--now")
    server.mischief, server.stolen = None, True
    query(root, "--now")
    done = query(root, "history")
    assert len(done.lines) == 3
    for text in ("nothing to do", "(exit code 21)", "is stolen"):
        assert text in done.out
    events = query(root, "history", "--json").json
    assert [event["time"] for event in events] == sorted(
        event["time"] for event in events
    )
    assert query(root, "history", "-n", "1", "--json").json == events[-1:]


# --- hold and keys ----------------------------------------------------------------


def test_hold_and_release(root: Path) -> None:
    done = query(root, "hold", "3d")
    assert done.code == 0
    assert "for 3 d" in done.out
    held = query(root, "status", "--json").json["held"]
    assert held["until"] - held["since"] == 3 * DAY
    assert "go on" in query(root, "release").out
    assert query(root, "status", "--json").json["held"] is None
    assert "were not held" in query(root, "release").out


def test_a_hold_without_a_duration_ends_after_90_days(root: Path) -> None:
    assert "for 90 d" in query(root, "hold").out
    held = query(root, "status", "--json").json["held"]
    assert held["until"] - held["since"] == 90 * DAY


def test_no_hold_lasts_longer(root: Path) -> None:
    done = query(root, "hold", "91d")
    assert done.code == 2
    assert "90 days" in done.err
    assert 'stream = "none"' in done.err
    assert query(root, "status", "--json").json["held"] is None


def test_keys(root: Path, tmp_path: Path, server: ServerSimulator) -> None:
    listed = query(root, "keys", "list", "--json").json
    assert {row["id"]: row["role"] for row in listed} == {
        signer("oats").key_id: "oats",
        signer("lease").key_id: "lease",
    }
    stranger = signer("stranger")
    (tmp_path / "new.public").write_bytes(stranger.public)
    server.mischief = Mischief.WRONG_KEY
    assert query(root).code == 21
    words = ["keys", "add", str(tmp_path / "new.public"), "--role", "oats"]
    assert query(root, *words, "--name", "new").code == 0
    assert query(root, "--now").code == 0
    assert query(root, "keys", "remove", stranger.key_id).code == 0
    assert query(root, "--now").code == 21
    assert stranger.key_id not in query(root, "keys").out


def test_statements_from_a_stick(root: Path, tmp_path: Path) -> None:
    raw = statement(1, "oats", add="new", retire="oats")
    (tmp_path / "keys.sig").write_bytes(join_statements([raw]))
    done = query(root, "keys", "follow", str(tmp_path))
    assert done.code == 0, done.err
    assert "added 1 and retired 1" in done.out
    assert "keys that are trusted now: 1 oats, 1 lease" in done.out
    rows = {row["id"]: row for row in query(root, "keys", "list", "--json").json}
    old, new = rows[signer("oats").key_id], rows[signer("new").key_id]
    assert (old["retired"], old["retired_by"]) == (True, 1)
    assert (new["retired"], new["origin"]) == (False, "statement 1")
    assert "RETIRED by statement 1" in query(root, "keys").out
    assert "nothing is new" in query(root, "keys", "follow", str(tmp_path)).out
    stranger = statement(2, "stranger", add="stranger")
    (tmp_path / "keys.sig").write_bytes(stranger)
    before = snapshot(root)
    done = query(root, "keys", "follow", str(tmp_path / "keys.sig"))
    assert done.code == 26
    assert "no trusted key has signed it" in done.err
    assert not difference(before, snapshot(root))


def test_keys_that_change_over_the_air(root: Path, server: ServerSimulator) -> None:
    """Asker and installer are two processes here, and both believe the new key."""
    server.keys = (statement(1, "oats", add="new", retire="oats"),)
    server.key = "new"
    done = query(root, "-v")
    assert done.code == 0, done.err
    assert "keys: statement 1 about oats keys" in done.out
    assert "from statement 1" in done.out, "the key that signed, and its origin"
    rows = {row["id"]: row for row in query(root, "keys", "list", "--json").json}
    assert rows[signer("oats").key_id]["retired"]
    assert query(root, "--now").code == 0


def test_a_lease_by_port_191(root: Path, server: ServerSimulator) -> None:
    hang_up(server)
    line = lease(now() + 21 * DAY)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with open(root / "etc/olpc-update-query/config.toml", "a") as file:
            file.write(f"lease_port = {listener.getsockname()[1]}\n")

        def serve() -> None:
            link, _ = listener.accept()
            with link:
                link.recv(100)
                link.sendall(line.encode())

        threading.Thread(target=serve, daemon=True).start()
        done = query(root, "-v")
    assert done.code == 10
    assert "a new lease is installed" in done.out
    assert (root / "security/lease.sig").read_text() == line


def test_removing_the_last_key_is_told(root: Path) -> None:
    done = query(root, "keys", "remove", signer("oats").key_id)
    assert done.code == 0
    assert "keys that are trusted now: 0 oats, 1 lease" in done.out
    assert "no answer or order can be verified" in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param(["add", "{file}", "--role", "oats"], 24, id="no key"),
        pytest.param(["add", "{file}"], 24, id="no key, no role"),
        pytest.param(["follow", "{file}"], 25, id="no statements"),
        pytest.param(["follow", "/proc"], 3, id="no file of statements"),
        pytest.param(
            ["add", "{file}", "--role", "oats", "--name", "../x"], 3, id="name"
        ),
        pytest.param(["remove", "00"], 3, id="too short"),
        pytest.param(["remove", "0" * 64], 3, id="unknown"),
    ],
)
def test_bad_keys(root: Path, tmp_path: Path, words: list[str], code: int) -> None:
    (tmp_path / "file").write_text("not a key")
    before = snapshot(root)
    done = query(root, "keys", *(word.format(file=tmp_path / "file") for word in words))
    assert done.code == code
    assert not difference(before, snapshot(root))


def test_without_keys_somebody_is_told(root: Path) -> None:
    for path in (root / "etc/olpc-update-query/keys.d").iterdir():
        path.unlink()
    assert "no key is trusted" in query(root, "keys", "list").out
    assert query(root).code == 21
