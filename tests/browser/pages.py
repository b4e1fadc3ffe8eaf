"""The pages in a real browser, as an administrator sees and uses them.

Run by ``make browser``, which leaves pictures of what was seen in ``build/browser``.
One browser for all tests; a site and a server, as a process, for each.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import parse_build_id, parse_time
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.login import TRIES, set_password
from olpc_update_query.server.rollout import DEFAULT, Assignment, Kind, Scope
from olpc_update_query.server.site import Site
from olpc_update_query.server.steer import Actor, pause, set_lease_policy
from tests.browser.browser import DESK, PHONE, Browser, browse
from tests.keys import SERIAL, UUID
from tests.server.served import Served, serve
from tests.server.sites import (
    HandClock,
    add_build,
    assign,
    list_laptops,
    make_site,
    settle,
)

PICTURES = Path(__file__).parents[2] / "build/browser"
PASSWORD = "corréct horse"
OLD, NEW = "760", "762"
NAMES = [SERIAL, *(f"SHC1290A{number:03}" for number in range(9))]
RUNNING, FAILED = 4, 2  # of ten laptops; one more asks and does not update
STRANGER = "XYZ00000001"
LANGUAGES = ("en", "es")
SAID = {
    "en": ("Which build for whom", "10 laptops are listed", "Log in"),
    "es": ("Qué versión para quién", "10 equipos en la lista", "Entrar"),
}

pytestmark = [pytest.mark.needs("chromium", "chromium-driver")]


class Desk:
    """An administrator's desk: a site, its server, and a browser."""

    def __init__(self, site: Site, served: Served, browser: Browser) -> None:
        self.site, self.served, self.browser = site, served, browser
        self.url = f"http://127.0.0.1:{served.port}"

    def open(self, path: str = "/") -> None:
        self.browser.open(self.url + path)

    def log_in(self, password: str = PASSWORD) -> None:
        self.open("/login")
        self.browser.find("input[type=password]").send_keys(password)
        self.browser.follow(self.browser.find("form.stack button"))

    def changes(self) -> str:
        log = self.site.path / "changes.log"
        return log.read_text() if log.exists() else ""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with browse(PICTURES) as found:
        yield found


def set_up(site: Site) -> None:
    """Let ten laptops update, and set a password; undo what was there."""
    list_laptops(
        site,
        *(
            Laptop(serial, UUID, group="5B", name=f"Ana María Quispe Huamán {number}")
            for number, serial in enumerate(NAMES)
        ),
    )
    site.save_rollout("")
    assign(site, DEFAULT, Assignment(parse_build_id(NEW), percent=100, halt=100))
    settle(site, 'status_page = "private"')
    set_password(site.keys, PASSWORD)
    (site.path / "changes.log").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    found = make_site(
        tmp_path_factory.mktemp("school"), clock=HandClock(int(time.time()))
    )
    add_build(found, OLD)
    add_build(found, NEW)
    set_up(found)
    return found


@pytest.fixture(scope="module")
def served(site: Site) -> Iterator[Served]:
    with serve(site.path) as found:
        poll(found)
        yield found


def poll(served: Served) -> None:
    """Let seven of the laptops ask, and somebody whom nobody knows."""
    for number, serial in enumerate(NAMES[: RUNNING + FAILED + 1]):
        build = parse_build_id(NEW if number < RUNNING else OLD)
        report: dict[str, Json] | None = None
        if RUNNING <= number < RUNNING + FAILED:
            result = "<b>the disk</b> is full: " + "x" * 200
            report = {"build": NEW, "code": 33, "result": result}
        reply = served.post(Query(serial, "1", build=build, report=report).encode())
        assert reply.status == 200
    stranger = Query(STRANGER, "1", build=parse_build_id(OLD))
    assert served.post(stranger.encode()).status == 200


@pytest.fixture
def desk(site: Site, served: Served, chromium: Browser) -> Desk:
    set_up(site)
    chromium.forget()
    return Desk(site, served, chromium)


