"""A machine that boots with the Debian packages: what systemd really does with them.

Run by ``make machine``, with ``OLPC_MACHINE=i386`` for 32 bits. The machine is Debian
12 in ``systemd-nspawn``, with the school's server on its own loopback and no other
network. It boots once; ``driver`` runs in it, writes down what it sees, and powers it
off. The tests read what was written.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from bench import compare, laptop, trees
from bench.laptop import SOMEBODY
from bench.school import School
from olpc_update_query.cli.logbook import MESSAGE_IDS

TOP = Path(__file__).parents[2]
CACHE = TOP / "build/machine"
ARCHITECTURE = os.environ.get("OLPC_MACHINE") or "amd64"
IS_32_BIT = ARCHITECTURE == "i386"
BASE = CACHE / f"{ARCHITECTURE}.tar"
DEBS = TOP / "build/deb"
HELPERS = Path(__file__).parent
OLD, NEW, NEXT = "760", "762", "763"
SERVER = "olpc-update-serve@srv-site.service"
PATIENCE = 300

# What the packages depend on, as Debian 12 has it; and what the machine boots with.
PACKAGES = (
    "dbus,iproute2,libpam-systemd,network-manager,procps,python3-apscheduler,python3-click,python3-colorama,"
    "python3-cryptography,python3-dbus,python3-flask,python3-requests,"
    "python3-sqlalchemy,python3-tomlkit,python3-waitress,python3-zstandard,rsync,"
    "systemd-sysv"
)
MADE_BY_ITSELF = ("var/lib/dpkg", "var/log", "var/cache", "var/lib/systemd", "results")
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("systemd-container", "mmdebstrap"),
    pytest.mark.timeout(900),
]


def run(*words: str | Path, **options: object) -> str:
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env=CLEAN,
        stdin=subprocess.DEVNULL,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return str(done.stdout)


def run_any(*words: str | Path) -> str:
    """Return what a command says, whatever it ends with."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=CLEAN)
    return done.stdout.strip()


def make_base() -> None:
    """Make the tree that every machine is a copy of, once."""
    if BASE.exists():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    fresh = CACHE / "fresh.tar"
    included = f"--include={PACKAGES}"
    how = ["--mode=root", f"--arch={ARCHITECTURE}", "--variant=minbase", included]
    run("mmdebstrap", *how, "bookworm", fresh, "http://deb.debian.org/debian")
    fresh.rename(BASE)


def keep_to_32_bits(*roots: Path) -> None:
    """Give no file a time that Debian 12's 32-bit system calls cannot give it."""
    for root in roots:
        for name in names_in(root):
            facts = (root / name).lstat()
            if not -(2**31) <= facts.st_mtime < 2**31:
                os.utime(root / name, (0, 0), follow_symlinks=False)


def names_in(tree: Path) -> set[str]:
    found = set()
    for where, directories, files in os.walk(tree):
        for name in (*directories, *files):
            found.add(os.path.relpath(os.path.join(where, name), tree))
    return found


