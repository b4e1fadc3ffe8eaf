"""Whoever wants Spanish is told nothing in English.

What a laptop reported, and what is wrong with a damaged file, is shown as it is too,
and is marked as English for programs that read pages aloud; nothing else may be.
"""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server import outcomes, words
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.listing import Among
from olpc_update_query.server.login import TRIES
from olpc_update_query.server.records import Concern, Poll
from olpc_update_query.server.rollout import DEFAULT, Assignment, Kind, Scope
from olpc_update_query.server.site_text import with_lease_policy
from olpc_update_query.system.files import hold_lock
from tests.keys import UUID
from tests.server.sites import NOW, assign, list_laptops
from tests.server.test_pages import CHANGES, Browser

DAY = 86400
SERVER = Path(words.__file__).parent
ENGLISH = {
    *("the", "is", "are", "was", "of", "not", "for", "and", "to", "with", "by", "has"),
    *("have", "its", "it", "that", "which", "what", "who", "how", "build", "builds"),
    *("laptop", "laptops", "lease", "leases", "until", "assigned", "group", "stream"),
    *("nothing", "ever", "day", "days", "failed", "paused", "wrong", "page"),
    *("log", "in", "such", "write", "choose", "search", "everybody"),
}
"""Words that no Spanish sentence has."""