# --- looking ------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_page_fits_and_speaks(
    desk: Desk, size: tuple[int, int], language: str
) -> None:
    """No page scrolls sideways; all that can be used has a name; nothing is broken."""
    browser = desk.browser
    browser.become(size, language)
    places = ("/", "/laptops", "/laptops?q=nobody", f"/laptops/{SERIAL}", "/login")
    for path in places:
        desk.open(path)
        seen = f"{path} {size[0]} {language}"
        browser.keep_picture(seen)
        assert browser.overflow() <= 0, seen
        assert browser.nameless() == [], seen
        assert browser.run("return document.documentElement.lang") == language
    desk.open()
    for words in SAID[language]:
        assert words in browser.text
    desk.log_in()
    pause(desk.site, Actor("web_192.168.100.200", 0), None, paused=False)
    for path in ("/", f"/laptops/{SERIAL}", f"/laptops/{STRANGER}", "/changes"):
        desk.open(path)
        seen = f"in {path} {size[0]} {language}"
        browser.keep_picture(seen)
        assert browser.has('button[type="submit"], form button'), seen
        assert browser.run("return innerWidth") == size[0], seen
        assert browser.overflow() <= 0, seen
        assert browser.nameless() == [], seen
    assert browser.complaints() == []


def test_nobody_else_is_asked(desk: Desk) -> None:
    """Not for a script, a font or a picture; and nothing on a page is a script."""
    browser = desk.browser
    desk.log_in()
    for path in ("/", "/laptops", f"/laptops/{SERIAL}", "/login"):
        desk.open(path)
        assert not browser.has("script, iframe, object, embed, [style], [onclick]")
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert f"{desk.url}/static/style.css" in asked
    assert [url for url in asked if not url.startswith(f"{desk.url}/")] == []


def test_it_works_without_scripts(desk: Desk) -> None:
    desk.browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        desk.log_in()
        desk.browser.press("Pause all updates")
        assert "All updates are paused" in desk.browser.text
    finally:
        desk.browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert desk.site.rollout().paused


def test_the_picture_shows_how_far_a_rollout_is(desk: Desk) -> None:
    desk.open()
    browser = desk.browser
    widths = browser.run(
        "const parts = document.querySelectorAll('svg.bar rect');"
        "return Object.fromEntries(Array.from(parts, part => "
        "[part.classList[0], part.getBoundingClientRect().width]))"
    )
    whole = widths["whole"]
    assert whole > 200
    for part, laptops in (("running", RUNNING), ("failed", FAILED), ("told", 4)):
        assert widths[part] == pytest.approx(whole * laptops / len(NAMES), abs=1), part
    colours = {
        str(browser.run(f"return getComputedStyle({found}).fill"))
        for found in (
            f"document.querySelector('svg.bar .{part}')"
            for part in ("whole", "running", "told", "failed")
        )
    }
    assert len(colours) == 4
    text = f"{RUNNING} of 10 run it, 4 are told to, {FAILED} failed"
    assert text in browser.text
    assert browser.find("svg.bar").accessible_name == text


def test_a_report_is_shown_and_not_obeyed(desk: Desk) -> None:
    desk.open()
    assert "<b>the disk</b> is full" in desk.browser.text
    assert not desk.browser.has("td b")


def test_a_laptop_is_searched_for(desk: Desk) -> None:
    browser = desk.browser
    desk.open()
    browser.find("input[type=search]").send_keys("290a00")
    browser.press("Search")
    assert browser.path == "/laptops"
    assert "SHC1290A005" in browser.text
    assert SERIAL not in browser.text
    browser.follow(browser.find("td a"))
    assert browser.path.startswith("/laptops/SHC1290A00")
    assert "Ana María" in browser.text


def test_who_is_not_in_may_only_look(desk: Desk) -> None:
    browser = desk.browser
    for path in ("/", f"/laptops/{SERIAL}", f"/laptops/{STRANGER}"):
        desk.open(path)
        assert not browser.has("form[method=post]")
    (desk.site.keys / "admin.password").unlink()
    desk.open()
    assert "10 laptops are listed" in browser.text
    assert not browser.has("a[href$=login]")
    settle(desk.site, 'status_page = "nobody"')
    desk.open()
    assert "laptops" not in browser.text


# --- the login ----------------------------------------------------------------


def test_a_wrong_password_then_the_right_one_then_out(desk: Desk) -> None:
    browser = desk.browser
    desk.log_in("wrong horse")
    assert "That was not the password." in browser.text
    assert browser.find("input[type=password]").get_attribute("value") == ""
    desk.log_in()
    assert browser.path == "/"
    assert "Assign a build" in browser.text
    assert browser.run("return document.cookie") == ""  # no script may read it
    browser.press("Log out")
    assert "Assign a build" not in browser.text


