"""What a stick takes to a school, and what it brings home."""

import json
import re
import shutil
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import BuildId, Query
from olpc_update_query.model.wire import format_time, parse_time
from olpc_update_query.server.delegating import accept_delegations, delegate_laptops
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.signing import bulk_leases
from olpc_update_query.server.site import DAY, Site
from olpc_update_query.server.stick_reports import bring_home
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.answer import TrustedOrder, open_order
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.lease import find_lease
from tests.cli.shell import Shell
from tests.keys import SERIAL, UUID, ring, signer
from tests.server.sites import LAPTOP, HandClock, list_laptops, make_site, settle
from tests.trees import build_tree

NOW = SystemClock().now()
EVA = Laptop("SHC12900019", UUID, group="6A", name="Eva")
LEO = Laptop("SHC1290001A", UUID, group="5B", stolen=True)


@pytest.fixture
def site(shell: Shell, tmp_path: Path) -> Site:
    """A site with two builds and three laptops, one of them stolen."""
    site = Site(make_site(tmp_path).path, SystemClock())
    list_laptops(site, LAPTOP, EVA, LEO)
    for name in ("760", "762"):
        build_tree(tmp_path / name, {"etc/issue": f"build {name}"})
        shell.good("publish", site.path, tmp_path / name, "--build", name, "--any-tree")
    return site


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    stick = tmp_path / "stick"
    stick.mkdir()
    return stick


def order_on(stick: Path, build: str, serial: str = SERIAL) -> TrustedOrder:
    raw = (stick / "builds" / build / "order").read_bytes()
    return open_order(raw, ring=ring(), serial=serial, now=SystemClock().now())


# --- out ------------------------------------------------------------------------------


def test_one_build_for_all_is_for_every_laptop(
    shell: Shell, site: Site, stick: Path
) -> None:
    shell.good("assign", site.path, "--build", "762")
    out = shell.good("usb", site.path, stick, "--days", "30")
    assert "Build 762 is for every laptop." in out
    found = order_on(stick, "762", "SHC99999999")
    assert found.expiry == found.time + 30 * DAY
    assert [path.name for path in (stick / "builds").iterdir()] == ["762"]


def test_each_laptop_is_told_what_the_server_would_say(
    shell: Shell, site: Site, stick: Path
) -> None:
    shell.good("assign", site.path, "--build", "762", "--sticky")
    words = ["--group", "6A", "--allow-downgrade"]
    shell.good("assign", site.path, "--build", "760", *words)
    shell.good("usb", site.path, stick)
    assert order_on(stick, "762").order.sticky
    assert order_on(stick, "760", EVA.serial).order.allow_downgrade
    for build, serial in (("762", EVA.serial), ("760", SERIAL), ("762", LEO.serial)):
        with pytest.raises(errors.OrderForOthers):
            order_on(stick, build, serial)


def test_a_group_has_a_stick_of_its_own(shell: Shell, site: Site, stick: Path) -> None:
    shell.good("assign", site.path, "--build", "762")
    before = SystemClock().now()
    out = shell.good("usb", site.path, stick, "--group", "5B", "--leases", "60")
    after = SystemClock().now()
    assert "Build 762 is for 1 laptops." in out
    assert "1 laptops find a lease" in out
    with pytest.raises(errors.OrderForOthers):
        order_on(stick, "762", EVA.serial)
    for name in ("lease.sig", "security/lease.sig"):
        raw = (stick / name).read_bytes()
        assert EVA.serial.encode() not in raw
        lease = find_lease(raw, serial=SERIAL, uuid=UUID, ring=ring(), now=NOW)
        assert lease.expiry is not None
        assert before - DAY <= lease.expiry - 60 * DAY <= after + 3 * DAY, "a morning"
    lines = (stick / "security/lease.sig").read_text().splitlines()
    assert all(line.startswith("act01: ") for line in lines), "the firmware's rule"
    shell.bad(errors.SiteError, "usb", site.path, stick, "--group", "7C")


