"""The pages as a browser gets them, with and without a login."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from markupsafe import escape
from werkzeug.test import TestResponse

from olpc_update_query.model.canonical import Json
from olpc_update_query.model.wire import parse_build_id, parse_time
from olpc_update_query.server.app import create_app
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.listing import PAGE
from olpc_update_query.server.login import (
    LASTS,
    PERIOD,
    TRIES,
    TRIES_OF_ALL,
    set_password,
)
from olpc_update_query.server.records import Event, Poll
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Assignment, Kind, Scope
from olpc_update_query.server.site import Site
from tests.keys import SERIAL, UUID
from tests.server.sites import (
    LAPTOP,
    NOW,
    OTHER,
    HandClock,
    add_build,
    assign,
    list_laptops,
    make_site,
    settle,
)

PASSWORD = "corréct horse"


class Browser:
    """A site, its server, and somebody who looks at it."""

    def __init__(self, path: Path) -> None:
        self.clock = HandClock()
        self.site = make_site(path, clock=self.clock)
        add_build(self.site, "762")
        list_laptops(self.site, LAPTOP, Laptop(OTHER, group="6A", stolen=True))
        assign(self.site, DEFAULT, Assignment(parse_build_id("762"), changed=NOW))
        set_password(self.site.keys, PASSWORD)
        app = create_app(self.site.path, self.clock)
        self.reports: Reports = app.extensions["reports"]
        self.client: FlaskClient = app.test_client()

    def log_in(self, password: str = PASSWORD) -> TestResponse:
        return self.client.post("/login", data={"password": password})

    def secret(self) -> str:
        found = re.search(r'name="secret" value="([^"]+)"', self.client.get("/").text)
        assert found is not None
        return found[1]

    def change(self, path: str, **fields: str) -> TestResponse:
        return self.client.post(path, data={"secret": self.secret(), **fields})


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    found = Browser(tmp_path)
    yield found
    found.reports.close()


# --- looking ------------------------------------------------------------------


def test_what_the_first_page_tells(browser: Browser) -> None:
    report: dict[str, Json] = {"build": "762", "code": 33, "result": "<i>no space"}
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", build="760", report=report))
    page = browser.client.get("/")
    assert page.status_code == 200
    for told in (
        "2 laptops are listed",
        "1 are marked stolen",
        "Update failed: 1",
        "&lt;i&gt;no space",
        "0 of 2 run it, 1 are told to, 1 failed",
        f'href="/laptops/{SERIAL}"',
        "Log in",
    ):
        assert told in page.text
    assert UUID not in page.text
    assert "<script" not in page.text
    assert "style=" not in page.text
    assert "form-action 'self'" in page.headers["Content-Security-Policy"]


def test_it_speaks_spanish(browser: Browser) -> None:
    page = browser.client.get("/", headers={"Accept-Language": "es-PE,es;q=0.9"})
    assert '<html lang="es">' in page.text
    assert "2 equipos en la lista" in page.text
    assert "Qué versión para quién" in page.text
    assert "todos los demás</strong>: versión 762" in page.text
    page = browser.client.get(f"/laptops/{SERIAL}", headers={"Accept-Language": "es"})
    assert '<th scope="row">debe usar</th><td>762</td>' in page.text
    page = browser.client.get("/", headers={"Accept-Language": "fr"})
    assert '<html lang="en">' in page.text


def test_a_laptop_and_a_search(browser: Browser) -> None:
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", build="760"))
    browser.reports.record(Poll("STRANGER", NOW, "10.0.0.8", listed=False))
    page = browser.client.get("/laptops?q=" + SERIAL[3:].lower())
    assert (SERIAL in page.text, "STRANGER" in page.text) == (True, False)
    for word in ("%25%3Cb%3E", "_", "STRANGER2"):
        assert "No laptop found" in browser.client.get(f"/laptops?q={word}").text
    for word in ("aNA", "5b"):
        page = browser.client.get(f"/laptops?q={word}")
        assert (SERIAL in page.text, OTHER in page.text) == (True, False)
    page = browser.client.get(f"/laptops/{SERIAL}")
    assert "assigned to every other laptop" in page.text
    assert "10.0.0.7" in page.text
    assert '<th scope="row">last asked</th><td>2027-01-15 08:00</td>' in page.text
    assert UUID not in page.text
    assert browser.client.get("/laptops/STRANGER").status_code == 200
    assert browser.client.get(f"/laptops/{OTHER}").status_code == 200
    assert browser.client.get("/laptops/NOBODY").status_code == 404
    assert browser.client.get("/laptops/a%20b").status_code == 400


def test_a_lease_that_was_signed_is_told_as_other_times_are(browser: Browser) -> None:
    for detail in ("20270131T060000Z", "by hand"):
        browser.reports.record(Event(NOW, SERIAL, "lease", detail))
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", build="760"))
    wanted = {"Accept-Language": "es"}
    page = browser.client.get(f"/laptops/{SERIAL}", headers=wanted).text
    assert "<td>concesión</td><td>2027-01-31 06:00</td>" in page
    assert "<td>concesión</td><td>by hand</td>" in page


def test_the_table_holds_no_formula(browser: Browser) -> None:
    report: dict[str, Json] = {"result": '=HYPERLINK("x")'}
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", report=report))
    lines = browser.client.get("/laptops.csv").text.splitlines()
    assert lines[0].startswith("serial,name,group,listed")
    assert lines[1].startswith(f"{SERIAL},Ana,5B,yes,2027-01-15 08:00,1,10.0.0.7,")
    assert lines[1].endswith(',"\'=HYPERLINK(""x"")"')
    # a laptop that has never asked, and is stolen
    assert lines[2:] == [f"{OTHER},,6A,yes,,0,,,,,yes,"]


def test_the_table_is_for_a_spreadsheet_in_spanish(browser: Browser) -> None:
    list_laptops(browser.site, LAPTOP._replace(name="Ñandú; Ana"))
    report: dict[str, Json] = {"build": "762", "code": 33, "result": "no space"}
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", report=report))
    reply = browser.client.get("/laptops.csv", headers={"Accept-Language": "es-UY"})
    lines = reply.data.decode().splitlines()
    assert lines[0].startswith("\ufeffserie;nombre;grupo;en la lista;")
    assert lines[1].startswith(f'{SERIAL};"Ñandú; Ana";5B;sí;2027-01-15 08:00;1;')
    assert lines[1].endswith(";no cabe: falta espacio en el equipo")


def test_nothing_that_a_terminal_or_a_page_obeys_is_shown(browser: Browser) -> None:
    evil = "\x1b[31mred\x07 \u202e \x9b5n\0"
    report: dict[str, Json] = {"build": "762", "code": 33, "result": evil}
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", report=report))
    for path in ("/", "/laptops", "/laptops.csv", f"/laptops/{SERIAL}", "/status.json"):
        text = browser.client.get(path).text
        assert "[31mred" in text, path
        assert [mark for mark in text if mark < " " and mark not in "\r\n"] == []
        for mark in ("\u202e", "\x9b", "\\u001b"):
            assert mark not in text, path


def test_who_has_never_asked_is_found(browser: Browser) -> None:
    """A laptop that is listed is there, though nothing is known of it."""
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", build="760"))
    assert "<b>1</b> Has never asked" in browser.client.get("/").text
    for query in (f"q={OTHER}", "among=never", "q=6a", ""):
        page = browser.client.get(f"/laptops?{query}")
        assert OTHER in page.text, query
        assert "never</td>" in page.text
        assert (SERIAL in page.text) is (query == "")
    assert "It has never asked." in browser.client.get(f"/laptops/{OTHER}").text


def test_the_first_page_is_short_and_leads_to_all(browser: Browser) -> None:
    """Of many laptops it shows a few of each kind, how many there are, and the way."""
    report: dict[str, Json] = {"build": "762", "code": 33, "result": "no space"}
    laptops = [Laptop(f"SHC{number:08}", UUID) for number in range(2 * PAGE + 7)]
    list_laptops(browser.site, *laptops)
    for laptop in laptops:
        poll = Poll(laptop.serial, NOW, "10.0.0.7", build="760", report=report)
        browser.reports.record(poll)
    browser.reports.record(Poll("STRANGER", NOW, "10.0.0.8", listed=False))
    page = browser.client.get("/").text
    assert f"<b>{len(laptops)}</b> Update failed" in page
    assert "<b>1</b> Not in laptops.csv" in page
    assert f'"/laptops?among=failing">see all {len(laptops)}<' in page
    assert len(page) < 20_000
    seen: set[str] = set()
    for number in (1, 2, 3):
        page = browser.client.get(f"/laptops?among=failing&page={number}").text
        assert f"Page {number} of 3" in page
        found = set(re.findall(r'"/laptops/(SHC[0-9]+)"', page))
        assert not found & seen
        seen |= found
        assert (">back<" in page, ">next<" in page) == (number > 1, number < 3)
    assert seen == {laptop.serial for laptop in laptops}
    for odd in ("0", "-1", "99999999999999999999", "x", "²"):
        reply = browser.client.get(f"/laptops?among=failing&page={odd}")
        assert reply.status_code == 200
    assert "STRANGER" in browser.client.get("/laptops?among=unlisted").text
    assert "STRANGER" not in browser.client.get("/laptops?among=stuck").text


def test_who_changed_what_is_shown(browser: Browser) -> None:
    browser.log_in()
    browser.change("/pause", paused="yes")
    log = browser.site.path / "changes.log"
    for path in ("/", "/changes"):
        page = browser.client.get(path).text
        assert "2027-01-15 08:00" in page
        assert "<td>web_127.0.0.1</td>" in page
        assert "pause everything" in page
    assert browser.client.get("/status.json").json["changes"][0] == {  # type: ignore[index]
        "time": "20270115T080000Z",
        "who": "web_127.0.0.1",
        "what": "pause everything",
    }
    with open(log, "ab") as file:
        file.write(b"by hand <b>\x1b[31m\xff\n20270115T08")
    page = browser.client.get("/changes").text
    assert "by hand &lt;b&gt; [31m" in page
    assert "20270115T08</code>" in page
    log.write_bytes(b"x" * 3_000_000)
    assert browser.client.get("/changes").status_code == 200
    log.unlink()
    for path in ("/", "/changes"):
        assert browser.client.get(path).status_code == 200


def test_single_laptops_take_little_room(browser: Browser) -> None:
    for number in range(30):
        scope = Scope(Kind.SERIAL, f"SHC{number:08}")
        assign(browser.site, scope, Assignment(parse_build_id("762")))
    page = browser.client.get("/").text
    assert page.count("<section>") == 1
    assert "<summary>Single laptops: 30</summary>" in page
    assert 'href="/laptops/SHC00000007">SHC00000007</a>: build 762' in page


def test_a_rollout_that_was_halted_catches_the_eye(browser: Browser) -> None:
    halted = Assignment(
        parse_build_id("762"), paused=True, halted="7 of 20 laptops failed"
    )
    assign(browser.site, DEFAULT, halted)
    page = browser.client.get("/").text
    assert "(halted by the server: 7 of 20 laptops failed)" in page
    assert "Look at the laptops that failed before you resume it." in page
    text = browser.client.get("/metrics").text
    assert 'olpc_update_assignment_halted{for="every other laptop"} 1\n' in text
    assert 'olpc_update_assignment_paused{for="every other laptop"} 1\n' in text
    assert 'olpc_update_assignment_percent{for="every other laptop"} 100\n' in text


def test_the_numbers_for_prometheus(browser: Browser) -> None:
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", build='7"\\60'))
    text = browser.client.get("/metrics").text
    assert "olpc_update_laptops 2\n" in text
    assert 'olpc_update_laptops_running{build="7\\"\\\\60"} 1\n' in text
    assert 'olpc_update_laptops_of_concern{concern="failing"} 0\n' in text
    assert 'olpc_update_assignment_whole{for="every other laptop"} 2\n' in text
    for line in text.splitlines():
        assert re.fullmatch(r'#.*|olpc_update_[a-z_]+(\{[a-z]+=".*"\})? [0-9]+', line)


# --- the login ----------------------------------------------------------------


def test_who_knows_the_password_gets_in(browser: Browser) -> None:
    reply = browser.log_in()
    assert (reply.status_code, reply.headers["Location"]) == (303, "/")
    cookie = reply.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Log out" in browser.client.get("/").text
    browser.change("/logout")
    assert "Log out" not in browser.client.get("/").text


@pytest.mark.parametrize("password", ["", "x", PASSWORD + "x", "x" * 10_000])
def test_who_does_not_know_it_stays_out(browser: Browser, password: str) -> None:
    reply = browser.log_in(password)
    assert reply.status_code == 403
    assert "Set-Cookie" not in reply.headers
    assert "not the password" in reply.text


def test_without_a_password_nobody_gets_in(browser: Browser) -> None:
    (browser.site.keys / "admin.password").unlink()
    assert browser.log_in("").status_code == 403
    assert "Log in" not in browser.client.get("/").text


def test_guesses_are_few(browser: Browser) -> None:
    for _ in range(TRIES):
        assert browser.log_in("wrong").status_code == 403
    reply = browser.log_in()
    assert reply.status_code == 429
    assert "Too many" in reply.text
    browser.clock.time += PERIOD
    assert browser.log_in().status_code == 303


def test_guesses_from_everywhere_are_few(browser: Browser) -> None:
    for number in range(TRIES_OF_ALL):
        where = {"REMOTE_ADDR": f"10.0.{number}.1"}
        browser.client.post("/login", data={"password": "x"}, environ_base=where)
    where = {"REMOTE_ADDR": "10.1.0.1"}
    data = {"password": PASSWORD}
    reply = browser.client.post("/login", data=data, environ_base=where)
    assert reply.status_code == 429


def test_a_new_password_ends_every_login(browser: Browser) -> None:
    browser.log_in()
    secret = browser.secret()
    set_password(browser.site.keys, "another one")
    assert "Log out" not in browser.client.get("/").text
    reply = browser.client.post("/pause", data={"secret": secret, "paused": "yes"})
    assert reply.status_code == 403
    assert not browser.site.rollout().paused


def test_a_login_ends(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.log_in()
    monkeypatch.setattr("olpc_update_query.server.login.LASTS", -1)
    assert LASTS == 12 * 3600
    assert "Log out" not in browser.client.get("/").text


def test_a_login_looks_where_strangers_may_not(browser: Browser) -> None:
    settle(browser.site, 'status_page = "nobody"')
    paths = ("/", "/laptops", "/laptops.csv", "/metrics", "/status.json")
    for path in (*paths, f"/laptops/{SERIAL}"):
        assert browser.client.get(path).status_code == 403
    browser.log_in()
    for path in (*paths, f"/laptops/{SERIAL}"):
        assert browser.client.get(path).status_code == 200


# --- changing -----------------------------------------------------------------

CHANGES = [
    ("/assign", {"build": "762", "kind": "default", "percent": "50"}),
    ("/unassign", {"kind": "default", "name": ""}),
    ("/pause", {"paused": "yes"}),
    ("/stolen", {"serial": SERIAL, "stolen": "yes"}),
    ("/pin", {"serial": SERIAL, "pin": "yes"}),
    ("/approve", {"serial": "STRANGER"}),
    ("/leases", {"whom": "group:5B", "days": "60"}),
    ("/timezone", {"timezone": "America/Lima"}),
    ("/logout", {}),
]


def state(site: Site) -> list[bytes]:
    names = ("rollout.toml", "laptops.csv", "site.toml")
    return [(site.path / name).read_bytes() for name in names]


@pytest.mark.parametrize(("path", "fields"), CHANGES, ids=[path for path, _ in CHANGES])
@pytest.mark.parametrize("forged", ["nobody", "no secret", "another secret", "garbage"])
def test_nothing_changes_without_a_login_and_our_form(
    browser: Browser, path: str, fields: dict[str, str], forged: str
) -> None:
    browser.reports.record(Poll("STRANGER", NOW, "10.0.0.8", listed=False))
    browser.reports.flush()
    before = state(browser.site)
    secrets = {"another secret": "x" * 22, "no secret": ""}
    if forged == "garbage":
        browser.client.set_cookie("olpc-update-admin", "eyJ4IjoxfQ.x.y")
    elif forged != "nobody":
        browser.log_in()
    data = {**fields, "secret": secrets.get(forged, "x")}
    assert browser.client.post(path, data=data).status_code == 403
    assert browser.client.get(path).status_code == 405
    assert state(browser.site) == before


def test_a_build_is_assigned(browser: Browser) -> None:
    browser.log_in()
    fields = {"build": "762", "kind": "group", "name": "5B", "percent": "25"}
    assert browser.change("/assign", **fields).status_code == 303
    found = browser.site.rollout().assignments[Scope(Kind.GROUP, "5B")]
    assert (found.build, found.percent, found.by) == ("762", 25, "web_127.0.0.1")
    log = (browser.site.path / "changes.log").read_text()
    assert "web_127.0.0.1: assign build 762 to group 5B, 25 percent" in log
    assert "group 5B" in browser.client.get("/").text


@pytest.mark.parametrize(
    ("fields", "wrong", "told"),
    [
        ({"build": "999"}, "build", "That build is not published."),
        ({"build": "../x"}, "build", "That build is not published."),
        ({"percent": "101"}, "percent", "from 0 to 100"),
        ({"percent": "-1"}, "percent", "from 0 to 100"),
        ({"percent": ""}, "percent", "from 0 to 100"),
        ({"percent": "9" * 5000}, "percent", "from 0 to 100"),
        ({"percent": "१"}, "percent", "from 0 to 100"),
        ({"kind": "planet", "name": "x"}, "name", "no serial number"),
        ({"kind": "serial", "name": "<b>"}, "name", "no serial number"),
        ({"kind": "group"}, "name", "no serial number"),
        ({"kind": "group", "name": "5b"}, "name", "no such group"),
        ({"kind": ""}, "name", "no serial number"),
        ({"kind": "default", "name": "5B"}, "name", "or leave it empty for all"),
        ({"opens": "soon"}, "opens", "such as 2027-01-31 06:00"),
        ({"opens": "2027-02-30T06:00"}, "opens", "such as 2027-01-31 06:00"),
        ({"closes": "1" * 5000}, "closes", "such as 2027-01-31 06:00"),
        ({"closes": "275760-09-13T00:00"}, "closes", "such as 2027-01-31 06:00"),
        (
            {"opens": "2027-02-01T06:00", "closes": "2027-02-01 06:00"},
            "closes",
            "must end after it begins",
        ),
    ],
)
def test_nonsense_is_not_assigned(
    browser: Browser, fields: dict[str, str], wrong: str, told: str
) -> None:
    """It is told beside the field, and what was typed is still there."""
    browser.log_in()
    before = state(browser.site)
    sent = {"build": "762", "kind": "default", "name": "", "percent": "25", **fields}
    reply = browser.change("/assign", **sent)
    assert reply.status_code == 400
    assert re.search(rf'id="wrong-{wrong}">[^<]*{told}', reply.text)
    assert reply.text.count('class="problem" id=') == 1
    assert f'aria-describedby="wrong-{wrong}"' in reply.text
    for field in ("name", "percent", *fields.keys() & {"opens", "closes"}):
        kept = escape(sent[field][:64])
        assert re.search(rf'name="{field}"[^>]* value="{kept}"', reply.text)
    if sent["kind"] == "group":
        assert '<option value="group" selected>' in reply.text
    assert state(browser.site) == before


def test_an_assignment_opens_and_closes_when_it_is_said(browser: Browser) -> None:
    """A form that names no times leaves them; one that leaves them empty takes them."""
    browser.log_in()
    fields = {"build": "762", "kind": "group", "name": "5B", "percent": "25"}
    times = {"opens": "2027-02-01T06:00", "closes": "2027-02-03"}
    assert browser.change("/assign", **fields, **times).status_code == 303
    scope = Scope(Kind.GROUP, "5B")
    window = (parse_time("20270201T060000Z"), parse_time("20270203T000000Z"))
    found = browser.site.rollout().assignments[scope]
    assert (found.opens, found.closes) == window
    told = "to group 5B, 25 percent, opens 20270201T060000Z, closes 20270203T000000Z"
    assert told in (browser.site.path / "changes.log").read_text()
    page = browser.client.get("/").text
    assert "from 2027-02-01 06:00 until 2027-02-03 00:00" in page
    for name, value in (("opens", "2027-02-01T06:00"), ("closes", "2027-02-03T00:00")):
        assert f'name="{name}" type="datetime-local" value="{value}"' in page
    browser.change("/assign", **fields)
    found = browser.site.rollout().assignments[scope]
    assert (found.opens, found.closes) == window
    browser.change("/assign", **fields, opens="", closes="2027-02-04 07:30:00")
    found = browser.site.rollout().assignments[scope]
    assert (found.opens, found.closes) == (None, parse_time("20270204T073000Z"))


def test_an_assignment_is_taken_away(browser: Browser) -> None:
    browser.log_in()
    single = Scope(Kind.SERIAL, SERIAL)
    assign(browser.site, single, Assignment(parse_build_id("762")))
    for scope in (single, DEFAULT):
        page = browser.client.get("/").text
        assert page.count("Take this assignment away") == len(
            browser.site.rollout().assignments
        )
        sent = {"kind": str(scope.kind), "name": scope.name}
        reply = browser.change("/unassign", **sent)
        assert (reply.status_code, reply.headers["Location"]) == (303, "/")
        assert scope not in browser.site.rollout().assignments
        told = f"20270115T080000Z web_127.0.0.1: unassign {scope}\n"
        assert told in (browser.site.path / "changes.log").read_text()
        assert browser.change("/unassign", **sent).status_code == 409
    for odd in ({}, {"kind": "planet", "name": "x"}):
        assert browser.change("/unassign", **odd).status_code == 400


def test_all_that_is_wrong_is_told_at_once(browser: Browser) -> None:
    browser.log_in()
    reply = browser.change("/assign")
    assert reply.status_code == 400
    assert reply.text.count('class="problem" id="wrong-') == 3


def test_a_form_that_came_when_no_build_was_left_is_told_so(browser: Browser) -> None:
    browser.log_in()
    secret = browser.secret()
    shutil.rmtree(browser.site.builds / "762")
    sent = {"build": "762", "kind": "default", "percent": "1", "secret": secret}
    reply = browser.client.post("/assign", data=sent)
    assert 'id="wrong-build">That build is not published.' in reply.text


def test_a_group_gets_leases_of_its_own(browser: Browser) -> None:
    browser.log_in()
    reply = browser.change("/leases", whom="group:5B", days="60", shorten="on")
    assert (reply.status_code, reply.headers["Location"]) == (303, "/#leases")
    scope = Scope(Kind.GROUP, "5B")
    assert browser.site.settings().lease_rules == {scope: LeasePolicy(60, True)}
    log = (browser.site.path / "changes.log").read_text()
    told = "20270115T080000Z web_127.0.0.1: leases for group 5B: days 60, shorten True"
    assert told in log
    page = browser.client.get("/").text
    assert '<td>group 5B</td>\n<td class="number">60 days</td>' in page
    assert browser.change("/leases", whom="everybody", days="0").status_code == 303
    assert browser.site.settings().lease_policy == LeasePolicy(0, False)
    assert browser.change("/leases", whom="group:5B", clear="on").status_code == 303
    assert browser.site.settings().lease_rules == {}
    assert browser.change("/timezone", timezone="America/Lima").status_code == 303
    assert browser.site.settings().timezone == "America/Lima"
    assert (
        "web_127.0.0.1: the time zone is America/Lima"
        in (browser.site.path / "changes.log").read_text()
    )


@pytest.mark.parametrize(
    ("path", "fields", "field", "told"),
    [
        pytest.param(
            "/leases", {"days": days}, "days", "a number from 0 to 3650", id=name
        )
        for name, days in (
            ("no days", ""),
            ("too many", "3651"),
            ("negative", "-1"),
            ("a fraction", "1.5"),
            ("words", "<b>ten"),
            ("digits of another script", "१"),
            ("endless", "9" * 5000),
        )
    ]
    + [
        pytest.param(
            "/leases", {"whom": whom, "days": "1"}, "whom", "no such group", id=name
        )
        for name, whom in (("another group", "group:9Z"), ("nobody", "x"))
    ]
    + [
        pytest.param("/leases", {"clear": "on"}, "clear", "Choose a group", id="all"),
        pytest.param(
            "/leases",
            {"whom": "group:5B", "clear": "on"},
            "clear",
            "It is so already",
            id="none",
        ),
        pytest.param(
            "/timezone",
            {"timezone": "../x"},
            "timezone",
            "no such time zone",
            id="time zone",
        ),
    ],
)
def test_what_is_wrong_is_told_beside_the_field(
    browser: Browser, path: str, fields: dict[str, str], field: str, told: str
) -> None:
    """And what was typed is still there."""
    browser.log_in()
    before = state(browser.site)
    reply = browser.change(path, **{"whom": "everybody", **fields})
    assert reply.status_code == 400
    assert re.search(rf'id="wrong-{field}">[^<]*{told}', reply.text)
    assert f'aria-describedby="wrong-{field}"' in reply.text
    assert reply.text.count('class="problem" id=') == 1
    kept = escape(fields.get(field, "")[:9])
    assert field not in {"days", "timezone"} or f'value="{kept}"' in reply.text
    assert state(browser.site) == before


def test_everything_is_paused_and_resumed(browser: Browser) -> None:
    browser.log_in()
    browser.change("/pause", paused="yes")
    assert browser.site.rollout().paused
    assert "All updates are paused" in browser.client.get("/").text
    browser.change("/pause", paused="no")
    browser.change("/pause", paused="yes", kind="default", name="")
    rollout = browser.site.rollout()
    assert (rollout.paused, rollout.assignments[DEFAULT].paused) == (False, True)
    reply = browser.change("/pause", paused="yes", kind="group", name="9Z")
    assert reply.status_code == 409


def test_a_laptop_is_stolen_and_found(browser: Browser) -> None:
    browser.log_in()
    assert "Mark as stolen" in browser.client.get(f"/laptops/{SERIAL}").text
    reply = browser.change("/stolen", serial=SERIAL, stolen="yes")
    assert reply.headers["Location"] == f"/laptops/{SERIAL}"
    assert browser.site.laptops()[SERIAL].stolen
    assert "Found again" in browser.client.get(f"/laptops/{SERIAL}").text
    browser.change("/stolen", serial=SERIAL, stolen="no")
    assert not browser.site.laptops()[SERIAL].stolen
    assert browser.change("/stolen", serial="NOBODY", stolen="yes").status_code == 409


def test_a_laptop_keeps_its_build_and_follows_the_others_again(
    browser: Browser,
) -> None:
    browser.log_in()
    scope = Scope(Kind.SERIAL, SERIAL)
    assert browser.change("/pin", serial=SERIAL, pin="yes").status_code == 409
    assert browser.change("/pin", serial=SERIAL, pin="no").status_code == 409
    browser.reports.record(Poll(SERIAL, NOW, "10.0.0.7", build="760"))
    browser.reports.flush()
    assert "Keep build 760" in browser.client.get(f"/laptops/{SERIAL}").text
    reply = browser.change("/pin", serial=SERIAL, pin="yes")
    assert (reply.status_code, reply.headers["Location"]) == (303, f"/laptops/{SERIAL}")
    found = browser.site.rollout().assignments[scope]
    assert (found.build, found.by) == ("760", "web_127.0.0.1")
    page = browser.client.get(f"/laptops/{SERIAL}").text
    assert "Let it follow the others" in page
    browser.change("/pin", serial=SERIAL, pin="no")
    assert scope not in browser.site.rollout().assignments


def test_a_stranger_is_approved(browser: Browser) -> None:
    browser.log_in()
    assert browser.change("/approve", serial="STRANGER").status_code == 404
    browser.reports.record(Poll("STRANGER", NOW, "10.0.0.8", listed=False))
    browser.reports.flush()
    assert "Approve" in browser.client.get("/laptops/STRANGER").text
    assert browser.change("/approve", serial="STRANGER").status_code == 303
    assert "STRANGER" in browser.site.laptops()
    assert "STRANGER" not in browser.client.get("/laptops?among=unlisted").text


def test_strangers_are_approved_together(browser: Browser) -> None:
    browser.log_in()
    for serial in ("NEW1", "NEW2", "NEW3"):
        browser.reports.record(Poll(serial, NOW, "10.0.0.8", listed=False))
    browser.reports.flush()
    for path in ("/", "/laptops?among=unlisted"):
        page = browser.client.get(path).text
        assert page.count('type="checkbox" name="serial"') == 3
    form = {"secret": browser.secret(), "group": "5B"}
    for serials in (["NEW1", "NOBODY"], [], ["NEW1", "a b"]):
        reply = browser.client.post("/approve", data={**form, "serial": serials})
        assert reply.status_code in {400, 404}
    assert "NEW1" not in browser.site.laptops()
    reply = browser.client.post("/approve", data={**form, "serial": ["NEW1", "NEW2"]})
    assert reply.headers["Location"] == "/laptops?among=unlisted"
    found = browser.site.laptops()
    assert [found[serial].group for serial in ("NEW1", "NEW2")] == ["5B", "5B"]
    assert "NEW3" not in found
    assert "approve NEW1, NEW2" in (browser.site.path / "changes.log").read_text()