def test_whoever_guesses_has_to_wait(desk: Desk) -> None:
    with serve(desk.site.path) as other:  # which is closed to us in the end
        desk.url = f"http://127.0.0.1:{other.port}"
        for _ in range(TRIES):
            desk.log_in("wrong horse")
        desk.log_in()
        assert "Too many wrong passwords" in desk.browser.text
        desk.open()
        assert "Assign a build" not in desk.browser.text


# --- changing -----------------------------------------------------------------


def test_a_build_is_assigned_raised_paused_and_resumed(desk: Desk) -> None:
    """Everything on a phone, in Spanish, and each change is written down."""
    browser = desk.browser
    browser.become(PHONE, "es")
    desk.log_in()
    browser.fill("versión", NEW)
    browser.fill("nombre", "5B")
    browser.fill("Por ciento", "25")
    browser.press("Asignar")
    wrong = browser.find("#wrong-name")
    assert wrong.text.startswith("Diga de qué es este nombre")
    assert browser.is_in_sight(wrong)
    assert browser.overflow() <= 0
    browser.keep_picture("wrong name 320 es")
    browser.fill("Para", "grupo")
    browser.press("Asignar")
    scope = Scope(Kind.GROUP, "5B")
    found = desk.site.rollout().assignments[scope]
    assert (found.build, found.percent, found.by) == (NEW, 25, "web_127.0.0.1")
    assert "grupo 5B: versión 762 para el 25 por ciento" in browser.text
    browser.fill("Para", "grupo")
    browser.fill("nombre", "5B")
    browser.fill("Por ciento", "75")
    browser.press("Asignar")
    assert desk.site.rollout().assignments[scope].percent == 75
    browser.press("Pausar")
    assert [one.paused for one in desk.site.rollout().assignments.values()].count(True)
    browser.press("Reanudar")
    browser.press("Pausar todo")
    assert "en pausa" in browser.text
    browser.press("Reanudar todo")
    assert not desk.site.rollout().paused
    told = desk.changes()
    for change in (
        "web_127.0.0.1: assign build 762 to group 5B, 25 percent",
        "web_127.0.0.1: assign build 762 to group 5B, 75 percent",
        "web_127.0.0.1: pause everything",
        "web_127.0.0.1: resume everything",
    ):
        assert change in told


def test_an_assignment_gets_its_times_and_is_taken_away(desk: Desk) -> None:
    """On a phone, in Spanish; it takes two presses to take it away."""
    browser, scope = desk.browser, Scope(Kind.GROUP, "5B")
    assign(desk.site, scope, Assignment(parse_build_id(NEW), percent=25))
    browser.become(PHONE, "es")
    desk.log_in()
    its = "section:has(input[value='5B'])"
    opens, closes = (
        browser.find(f"{its} input[name={name}]") for name in ("opens", "closes")
    )
    browser.run("arguments[0].value = '2027-03-03T06:00'", opens)
    browser.run("arguments[0].value = '2027-03-01T06:00'", closes)
    browser.follow(browser.find(f"{its} form[action*=assign] button"))
    wrong = browser.find("#wrong-closes")
    assert wrong.text == "Debe terminar después de empezar."
    assert browser.is_in_sight(wrong)
    assert browser.overflow() <= 0
    assert browser.nameless() == []
    browser.keep_picture("wrong closes 320 es")
    field = browser.find("#assign input[name=closes]")
    browser.run("arguments[0].value = '2027-03-05T06:00'", field)
    browser.press("Asignar")
    assert "desde 2027-03-03 06:00 hasta 2027-03-05 06:00" in browser.text
    found = desk.site.rollout().assignments[scope]
    assert (found.opens, found.percent) == (parse_time("20270303T060000Z"), 25)
    button = browser.find(f"{its} details button")
    assert not button.is_displayed()
    browser.find(f"{its} summary").click()
    assert button.is_displayed()
    assert browser.overflow() <= 0
    browser.keep_picture("take away 320 es")
    browser.follow(button)
    assert list(desk.site.rollout().assignments) == [DEFAULT]
    assert "web_127.0.0.1: unassign group 5B" in desk.changes()


