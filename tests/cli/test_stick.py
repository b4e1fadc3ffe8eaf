"""`olpc-update --usb`: what a stick may do to a laptop, seen from outside."""

import os
import shutil
import time
from pathlib import Path

import pytest

from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import parse_time
from olpc_update_query.server.signing import bulk_leases
from tests.cli.black_box import query, update
from tests.cli.school import School
from tests.keys import SERIAL
from tests.laptop import boot, boots
from tests.rotations import statement
from tests.simulator import DAY, lease
from tests.trees import difference, snapshot

pytestmark = pytest.mark.root  # a tree's owners are root and others

NOW = int(time.time())
OTHERS = frozenset({"SHC00000001", "SHC00000002"})


@pytest.fixture
def stick(school: School, tmp_path: Path) -> Path:
    stick = tmp_path / "stick"
    shutil.copytree(school.www / "builds", stick / "builds")
    return stick


def left(stick: Path) -> Query:
    """Return what the laptop has left on the stick."""
    assert [path.name for path in (stick / "reports").iterdir()] == [f"{SERIAL}.txt"]
    return Query.decode((stick / f"reports/{SERIAL}.txt").read_bytes())


def give_lease(stick: Path, end: int | None, serial: str = SERIAL) -> str:
    line = lease(end, serial=serial)
    (stick / "lease.sig").write_bytes(bulk_leases({"SHC0": "x\n", serial: line}))
    return line


def installed(school: School) -> str | None:
    path = school.root / "security/lease.sig"
    return path.read_text() if path.exists() else None


# --- orders -----------------------------------------------------------------------


def test_the_order_that_was_signed_last_counts(school: School, stick: Path) -> None:
    back = school.order(school.old, urls=(), allow_downgrade=True)
    school.sign(stick / "builds/760", school.old.order(), time=NOW - 2000)
    school.sign(stick / "builds/762", school.new.order(), time=NOW - 1000)
    assert update(school.root, "--usb", str(stick)).code == 0
    assert boots(school.root) == "762"
    boot(school.root)
    school.sign(stick / "builds/760", back, time=NOW - 900)
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (0, "760"), done.err


def test_a_stick_that_was_played_back_is_refused(school: School, stick: Path) -> None:
    assert update(school.root, "--usb", str(stick)).code == 0
    boot(school.root)
    shutil.rmtree(stick / "builds/762")
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (43, "762")
    assert "build 760 is older than the current build 762" in done.err
    assert "`olpc-update --usb 760` installs it all the same" in done.err
    assert update(school.root, "--usb", str(stick), "760").code == 0
    assert boots(school.root) == "760"


def test_orders_for_others_are_passed_over(school: School, stick: Path) -> None:
    us = frozenset({SERIAL})
    school.sign(stick / "builds/762", school.new.order(), serials=OTHERS)
    done = update(school.root, "--usb", str(stick))
    assert done.out.endswith("nothing to do: build 760 is the current build already\n")
    school.sign(stick / "builds/760", school.old.order(), serials=OTHERS)
    before = snapshot(school.root / "versions/pristine")
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (17, "760")
    assert f"it is for 2 other laptops, not {SERIAL}" in done.err
    assert not difference(before, snapshot(school.root / "versions/pristine"))
    school.sign(stick / "builds/762", school.new.order(), serials=OTHERS | us)
    assert update(school.root, "--usb", str(stick)).code == 0
    assert boots(school.root) == "762"


def test_orders_that_are_over(school: School, stick: Path) -> None:
    school.sign(stick / "builds/760", school.old.order(), serials=OTHERS)
    school.sign(stick / "builds/762", school.new.order(), expiry=NOW - 1)
    for words in ([], ["762"], ["-f"], ["-f", "762"]):
        done = update(school.root, "--usb", str(stick), *words)
        assert (done.code, boots(school.root)) == (16, "760"), words
        assert "it was good until" in done.err
    report = left(stick).report or {}
    assert report["code"] == 16


def test_an_old_order_beside_a_good_one_is_no_matter(
    school: School, stick: Path
) -> None:
    school.sign(stick / "builds/760", school.old.order(), expiry=NOW - 1)
    assert update(school.root, "--usb", str(stick)).code == 0
    assert boots(school.root) == "762"


def test_a_newer_order_that_proves_nothing_is_not_passed_over(
    school: School, stick: Path
) -> None:
    school.sign(stick / "builds/762", school.new.order(), key="stranger")
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (21, "760")
    (stick / "builds/762/order").write_bytes(b"[]")
    assert update(school.root, "--usb", str(stick)).code == 25


def test_not_before_is_judged_by_the_signature_as_well(
    school: School, stick: Path
) -> None:
    """A laptop whose clock is behind knows from the order that its time has come."""
    ahead = NOW + 400 * DAY
    order = school.order(urls=(), not_before=ahead)
    school.sign(stick / "builds/762", order)
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (43, "760")
    assert "-f installs it now" in done.err
    school.sign(stick / "builds/762", order, time=ahead, expiry=ahead + DAY)
    assert update(school.root, "--usb", str(stick)).code == 0
    assert boots(school.root) == "762"


def test_it_says_what_it_has_found_and_what_is_next(
    school: School, stick: Path
) -> None:
    give_lease(stick, NOW + 20 * DAY)
    done = update(school.root, "--usb", str(stick))
    assert done.lines[0] == f"{stick}: build 760, build 762, leases"
    assert done.lines[-1].endswith("; restart the laptop to begin using it")
    done = update(school.root, "--usb", str(stick), "--json")
    assert done.json["result"] == "nothing-to-do"


# --- leases -----------------------------------------------------------------------


