import contextlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.school import free_port
from olpc_update_query import errors
from olpc_update_query.cli.admin import admin
from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import format_time, parse_build_id
from olpc_update_query.server.check import check_site
from olpc_update_query.server.leasepolicy import lease_end
from olpc_update_query.server.login import Door
from olpc_update_query.server.records import Poll
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Assignment, Kind, Scope
from olpc_update_query.server.rollout_text import with_assignment
from olpc_update_query.server.site import Site
from olpc_update_query.system.files import replace_file
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.lease import find_lease
from tests.cli.shell import Shell
from tests.keys import SERIAL, UUID, ring
from tests.server.served import COMMAND, serve
from tests.server.sites import (
    LAPTOP,
    NOW,
    add_build,
    assign,
    list_laptops,
    make_site,
    settle,
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path)
    add_build(made, "760")
    add_build(made, "762")
    list_laptops(made, LAPTOP, LAPTOP._replace(serial="SHC2", group="6A"))
    return Site(made.path, SystemClock())


# --- the first steps --------------------------------------------------------------


def test_the_first_steps_lead_from_one_to_the_next(
    shell: Shell, tmp_path: Path
) -> None:
    path = tmp_path / "escuela"
    out = shell.good("init", path)
    assert f"Made a site in {path}" in out
    assert "oats.public" in out
    assert "lease.public" in out
    assert out.splitlines()[-1].startswith(f"Next: olpc-update-admin publish {path}")
    site = Site(path, SystemClock())
    assert site.settings().name == "escuela"
    add_build(site, "762")
    out = shell.good("keygen", path)
    assert "Kept" in out
    assert "Made" not in out
    assert out.splitlines()[-1].startswith("Next: olpc-update-admin laptops import")
    table = tmp_path / "list.csv"
    table.write_text(f"serial,uuid\n{SERIAL},{UUID}\n")
    out = shell.good("laptops", "import", path, table)
    assert "Laptops: 1 new" in out
    assert out.splitlines()[-1].startswith("Next: olpc-update-admin assign")
    out = shell.good("assign", path, "--build", "762")
    assert "1 of the 1 listed laptops" in out
    assert shell.good("check", path).startswith(f"{path} is in order.")
    log = (path / "changes.log").read_text()
    assert [line.split(" ", 1)[1] for line in log.splitlines()] == [
        "maria: keygen",
        "maria: keygen",
        "maria: import 1 laptops",
        "maria: assign build 762 to every other laptop, 100 percent",
    ]


def test_a_site_may_bring_its_own_keys(shell: Shell, tmp_path: Path) -> None:
    out = shell.good("init", tmp_path / "s", "--no-keys", "--name", "Mi escuela")
    assert "Next: olpc-update-admin keygen" in out
    assert os.listdir(tmp_path / "s/keys") == []
    assert Site(tmp_path / "s", SystemClock()).settings().name == "Mi escuela"


# --- failures: one line, a hint, a code of their own ------------------------------


