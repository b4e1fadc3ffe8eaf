import os
import subprocess
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import (
    BadImport,
    Busy,
    DamagedSite,
    DiskFailed,
    MissingKey,
    NoSite,
    NoSpace,
    SiteExists,
    UnknownBuild,
    UnsafeKey,
)
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server.check import Weight, check_site
from olpc_update_query.server.keys import LoadedKey, load_key, make_keys, public_path
from olpc_update_query.server.laptops import (
    Laptop,
    import_rows,
    parse_laptops,
    read_rows,
    write_laptops,
)
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.newsite import SITE, create_site
from olpc_update_query.server.rollout import DEFAULT, Assignment, Kind, Scope
from olpc_update_query.server.rollout_text import EMPTY
from olpc_update_query.server.site import (
    Audience,
    Settings,
    Site,
    Unknown,
    parse_settings,
)
from olpc_update_query.system.files import hold_lock, replace_file
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role
from tests.keys import SERIAL, UUID, signer
from tests.server.sites import (
    LAPTOP,
    NOW,
    HandClock,
    add_build,
    assign,
    list_laptops,
    make_site,
)

BUILD = parse_build_id("762")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# --- a new site -------------------------------------------------------------------


def test_a_new_site_has_everything_and_hides_its_keys(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        create_site(tmp_path / "new/site", 'Escuela "Ñandú" \\ 1')
    finally:
        os.umask(old)
    site = Site(tmp_path / "new/site", HandClock())
    assert site.settings() == Settings('Escuela "Ñandú" \\ 1')
    assert site.laptops() == {}
    assert not site.rollout().assignments
    assert not site.rollout().paused
    assert mode(site.keys) == 0o700
    assert site.build_names() == []
    assert "keys/*.private" in (site.path / ".gitignore").read_text().split()


def test_a_site_is_never_made_over_another(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    before = (site.path / "site.toml").read_bytes()
    with pytest.raises(SiteExists):
        create_site(site.path, "another")
    assert (site.path / "site.toml").read_bytes() == before


def test_what_a_torn_init_left_is_kept(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    laptops = tmp_path / "site/laptops.csv"
    laptops.write_text("serial\nSHC12900018\n")
    create_site(tmp_path / "site", "x")
    assert laptops.read_text() == "serial\nSHC12900018\n"


def test_a_directory_without_site_toml_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(NoSite, match=str(tmp_path)):
        Site(tmp_path, HandClock())


# --- site.toml --------------------------------------------------------------------


def test_every_setting_can_be_set() -> None:
    text = """
        name = "Escuela"
        public_url = "http://schoolserver:8080"
        rsync_url = "rsync://schoolserver/"
        mirrors = ["https://m.example/builds/", "file:///media/builds"]
        interval = 3600
        unknown = "list"
        message = "Hola"
        status_page = "nobody"
        hashcash_bits = 12
        behind_proxies = 1
        reports_url = "postgresql://x"
        timezone = "America/Asuncion"
        [lease]
        days = 90
        shorten = true
        [lease.group."5B"]
        days = 0
        [lease.stream.testing]
        shorten = false
    """
    found = parse_settings(text.encode())
    assert found == Settings(
        name="Escuela",
        public_url="http://schoolserver:8080",
        rsync_url="rsync://schoolserver/",
        mirrors=("https://m.example/builds/", "file:///media/builds"),
        interval=3600,
        unknown=Unknown.LIST,
        message="Hola",
        timezone="America/Asuncion",
        lease_days=90,
        shorten=True,
        lease_rules={
            Scope(Kind.GROUP, "5B"): LeasePolicy(0, shorten=True),
            Scope(Kind.STREAM, "testing"): LeasePolicy(90, shorten=False),
        },
        status_page=Audience.NOBODY,
        hashcash_bits=12,
        behind_proxies=1,
        reports_url="postgresql://x",
    )
    plain = Settings("Escuela")
    for each in fields(Settings)[1:]:
        assert getattr(found, each.name) != getattr(plain, each.name), each.name


def test_every_setting_is_shown_in_a_new_file() -> None:
    lines = SITE.format(name='"x"', timezone='"UTC"').replace("# ", "").splitlines()
    shown = {line.split(" = ")[0] for line in lines if " = " in line}
    known = {each.name for each in fields(Settings)}
    assert shown == known - {"lease_days", "lease_rules", "behind_proxies"} | {"days"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("", "name: is missing", id="empty"),
        pytest.param('name = ""', "name: is missing", id="empty name"),
        pytest.param('name = "a\\nb"', "name: is not one line", id="two lines"),
        pytest.param("name = 3", "name: is not a text", id="wrong type"),
        pytest.param('name = "x"\nnmae = 1', "nmae: is not a key", id="unknown key"),
        pytest.param(
            'name = "x"\n[lease]\nday = 1', "lease.day: is not a key", id="in"
        ),
        pytest.param('name = "x"\nlease = 3', "lease: is not a table", id="no table"),
        pytest.param('name = "x"\ninterval = 899', "899 is not 900", id="too often"),
        pytest.param('name = "x"\ninterval = 2592001', "interval", id="too rarely"),
        pytest.param('name = "x"\ninterval = true', "a whole number", id="flag"),
        pytest.param('name = "x"\ninterval = "1d"', "a whole number", id="text"),
        pytest.param('name = "x"\nunknown = "no"', "none of", id="unknown choice"),
        pytest.param('name = "x"\n[lease]\ndays = -1', "-1 is not 0", id="days"),
        pytest.param('name = "x"\n[lease]\nshorten = 1', "a flag", id="no flag"),
        pytest.param(
            'name = "x"\npublic_url = "rsync://h/"', "no http", id="wrong scheme"
        ),
        pytest.param(
            'name = "x"\npublic_url = "http://u:p@h/"', "password", id="credentials"
        ),
        pytest.param('name = "x"\nrsync_url = "http://h/"', "no rsync", id="no rsync"),
        pytest.param('name = "x"\nmirrors = "http://h/"', "a list", id="no list"),
        pytest.param('name = "x"\nmirrors = ["ftp://h/"]', "mirrors", id="bad mirror"),
        pytest.param('name = "x"\nname = "y"', "line 2", id="twice"),
        pytest.param('name = "x', "line 1", id="not closed"),
    ],
)
def test_a_mistake_in_site_toml_is_named(text: str, told: str) -> None:
    with pytest.raises(DamagedSite) as caught:
        parse_settings(text.encode())
    assert told in str(caught.value)
    assert str(caught.value).startswith("site.toml")


def test_site_toml_must_be_utf8() -> None:
    with pytest.raises(DamagedSite, match=r"line 2: is not UTF-8"):
        parse_settings('# x\nname = "Ñ"'.encode("latin-1"))


# --- laptops.csv ------------------------------------------------------------------

FULL = f"serial,uuid,group,stream,name,stolen\n{SERIAL},{UUID},5B,testing,Ana,stolen\n"
FULL_LAPTOP = Laptop(SERIAL, UUID, "5B", "testing", "Ana", stolen=True)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(FULL, [FULL_LAPTOP], id="all columns"),
        pytest.param("\ufeff" + FULL, [FULL_LAPTOP], id="byte-order mark"),
        pytest.param(FULL.replace(",", ";"), [FULL_LAPTOP], id="semicolons"),
        pytest.param(FULL.replace(",", "\t"), [FULL_LAPTOP], id="tabs"),
        pytest.param(FULL.replace("\n", "\r\n"), [FULL_LAPTOP], id="from Windows"),
        pytest.param(FULL.replace(",", " , "), [FULL_LAPTOP], id="blanks"),
        pytest.param(FULL.replace("serial,", "Serial,"), [FULL_LAPTOP], id="capitals"),
        pytest.param(f"serial\n{SERIAL}\n", [Laptop(SERIAL)], id="serial only"),
        pytest.param(f"serial\n\n{SERIAL}\n\n", [Laptop(SERIAL)], id="empty lines"),
        pytest.param(
            f"uuid,serial\n{UUID},{SERIAL}", [Laptop(SERIAL, UUID)], id="other order"
        ),
        pytest.param(
            f'serial,name\n{SERIAL},"Quispe, Ana"\n',
            [Laptop(SERIAL, name="Quispe, Ana")],
            id="quoted comma",
        ),
        pytest.param(
            "serial\nshc1290001f\n", [Laptop("SHC1290001F")], id="XO in lower case"
        ),
        pytest.param("serial\nPF1abcXY\n", [Laptop("PF1abcXY")], id="another maker"),
        pytest.param(
            f"serial,stolen\n{SERIAL},no\n", [Laptop(SERIAL)], id="not stolen"
        ),
        pytest.param(
            f"Serie;uuid;Grupo;canal;nombre;robado\r\n{SERIAL};{UUID};5B;testing;Ana;sí\r\n",
            [FULL_LAPTOP],
            id="Spanish",
        ),
        pytest.param(f"serial;;;\n{SERIAL};;;\n", [Laptop(SERIAL)], id="empty columns"),
        pytest.param("serial\n", [], id="nobody"),
    ],
)
def test_laptops_are_read(data: str, found: list[Laptop]) -> None:
    assert list(parse_laptops(data.encode()).values()) == found