def test_a_lease_comes_with_the_build(school: School, stick: Path) -> None:
    line = give_lease(stick, NOW + 20 * DAY)
    done = update(school.root, "-v", "--usb", str(stick))
    assert (done.code, boots(school.root)) == (0, "762"), done.err
    assert installed(school) == line
    assert "a new lease is installed" in done.out


@pytest.mark.parametrize("name", ["lease.sig", "security/lease.sig"])
def test_a_stick_with_leases_only(school: School, tmp_path: Path, name: str) -> None:
    stick, line = tmp_path / "stick", lease(NOW + 20 * DAY)
    (stick / name).parent.mkdir(parents=True)
    (stick / name).write_text(lease(NOW + DAY, serial="SHC00000001") + line)
    done = update(school.root, "--usb", str(stick))
    assert (done.code, done.err) == (0, "")
    assert installed(school) == line
    assert done.lines[0].endswith(": leases")
    assert update(school.root, "--usb", str(stick), "762").code == 13


def test_a_stick_with_new_keys_only(school: School, tmp_path: Path) -> None:
    stick = school.root / "media/KEYS"
    stick.mkdir(parents=True)
    (stick / "keys.sig").write_bytes(statement(1, "oats", add="new"))
    done = update(school.root, "--usb")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == f"{stick}: statements about keys"
    assert "statement 1" in query(school.root, "keys").out
    (stick / "keys.sig").unlink()
    assert update(school.root, "--usb", str(stick)).code == 13


def test_a_laptop_without_two_builds_takes_its_lease(
    school: School, stick: Path
) -> None:
    shutil.rmtree(school.root / "versions")
    line = give_lease(stick, NOW + 20 * DAY)
    assert update(school.root, "--usb", str(stick)).code == 34
    assert installed(school) == line


def test_a_lease_is_taken_although_the_order_is_refused(
    school: School, stick: Path
) -> None:
    for build in ("760", "762"):
        school.sign(stick / "builds" / build, school.new.order(), key="stranger")
    line = give_lease(stick, NOW + 20 * DAY)
    assert update(school.root, "--usb", str(stick)).code == 21
    assert installed(school) == line


@pytest.mark.parametrize("end", [NOW + 20 * DAY, None], ids=["longer", "for ever"])
def test_no_stick_shortens_a_lease(
    school: School, stick: Path, end: int | None
) -> None:
    give_lease(stick, NOW + 10 * DAY)
    ours = lease(end)
    (school.root / "security/lease.sig").write_text(ours)
    assert update(school.root, "--usb", str(stick)).code == 0
    assert installed(school) == ours


def test_a_lease_for_somebody_else_is_no_matter(school: School, stick: Path) -> None:
    give_lease(stick, NOW + 20 * DAY, serial="SHC00000001")
    done = update(school.root, "-v", "--usb", str(stick))
    assert (done.code, done.err, installed(school)) == (0, "", None)
    assert "has no lease for this laptop" in done.out


def test_a_bad_lease_is_told_when_all_else_is_done(school: School, stick: Path) -> None:
    give_lease(stick, NOW - DAY)
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (22, "762")
    assert "it expired on" in done.err
    assert installed(school) is None


def test_a_stolen_laptop_gets_none(school: School, stick: Path) -> None:
    give_lease(stick, NOW + 20 * DAY)
    mark = school.root / "security/.private/stolen"
    mark.parent.mkdir()
    mark.touch()
    update(school.root, "--usb", str(stick))
    assert installed(school) is None
    assert mark.exists()


def test_leases_that_are_none(school: School, stick: Path) -> None:
    with open(stick / "lease.sig", "wb") as file:
        file.truncate(100 << 20)
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (0, "762"), done.err


# --- reports ----------------------------------------------------------------------


def test_a_report_travels_home(school: School, stick: Path) -> None:
    line = give_lease(stick, NOW + 20 * DAY)
    assert update(school.root, "--usb", str(stick)).code == 0
    found = left(stick)
    assert (found.serial, found.build, found.lease) == (SERIAL, "760", None)
    assert found.lease_expiry == parse_time(line.split()[3])
    report = found.report or {}
    assert (report["build"], report["code"]) == ("762", 0)
    assert str(report["result"]).startswith("build 762 is installed")
    assert NOW <= parse_time(str(report["time"])) <= time.time()
    boot(school.root)
    assert update(school.root, "--usb", str(stick)).code == 0
    assert left(stick).build == "762", "the newer one is there instead"


def test_a_report_of_a_failure(school: School, stick: Path) -> None:
    pack = stick / "builds/762/pack"
    pack.write_bytes(bytes(pack.stat().st_size))
    for delta in (stick / "builds/762/delta").iterdir():
        delta.unlink()
    done = update(school.root, "--usb", str(stick))
    assert done.code == 14, done.err
    report = left(stick).report or {}
    assert (report["build"], report["code"]) == ("762", 14)


def test_a_link_leads_no_report_astray(
    school: School, stick: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (stick / "reports").symlink_to(victim)
    done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (0, "762")
    assert "report on the stick could not be written" in done.err
    assert os.listdir(victim) == []
    (stick / "reports").unlink()
    (stick / "reports").mkdir()
    for name in (f"{SERIAL}.txt", f".{SERIAL}.txt.new"):
        (stick / "reports" / name).symlink_to(victim / "file")
    assert update(school.root, "--usb", str(stick)).err == ""
    assert left(stick).serial == SERIAL
    assert os.listdir(victim) == []


def test_what_a_stick_did_is_in_the_history(school: School, stick: Path) -> None:
    update(school.root, "--usb", str(stick))
    (event,) = query(school.root, "history", "--json").json
    assert (event["result"], event["build"]) == ("installed", "762")