def test_each_failure_has_its_own_code(
    shell: Shell, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site.path
    told = shell.bad(errors.NoSite, "status", tmp_path)
    assert "init" in told
    shell.bad(errors.SiteExists, "init", path)
    told = shell.bad(errors.UnknownBuild, "assign", path, "--build", "763")
    assert "760, 762" in told
    shell.bad(errors.UnknownLaptop, "lease", path, "SHC9")
    shell.bad(errors.UnknownLaptop, "laptops", "show", path, "SHC9")
    shell.bad(errors.UnknownLaptop, "stolen", path, "SHC9")
    shell.bad(errors.NoAssignment, "unassign", path, "--group", "9Z")
    shell.bad(errors.NoAssignment, "pause", path, "--group", "9Z")
    (site.keys / "lease.private").chmod(0o640)
    told = shell.bad(errors.UnsafeKey, "lease", path, SERIAL)
    assert "chmod 600" in told
    (site.keys / "lease.private").chmod(0o600)
    (site.keys / "lease.private").write_bytes(b"nonsense")
    told = shell.bad(errors.UnsafeKey, "lease", path, SERIAL)
    assert "it is no private key: it cannot be parsed" in told
    assert "chmod" not in told
    assert "from a backup" in told
    assert "from a backup" in shell.run("check", path).out
    (site.keys / "lease.private").unlink()
    told = shell.bad(errors.MissingKey, "lease", path, SERIAL)
    assert "keygen" in told
    (site.keys / "oats.private").chmod(0o604)
    free = ("--host", "127.0.0.1", "--port", "0", "--lease-port", "0")
    shell.bad(errors.UnsafeKey, "serve", path, *free)
    replace_file(path / "rollout.toml", b"[default]\nbuild = 762\n")
    told = shell.bad(errors.DamagedSite, "status", path)
    assert "rollout.toml, default.build" in told
    shell.bad(errors.SiteError, "check", path)


def test_the_codes_of_site_errors_are_their_own() -> None:
    found: list[type[errors.UpdateError]] = [errors.SiteError]
    for error in found:
        found += error.__subclasses__()
    codes = [error.exit_code for error in found]
    assert len(set(codes)) == len(codes) > 10
    late = errors.MissingUpstreamKey.exit_code  # when those were used up
    assert all(50 <= code < 70 for code in codes if code != late)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["assign", "SITE"], "--build", id="no build"),
        pytest.param(["assign", "SITE", "--build", "a/b"], "1 to 64", id="bad build"),
        pytest.param(
            ["assign", "SITE", "--build", "762", "--percent", "101"], "101", id="101 %"
        ),
        pytest.param(
            ["assign", "SITE", "--build", "762", "--group", "a", "--stream", "b"],
            "one of",
            id="two scopes",
        ),
        pytest.param(
            ["assign", "SITE", "--build", "762", "--stream", "a b"],
            "stream",
            id="bad stream",
        ),
        pytest.param(["lease", "SITE", "a b"], "SERIAL", id="bad serial"),
        pytest.param(["lease", "SITE", "A", "--days", "0"], "days", id="no days"),
        pytest.param(["serve", "SITE", "--port", "70000"], "port", id="bad port"),
        pytest.param(["nonsense"], "nonsense", id="unknown command"),
        pytest.param(["laptops", "import", "SITE", "/absent"], "/absent", id="no file"),
    ],
)
def test_wrong_usage_is_code_2(
    shell: Shell, site: Site, words: list[str], told: str
) -> None:
    words = [str(site.path) if word == "SITE" else word for word in words]
    ran = shell.run(*words)
    assert ran.code == 2
    assert told in ran.err


def test_a_damaged_list_imports_nothing(
    shell: Shell, site: Site, tmp_path: Path
) -> None:
    before = (site.path / "laptops.csv").read_bytes()
    table = tmp_path / "list.csv"
    table.write_text(f"serial,uuid\nSHC3,{UUID}\nSHC4,nonsense\n")
    told = shell.bad(errors.BadImport, "laptops", "import", site.path, table)
    assert f"{table}, line 3, column 2: uuid: 'nonsense'" in told
    assert (site.path / "laptops.csv").read_bytes() == before