def test_a_stick_says_nothing_that_the_server_would_not(
    shell: Shell, site: Site, stick: Path
) -> None:
    shell.good("assign", site.path, "--build", "762")
    shell.good("pause", site.path)
    told = shell.bad(errors.NoAssignment, "usb", site.path, stick)
    assert "all updates are paused" in told
    shell.good("resume", site.path)
    closes = format_time(NOW + 5 * DAY)
    closes = f"{closes[:4]}-{closes[4:6]}-{closes[6:8]}"
    shell.good("assign", site.path, "--build", "762", "--closes", closes)
    shell.good("usb", site.path, stick)
    found = order_on(stick, "762")
    assert found.expiry is not None
    assert found.expiry <= NOW + 5 * DAY, "as long as the assignment"


def test_laptops_that_are_not_listed_are_told_as_the_site_says(
    shell: Shell, site: Site, stick: Path
) -> None:
    settle(site, 'unknown = "list"')
    shell.good("assign", site.path, "--build", "762")
    assert "is for 2 laptops" in shell.good("usb", site.path, stick)


def test_more_laptops_than_an_order_can_name(
    shell: Shell, site: Site, stick: Path
) -> None:
    many = [Laptop(f"SHC{number:08}", None, "9") for number in range(6000)]
    list_laptops(site, LAPTOP, *many)
    shell.good("assign", site.path, "--build", "762", "--group", "9")
    told = shell.bad(errors.SiteError, "usb", site.path, stick)
    assert "one order cannot name 6000 laptops" in told
    assert list(stick.iterdir()) == []


def test_without_a_key_the_orders_stay_as_they_were_published(
    shell: Shell, site: Site, stick: Path
) -> None:
    shell.good("assign", site.path, "--build", "762")
    (site.keys / "oats.private").unlink()
    ran = shell.run("usb", site.path, stick)
    assert (ran.code, "No key that signs orders" in ran.err) == (0, True)
    assert order_on(stick, "762").expiry is None
    shell.bad(errors.MissingKey, "usb", site.path, stick, "--group", "5B")
    (site.builds / "762/order").unlink()
    ran = shell.run("usb", site.path, stick)
    assert ran.code == errors.SiteError.exit_code
    assert "no signed order" in ran.err


def test_a_delegated_key_signs_for_no_stick(
    shell: Shell, site: Site, stick: Path
) -> None:
    """Its orders would have to be one for each laptop: those of the builds serve."""
    shell.good("assign", site.path, "--build", "762")
    key = signer("school-oats")
    shutil.copyfile(site.keys / "oats.public", site.keys / "above-oats.public")
    expiry, now = NOW + 90 * DAY, NOW
    lines = delegate_laptops(
        site, Role.OATS, key.public, group=None, now=now, expiry=expiry
    )
    (site.keys / "oats.private").write_bytes(key.private_bytes())
    (site.keys / "oats.public").write_bytes(key.public)
    accept_delegations(site, Role.OATS, bulk_leases(lines), None, now)
    ran = shell.run("usb", site.path, stick)
    assert (ran.code, "No key that signs orders" in ran.err) == (0, True), ran
    assert order_on(stick, "762").expiry is None
    told = shell.bad(errors.SiteError, "usb", site.path, stick, "--group", "5B")
    assert "signs for one laptop at a time" in told


def test_it_says_how_much_room_it_takes_before_it_writes(
    shell: Shell, site: Site, stick: Path
) -> None:
    shell.good("assign", site.path, "--build", "762")
    out = shell.good("usb", site.path, stick)
    assert "bytes are needed" in out.splitlines()[0]
    assert out.splitlines()[1] == "copying build 762"
    assert "build 762 is there already" in shell.good("usb", site.path, stick)


def test_damaged_files_are_written_again(shell: Shell, site: Site, stick: Path) -> None:
    shell.good("assign", site.path, "--build", "762")
    shell.good("usb", site.path, stick)
    build = stick / "builds/762"
    (build / "pack").write_bytes(b"")
    (build / "contents").unlink()
    shell.good("usb", site.path, stick)
    for name in ("pack", "contents"):
        assert (build / name).read_bytes() == (site.builds / "762" / name).read_bytes()