class Page(HTMLParser):
    """What a page says, but for what it marks as English."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self._english = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "code":
            assert found.get("lang") == "en"
            self._english += 1
        for name in ("title", "placeholder", "aria-label", "alt"):
            self.said.append(found.get(name) or "")

    def handle_endtag(self, tag: str) -> None:
        self._english -= tag == "code"

    def handle_data(self, data: str) -> None:
        if not self._english:
            self.said.append(" ".join(data.split()))


def english(page: str) -> list[str]:
    """Return what a page says in English."""
    return [said for said in Page(page).said if ENGLISH & set(_words(said))]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.replace("laptops.csv", "").lower())


@pytest.fixture
def spanish(tmp_path: Path) -> Iterator[Browser]:
    found = Browser(tmp_path)
    found.client.environ_base["HTTP_ACCEPT_LANGUAGE"] = "es-PE"
    yield found
    found.reports.close()


def fill(browser: Browser) -> list[str]:
    """Let a site have some of everything, and return laptops of each kind."""
    builds = {name: parse_build_id(name) for name in ("762", "760", "gone")}
    halted = {"paused": True, "halted": "5 of 7 laptops failed"}
    after, before = {"opens": NOW + DAY}, {"closes": NOW - DAY}
    for name, assignment in (
        ("A", Assignment(builds["762"], **halted)),  # type: ignore[arg-type]
        ("B", Assignment(builds["762"], paused=True)),
        ("C", Assignment(builds["762"], **after)),  # type: ignore[arg-type]
        ("D", Assignment(builds["762"], **before)),  # type: ignore[arg-type]
        ("E", Assignment(builds["762"], percent=0, others=builds["760"])),
        ("F", Assignment(builds["gone"])),
    ):
        assign(browser.site, Scope(Kind.GROUP, name), assignment)
    assign(browser.site, Scope(Kind.STREAM, "prueba"), Assignment(builds["762"]))
    assign(browser.site, Scope(Kind.SERIAL, "SHC1"), Assignment(builds["762"]))
    for name, policy in (
        ("A", LeasePolicy(0)),
        ("B", LeasePolicy(1)),
        ("C", LeasePolicy(9, shorten=True)),
        ("D", LeasePolicy(1, shorten=True)),
    ):
        scope = Scope(Kind.GROUP, name)
        text = with_lease_policy(browser.site.settings_text(), scope, policy)
        browser.site.save_settings(text)
    laptops = [Laptop(f"SHC{name}", UUID, group=name) for name in "ABCDEF"]
    laptops += [Laptop("SHC1", UUID, stream="prueba"), Laptop("SHC2", stream="none")]
    laptops += [Laptop("SHC3", stolen=True), Laptop("SHC4", stream="prueba")]
    laptops += [Laptop(f"ZZZ{code}") for code in (*outcomes.SPANISH, 99)]
    list_laptops(browser.site, *laptops)
    for number, laptop in enumerate(laptops):
        code = laptop.serial.removeprefix("ZZZ")
        report: dict[str, Json] | None = None
        if laptop.serial.startswith("ZZZ"):
            result = "the laptop tells this in English"
            report = {"build": "762", "code": int(code), "free": 7, "result": result}
        poll = Poll(laptop.serial, NOW, "10.0.0.7", build="760", ordered="762")
        expiry = (None, NOW + DAY, 1 << 60)[number % 3]
        asked = NOW - 9 * DAY * (number % 2)
        browser.reports.record(
            poll._replace(lease_expiry=expiry, report=report, asked=asked)
        )
    browser.reports.record(Poll("STRANGER", NOW, "10.0.0.8", listed=False))
    browser.reports.flush()
    return [*(one.serial for one in laptops if one.serial < "ZZZ13"), "STRANGER"]


def pages(browser: Browser) -> Iterator[TestResponse]:
    """Yield every page that can be looked at."""
    paths = ["/", "/laptops", "/laptops?q=zzz", "/laptops?q=nadie", "/login"]
    paths += [f"/laptops?among={kind}" for kind in (*Concern, *Among)]
    for path in (*paths, "/changes"):
        yield browser.client.get(path)


def test_all_pages_of_a_full_site(spanish: Browser) -> None:
    serials = fill(spanish)
    for is_in in (False, True):
        found = [*pages(spanish)]
        found += [spanish.client.get(f"/laptops/{serial}") for serial in serials]
        for page in found:
            assert page.status_code == 200
            assert '<html lang="es">' in page.text
            assert ("Salir" in page.text) is is_in or page.request.path == "/login"
            assert english(page.text) == [], page.request.path
        spanish.log_in()
    first = spanish.client.get("/").text
    assert "none" not in Page(first).said  # the stream of that name is on no list
    assert "(detenida por el servidor: fallaron 5 de 7 equipos)" in first
    told = spanish.client.get("/laptops?q=zzz").text
    for code, text in outcomes.SPANISH.items():
        assert text in told, code
    assert "código de salida 99" in told
    why = "la asignación para grupo A está en pausa: fallaron 5 de 7 equipos"
    assert why in spanish.client.get("/laptops/SHCA").text


def test_an_empty_site_and_a_damaged_one(spanish: Browser) -> None:
    list_laptops(spanish.site)
    assign(spanish.site, DEFAULT, None)
    for page in pages(spanish):
        assert english(page.text) == []
    (spanish.site.path / "rollout.toml").write_text("[default]\nbuild = 7")
    spanish.log_in()
    for page in pages(spanish):
        assert english(page.text) == []
    first = spanish.client.get("/").text
    assert "Un archivo del sitio está dañado" in first
    assert "rollout.toml" in first


def test_what_was_asked_for_amiss(spanish: Browser) -> None:
    fill(spanish)
    asked = [spanish.client.post(path, data=fields) for path, fields in CHANGES]
    asked += [spanish.client.get(path) for path, _ in CHANGES]
    asked += [spanish.client.get(f"/laptops/{name}") for name in ("NADIE", "a%20b")]
    asked += [spanish.client.get("/nada")]
    asked += [spanish.log_in("no es") for _ in range(TRIES + 1)]
    assert {page.status_code for page in asked} == {400, 403, 404, 405, 429}
    for page in asked:
        assert english(page.text) == [], (page.request.path, page.status_code)
        assert '<html lang="es">' in page.text


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/assign", {"build": "999", "percent": "1"}, 400),
        ("/assign", {"build": "../x", "percent": "1"}, 400),
        ("/assign", {"build": "762", "percent": "101"}, 400),
        ("/assign", {"build": "762", "percent": "1", "kind": "x"}, 400),
        ("/assign", {"build": "762", "percent": "1", "kind": "serial"}, 400),
        ("/assign", {"build": "762", "kind": "default", "name": "x"}, 400),
        ("/assign", {"build": "762", "percent": "1", "opens": "x"}, 400),
        ("/assign", {"opens": "2027-01-02", "closes": "2027-01-01"}, 400),
        ("/unassign", {"kind": "group", "name": "9Z"}, 409),
        ("/unassign", {}, 400),
        ("/pause", {"kind": "group", "name": "9Z", "paused": "yes"}, 409),
        ("/pin", {"serial": "NADIE", "pin": "yes"}, 409),
        ("/stolen", {"serial": "NADIE", "stolen": "yes"}, 409),
        ("/stolen", {"serial": "a b"}, 400),
        ("/approve", {"serial": "NADIE"}, 404),
        ("/leases", {"whom": "x"}, 400),
        ("/leases", {"whom": "everybody", "days": "x"}, 400),
        ("/leases", {"whom": "everybody", "clear": "on"}, 400),
        ("/leases", {"whom": "group:5B", "clear": "on"}, 400),
        ("/timezone", {"timezone": "x"}, 400),
    ],
)
def test_what_is_wrong_with_a_form(
    spanish: Browser, path: str, fields: dict[str, str], status: int
) -> None:
    spanish.log_in()
    page = spanish.change(path, **fields)
    assert page.status_code == status
    assert english(page.text) == []
    assert 'class="problem"' in page.text


def test_what_the_server_cannot_do(spanish: Browser) -> None:
    spanish.log_in()
    secret = spanish.secret()
    with hold_lock(spanish.site.path / ".lock", "a test"):
        data = {"secret": secret, "paused": "yes"}
        page = spanish.client.post("/pause", data=data)
    assert page.status_code == 500
    assert english(page.text) == []
    assert "another run is at work" in page.text


def test_english_is_noticed(spanish: Browser) -> None:
    """The judge itself: most of an English page is not Spanish to it."""
    fill(spanish)
    spanish.client.environ_base["HTTP_ACCEPT_LANGUAGE"] = "en"
    for page in pages(spanish):
        assert len(english(page.text)) >= 2, page.request.path


def test_every_sentence_has_its_spanish() -> None:
    """Of the templates, and of what the programs say on the pages."""
    used: set[str] = {"new", "build", "report", "ordered", "stolen", "lease"}
    for template in (SERVER / "templates").glob("*.html"):
        used |= set(re.findall(r'_\(["\']([^"\']+)["\']', template.read_text()))
    used |= set(re.findall(r'say\("([^"]+)"', (SERVER / "overview.py").read_text()))
    assert used - words.SPANISH.keys() == set()
    for text, spanish in words.SPANISH.items():
        names = re.findall(r"%\((\w+)\)s", text)
        assert sorted(re.findall(r"%\((\w+)\)s", spanish)) == sorted(names), text


def codes(kind: type[errors.UpdateError]) -> Iterator[int]:
    yield from (kind.exit_code,) if hasattr(kind, "exit_code") else ()
    for below in kind.__subclasses__():
        yield from codes(below)


def test_every_exit_code_of_a_laptop_has_its_spanish() -> None:
    on_the_server = set(codes(errors.SiteError))
    wanted = set(codes(errors.UpdateError)) - on_the_server
    assert wanted - outcomes.SPANISH.keys() == set()
    assert not on_the_server & outcomes.SPANISH.keys()