class Machine:
    """A machine that has booted, done its work, and is off again."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.tree = directory, directory / "tree"
        self.results = self.tree / "results"
        self.tree.mkdir()
        run("tar", "-C", self.tree, "-xf", BASE)
        self.before = names_in(self.tree)
        self._install()
        self._make_school()
        self._add_helpers()
        self._boot()

    def _install(self) -> None:
        inside = self.tree / "opt/debs"
        shutil.copytree(DEBS, inside)
        names = [f"/opt/debs/{path.name}" for path in sorted(inside.glob("*.deb"))]
        assert len(names) == 3
        run("chroot", self.tree, "dpkg", "--install", *names)

    def _make_school(self) -> None:
        old, new, following = (self.directory / name for name in (OLD, NEW, NEXT))
        trees.make_first(old, files=150, megabytes=6)
        trees.make_second(old, new)
        run("cp", "-a", new, following)
        (following / "etc/motd").write_bytes(os.urandom(2_000_000))
        if IS_32_BIT:
            keep_to_32_bits(old, new, following)
        self.wanted = compare.survey(new)
        school = School(self.tree / "srv/site")
        (self.tree / "srv").mkdir(exist_ok=True)
        school.found(SOMEBODY)
        school.admin("publish", old, "--build", OLD)
        school.admin("publish", new, "--build", NEW, "--delta-from", OLD)
        school.admin("publish", following, "--build", NEXT)
        school.admin("assign", "--build", NEW, "--serial", SOMEBODY.serial)
        run("chroot", self.tree, "chown", "--recursive", "irc:", "/srv/site")
        sketch = self.directory / "laptop"
        contents = school.site / "builds" / OLD / "contents"
        laptop.make(sketch, old, OLD, contents)
        for name in ("ofw", "versions"):
            run("cp", "-a", sketch / name, self.tree / name)
        shutil.rmtree(sketch)
        for role in ("oats", "lease"):
            laptop.trust(self.tree, role, school.key(role))

    def _add_helpers(self) -> None:
        self.results.mkdir()
        for name in ("driver", "probe.py"):
            shutil.copy(HELPERS / name, self.tree / "opt")
        shutil.copy(TOP / "bench/launch.py", self.tree / "opt")
        (self.tree / "opt/message-id").write_text(MESSAGE_IDS["installed"])
        system = self.tree / "etc/systemd/system"
        shutil.copy(HELPERS / "driver.service", system)
        root = f"--root={self.tree}"
        self.is_enabled = run_any("systemctl", root, "is-enabled", SERVER)
        run("systemctl", root, "enable", "driver.service", SERVER)
        (self.tree / "etc/hosts").write_text("127.0.0.1 localhost schoolserver\n")
        for name, text in {
            "query": f"OnBootSec=1\nOnUnitInactiveSec=2\n[Unit]\nAfter={SERVER}\n",
            "confirm": "OnActiveSec=\nOnActiveSec=1\n",
        }.items():
            drop_in = system / f"olpc-update-{name}.timer.d/often.conf"
            drop_in.parent.mkdir()
            drop_in.write_text(f"[Timer]\nAccuracySec=100ms\n{text}")
        network = self.tree / "etc/NetworkManager/conf.d/test.conf"
        network.write_text("[main]\nno-auto-default=*\n")
        config = self.tree / "etc/olpc-update-query/config.toml"
        config.write_text("bandwidth_limit = 1000000\n")
        due = self.tree / "versions/updates/olpc-update-query/asker/due"
        due.parent.mkdir(parents=True)
        due.write_text(f"{int(time.time()) - 100} {int(time.time())}\n")

    def _boot(self) -> None:
        words = ["--quiet", "--directory", str(self.tree), "--boot", "--register=no"]
        words += ["--keep-unit", "--private-network", "--console=pipe"]
        words += [f"--machine=olpc-{os.getpid()}"]
        process = subprocess.Popen(
            ["systemd-nspawn", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=CLEAN,
        )
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.terminate()  # it passes that on to the machine's init
            output, _ = process.communicate(timeout=60)
        shutil.copytree(self.results, CACHE / "results", dirs_exist_ok=True)
        said = (self.results / "driver.log").read_text()
        assert process.returncode == 0, output.decode() + said

    def text(self, name: str) -> str:
        return (self.results / name).read_text()

    def journal(self, name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.text(name).splitlines()]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    make_base()
    directory = tmp_path_factory.mktemp("machine")
    directory.chmod(0o755)
    try:
        yield Machine(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_the_driver_met_nothing_unforeseen(machine: Machine) -> None:
    said = machine.text("driver.log")
    assert "TIMEOUT" not in said, said + machine.text("journal")
    assert machine.text("driver.log").endswith("done\n")


def test_the_timer_polled_and_the_builds_are_there(machine: Machine) -> None:
    tree = machine.tree / "versions/pristine" / NEW
    assert compare.differences(machine.wanted, compare.survey(tree)) == []
    link = os.readlink(machine.tree / "versions/boot")
    slots = {
        name: os.readlink(machine.tree / "versions" / link / name)
        for name in ("current", "alt")
    }
    assert slots == {
        "current": f"/versions/pristine/{NEXT}",
        "alt": f"/versions/pristine/{NEW}",
    }
    assert (machine.tree / "versions/run" / NEXT).is_dir()


def test_the_lease_came_first(machine: Machine) -> None:
    assert (machine.tree / "security/lease.sig").read_text().startswith("act01: ")
    events = [record["OLPC_EVENT"] for record in machine.journal("journal.json")]
    told = [event for event in events if event in MESSAGE_IDS]
    assert told.index("lease-installed") < told.index("installed")
    assert "failed" not in told, machine.text("journal.json")


def test_each_side_was_its_own_unit(machine: Machine) -> None:
    records = machine.journal("journal.json")
    by_event = {record["OLPC_EVENT"]: record for record in records}
    asker, installer = by_event["handed-over"], by_event["installed"]
    assert asker["_SYSTEMD_UNIT"] == "olpc-update-query@timer.service"
    assert asker["_UID"] == machine.text("uid").strip() != "0"
    assert int(asker["_CAP_EFFECTIVE"], 16) == 0
    assert installer["_SYSTEMD_UNIT"] == "olpc-update-installer.service"
    assert installer["_UID"] == "0"
    assert installer["OLPC_BUILD"] == NEW
    assert int(installer["OLPC_RECEIVED"]) > 0


def test_an_event_is_found_by_its_message_id(machine: Machine) -> None:
    """As ``journalctl MESSAGE_ID=...`` found it in the machine."""
    (found,) = machine.journal("by-id.json")
    assert found["MESSAGE_ID"] == MESSAGE_IDS["installed"]
    assert found["PRIORITY"] == "5"


def test_a_tick_that_is_not_due_logs_nothing(machine: Machine) -> None:
    before, after = machine.text("ticks").split()
    assert before != after, "the timer did tick"
    said = [r for r in machine.journal("quiet.json") if "olpc" in json.dumps(r)]
    (control,) = said
    assert control["SYSLOG_IDENTIFIER"] == "olpc-control", "so it would have been seen"


def test_a_wake_that_is_not_due_costs_hardly_more_than_python(
    machine: Machine,
) -> None:
    """By the hooks' command, and by the program as it is installed."""
    rows = [line.split() for line in machine.text("costs").splitlines()]
    python, wake, program = (
        median(map(float, column)) for column in zip(*rows, strict=True)
    )
    assert wake <= 1.3 * python
    assert program <= 1.3 * python
    assert wake > 0