@pytest.mark.parametrize("name", ["builds", "builds/762", "lease.sig", "security"])
def test_no_link_leads_astray(
    shell: Shell, site: Site, stick: Path, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (stick / name).parent.mkdir(exist_ok=True)
    (stick / name).symlink_to(victim)
    shell.good("assign", site.path, "--build", "762")
    ran = shell.run("usb", site.path, stick, "--leases", "9")
    assert list(victim.iterdir()) == []
    assert ran.code == (0 if name == "lease.sig" else errors.StickFailed.exit_code)


# --- home -----------------------------------------------------------------------------


def leave(
    stick: Path, serial: str = SERIAL, *, time: int = NOW - 100, **said: Json
) -> Path:
    """Leave a report, as a laptop does."""
    report: dict[str, Json] = {"free": 500, "time": format_time(time), **said}
    query = Query(serial, "1", build=BuildId("760"), report=report)
    path = stick / f"reports/{serial}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(query.encode())
    return path


def test_the_page_shows_one(shell: Shell, site: Site, stick: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/sticks.md").read_text()
    (text,) = re.findall(r"^serialnum=.*$", page, re.MULTILINE)
    path = leave(stick)
    path.write_text(text)
    reports = Reports(site.reports)
    clock = HandClock(parse_time("20270601T000000Z"))
    found = bring_home(site, reports, stick, clock)
    state = reports.state(SERIAL)
    reports.close()
    assert (list(found.taken), found.refused) == ([SERIAL], ())
    assert state is not None
    assert (state.build, state.tried, state.code) == ("760", "762", 0)
    assert state.asked == parse_time("20270115T080000Z")


def test_reports_come_home(shell: Shell, site: Site, stick: Path) -> None:
    leave(stick, build="762", code=0, result="build 762 is installed and boots next")
    leave(stick, EVA.serial, build="762", code=33, result="not enough space")
    leave(stick, "SHC00000001")
    ran = shell.run("reports", "import", site.path, stick)
    assert ran.out.splitlines()[0] == "Reports: 3 new, 0 known already, 0 refused."
    assert "Not in laptops.csv: 1 of the new, such as SHC00000001." in ran.err
    out = shell.good("reports", "import", site.path, stick / "reports")
    assert out.splitlines()[0] == "Reports: 0 new, 3 known already, 0 refused."
    facts = json.loads(shell.good("laptops", "show", site.path, SERIAL, "--json"))
    assert facts["last_address"] == "stick"
    assert facts["last_asked"] == format_time(NOW - 100)
    assert "installed and boots next" in facts["last_report"]
    found = json.loads(shell.good("status", site.path, "--json"))
    failing = found["concerns"]["failing"]
    assert [row["serial"] for row in failing["first"]] == [EVA.serial]
    assert [row["serial"] for row in found["unlisted"]] == ["SHC00000001"]


def test_what_is_newer_stays(shell: Shell, site: Site, stick: Path) -> None:
    path = leave(stick, build="762", code=33)
    before = path.read_bytes()
    shell.good("reports", "import", site.path, stick)
    leave(stick, time=NOW - 50, build="762", code=0)
    assert "1 new" in shell.good("reports", "import", site.path, stick)
    path.write_bytes(before)
    assert "1 known" in shell.good("reports", "import", site.path, stick)
    reports = Reports(site.reports)
    state = reports.state(SERIAL)
    reports.close()
    assert state is not None
    assert (state.code, state.asked, state.polls) == (0, NOW - 50, 2)


def test_a_time_that_cannot_be_overwrites_nothing(
    shell: Shell, site: Site, stick: Path
) -> None:
    leave(stick, time=NOW + 900 * DAY)
    assert "1 new" in shell.good("reports", "import", site.path, stick)
    facts = json.loads(shell.good("laptops", "show", site.path, SERIAL, "--json"))
    assert facts["last_asked"] <= format_time(SystemClock().now())
    leave(stick, time=NOW + 901 * DAY, build="762", code=33)
    assert "1 known" in shell.good("reports", "import", site.path, stick)


def test_failures_on_sticks_halt_a_rollout(
    shell: Shell, site: Site, stick: Path
) -> None:
    laptops = [Laptop(f"SHC{number:08}") for number in range(6)]
    list_laptops(site, *laptops)
    shell.good("assign", site.path, "--build", "762")
    for laptop in laptops:
        leave(stick, laptop.serial, time=SystemClock().now() + 9, build="762", code=69)
    shell.good("reports", "import", site.path, stick)
    assert "halted by the server: 6 of 6" in shell.good("status", site.path)


BAD: list[tuple[str, bytes, str]] = [
    ("SHC1.txt", b"", "'SHC1.txt': query refused: "),
    ("SHC1.txt", b"\xff\x00", "it is not a form"),
    ("SHC1.txt", b"a" * 9000, "larger than 8192 bytes"),
    ("SHC1.txt", b"serialnum=SHC2&version=1&nonce=1", "it is of laptop SHC2"),
    ("SHC1.txt", b"serialnum=SHC1&version=1&nonce=1", "does not tell its time"),
    ("SHC1.txt", b"serialnum=..%2Fx&version=1&nonce=1", "serial number refused"),
    ("\x1b[31m.txt", b"serialnum=SHC1&version=1&nonce=1", r"'\x1b[31m.txt'"),
    (
        "SHC1.txt",
        b"serialnum=SHC1&version=1&nonce=1&report=%7B%22time%22%3A%22soon%22%7D",
        "time refused",
    ),
]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    BAD,
    ids=["empty", "bytes", "large", "another's", "timeless", "path", "name", "soon"],
)
def test_files_that_are_no_reports(
    shell: Shell, site: Site, stick: Path, name: str, data: bytes, reason: str
) -> None:
    leave(stick)
    (stick / "reports" / name).write_bytes(data)
    ran = shell.run("reports", "import", site.path, stick)
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "Reports: 1 new, 0 known already, 1 refused."
    assert reason in ran.err
    assert "\x1b" not in ran.err


def test_links_and_directories_are_no_reports(
    shell: Shell, site: Site, stick: Path, tmp_path: Path
) -> None:
    real = leave(stick)
    (tmp_path / "elsewhere.txt").write_bytes(real.read_bytes())
    real.unlink()
    real.symlink_to(tmp_path / "elsewhere.txt")
    (stick / "reports/dir.txt").mkdir()
    (stick / "reports/.SHC1.txt.new").touch()
    out = shell.good("reports", "import", site.path, stick)
    assert out.splitlines()[0] == "Reports: 0 new, 0 known already, 2 refused."


def test_a_stick_without_reports(
    shell: Shell, site: Site, stick: Path, tmp_path: Path
) -> None:
    told = shell.bad(errors.SiteError, "reports", "import", site.path, stick)
    assert "no laptop has left a report there" in told
    leave(tmp_path / "stick")
    shutil.move(stick / "reports", tmp_path / "elsewhere")
    (stick / "reports").symlink_to(tmp_path / "elsewhere")
    shell.bad(errors.SiteError, "reports", "import", site.path, stick)


def test_a_flood_of_files_is_refused(
    shell: Shell, site: Site, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("olpc_update_query.server.stick_reports.MOST", 5)
    for number in range(6):
        leave(stick, f"SHC{number}")
    told = shell.bad(errors.SiteError, "reports", "import", site.path, stick)
    assert "more than 5 files" in told


def test_unknown_laptops_of_a_site_that_ignores_them(
    shell: Shell, site: Site, stick: Path
) -> None:
    settle(site, 'unknown = "ignore"')
    leave(stick, "SHC00000001")
    ran = shell.run("reports", "import", site.path, stick)
    assert "laptop SHC00000001 is not listed" in ran.err
    assert "0 new" in ran.out
