"""Updates, ordered by a server or by hand, seen from outside."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from olpc_update_query import errors
from tests.bitrot import heal
from tests.cli.black_box import query, update
from tests.cli.school import School
from tests.http_server import Trouble, unused_port
from tests.laptop import boot, boots, boots_alternate
from tests.rotations import statement
from tests.simulator import DAY, HOUR, lease, now, set_due, work_of
from tests.trees import difference, snapshot

pytestmark = pytest.mark.root  # a tree's owners are root and others


def wait(root: Path) -> int:
    """Return how far off the next query was drawn."""
    drawn, due = (work_of(root) / "asker/due").read_text().split()
    return int(due) - int(drawn)


# --- a poll that brings an order --------------------------------------------------


def test_an_order_is_carried_out(school: School) -> None:
    school.server.update = school.order()
    school.server.lease = lease(now() + 21 * DAY)
    before = snapshot(school.root / "versions/pristine/760")
    done = query(school.root, "-v")
    assert (done.code, done.err) == (0, "")
    assert boots(school.root) == "762"
    assert boots_alternate(school.root) == "760"
    pristine = school.root / "versions/pristine/762"
    assert (pristine / "lib/big").read_bytes().startswith(b"new")
    assert not difference(before, snapshot(school.root / "versions/pristine/760"))
    told = [
        "update: build 762",
        "a new lease is installed",
        "decision: install build 762, because the server orders build 762",
        "build 762 is installed and boots next; build 760 stays to go back to",
        "next query in",
    ]
    places = [done.out.index(text) for text in told]
    assert places == sorted(places)
    assert wait(school.root) > 12 * HOUR
    assert query(school.root, "--now").lines[0].startswith("nothing to do")


def test_what_stays_to_go_back_to_is_the_alternate(school: School) -> None:
    """Not the build that runs, when that is the one that is wanted again."""
    assert update(school.root, "762").code == 0
    done = update(school.root, "760")
    assert (boots(school.root), boots_alternate(school.root)) == ("760", "762")
    (line,) = done.lines
    assert line.endswith("boots next; build 762 stays to go back to")


def test_state_that_is_garbage_is_told_once(school: School) -> None:
    school.server.update = school.order()
    assert query(school.root, "--now").code == 0
    files = [path for path in work_of(school.root).rglob("*.json") if path.is_file()]
    for path in files:
        path.write_bytes(b"\xff\0")
    done = query(school.root, "status")
    assert done.code == 0
    told = [line for line in done.err.splitlines() if "counts as absent" in line]
    assert len(told) == len(set(told)) == len(files)
    done = query(school.root, "-v", "--now")
    assert done.code == 0, done.err
    told = done.err.splitlines()
    assert len(told) == len(set(told)) <= len(files)


def test_an_error_is_told_without_empty_lines(school: School) -> None:
    done = update(school.root, "-v", "999")
    assert done.code == errors.BuildNotFound.exit_code
    assert all(line.strip() for line in (*done.lines, *done.err.splitlines()))


@pytest.mark.parametrize("name", ["nothing/here", "etc/passwd"])
def test_a_stick_that_is_not_there(school: School, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "etc/passwd":
        path.parent.mkdir()
        path.touch()
    done = update(school.root, "--usb", str(path))
    assert done.code == errors.BuildNotFound.exit_code
    line, hint = done.err.splitlines()
    assert line == f"olpc-update: {path}: there is no such directory"
    assert hint.startswith("  hint: Check what is on the stick")


def test_the_summary_is_one_line(school: School) -> None:
    school.server.update = school.order()
    done = query(school.root)
    assert (done.code, len(done.lines)) == (0, 1)
    assert "762" in done.out


def test_json_of_an_update(school: School) -> None:
    school.server.update = school.order()
    found = query(school.root, "--json").json
    assert found["result"] == "installed"
    assert found["build"] == "762"
    assert found["received"] > 100
    assert found["sent"] > 0
    (event,) = query(school.root, "history", "--json").json
    assert event["build"] == "762"


def test_a_link_that_dies_is_gone_on_with_soon(school: School) -> None:
    school.server.update = school.order()
    school.server.lease = lease(now() + 21 * DAY)
    for name in ("760.pack", "contents.zst", "contents"):
        school.server.site.misbehave(name, Trouble.HANGUP)
    before = snapshot(school.root / "versions/pristine")
    done = query(school.root)
    assert done.code == 14, done.err
    assert not difference(before, snapshot(school.root / "versions/pristine"))
    assert (school.root / "security/lease.sig").exists()
    assert boots(school.root) == "760"
    assert wait(school.root) <= 600
    school.server.site.plans.clear()
    set_due(school.root, now() - HOUR, now() - 1)
    assert query(school.root, "--trigger", "timer").code == 0
    assert boots(school.root) == "762"


def test_a_hook_that_fails_stops_the_activation(school: School) -> None:
    hook = school.root / "etc/olpc-update-query/hooks.d/10-site"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\necho no >&2\nexit 7\n")
    hook.chmod(0o755)
    school.server.update = school.order()
    done = query(school.root)
    assert done.code == 42
    assert "10-site" in done.err
    assert boots(school.root) == "760"
    assert wait(school.root) > 12 * HOUR
    (event,) = query(school.root, "history", "--json").json
    assert (event["build"], event["exit_code"]) == ("762", 42)
    hook.unlink()
    assert query(school.root, "--now").code == 0
    assert boots(school.root) == "762"


def test_held_updates_wait(school: School) -> None:
    school.server.update = school.order()
    query(school.root, "hold", "1d")
    done = query(school.root)
    assert done.code == 0
    assert "held" in done.out
    assert boots(school.root) == "760"
    query(school.root, "release")
    assert query(school.root, "--now").code == 0
    assert boots(school.root) == "762"


def test_a_build_that_was_left_by_hand_does_not_come_back(school: School) -> None:
    school.server.update = school.order()
    query(school.root)
    boot(school.root)
    assert update(school.root, "--rollback").code == 0
    done = query(school.root, "--now")
    assert done.code == 43
    assert "olpc-update -f" in done.err
    assert boots(school.root) == "760"
    assert update(school.root, "762").code == 43
    assert update(school.root, "-f", "762").code == 0
    assert boots(school.root) == "762"
    assert query(school.root, "--now").code == 0


def test_only_one_update_at_a_time_and_it_says_which(school: School) -> None:
    school.server.update = school.order()
    assert query(school.root).code == 0
    found = query(school.root, "status", "--json").json
    assert (found["running"], found["boots_next"]) == ("760", "762")
    assert found["builds"] == ["760", "762"]
    assert found["work"] == {"state": "idle"}


# --- by hand ----------------------------------------------------------------------


def test_by_hand_from_a_server(school: School) -> None:
    done = update(school.root, "-v", "-s", school.server.url, "762")
    assert (done.code, done.err) == (0, "")
    assert boots(school.root) == "762"
    assert "its order is signed by" in done.out
    assert school.server.asked == 0, "nobody was polled"


def test_by_hand_from_the_configured_server(school: School) -> None:
    assert update(school.root, "762").code == 0
    assert boots(school.root) == "762"
    assert "762 is the current build already" in update(school.root, "762").out


def test_the_next_server_has_it(school: School) -> None:
    nobody = f"http://127.0.0.1:{unused_port()}/"
    words = ["-s", nobody, "-s", school.server.url, "762"]
    assert update(school.root, *words).code == 0
    assert boots(school.root) == "762"


def test_by_hand_a_hold_and_an_older_build_do_not_matter(school: School) -> None:
    (school.root / "etc/update-stream").write_text("none\n")
    query(school.root, "hold")
    assert update(school.root, "762").code == 0
    boot(school.root)
    assert update(school.root, "760").code == 0
    assert boots(school.root) == "760"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        pytest.param("stranger", 21, id="a stranger's key"),
        pytest.param("other build", 21, id="the order of another build"),
        pytest.param("expired", 16, id="expired"),
        pytest.param("others", 17, id="for other laptops"),
        pytest.param("garbage", 25, id="garbage"),
        pytest.param("missing", 13, id="no order"),
        pytest.param("unpublished", 13, id="no such build"),
    ],
)
def test_orders_that_prove_nothing(school: School, wrong: str, code: int) -> None:
    directory = school.www / "builds/762"
    match wrong:
        case "stranger":
            school.sign(directory, school.new.order(), key="stranger")
        case "other build":
            school.sign(directory, school.old.order())
        case "expired":
            school.sign(directory, school.new.order(), expiry=now() - 1)
        case "others":
            others = frozenset({"SHC00000001"})
            school.sign(directory, school.new.order(), serials=others)
        case "garbage":
            (directory / "order").write_bytes(b"[]")
        case "missing":
            (directory / "order").unlink()
        case _:
            shutil.rmtree(directory)
    before = snapshot(school.root / "versions/pristine")
    done = update(school.root, "762")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("olpc-update: ")
    assert not difference(before, snapshot(school.root / "versions/pristine"))


def test_a_laptop_without_builds(school: School) -> None:
    shutil.rmtree(school.root / "versions")
    done = update(school.root, "762")
    assert done.code == 34


# --- from a stick -----------------------------------------------------------------


@pytest.fixture
def stick(school: School, tmp_path: Path) -> Path:
    stick = tmp_path / "stick"
    shutil.copytree(school.www / "builds", stick / "builds")
    return stick


def test_from_a_stick_the_newest(school: School, stick: Path) -> None:
    done = update(school.root, "--usb", str(stick))
    assert (done.code, done.err) == (0, "")
    assert boots(school.root) == "762"
    assert school.server.site.seen == [], "the stick is enough"


def test_from_a_stick_by_name(school: School, stick: Path) -> None:
    update(school.root, "762", "--usb", str(stick))
    boot(school.root)
    assert update(school.root, "--usb", str(stick), "760").code == 0
    assert boots(school.root) == "760"


def test_from_whichever_stick_is_mounted(school: School, stick: Path) -> None:
    place = school.root / "media/child"
    place.mkdir(parents=True)
    shutil.move(stick, place / "STICK")
    assert update(school.root, "--usb", "762").code == 0
    assert boots(school.root) == "762"


def test_a_stick_brings_new_keys(school: School, stick: Path) -> None:
    school.sign(stick / "builds/762", school.order(), key="new")
    assert update(school.root, "--usb", str(stick)).code == 21
    (stick / "keys.sig").write_bytes(statement(1, "oats", add="new", retire="oats"))
    done = update(school.root, "-v", "--usb", str(stick))
    assert (done.code, boots(school.root)) == (0, "762"), done.err
    assert "statement 1" in done.out
    assert update(school.root, "760", "--usb", str(stick)).code == 21, "retired"


@pytest.mark.parametrize(
    "raw",
    [b"", b"nonsense", statement(1, "thief", add="new")],
    ids=["empty", "nonsense", "foreign"],
)
def test_what_a_stick_says_about_foreign_keys_is_no_matter(
    school: School, stick: Path, raw: bytes
) -> None:
    (stick / "keys.sig").write_bytes(raw)
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (0, "762"), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("words", [["--usb"], ["--usb", "762"]], ids=" ".join)
def test_no_stick(school: School, words: list[str]) -> None:
    done = update(school.root, *words)
    assert done.code == 13
    assert "no stick" in done.err


def test_a_stick_without_that_build(school: School, stick: Path) -> None:
    done = update(school.root, "999", "--usb", str(stick))
    assert done.code == 13
    assert "999" in done.err


# --- what there is, what is installed ---------------------------------------------


def test_listing_a_stick(school: School, stick: Path) -> None:
    done = update(school.root, "-l", "--usb", str(stick))
    assert [line.split()[0] for line in done.lines] == ["760", "762"]
    found = update(school.root, "-l", "--json", "--usb", str(stick)).json
    assert found == {str(stick): ["760", "762"]}


@contextlib.contextmanager
def listing(body: bytes) -> Iterator[str]:
    """Serve a list of builds where our own server has it."""

    def application(
        environ: dict[str, Any], start: Callable[..., object]
    ) -> list[bytes]:
        found = environ["PATH_INFO"] == "/builds/"
        start("200 OK" if found else "404 Not Found", [])
        return [body if found else b""]

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_listing_a_server(school: School) -> None:
    nobody = f"http://127.0.0.1:{unused_port()}/"
    with listing(b'["760", "762"]') as url:
        done = update(school.root, "-l", "-s", nobody, "-s", url)
        assert (done.code, done.err) == (0, "")
        assert done.lines == [
            f"760                  {url}",
            f"762                  {url}",
        ]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"<html>", 11, id="a page"),
        pytest.param(b"[" * 100_000, 11, id="nested"),
        pytest.param(b'{"760": 1}', 11, id="no list"),
        pytest.param(b'["../etc"]', 25, id="a path"),
        pytest.param(b'["7"' + b" " * 2_000_000 + b"]", 11, id="endless"),
    ],
)
def test_lists_that_are_none(school: School, body: bytes, code: int) -> None:
    with listing(body) as url:
        assert update(school.root, "-l", "-s", url).code == code


def test_a_server_that_lists_nothing(school: School) -> None:
    (school.www / "builds/index.html").unlink()
    done = update(school.root, "--list-targets")
    assert done.code == 13


def test_listing_what_is_installed(school: School) -> None:
    update(school.root, "762")
    assert update(school.root, "--installed").lines == [
        "760                  running, to go back to, sticky",
        "762                  boots next",
    ]
    rows = update(school.root, "--installed", "--json").json
    assert [row["build"] for row in rows] == ["760", "762"]


def test_rollback(school: School) -> None:
    done = update(school.root, "--rollback")
    assert done.code == 41
    update(school.root, "762")
    done = update(school.root, "--rollback")
    text = "build 760 boots next; somebody went back from build 762"
    assert (done.code, done.out) == (0, f"{text}\n")
    assert boots(school.root) == "760"
    events = query(school.root, "history", "--json").json
    assert [event["result"] for event in events] == ["installed", "rolled-back"]
    assert (
        events[-1]["text"]
        == query(school.root, "status", "--json").json["last_run"]["text"]
    )
    assert update(school.root, "--rollback", "--json").json["boots_next"] == "762"
    assert boots(school.root) == "762"


def test_goes_back_without_knowing_who_it_is(school: School) -> None:
    update(school.root, "762")
    (school.root / "ofw/mfg-data/SN").write_text("")
    assert update(school.root, "760").code == 29
    assert update(school.root, "--rollback").code == 0
    assert boots(school.root) == "760"


def test_purge_and_sticky(school: School) -> None:
    update(school.root, "762")
    assert update(school.root, "--purge", "762").code == 40
    assert update(school.root, "--purge", "999").code == 36
    assert update(school.root, "--sticky", "999").code == 36
    boot(school.root)
    assert update(school.root, "--sticky", "760").code == 0
    assert update(school.root, "--purge", "760").code == 40
    os.unlink(school.root / "versions/sticky/760")
    assert update(school.root, "--purge", "760").code == 0
    assert school.installed == ["762"]
    assert boots(school.root) == "762"


def test_verify(school: School) -> None:
    update(school.root, "762")
    done = update(school.root, "--verify")
    assert (done.code, done.out) == (0, "every file is as it should be\n")
    damaged = school.root / "versions/pristine/762/usr/fresh"
    facts = damaged.stat()
    damaged.write_bytes(b"rotten"[:5])
    os.utime(damaged, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    done = update(school.root, "--verify")
    assert done.code == 30
    assert "build 762: usr/fresh: content" in done.err
    done = update(school.root, "--verify", "--json")
    assert (done.code, done.err) == (30, "")
    assert len(done.json["differences"]) == 1


def test_verify_one_build(school: School) -> None:
    (school.root / "versions/pristine/760/etc/motd").write_bytes(b"edited")
    assert update(school.root, "762").code == 0
    assert update(school.root, "--verify", "762").code == 0
    assert update(school.root, "--verify", "760").code == 30
    assert update(school.root, "--verify", "999").code == 36
    assert update(school.root, "--repair").code == 2


def test_repair(school: School) -> None:
    before = snapshot(school.root / "versions/pristine/760")
    done = update(school.root, "--verify", "--repair")
    assert (done.code, "every file is as it should be" in done.out) == (0, True)
    assert not school.server.site.seen, "nobody is asked when nothing is damaged"
    rotten = school.root / "versions/pristine/760/lib/big"
    facts = rotten.stat()
    os.truncate(rotten, 5)
    os.utime(rotten, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    done = update(school.root, "--verify", "--repair", "--json")
    assert done.code == 0
    assert (done.json["result"], done.json["fetched"]) == ("repaired", 1)
    assert not difference(before, snapshot(school.root / "versions/pristine/760"))
    assert update(school.root, "--verify").code == 0


def test_a_repair_without_a_source(school: School) -> None:
    (school.root / "versions/pristine/760/etc/motd").unlink()
    for name in ("pack", "pack.index", "pack.index.zst"):
        (school.www / "builds/760" / name).unlink()
    done = update(school.root, "--verify", "760", "--repair")
    assert done.code in {13, 14}
    assert boots(school.root) == "760"


def test_a_repair_from_a_stick(school: School) -> None:
    (school.root / "versions/pristine/760/etc/motd").unlink()
    shutil.move(school.www / "builds", school.root / "mnt/builds")
    done = update(school.root, "--verify", "760", "--repair", "--usb")
    assert done.code == 0, done.err
    assert update(school.root, "--verify").code == 0


def test_rotten_bits_are_found_and_healed(tmp_path: Path) -> None:
    """A sample of `make bitrot`."""
    (tmp_path / "rot").mkdir()
    done = heal(tmp_path / "rot", 60, files=40)
    assert (done.found, done.left) == (done.files, [])
    assert {"contents", "pack"} >= {name.partition(".")[0] for name in done.asked} - {
        "order"
    }


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--rollback", "762"],
        ["--rollback", "--verify"],
        ["--usb", "/", "--rollback"],
        ["--purge"],
        ["--purge", "../etc"],
        ["../762"],
        ["762", "763"],
        ["-x"],
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_usage(school: School, words: list[str]) -> None:
    before = snapshot(school.root)
    done = update(school.root, *words)
    assert done.code == 2
    assert done.err
    assert not difference(before, snapshot(school.root))