def test_a_group_gets_leases_of_its_own(desk: Desk) -> None:
    """On a phone, in Spanish, without scripts; what is wrong stands in sight."""
    browser = desk.browser
    browser.become(PHONE, "es")
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        desk.log_in()
        browser.fill("Concesiones para", "grupo 5B")
        browser.press("Cambiar")
        wrong = browser.find("#wrong-days")
        assert wrong.text == "Escriba un número de 0 a 3650."
        assert browser.is_in_sight(wrong)
        assert browser.find("select[name=whom]").get_attribute("value") == "group:5B"
        assert browser.overflow() <= 0
        assert browser.nameless() == []
        browser.keep_picture("wrong days 320 es")
        browser.fill("Días (0: sin concesiones)", "60")
        browser.find("input[name=shorten]").click()
        browser.press("Cambiar")
        assert not browser.has("[id^=wrong]")
        assert browser.is_in_sight(browser.find("#leases"))
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    scope = Scope(Kind.GROUP, "5B")
    assert desk.site.settings().lease_rules == {scope: LeasePolicy(60, True)}
    assert "grupo 5B 60 días las más largas se acortan" in browser.text
    told = "web_127.0.0.1: leases for group 5B: days 60, shorten True"
    assert told in desk.changes()


def test_a_group_gets_what_all_get_and_the_school_its_time(desk: Desk) -> None:
    browser, group = desk.browser, Scope(Kind.GROUP, "5B")
    set_lease_policy(desk.site, Actor("a test", 0), group, days=9)
    desk.log_in()
    browser.fill("Leases for", "group 5B")
    browser.find("input[name=clear]").click()
    browser.press("Change")
    assert desk.site.settings().lease_rules == {}
    browser.fill("Time zone", "America/Nowhere")
    browser.press("Set the time zone")
    assert browser.find("#wrong-timezone").is_displayed()
    browser.fill("Time zone", "America/Lima")
    browser.press("Set the time zone")
    assert desk.site.settings().timezone == "America/Lima"
    told = "web_127.0.0.1: leases for group 5B: as for every other laptop"
    assert told in desk.changes()


def test_the_browser_itself_refuses_a_silly_percentage(desk: Desk) -> None:
    desk.log_in()
    before = desk.changes()
    desk.browser.fill("Percent", "140")
    desk.browser.button("Assign").click()
    assert desk.browser.has("input:invalid")
    assert desk.changes() == before


def test_a_laptop_is_stolen_and_found_and_a_stranger_approved(desk: Desk) -> None:
    browser = desk.browser
    desk.log_in()
    desk.open(f"/laptops/{SERIAL}")
    browser.press("Mark as stolen")
    assert desk.site.laptops()[SERIAL].stolen
    browser.press("Found again")
    assert not desk.site.laptops()[SERIAL].stolen
    desk.open()
    browser.follow(browser.find(f'a[href="/laptops/{STRANGER}"]'))
    browser.press("Approve")
    assert STRANGER in desk.site.laptops()
    assert f"web_127.0.0.1: {SERIAL} is stolen" in desk.changes()
    assert f"web_127.0.0.1: approve {STRANGER}" in desk.changes()


# --- somebody else's page -----------------------------------------------------

ATTACKS = {
    "pause": '<form action="{url}/pause" method="post">'
    '<input name="paused" value="yes"></form>',
    "guess": '<form action="{url}/pause" method="post">'
    '<input name="secret" value="guess"><input name="paused" value="yes"></form>',
    "steal": '<form action="{url}/stolen" method="post">'
    '<input name="serial" value="{serial}"><input name="stolen" value="yes"></form>',
    "logout": '<form action="{url}/logout" method="post"></form>',
}


@contextmanager
def evil(body: str) -> Iterator[int]:
    """Serve one page from another origin, on all loopback addresses."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = f"<!doctype html><title>win!</title>{body}".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_another_page_cannot_use_a_login(desk: Desk, host: str) -> None:
    """From the same site on another port, whose forms carry the cookie, or another."""
    desk.log_in()
    before = desk.changes()
    for form in ATTACKS.values():
        sent = "<script>document.forms[0].submit()</script>"
        with evil(form.format(url=desk.url, serial=SERIAL) + sent) as port:
            desk.browser.open(f"http://{host}:{port}/")
            desk.browser.wait_for("Forbidden")
    assert desk.changes() == before
    desk.open()
    assert "Log out" in desk.browser.text


def test_another_page_cannot_frame_ours(desk: Desk) -> None:
    desk.log_in()
    with evil(f'<iframe src="{desk.url}/" width="800" height="600"></iframe>') as port:
        desk.browser.open(f"http://127.0.0.1:{port}/")
        complaints = " ".join(desk.browser.complaints())
    assert "frame-ancestors" in complaints