def test_the_asker_is_shut_in(machine: Machine) -> None:
    found = dict(line.split(": ") for line in machine.text("asker").splitlines())
    allowed = {"read /versions/pristine", "write asker", "open an internet socket"}
    allowed |= {"copy with rsync", "ask the system bus", "talk to systemd"}
    assert {name for name, came in found.items() if came == "yes"} == allowed


def without_network(found: dict[str, str]) -> dict[str, str]:
    """Leave out what systemd cannot filter: socketcall(); PrivateNetwork= holds."""
    if IS_32_BIT:
        assert found.pop("open an internet socket") == "yes"
    return found


def test_the_installer_is_shut_in(machine: Machine) -> None:
    found = dict(line.split(": ") for line in machine.text("installer").splitlines())
    found = without_network(found)
    allowed = {"read /versions/pristine", "write asker", "write /versions"}
    allowed |= {"write installer", "write /security", "be root", "write the seed"}
    allowed |= {"copy with rsync", "ask the system bus", "talk to systemd"}
    assert {name for name, came in found.items() if came == "yes"} == allowed


def test_the_daemon_is_shut_in(machine: Machine) -> None:
    found = dict(line.split(": ") for line in machine.text("daemon").splitlines())
    found = without_network(found)
    allowed = {"read /versions/pristine", "write installer", "write the seed"}
    allowed |= {"be root", "ask the system bus", "talk to systemd"}
    assert {name for name, came in found.items() if came == "yes"} == allowed


def test_the_server_serves_as_who_owns_the_site(machine: Machine) -> None:
    """By its unit, which nobody has enabled before; it is started when it listens."""
    assert machine.is_enabled == "disabled"
    facts = dict(line.split(":") for line in machine.text("serves-as").splitlines())
    (uid,) = set(facts["Uid"].split())
    assert uid == machine.text("owner").strip() != "0"
    assert int(facts["CapEff"], 16) == 0
    assert (facts["NoNewPrivs"].strip(), facts["Seccomp"].strip()) == ("1", "2")
    assert int(facts["VmHWM"].split()[0]) <= 100 * 1024


def test_the_server_is_shut_in(machine: Machine) -> None:
    assert machine.text("server-writes").split() == ["/srv/site"]


def test_a_server_that_crashed_is_back(machine: Machine) -> None:
    killed, started, *reply = machine.text("server-again").splitlines()
    assert killed != started
    assert reply[0].startswith("HTTP/1.0 200")
    assert json.loads(reply[-1]) == [OLD, NEW, NEXT]


def test_a_school_below_fetches_builds(machine: Machine) -> None:
    """By its timer, which nobody has enabled before; as the user who owns the site."""
    found = machine.text("below").splitlines()
    said = machine.text("below-said")
    assert found[:3] == ["disabled", "success", "active"], said
    files = ("contents", "pack", "order")
    assert found[3:6] == [f"games /srv/below/builds/{NEXT}/{name}" for name in files]
    assert f"Build {NEXT} is here" in said
    assert found[6:] == ["success"], "that no server is there is no failure"
    assert "olpc-update-admin: http://schoolserver/" in said


def test_a_hostile_hand_over_is_refused_and_said(machine: Machine) -> None:
    found = machine.journal("hostile.json")
    assert {record["OLPC_ERROR"] for record in found} == {"BadHandOver"}
    assert machine.text("left-over") == ""


def test_systemd_finds_no_fault(machine: Machine) -> None:
    assert machine.text("faults") == ""