def test_a_site_of_somebody_else_is_told_so(
    shell: Shell, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("olpc_update_query.server.site.replace_file", refuse)
    told = shell.bad(errors.NotPermitted, "stolen", site.path, SERIAL)
    assert "belongs to root: be root, or `chown` it as root" in told


def test_a_file_that_cannot_be_read_is_one_line(shell: Shell, site: Site) -> None:
    (site.path / "laptops.csv").unlink()
    (site.path / "laptops.csv").mkdir()
    ran = shell.run("status", site.path)
    assert ran.code == errors.SiteError.exit_code
    assert f"{site.path}/laptops.csv: Is a directory" in ran.err
    assert len(ran.err.splitlines()) == 2


def test_a_reader_that_has_seen_enough_is_no_failure(site: Site) -> None:
    many = [LAPTOP._replace(serial=f"SN{number}") for number in range(20_000)]
    list_laptops(site, *many)
    command = " ".join(map(shlex.quote, [*COMMAND, "laptops", "list", str(site.path)]))
    done = subprocess.run(
        ["sh", "-c", f"{command} | head -n 1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("SERIAL")
    assert done.stderr == ""


HIDE = """
import sys
HIDDEN = {"flask", "sqlalchemy", "tomlkit", "waitress", "psycopg"}
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""


@pytest.mark.parametrize("words", ["serve", "status", "assign --build 762"])
def test_a_missing_extra_is_named(site: Site, words: str) -> None:
    command, *options = words.split()
    done = subprocess.run(
        [COMMAND[0], "-c", HIDE + COMMAND[2], command, site.path, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == errors.MissingExtra.exit_code
    assert "pip install '.[server]'" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("words", ["serve", "status"])
def test_a_missing_driver_of_a_database_is_named(site: Site, words: str) -> None:
    pytest.importorskip("sqlalchemy", "2.0", "older ones know no driver psycopg")
    settle(site, 'reports_url = "postgresql+psycopg://olpc:secret@db.example/olpc"')
    hide = HIDE.replace('"flask", "sqlalchemy", "tomlkit", "waitress", ', "")
    done = subprocess.run(
        [COMMAND[0], "-c", hide + COMMAND[2], words, site.path, *_FREE[words]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == errors.MissingExtra.exit_code
    assert "psycopg: this Python package is not installed" in done.stderr
    assert "pip install '.[postgresql]'" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "secret" not in done.stderr


_FREE = {
    "serve": ("--host", "127.0.0.1", "--port", "0", "--lease-port", "0"),
    "status": (),
}


def test_help_is_quick() -> None:
    script = (
        "import sys\nfrom olpc_update_query.cli.admin import main\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'flask', 'sqlalchemy', 'waitress', 'cryptography', 'tomlkit',\n"
        "         'requests', 'zstandard', 'jinja2'}\n"
        "print(heavy & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_each_command_explains_itself(shell: Shell) -> None:
    for name in admin.commands:
        out = shell.good(name, "--help")
        assert out.startswith(f"Usage: olpc-update-admin {name}")
        assert len(out) > 150
    assert re.match(r"olpc-update-admin, version [0-9]", shell.good("--version"))


# --- the rollout ------------------------------------------------------------------


def test_no_line_of_the_help_is_cut_short(shell: Shell) -> None:
    for group in ([], ["laptops"], ["keys"], ["reports"]):
        told = shell.good(*group, "--help").partition("Commands:")[2]
        assert told.strip()
        assert "..." not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--group", "5b"], "No laptop in laptops.csv is of group 5b"),
        (["--serial", "SHC99999999"], "No laptop in laptops.csv is SHC99999999"),
    ],
)
def test_an_assignment_that_reaches_nobody_says_so(
    shell: Shell, site: Site, words: list[str], told: str
) -> None:
    ran = shell.run("assign", site.path, "--build", "762", *words)
    assert ran.code == 0
    assert told in ran.err
    assert shell.run("assign", site.path, "--build", "762", "--group", "5B").err == ""


PASSWORD = "corréct horse"


def knows(site: Site, password: str) -> bool:
    return Door(site.keys, SystemClock().now).open(password, "10.0.0.7") is not None


def test_the_password_of_the_pages_is_piped_in(site: Site) -> None:
    words = [*COMMAND, "password", str(site.path)]
    done = subprocess.run(
        words, input=f"{PASSWORD}\n", capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
    assert "can log in" in done.stdout
    assert knows(site, PASSWORD)
    assert not knows(site, "another horse")


def test_the_password_of_the_pages_is_asked_for_twice(site: Site) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "password", str(site.path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as running:
        seen = ""
        for prompt in ("Password: ", "confirmation: "):
            while prompt not in seen:
                seen += os.read(ours, 1000).decode()
            os.write(ours, f"{PASSWORD}\n".encode())
        while "in a network that you trust" not in seen:
            seen += os.read(ours, 1000).decode()
        assert running.wait(30) == 0
    os.close(ours)
    os.close(theirs)
    assert "horse" not in seen, "it is not shown"
    assert knows(site, PASSWORD)


@pytest.mark.parametrize("password", ["short", "x" * 1001])
def test_a_password_that_will_not_do(shell: Shell, site: Site, password: str) -> None:
    ran = shell.run("password", site.path, "--password", password)
    assert ran.code == 2
    assert "8 to 1000 characters" in ran.err
    assert not (site.path / "changes.log").exists()


def test_a_lost_key_comes_from_a_backup(shell: Shell, site: Site) -> None:
    (site.keys / "lease.private").unlink()
    assert "backup" in shell.bad(errors.MissingKey, "keygen", site.path)
    assert "backup" in shell.bad(errors.MissingKey, "lease", site.path, SERIAL)
    assert "backup" in shell.run("check", site.path).out


def test_an_assignment_says_whom_it_reaches(shell: Shell, site: Site) -> None:
    out = shell.good("assign", site.path, "--build", "760")
    assert "Assigned build 760 to every other laptop." in out
    assert "2 of the 2 listed laptops" in out
    out = shell.good(
        "assign", site.path, "--build", "762", "--percent", "0", "--group", "5B"
    )
    assert "to group 5B (0 percent)" in out
    assert "0 of the 1 listed laptops" in out
    assert "told nothing" in out
    assert "--build 762 --group 5B --percent 100" in out
    out = shell.good("assign", site.path, "--build", "762", "--percent", "50")
    assert "The others stay with build 760." in out


def test_everything_can_be_said_of_an_assignment(shell: Shell, site: Site) -> None:
    begin = SystemClock().now()
    words = "--allow-downgrade --sticky --reboot idle --not-before 2027-01-15T08:00"
    shell.good("assign", site.path, "--build", "762", *words.split())
    found = site.rollout().assignments[DEFAULT]
    assert (found.allow_downgrade, found.sticky, str(found.reboot)) == (
        True,
        True,
        "idle",
    )
    assert (found.not_before, found.by) == (1_800_000_000, "maria")
    assert found.changed is not None
    assert begin <= found.changed <= SystemClock().now()
    shell.good("assign", site.path, "--build", "762", "--percent", "7")
    found = site.rollout().assignments[DEFAULT]
    assert (found.percent, found.allow_downgrade, found.sticky) == (7, True, True)
    out = shell.good("assign", site.path, "--build", "762", "--no-allow-downgrade")
    assert "(7 percent)" in out
    found = site.rollout().assignments[DEFAULT]
    assert (found.percent, found.allow_downgrade) == (7, False)
    shell.good("assign", site.path, "--build", "760")
    assert not site.rollout().assignments[DEFAULT].sticky


def test_what_the_server_halted_is_shown_and_resumed(shell: Shell, site: Site) -> None:
    shell.good("assign", site.path, "--build", "762", "--halt", "10")
    found = site.rollout().assignments[DEFAULT]
    assert found.halt == 10
    halted = replace(found, paused=True, halted="3 of 9 laptops failed", changed=1)
    site.save_rollout(with_assignment(site.rollout_text(), DEFAULT, halted))
    out = shell.good("status", site.path)
    assert "halted by the server: 3 of 9" in out
    assert "HALTED: look at those that failed; `resume SITE` lets it go on." in out
    assert "resume" in shell.run("assign", site.path, "--build", "762").err
    shell.good("resume", site.path)
    found = site.rollout().assignments[DEFAULT]
    assert (found.paused, found.halted, found.halt) == (False, None, 10)
    assert found.changed is not None
    assert found.changed > 1


def test_laptops_that_ask_are_approved(shell: Shell, site: Site) -> None:
    assert "No laptop is waiting" in shell.good("laptops", "approve", site.path)
    reports = Reports(site.path / "reports.db")
    for serial in ("CSN74902B22", "CSN74902B23", SERIAL):
        reports.record(Poll(serial, 1_800_000_000, "10.0.0.7", listed=serial == SERIAL))
    reports.close()
    shown = shell.good("laptops", "approve", site.path).splitlines()
    assert sorted(line.split()[0] for line in shown[1:3]) == [
        "CSN74902B22",
        "CSN74902B23",
    ]
    shell.bad(errors.UnknownLaptop, "laptops", "approve", site.path, SERIAL)
    shell.good("laptops", "approve", site.path, "CSN74902B23", "--group", "5B")
    assert site.laptops()["CSN74902B23"].group == "5B"
    assert "CSN74902B22" not in site.laptops()
    shell.good("laptops", "approve", site.path, "--all")
    assert site.laptops()["CSN74902B22"].group is None
    assert "maria: approve CSN74902B22\n" in (site.path / "changes.log").read_text()


def test_a_laptop_is_pinned_to_what_it_runs(shell: Shell, site: Site) -> None:
    shell.bad(errors.NoAssignment, "pin", site.path, SERIAL)
    reports = Reports(site.path / "reports.db")
    reports.record(Poll(SERIAL, 1_800_000_000, "10.0.0.7", build="760"))
    reports.close()
    assert "760" in shell.good("pin", site.path, SERIAL)
    scope = Scope(Kind.SERIAL, SERIAL)
    assert site.rollout().assignments[scope].build == "760"
    shell.good("assign", site.path, "--build", "762")
    assert '"to_run": "760"' in shell.good(
        "laptops", "show", site.path, SERIAL, "--json"
    )
    shell.good("pin", site.path, SERIAL, "--clear")
    assert scope not in site.rollout().assignments


def test_builds_that_nobody_needs_are_deleted(shell: Shell, site: Site) -> None:
    for name in ("758", "759"):
        add_build(site, name)
    reports = Reports(site.path / "reports.db")
    reports.record(Poll(SERIAL, 1_800_000_000, "10.0.0.7", build="760"))
    reports.close()
    shell.good("assign", site.path, "--build", "762")
    shell.bad(errors.StillNeeded, "unpublish", site.path, "762")
    shell.bad(errors.UnknownBuild, "unpublish", site.path, "999")
    assert shell.run("unpublish", site.path, "../760").code == 2
    shell.good("unpublish", site.path, "758")
    assert site.build_names() == ["759", "760", "762"]
    told = shell.good("gc", site.path, "--dry-run")
    assert "759 is of no use" in told
    assert "760" not in told
    assert site.build_names() == ["759", "760", "762"]
    assert "759 is deleted" in shell.good("gc", site.path)
    assert site.build_names() == ["760", "762"]
    assert not list(site.builds.glob(".gone*"))
    assert "Every published build" in shell.good("gc", site.path)
    assert "maria: unpublish 759" in (site.path / "changes.log").read_text()


def test_the_newest_build_is_needed_before_it_is_assigned(
    shell: Shell, site: Site
) -> None:
    for name in ("758", "900", "900-xo4"):
        add_build(site, name)
    shell.good("gc", site.path)
    assert site.build_names() == ["900", "900-xo4"]


def test_gc_deletes_what_is_left_of_a_publish(shell: Shell, site: Site) -> None:
    left = site.builds / ".tmp-763/pack"
    left.parent.mkdir()
    left.write_bytes(bytes(5000))
    assert "What was left" not in shell.good("gc", site.path, "--dry-run")
    assert "What was left of a publish is deleted: 5.0 kB." in shell.good(
        "gc", site.path
    )
    assert not left.parent.exists()
    shutil.rmtree(site.builds)
    shell.good("gc", site.path)


@pytest.mark.root
def test_what_only_root_can_delete_is_said(shell: Shell, site: Site) -> None:
    for path in (site.path, *site.path.rglob("*")):
        os.chown(path, 65534, 65534)
    build = site.builds / site.build_names()[0]
    os.chown(build, 0, 0)
    (owners,) = [
        one for one in check_site(site, SystemClock().now()) if "belongs" in one.text
    ]
    assert owners.where == str(build)
    assert owners.mend == f"As root: `chown nobody {build}`."
    os.chmod(site.path.parent, 0o755)
    os.seteuid(65534)
    try:
        told = shell.bad(errors.NotPermitted, "unpublish", site.path, build.name)
    finally:
        os.seteuid(0)
    assert f"{site.builds / ('.gone-' + build.name)} belongs to root" in told


def test_a_window_opens_and_closes(shell: Shell, site: Site) -> None:
    words = "--opens 2027-01-15T08:00 --closes 2027-01-16T08:00:00Z"
    out = shell.good("assign", site.path, "--build", "762", *words.split())
    found = site.rollout().assignments[DEFAULT]
    assert (found.opens, found.closes) == (1_800_000_000, 1_800_086_400)
    assert "2 of the 2 listed" in out
    before = site.rollout_text()
    late = ["--build", "762", "--closes", "2027-01-01"]
    told = shell.bad(errors.NoAssignment, "assign", site.path, *late)
    assert "close after it opens" in told
    assert site.rollout_text() == before
    out = shell.good("status", site.path)
    assert "from 2027-01-15 08:00 until 2027-01-16 08:00" in out


def test_assignments_come_and_go(shell: Shell, site: Site) -> None:
    for kind, name in (("stream", "testing"), ("group", "5B"), ("serial", SERIAL)):
        shell.good("assign", site.path, "--build", "762", f"--{kind}", name)
        scope = Scope(Kind(kind), name)
        assert site.rollout().assignments == {scope: site.rollout().assignments[scope]}
        shell.good("unassign", site.path, f"--{kind}", name)
    assert not site.rollout().assignments


def test_everything_is_paused_and_resumed(shell: Shell, site: Site) -> None:
    shell.good("assign", site.path, "--build", "762")
    shell.good("assign", site.path, "--build", "762", "--group", "5B")
    assert "leases go on" in shell.good("pause", site.path)
    assert site.rollout().paused
    assert not any(one.paused for one in site.rollout().assignments.values())
    shell.good("pause", site.path, "--group", "5B")
    ran = shell.run("assign", site.path, "--build", "762", "--group", "5B")
    assert "It is paused" in ran.err
    ran = shell.run("resume", site.path)
    assert ran.code == 0
    assert "Still paused: group 5B" in ran.err
    assert not site.rollout().paused
    shell.good("resume", site.path, "--group", "5B")
    assert not any(one.paused for one in site.rollout().assignments.values())


# --- laptops ----------------------------------------------------------------------


def test_laptops_are_listed(shell: Shell, site: Site) -> None:
    out = shell.good("laptops", "list", site.path)
    assert [line.split()[0] for line in out.splitlines()] == ["SERIAL", SERIAL, "SHC2"]
    out = shell.good("laptops", "list", site.path, "--group", "6A", "--json")
    assert [laptop["serial"] for laptop in json.loads(out)] == ["SHC2"]


def test_one_laptop_is_shown_with_the_reason(shell: Shell, site: Site) -> None:
    shell.good("assign", site.path, "--build", "762", "--group", "5B")
    reports = Reports(site.reports)
    report = {"result": "\x1b[31mred"}
    reports.record(Poll(SERIAL, NOW, "10.0.0.7", build="760", report=report))
    reports.close()
    out = shell.good("laptops", "show", site.path, SERIAL.lower())
    assert "to run: 762" in out
    assert "because: assigned to group 5B" in out
    assert "last address: 10.0.0.7" in out
    assert "\x1b" not in out
    found = json.loads(shell.good("laptops", "show", site.path, SERIAL, "--json"))
    assert found["uuid"] == UUID
    assert [event["kind"] for event in found["events"]] == ["report", "build", "new"]


def test_a_lease_is_printed_alone(shell: Shell, site: Site) -> None:
    begin = SystemClock().now()
    ran = shell.run("lease", site.path, SERIAL, "--days", "90")
    assert ran.code == 0
    found = find_lease(ran.out, serial=SERIAL, uuid=UUID, ring=ring(), now=begin)
    assert found.line == ran.out
    assert found.expiry == lease_end(begin, 90, "UTC")
    assert f"until {format_time(found.expiry)}" in ran.err
    ran = shell.run("lease", site.path, SERIAL)
    assert f"until {format_time(lease_end(begin, 21, 'UTC'))}" in ran.err


def test_a_stolen_laptop_gets_no_lease(shell: Shell, site: Site) -> None:
    shell.good("stolen", site.path, SERIAL)
    assert site.laptops()[SERIAL].stolen
    assert not site.laptops()["SHC2"].stolen
    told = shell.bad(errors.UnknownLaptop, "lease", site.path, SERIAL)
    assert "stolen" in told
    shell.good("stolen", site.path, SERIAL, "--clear")
    assert not site.laptops()[SERIAL].stolen
    list_laptops(site, LAPTOP._replace(uuid=None))
    shell.bad(errors.UnknownLaptop, "lease", site.path, SERIAL)


def test_a_list_is_imported_from_the_standard_input(site: Site) -> None:
    done = subprocess.run(
        [*COMMAND, "laptops", "import", site.path, "-"],
        input=f"serial;uuid\nSHC3;{UUID}\nSHC4;\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Laptops: 2 new" in done.stdout
    assert "1 of them have no uuid" in done.stderr
    assert len(site.laptops()) == 4


# --- looking at it ----------------------------------------------------------------


def test_status_tells_in_words_and_as_json(shell: Shell, site: Site) -> None:
    assign(site, DEFAULT, Assignment(parse_build_id("762"), 10, changed=NOW, by="eva"))
    reports = Reports(site.reports)
    reports.record(Poll(SERIAL, SystemClock().now(), "10.0.0.7", build="760"))
    reports.record(Poll("SHC9", NOW, "10.0.0.8", listed=False))
    reports.close()
    out = shell.good("status", site.path)
    assert "Laptops: 2 listed, 1 asked in the last day" in out
    assert "every other laptop: build 762 for 10 percent  [2027-01-15 08:00 eva]" in out
    assert "Not in laptops.csv: 1\n" in out
    with site.change("eva", "a change"):
        pass
    out = shell.good("status", site.path)
    assert re.search(r"Last changes:\nWHEN.*\n[0-9: -]{16}  eva  a change\n", out)
    found = json.loads(shell.good("status", site.path, "--json"))
    assert found["running"] == {"760": 1}
    assert found["assignments"][0]["percent"] == 10


def test_status_tells_of_problems_and_does_not_flood(shell: Shell, site: Site) -> None:
    shell.good("assign", site.path, "--build", "762")
    shell.good("pause", site.path)
    reports = Reports(site.reports)
    for number in range(40):
        reports.record(Poll(f"SHC{number:03}", NOW + number, "h", stolen=number == 39))
    reports.close()
    (site.builds / "762").rename(site.builds / "700")
    out = shell.good("status", site.path)
    assert "All updates are PAUSED." in out
    assert "build 762 (not published!)" in out
    assert "SHC039" in out
    assert "SHC000" not in out
    assert "... and 10 more" in out
    assert "stolen" in out


def test_check_lists_everything_and_fails(shell: Shell, site: Site) -> None:
    assign(site, DEFAULT, Assignment(parse_build_id("799")))
    (site.keys / "lease.private").unlink()
    ran = shell.run("check", site.path)
    assert ran.code == errors.SiteError.exit_code
    assert "build 799 is assigned but not published" in ran.out
    assert "no private key for lease" in ran.out
    assert "2 errors" in ran.err
    ran = shell.run("check", site.path, "--json")
    weights = [finding["weight"] for finding in json.loads(ran.out)]
    assert weights == ["error", "error"]


# --- serving ----------------------------------------------------------------------


def test_serve_says_where_and_ends_cleanly(site: Site) -> None:
    with serve(site.path) as served:
        assert "Serving Escuela 1" in served.said
        assert "Next: olpc-update-admin assign" in served.said
        assert served.get("/builds/").status == 200


@pytest.mark.root
@pytest.mark.parametrize(
    "words", ["check .", "serve .", "keys list .", "publish . builds --build 1"]
)
def test_who_may_not_read_the_keys_is_told_so(
    shell: Shell, site: Site, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    (site.keys / "keys.sig").touch(mode=0o600)
    monkeypatch.chdir(site.path)  # the way there is closed to others, too
    os.seteuid(65534)
    try:
        told = shell.bad(errors.NotPermitted, *words.split())
    finally:
        os.seteuid(0)
    assert "/keys belongs to root, and is closed to others: be root" in told


@pytest.mark.root
def test_root_serves_as_the_owner_of_the_site(
    shell: Shell, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # root's own files
    for path in (site.path, *site.path.rglob("*")):
        os.chown(path, 65534, 65534)
    shell.good("status", site.path)
    shell.good("stolen", site.path, SERIAL)
    for kind in ("private", "public"):
        (site.keys / f"lease.{kind}").unlink()
    shell.good("keygen", site.path)
    with serve(site.path) as served:
        assert "Runs as nobody, who owns the site." in served.said
        facts = Path(f"/proc/{served.process.pid}/status").read_text()
        for name in ("Uid", "Gid"):
            assert f"{name}:\t65534\t65534\t65534\t65534" in facts
        query = Query(SERIAL, "1", report={})
        assert served.post(query.encode()).status == 200
    assert {path.stat().st_uid for path in site.path.rglob("*")} == {65534}


def test_ctrl_c_ends_it_too(site: Site) -> None:
    with serve(site.path) as served:
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 0


def test_it_can_be_stopped_while_it_starts(site: Site) -> None:
    """As a service is; the key is read when it has the port, and here never comes."""
    key = site.keys / "oats.private"
    key.unlink()
    os.mkfifo(key, 0o600)
    port = free_port()
    words = [*COMMAND, "serve", str(site.path), "--host", "127.0.0.1"]
    words += ["--port", str(port), "--lease-port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "Stopped.\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_is_taken_is_one_line(shell: Shell, site: Site, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = shell.bad(
            errors.PortTaken,
            *("serve", site.path, "--host", host),
            *("--port", port, "--lease-port", "0"),
        )
    assert f"{host}:{port}: Address already in use" in told


def test_an_address_of_another_machine_is_refused(shell: Shell, site: Site) -> None:
    told = shell.bad(
        errors.PortTaken, "serve", site.path, "--host", "192.0.2.1", "--port", "0"
    )
    assert "192.0.2.1" in told