@pytest.mark.parametrize(
    ("data", "where", "told"),
    [
        pytest.param("", "line 1, column 1", "column serial", id="empty"),
        pytest.param("uuid\nx\n", "line 1, column 1", "column serial", id="no serial"),
        pytest.param(
            "serial,uid\nx\n", "line 1, column 2", "'uid' is no", id="unknown column"
        ),
        pytest.param(
            "serial,uuid,serial\n", "line 1, column 3", "twice", id="column twice"
        ),
        pytest.param(
            f"serial,uuid\n{SERIAL},0000\n",
            "line 2, column 2",
            "uuid: '0000' is not",
            id="bad uuid",
        ),
        pytest.param("serial\nA B\n", "line 2, column 1", "serial", id="bad serial"),
        pytest.param(
            f"name,serial\nAna,\nEva,{SERIAL}\n",
            "line 2, column 2",
            "missing",
            id="no serial number",
        ),
        pytest.param(
            f"serial\n{SERIAL}\n{SERIAL}\n", "line 3, column 1", "twice", id="twice"
        ),
        pytest.param(
            f"serial\n{SERIAL}\n{SERIAL.lower()}\n",
            "line 3, column 1",
            "twice",
            id="twice in other case",
        ),
        pytest.param(
            f"serial\n{SERIAL},x\n", "line 2, column 2", "more cells", id="extra cell"
        ),
        pytest.param(
            f"serial,stolen\n{SERIAL},maybe\n",
            "line 2, column 2",
            "neither stolen nor no",
            id="stolen or not",
        ),
        pytest.param(
            f"serial,stream\n{SERIAL},a b\n", "line 2, column 2", "stream", id="stream"
        ),
        pytest.param(
            f"serial,name\n{SERIAL},{'x' * 65}\n", "line 2, column 2", "64", id="long"
        ),
        pytest.param(
            f'serial,name\n"{SERIAL}"x,Ana\n',
            "line 2, column 1",
            "follows the closing",
            id="bad quotes",
        ),
        pytest.param(
            f'serial,name,group\nA1,"A ""1"", B",C\n{SERIAL},"A, ""B"","Ana\n',
            "line 3, column 2",
            "follows the closing",
            id="bad quotes in the middle",
        ),
        pytest.param(
            f'serial;name\r\n{SERIAL};"Ana\r\nA1;Eva ""\r\n',
            "line 2, column 2",
            "never closed",
            id="open quote",
        ),
        pytest.param(
            f"serial,group,name\n{SERIAL},,{'x' * 200_000}\n",
            "line 2, column 3",
            "not CSV",
            id="an endless cell",
        ),
        pytest.param(
            f"serial,,name\n{SERIAL},,Ana\n",
            "line 1, column 2",
            "'' is no column",
            id="a column without a name",
        ),
        pytest.param(
            f'name,serial\n"A\nB",{SERIAL}\n',
            "line 2, column 1",
            "printable",
            id="two lines in a cell",
        ),
    ],
)
def test_a_mistake_in_a_list_is_named(data: str, where: str, told: str) -> None:
    with pytest.raises(BadImport) as caught:
        read_rows(data.encode(), "list.csv")
    assert f"list.csv, {where}" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(
            f'serial;group;name\r\n{SERIAL};"5;B";Iñaki\r\n'.encode("cp1252"),
            r"line 2, column 3: is not UTF-8; save the sheet as CSV UTF-8",
            id="Excel's plain CSV in Spanish",
        ),
        pytest.param(
            b"PK\x03\x04\n\xff",
            r"line 1, column 1: is a spreadsheet",
            id="a spreadsheet",
        ),
        pytest.param(
            b"\xff\xfes\0e\0\0\xd8", r"line 1, column 1: is not UTF-8", id="half UTF-16"
        ),
    ],
)
def test_a_list_in_another_encoding_says_where(data: bytes, told: str) -> None:
    with pytest.raises(BadImport, match=told):
        read_rows(data, "list.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_list_may_be_utf16(encoding: str) -> None:
    """As Excel saves it under the name of Unicode text."""
    mark = "\ufeff" if encoding.endswith("be") else ""
    text = f"{mark}serial\tname\r\n{SERIAL}\tIñaki\r\n"
    found = read_rows(text.encode(encoding), "list.csv")
    assert found == {SERIAL: {"serial": SERIAL, "name": "Iñaki"}}


def test_an_import_adds_and_changes_and_removes_nobody() -> None:
    known = {
        "A1": Laptop("A1", UUID, "5B", name="Ana", stolen=True),
        "B1": Laptop("B1", group="5B"),
        "C1": Laptop("C1"),
    }
    text = f"serial,uuid,group,name,stolen\nA1,,6A,,\nB1,,5B,,\nD1,{UUID},,Eva,\n"
    found = import_rows(known, read_rows(text.encode(), "x"))
    assert (found.added, found.changed) == (1, 1)
    assert found.laptops == {
        "A1": Laptop("A1", UUID, "6A", name="Ana", stolen=True),
        "B1": known["B1"],
        "C1": known["C1"],
        "D1": Laptop("D1", UUID, name="Eva"),
    }
    back = import_rows(found.laptops, read_rows(b"serial,stolen\nA1,no\n", "x"))
    assert not back.laptops["A1"].stolen


words = st.text(st.characters(blacklist_categories=["C", "Z"]), min_size=1, max_size=9)
serials = st.from_regex(r"[A-Z0-9][A-Za-z0-9._+-]{0,12}", fullmatch=True)
someone = st.builds(
    Laptop,
    serials,
    uuid=st.none() | st.uuids().map(str),
    group=st.none() | words,
    stream=st.none() | st.just("testing"),
    name=st.none() | words,
    stolen=st.booleans(),
)


@given(st.lists(someone))
def test_what_is_written_is_read(laptops: list[Laptop]) -> None:
    known = {laptop.serial: laptop for laptop in laptops}
    # an XO's serial number has one spelling
    known = {key: one for key, one in known.items() if len(key) != 11}
    assert parse_laptops(write_laptops(known)) == known


# --- files that change ------------------------------------------------------------


def test_files_are_read_again_when_they_are_replaced(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert site.laptops() == {}
    list_laptops(site, LAPTOP)
    assert site.laptops() == {SERIAL: LAPTOP}


@pytest.mark.parametrize("name", ["laptops.csv", "rollout.toml"])
def test_a_file_that_is_lost_does_not_pass_for_empty(tmp_path: Path, name: str) -> None:
    """Else no laptop would get a lease, or `gc` would delete what is assigned."""
    site = make_site(tmp_path)
    list_laptops(site, LAPTOP)
    read = site.laptops if name == "laptops.csv" else site.rollout
    before = read()
    (site.path / name).unlink()
    assert read() == before
    assert site.problems() == [f"{name}: is missing"]
    fresh = Site(site.path, site._clock)
    (lost,) = check_site(fresh, NOW)
    assert (lost.weight, lost.where, lost.text) == (Weight.ERROR, name, "is missing")
    command = lost.mend.split("`")[1].replace("SITE", str(site.path))
    subprocess.run(command, shell=True, check=True)
    assert all(one.text != "is missing" for one in check_site(fresh, NOW))
    assert not fresh.rollout().assignments


def test_files_are_not_read_again_for_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert site.rollout() is site.rollout()
    assert site.view(NOW) is site.view(NOW)


def test_a_damaged_file_is_reported_and_the_last_good_one_used(
    tmp_path: Path,
) -> None:
    site = make_site(tmp_path)
    list_laptops(site, LAPTOP)
    assert site.laptops()
    replace_file(site.path / "laptops.csv", b"serial\nno serial\n")
    assert site.laptops() == {SERIAL: LAPTOP}
    (problem,) = site.problems()
    assert "laptops.csv, line 2, column 1" in problem
    list_laptops(site)
    assert site.laptops() == {}
    assert site.problems() == []


def test_a_file_that_was_never_good_is_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    replace_file(site.path / "rollout.toml", b"paused = 3\n")
    with pytest.raises(DamagedSite, match=r"rollout.toml, paused"):
        site.rollout()


def test_a_view_notices_a_replaced_file_at_once(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert site.view(NOW).laptops == {}
    list_laptops(site, LAPTOP)
    assert site.view(NOW).laptops == {SERIAL: LAPTOP}


def test_a_view_notices_a_file_written_in_place_a_second_later(
    tmp_path: Path,
) -> None:
    site = make_site(tmp_path)
    assert not site.view(NOW).rollout.paused
    with open(site.path / "rollout.toml", "r+") as file:
        file.write("paused = true\n")
        file.truncate()
    assert site.view(NOW + 1).rollout.paused


def test_a_view_notices_a_new_build(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert site.view(NOW).builds is site.view(NOW).builds
    before = site.view(NOW)
    add_build(site, "762")
    assert site.view(NOW) is not before


# --- changing it ------------------------------------------------------------------


def test_changes_are_logged(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with site.change("maria", "first"):
        pass
    with pytest.raises(NoSite), site.change("maria", "that fails"):
        raise NoSite("x", "is\nno site")
    with site.change("jose", "second\n20270115T080000Z maria: a forged line"):
        pass
    with pytest.raises(KeyboardInterrupt), site.recorded("jose", "third"):
        raise KeyboardInterrupt
    with pytest.raises(NoSpace), site.change("jose", "fourth"):
        raise OSError(28, "No space left on device")
    assert (site.path / "changes.log").read_text().splitlines() == [
        "20270115T080000Z maria: first",
        "20270115T080000Z maria: that fails",
        "20270115T080000Z maria: not done: that fails: x: is no site",
        "20270115T080000Z jose: second 20270115T080000Z maria: a forged line",
        "20270115T080000Z jose: third",
        "20270115T080000Z jose: not done: third: interrupted",
        "20270115T080000Z jose: fourth",
        "20270115T080000Z jose: not done: fourth: No space left on device",
    ]


def test_a_change_is_recorded_before_it_is_made(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with site.change("maria", "first"):
        assert (site.path / "changes.log").read_text().endswith("maria: first\n")


def test_nothing_changes_that_cannot_be_recorded(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (site.path / "changes.log").symlink_to("/dev/null")
    with pytest.raises(DiskFailed, match=r"changes\.log"), site.change("maria", "x"):
        pytest.fail("changed without a record")


def test_a_line_that_a_power_cut_tore_does_not_swallow_the_next(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (site.path / "changes.log").write_text("20270115T080000Z mar")
    with site.change("maria", "x"):
        pass
    lines = (site.path / "changes.log").read_text().splitlines()
    assert lines == ["20270115T080000Z mar", "20270115T080000Z maria: x"]


def test_a_change_waits_ten_seconds_for_another(tmp_path: Path) -> None:
    clock = HandClock()
    site = make_site(tmp_path, clock=clock)
    held = hold_lock(site.path / ".lock", "import 3 laptops")
    busy = pytest.raises(Busy, match="import 3 laptops")
    with held, busy, site.change("maria", "x"):
        pytest.fail("two at a time")
    assert 9.9 < sum(clock.slept) < 11
    assert not (site.path / "changes.log").exists()


def test_a_change_goes_on_when_the_other_has_ended(tmp_path: Path) -> None:
    held = ExitStack()

    class Releasing(HandClock):
        def sleep(self, seconds: float) -> None:
            held.close()

    site = make_site(tmp_path, clock=Releasing())
    held.enter_context(hold_lock(site.path / ".lock", "other"))
    with site.change("maria", "x"):
        pass
    assert (site.path / "changes.log").exists()


def test_changes_made_at_a_time_are_all_kept(tmp_path: Path) -> None:
    path = make_site(tmp_path).path

    def add(number: int) -> None:
        site = Site(path, SystemClock())
        with site.change("x", f"add {number}"):
            name = f"SN{number}"
            site.save_laptops({**site.laptops(), name: Laptop(name)})

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Site(path, HandClock()).laptops()) == 8


# --- builds -----------------------------------------------------------------------


def test_a_site_may_lack_what_it_does_not_need(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert site.settings().name
    (site.path / "builds").rmdir()
    (site.path / "rollout.toml").unlink()
    (site.path / "site.toml").unlink()
    assert site.build_names() == []
    assert site.rollout_text() == EMPTY
    assert site.settings().name == "Escuela 1"
    assert "site.toml: is gone" in site.problems()


def test_only_published_builds_are_found(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    manifest = add_build(site, "762")
    add_build(site, "8.2-1")
    for name in (".tmp-763", "a b", "unfinished"):
        (site.builds / name).mkdir()
    (site.builds / ".tmp-763/contents").write_bytes(b"x")
    (site.builds / "a b/contents").write_bytes(b"x")
    assert site.build_names() == ["762", "8.2-1"]
    found = site.find_build(BUILD)
    assert found is not None
    assert found.contents == sha256(manifest).hexdigest()
    assert found.size == len(manifest)
    assert found.has_root
    assert site.find_build(parse_build_id("763")) is None
    with pytest.raises(UnknownBuild) as caught:
        site.need_build(parse_build_id("763"))
    assert "762, 8.2-1" in caught.value.hint()


def test_a_build_that_is_published_anew_has_another_digest(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    first = site.need_build(BUILD)
    replace_file(first.path / "contents", b"other")
    assert site.need_build(BUILD).contents == sha256(b"other").hexdigest()
    (first.path / "contents").unlink()
    assert site.find_build(BUILD) is None


# --- keys -------------------------------------------------------------------------


def test_keys_are_made_once_and_are_ours_alone(tmp_path: Path) -> None:
    create_site(tmp_path / "site", "x")
    site = Site(tmp_path / "site", HandClock())
    made = make_keys(site)
    assert set(made) == set(Role)
    for role in Role:
        assert mode(site.keys / f"{role}.private") == 0o600
        assert load_key(site, role).public == made[role].public
        assert (site.keys / f"{role}.public").read_bytes() == made[role].public
    assert made[Role.OATS].public != made[Role.LEASE].public
    assert make_keys(site) == {}
    assert load_key(site, Role.OATS).public == made[Role.OATS].public


def test_a_lost_public_key_is_made_again(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (site.keys / "oats.public").unlink()
    assert make_keys(site) == {}
    assert (site.keys / "oats.public").read_bytes() == signer("oats").public


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o601])
def test_a_private_key_that_others_can_read_is_refused(
    tmp_path: Path, bits: int
) -> None:
    site = make_site(tmp_path)
    (site.keys / "oats.private").chmod(bits)
    with pytest.raises(UnsafeKey, match=f"{bits:04o}"):
        load_key(site, Role.OATS)


@pytest.mark.parametrize("bits", [0o720, 0o702, 0o1777])
def test_a_private_key_that_others_can_replace_is_refused(
    tmp_path: Path, bits: int
) -> None:
    site = make_site(tmp_path)
    site.keys.chmod(bits)
    with pytest.raises(UnsafeKey, match="keys"):
        load_key(site, Role.OATS)


def test_no_key_and_a_wrong_key_are_told_apart(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (site.keys / "oats.private").write_bytes(b"nonsense")
    (site.keys / "lease.private").unlink()
    with pytest.raises(UnsafeKey, match="no private key"):
        load_key(site, Role.OATS)
    with pytest.raises(MissingKey) as caught:
        load_key(site, Role.LEASE)
    assert "from a backup" in caught.value.hint(), "laptops trust the one that is gone"
    (site.keys / "lease.public").unlink()
    with pytest.raises(MissingKey) as caught:
        load_key(site, Role.LEASE)
    assert "keygen" in caught.value.hint()
    assert "backup" not in caught.value.hint()


def test_a_key_that_is_lost_is_not_replaced_unasked(tmp_path: Path) -> None:
    """The new one would not belong to the public key that laptops have."""
    site = make_site(tmp_path)
    for name in ("oats.private", "oats.public", "lease.private"):
        (site.keys / name).unlink()
    with pytest.raises(MissingKey, match=r"lease\.private"):
        make_keys(site)
    assert [path.name for path in site.keys.iterdir()] == ["lease.public"]
    (site.keys / "lease.public").unlink()
    made = make_keys(site)
    for role in Role:
        assert public_path(site, role).read_bytes() == made[role].public


def test_a_loaded_key_follows_its_file(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    key = LoadedKey(site, Role.OATS)
    assert key.get(NOW) is key.get(NOW)
    replace_file(
        site.keys / "oats.private", signer("lease").private_bytes(), mode=0o600
    )
    assert key.get(NOW + 1).signer.public == signer("lease").public
    (site.keys / "oats.private").unlink()
    with pytest.raises(MissingKey):
        key.get(NOW + 2)


# --- check ------------------------------------------------------------------------


def findings(site: Site, now: int = NOW) -> Mapping[str, Weight]:
    return {
        f"{finding.where}: {finding.text}": finding.weight
        for finding in check_site(site, now)
    }


def test_a_good_site_has_no_findings(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    list_laptops(site, LAPTOP)
    assign(site, DEFAULT, Assignment(BUILD))
    assign(site, Scope(Kind.GROUP, "5B"), Assignment(BUILD))
    assert findings(site) == {}


def test_everything_wrong_is_found_at_once(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    add_build(site, "763")
    (site.builds / "763").rename(site.builds / "764")
    (site.builds / "765").mkdir()
    (site.builds / "765/contents").write_bytes(b"nonsense\n")
    list_laptops(site, LAPTOP._replace(uuid=None))
    assign(site, DEFAULT, Assignment(BUILD, 10, parse_build_id("700")))
    assign(site, Scope(Kind.GROUP, "6A"), Assignment(BUILD))
    assign(site, Scope(Kind.SERIAL, "SHC1"), Assignment(BUILD))
    (site.keys / "oats.public").write_bytes(signer("lease").public)
    (site.keys / "lease.private").chmod(0o644)
    found = findings(site, now=946684800)
    told = "\n".join(found)
    for text in (
        "clock: it shows 20000101T000000Z",
        "oats.public: does not belong to oats.private",
        "lease.private: its mode is 0644",
        "build 764: its manifest says that it is build 763",
        "build 765: contents: ",
        "1 laptops have no uuid",
        "build 700 is assigned but not published",
        "no laptop is in group 6A",
        "serial SHC1 is not in laptops.csv",
    ):
        assert text in told
    assert list(found.values()).count(Weight.WARNING) == 3


def test_less_usual_findings(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    (site.builds / "762/root").rename(site.builds / "762/elsewhere")
    (site.keys / "oats.public").unlink()
    told = "\n".join(findings(site))
    for text in (
        "oats.public: is missing",
        "build 762: it has neither pack nor root/",
        "no laptop is listed",
        "nothing is assigned",
    ):
        assert text in told


def test_check_goes_on_after_a_damaged_file(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    replace_file(site.path / "rollout.toml", b"[default]\n")
    replace_file(site.path / "laptops.csv", b"x\n")
    (site.keys / "oats.private").unlink()
    told = "\n".join(findings(site))
    for text in (
        "rollout.toml, default.build: is missing",
        "laptops.csv, line 1",
        "no private key for oats",
    ):
        assert text in told