def test_a_build_that_comes_up_is_confirmed(machine: Machine) -> None:
    """By the initramfs' script and the timer, as the package has them."""
    assert "on trial, try 1 of 2" in machine.text("boot-script")
    assert machine.text("tried") == f"trial {NEW} 1\n"
    assert "on trial still" not in machine.text("driver.log")


def test_the_bus_starts_the_daemon_and_says_who_may_call(machine: Machine) -> None:
    assert machine.text("by-the-bus") == "active\n"
    shown = json.loads(machine.text("status").removeprefix("s "))
    assert json.loads(shown)["builds"]
    assert machine.text("who-may").splitlines() == [
        "games: Status",
        "games: Check b false",
        *(f"root: {call}" for call in ("Status", "Check b false", "Hold s 3d")),
        "root: Release",
    ]


def test_a_link_wakes_the_daemon(machine: Machine) -> None:
    assert 0 < int(machine.text("moment")) <= 600, "overdue, so it draws a moment"
    assert "woken by: network" in machine.text("signals")


def test_the_daemon_has_each_side_do_its_part(machine: Machine) -> None:
    assert machine.text("check") == 's "started"\n'
    asker, installer = machine.journal("by-daemon.json")
    unit = "olpc-update-query@daemon-dbus-now.service"
    assert asker["OLPC_EVENT"] == "handed-over"
    assert asker["_SYSTEMD_UNIT"] == unit
    assert asker["_UID"] == machine.text("uid").strip()
    assert int(asker["_CAP_EFFECTIVE"], 16) == 0
    assert installer["OLPC_EVENT"] == "installed"
    assert installer["OLPC_BUILD"] == NEXT
    assert installer["_SYSTEMD_UNIT"] == "olpc-update-installer.service"


def test_the_daemon_tells_how_it_goes(machine: Machine) -> None:
    signals = machine.text("signals")
    assert "member=Progress" in signals
    assert "exit code 0" in signals
    facts = dict(line.split(":") for line in machine.text("daemon-status").splitlines())
    assert int(facts["VmHWM"].split()[0]) <= 32 * 1024


def test_who_stops_the_daemon_stops_its_run(machine: Machine) -> None:
    assert machine.text("stopped") == "inactive\nsuccess\n"


def test_a_full_disk_keeps_no_lease_away(machine: Machine) -> None:
    """In the sandboxes of both units, with what tmpfiles makes at a first boot."""
    records = machine.journal("full.json")
    assert machine.text("full-lease") == "lease.sig\n", records
    asker, *_ = [one for one in records if one.get("OLPC_EVENT") == "handed-over"]
    assert asker["_UID"] == machine.text("uid").strip()
    events = [one["OLPC_EVENT"] for one in records if "OLPC_EVENT" in one]
    assert events.count("handed-over") == 1, "the due time is kept, in memory"
    assert "lease-installed" in events
    assert "failed" not in events, records
    assert machine.text("full-owners").splitlines() == [
        "olpc-update 700 asker",
        "root 640 asker.lock",
        "root 755 installer",
        "root 600 lock",
    ]
    assert machine.text("full-places") == ""
    status = json.loads(machine.text("full-status"))
    assert status["last_answer"]["from"] == "http://schoolserver/"
    assert status["last_run"]["exit_code"] == 0
    assert status["next_query"]
    assert status["free_space"] <= 4096, "on the disk"
    (event,) = json.loads(machine.text("full-history"))
    assert event["result"] == "nothing-to-do"


def test_removed_and_installed_again(machine: Machine) -> None:
    assert "keys.d" in machine.text("kept")
    assert machine.text("removed") == ""
    assert machine.text("again").splitlines() == [
        "query.timer enabled active",
        "installer.path enabled active",
        "query-daemon.service enabled active",
    ]
    assert machine.text("status-again").startswith("s ")


def test_removal_leaves_the_machine_clean(machine: Machine) -> None:
    """All that is left is what it was for: builds, and the lease to boot by."""
    left = names_in(machine.tree) - machine.before
    ours = {name for name in left if "olpc" in name.lower()}
    assert {name for name in ours if not name.startswith(MADE_BY_ITSELF)} <= {
        *(name for name in ours if name.startswith("etc/systemd/system/olpc-update-")),
        *(name for name in ours if name.startswith("opt/debs/")),
        *(name for name in ours if name.startswith("versions/pristine/")),
        *(name for name in ours if name.startswith("versions/run/")),
        *(name for name in ours if name.startswith("srv/")),
    }
    assert machine.text("units-left") == ""
    assert "olpc-update" not in (machine.tree / "etc/passwd").read_text()
    assert (machine.tree / "versions/pristine" / NEW).is_dir()
    assert (machine.tree / "security/lease.sig").exists()
