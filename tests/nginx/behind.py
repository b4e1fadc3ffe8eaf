"""A site behind nginx, gunicorn and PostgreSQL: the real ones, as the recipe says.

Run by ``make nginx``. One stack for all tests: what they do to it they undo.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from bench import compare, laptop
from bench.laptop import Identity
from bench.school import command
from olpc_update_query.model.hashcash import credentials, mint, parse_challenge
from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.login import TRIES, set_password
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import Assignment, Scope
from olpc_update_query.server.rollout import Kind as Whom
from olpc_update_query.system.files import replace_file
from olpc_update_query.system.http import HttpTransport
from tests.keys import ring, signer
from tests.nginx.stack import CONFIGURATION, Stack, configured, patiently, stack
from tests.server.sites import HandClock, assign, list_laptops, make_site, settle
from tests.trees import every_kind

PASSWORD = "corréct horse"
OLD, NEW = "760", "762"
OWN = Identity()
CROWD = [f"SHC3330{number:04}" for number in range(40)]

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("nginx-light", "postgresql"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions of a small system."""
    top = tmp_path_factory.mktemp("trees")
    both = every_kind(top / OLD), every_kind(top / NEW)
    for tree, name in zip(both, (OLD, NEW), strict=True):
        (tree / "etc").mkdir(exist_ok=True)
        (tree / "etc/issue").write_text(f"build {name}\n")
        (tree / "etc/.hidden").write_text("a name with a dot\n")
    return both


@pytest.fixture(scope="module")
def school(trees: tuple[Path, Path]) -> Iterator[Stack]:
    with stack() as made:
        site = make_site(made.top, clock=HandClock(int(time.time())))
        settle(site, f'behind_proxies = 1\nreports_url = "{made.database_url}"')
        for tree, name in zip(trees, (OLD, NEW), strict=True):
            deltas = ["--delta-from", OLD] if name == NEW else []
            words = ["--build", name, "--any-tree", "--with-root", *deltas]
            command("olpc-update-admin", "publish", made.site, tree, *words)
        list_laptops(
            site,
            Laptop(OWN.serial, OWN.uuid),
            *(Laptop(serial, OWN.uuid) for serial in CROWD),
        )
        build = parse_build_id(NEW)
        assign(site, Scope(Whom.SERIAL, OWN.serial), Assignment(build))
        set_password(site.keys, PASSWORD)
        made.set_up()
        made.start()
        yield made


@pytest.fixture
def reports(school: Stack) -> Iterator[Reports]:
    found = Reports(school.database_url)
    yield found
    found.close()


def log_in(school: Stack, password: str, **options: str) -> tuple[int, str]:
    body = urlencode({"password": password})
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    kind |= {"X-Forwarded-For": options.get("forged", "10.1.2.3")}
    source = options.get("source", "127.0.0.1")
    reply = school.request("POST", "/login", body, kind, source=source)
    return reply.status, reply.headers.get("set-cookie", "").partition(";")[0]


# --- the main job -------------------------------------------------------------


def test_a_hundred_ranges_are_one_request(school: Stack) -> None:
    pack = (school.site / "builds" / NEW / "pack").read_bytes()
    spans = [(at, at + 3) for at in range(0, len(pack) - 3, len(pack) // 100)][:100]
    url = f"http://127.0.0.1:{school.port}/builds/{NEW}/pack"
    with contextlib.closing(HttpTransport("test/1")) as transport:
        pieces = transport.get_ranges(url, spans)
        assert pieces.total == len(pack)
        come = dict(pieces.chunks)
        assert transport.requests == 1
    assert len(spans) == 100
    assert b"".join(come.values()) == b"".join(pack[a:b] for a, b in spans)
    assert all(pack[at : at + len(piece)] == piece for at, piece in come.items())


def test_a_laptop_is_updated_through_it(
    school: Stack, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    root = tmp_path / "laptop"
    laptop.make(root, trees[0], OLD, school.site / "builds" / OLD / "contents")
    for role in ("oats", "lease"):
        (tmp_path / role).write_bytes(signer(role).public)
        laptop.trust(root, role, tmp_path / role)
    server = f"http://127.0.0.1:{school.port}/"
    words = ["-v", "--now", "--root", str(root), "--server", server]
    command("olpc-update-query", *words)
    assert laptop.boot(root) == NEW
    installed = compare.survey(root / "versions/pristine" / NEW)
    assert compare.differences(compare.survey(trees[1]), installed) == []
    assert (root / "security/lease.sig").read_bytes().startswith(b"act01: ")
    command("olpc-update-query", *words)  # and tells how it went
    page = school.request("GET", f"/laptops/{OWN.serial}").body.decode()
    assert f"<td>{NEW}</td>" in page
    served = (school.top / "nginx-access.log").read_text().splitlines()
    builds = [line.split() for line in served if " /builds/7" in line]
    assert builds
    assert {who for _, who, *_ in builds} == {"-"}  # nobody but nginx itself


# --- what is handed out -------------------------------------------------------


def names_below(build: Path) -> list[bytes]:
    top = os.fsencode(build)
    return [
        os.path.relpath(os.path.join(where, name), os.path.dirname(top))
        for where, directories, files in os.walk(top)
        for name in (*directories, *files)
    ]


def quoted(name: bytes) -> str:
    return "/builds/" + "".join(
        f"%{octet:02X}" if octet != 0x2F else "/" for octet in name
    )


def is_open_to_all(site: Path, path: bytes) -> bool:
    """Tell whether a user without rights may read a file of the site."""
    found = bool(os.stat(path).st_mode & 0o004)
    while path != os.fsencode(site):
        path = os.path.dirname(path)
        found = found and bool(os.stat(path).st_mode & 0o001)
    return found


def test_every_file_is_served_and_nothing_else(school: Stack) -> None:
    """Also with odd names; and no link is followed, no device or fifo opened."""
    (school.site / "builds/.tmp-763").mkdir()
    (school.site / "builds/.tmp-763/contents").write_bytes(b"unfinished")
    files = 0
    for name in names_below(school.site / "builds" / NEW):
        path = os.fsencode(school.site / "builds") + b"/" + name
        reply = school.request("GET", quoted(name))
        if os.path.isfile(path) and not os.path.islink(path):
            is_open = is_open_to_all(school.site, path)
            assert reply.status == (200 if is_open else 403), name
            if is_open:
                files += 1
                with open(path, "rb") as file:
                    assert reply.body == file.read()
        else:
            assert reply.status in {301, 403, 404}, (name, reply)
    assert files > 15
    assert school.request("GET", "/builds/.tmp-763/contents").status == 404
    assert school.request("POST", f"/builds/{NEW}/pack", b"x").status == 403


def test_ranges_and_tags(school: Stack) -> None:
    pack = (school.site / "builds" / NEW / "pack").read_bytes()
    path = f"/builds/{NEW}/pack"
    whole = school.request("GET", path)
    tag = {"If-Range": whole.headers["etag"]}
    part = school.request("GET", path, headers={**tag, "Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, pack[10:20])
    part = school.request(
        "GET", path, headers={"If-Range": '"x"', "Range": "bytes=1-2"}
    )
    assert (part.status, part.body) == (200, pack)
    assert "content-encoding" not in whole.headers


@pytest.mark.parametrize(
    "path",
    [
        "/builds/762/../../keys/oats.private",
        "/builds/762/%2e%2e/%2e%2e/keys/oats.private",
        "/builds/762/..%2f..%2fkeys%2foats.private",
        "/builds//762/../../../site.toml",
        "/keys/oats.private",
        "/builds/../site.toml",
        "/site.toml",
        "/builds/762/root/%00",
        "/static/../keys/oats.private",
    ],
)
def test_nothing_else_of_the_site_is_served(school: Stack, path: str) -> None:
    with socket.create_connection(("127.0.0.1", school.port), timeout=20) as link:
        line = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        link.sendall(line.encode())
        reply = b""
        while part := link.recv(65536):
            reply += part
    assert re.match(rb"HTTP/1.1 (400|403|404) ", reply), reply[:200]
    assert b"name =" not in reply


# --- many at a time -----------------------------------------------------------


def everybody(school: Stack, rounds: int) -> list[int]:
    """Let everybody ask in several threads at once, each laptop from its address."""

    def ask(turn: int) -> int:
        number = turn % len(CROWD)
        query = Query(
            CROWD[number],
            str(turn),
            build=parse_build_id(OLD),
            report={"result": f"turn {turn}"},
        )
        reply = school.post(query.encode(), source=f"127.0.1.{number + 1}")
        if reply.status == 200:
            ring()  # what it is signed with is looked at by other tests
            assert str(turn).encode() in reply.body
        return reply.status

    with ThreadPoolExecutor(16) as pool:
        # the same laptop at the same moment, by several threads
        turns = [laptop for laptop in range(len(CROWD)) for _ in range(rounds)]
        numbers = [at * len(CROWD) + turn for at, turn in enumerate(turns)]
        return list(pool.map(ask, numbers))


def counted(reports: Reports) -> int:
    found = [one for one in reports.asked() if "SHC3330" in one]
    return sum(state.polls for state in reports.states(found).values())


def test_no_report_is_lost_among_workers(school: Stack, reports: Reports) -> None:
    """Laptops nobody has seen before, each asked about by several workers at once."""
    before = counted(reports)
    rounds = 12
    replies = everybody(school, rounds)
    assert replies == [200] * (rounds * len(CROWD))
    assert counted(reports) - before == rounds * len(CROWD)
    assert "could not be written" not in school.told()
    log = (school.top / "gunicorn.log").read_text()
    assert len(school.gunicorn.children()) == 2, log


def test_servers_that_start_at_once_make_one_database(school: Stack) -> None:
    psql = ["psql", "-q", "-h", str(school.top / "sockets"), "-U", "olpc", "postgres"]
    script = (
        "import sys\nfrom olpc_update_query.server.reports import Reports\n"
        "from olpc_update_query.server.records import Poll\n"
        "reports = Reports(sys.argv[1])\nsys.stdin.read()\n"
        "poll = Poll(sys.argv[2], 1800000000, 'h')\n"
        "reports.wait(reports.record(poll, confirm=True))\nreports.close()\n"
    )
    for turn in range(2):
        name = f"fresh{turn}"
        subprocess.run([*psql, "-c", f"CREATE DATABASE {name}"], check=True)
        url = school.database_url.replace("/postgres?", f"/{name}?")
        servers = [
            subprocess.Popen(
                [sys.executable, "-c", script, url, f"SN{number % 2}"],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(4)
        ]
        for server in servers:
            _, complained = server.communicate(timeout=60)
            assert (server.returncode, complained) == (0, b"")
        kept = Reports(url)
        assert sum(state.polls for state in kept.latest(9)) == 4
        kept.close()


class Crowd:
    """Laptops that go on asking until they are dismissed."""

    def __init__(self, school: Stack) -> None:
        self.replies: Counter[int] = Counter()
        self._school, self._stop = school, threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(4)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        turn = 0
        while not self._stop.wait(0.01):
            turn += 1
            query = Query(CROWD[number], f"{number}{turn}")
            source = f"127.0.2.{number + 1}"
            self.replies[self._school.post(query.encode(), source=source).status] += 1

    def dismiss(self) -> Counter[int]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.replies


def test_a_reload_loses_no_answer(school: Stack) -> None:
    before = set(school.gunicorn.children())
    crowd = Crowd(school)
    os.kill(school.gunicorn.pid, signal.SIGHUP)
    patiently(lambda: not before & set(school.gunicorn.children()), school.told())
    time.sleep(0.5)
    assert set(crowd.dismiss()) == {200}


def test_work_is_taken_by_another_worker(school: Stack) -> None:
    """The one that asked for the work stands still when it is shown."""
    toml = school.site / "site.toml"
    text = toml.read_text()
    first, second = school.gunicorn.children()
    query = Query(OWN.serial, "5").encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        replace_file(toml, b"hashcash_bits = 8\n" + text.encode())
        with standing_still(second):
            reply = school.request("POST", "/antitheft/1/", query, kind)
        assert reply.status == 401
        challenge = parse_challenge(reply.headers["www-authenticate"])
        assert challenge is not None
        stamp = mint(challenge, date="261126", salt="1", may_go_on=lambda: True)
        assert stamp is not None
        paid = kind | {"Authorization": credentials(stamp)}
        with standing_still(first):
            seen = [
                school.request("POST", "/antitheft/1/", body, paid).status
                for body in (query, query + b"&stream=x", query)
            ]
        assert seen == [200, 401, 401], "for one query, once"
    finally:
        replace_file(toml, text.encode())


@contextlib.contextmanager
def standing_still(worker: int) -> Iterator[None]:
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def test_a_worker_that_is_killed_is_replaced(school: Stack) -> None:
    victim = school.gunicorn.children()[0]
    crowd = Crowd(school)
    os.kill(victim, signal.SIGKILL)
    patiently(lambda: len({*school.gunicorn.children()} - {victim}) == 2, school.told())
    patiently(lambda: crowd.replies[200] > 20, school.told())
    replies = crowd.dismiss()
    assert sum(replies.values()) - replies[200] <= 4  # those it was working on


def test_without_its_database_laptops_are_answered(
    school: Stack, reports: Reports
) -> None:
    query = Query(CROWD[0], "1", report={"result": "before"})
    assert school.post(query.encode()).status == 200
    reports.close()
    school.database.stop(signal.SIGINT)
    try:
        for turn in range(4):
            query = Query(CROWD[turn], "2", report={"result": "meanwhile"})
            assert school.post(query.encode()).status == 200
        reply = school.request("GET", "/")
        assert reply.status == 500
        assert reply.body.count(b'class="problem"') == 1
        assert b"Traceback" not in reply.body
        # a worker that begins meanwhile does so all the same
        before = set(school.gunicorn.children())
        os.kill(school.gunicorn.pid, signal.SIGHUP)
        patiently(lambda: not before & set(school.gunicorn.children()), "reloaded")
        for turn in range(4):
            assert school.post(Query(CROWD[turn], "4").encode()).status == 200
    finally:
        school.start_database()
    for turn in range(4):
        query = Query(CROWD[0], "3", report={"result": f"after {turn}"})
        assert school.post(query.encode()).status == 200
    patiently(lambda: school.request("GET", "/").status == 200, school.told())
    page = school.request("GET", f"/laptops/{CROWD[0]}").body
    assert b"after 3" in page


# --- the login ----------------------------------------------------------------


def test_a_login_counts_at_every_worker(school: Stack) -> None:
    status, cookie = log_in(school, PASSWORD, source="127.0.3.1")
    assert (status, bool(cookie)) == (303, True)
    pages = [
        school.request("GET", "/", headers={"Cookie": cookie}).body for _ in range(12)
    ]
    assert all(b"Log out" in page for page in pages)
    found = re.search(rb'name="secret" value="([^"]+)"', pages[0])
    assert found is not None
    form = {
        "secret": found[1].decode(),
        "build": OLD,
        "kind": "stream",
        "name": "trial",
    }
    body = urlencode({**form, "percent": "10"})
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    reply = school.request("POST", "/assign", body, headers, source="127.0.3.1")
    assert reply.status == 303
    assert reply.headers["location"] == "/"
    told = (school.site / "changes.log").read_text()
    assert "web_127.0.3.1: assign build 760 to stream trial, 10 percent" in told
    pages = [school.request("GET", "/").body for _ in range(12)]
    assert all(b"stream trial" in page for page in pages)


def test_whoever_guesses_has_to_wait_for_all_workers(school: Stack) -> None:
    """And saying that one comes from elsewhere does not help."""
    guesser = "127.0.3.9"
    for turn in range(TRIES):
        forged = f"10.0.0.{turn}"
        assert log_in(school, "x", source=guesser, forged=forged)[0] == 403
    for turn in range(4):
        forged = f"10.0.1.{turn}"
        assert log_in(school, PASSWORD, source=guesser, forged=forged)[0] == 429
    assert log_in(school, PASSWORD, source="127.0.3.10")[0] == 303
    assert school.request("GET", "/login", source=guesser).status == 200


# --- hostile clients ----------------------------------------------------------


@pytest.fixture
def ending() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as found:
        yield found


def reach(school: Stack, ending: contextlib.ExitStack, source: str) -> socket.socket:
    """Open a connection that ends with the test."""
    where, own = ("127.0.0.1", school.port), (source, 0)
    return ending.enter_context(socket.create_connection(where, 20, own))


def test_silent_and_slow_clients_hold_nobody_up(
    school: Stack, ending: contextlib.ExitStack
) -> None:
    """Nginx keeps them: no worker ever hears of a query that is not whole."""
    for number in range(150):
        link = reach(school, ending, "127.0.4.9")
        link.sendall(b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\n")
        if number % 2:
            link.sendall(b"Content-Length: 500\r\n\r\nserialnum=")
    begin = time.monotonic()
    for turn in range(5):
        assert school.post(Query(CROWD[0], str(turn)).encode()).status == 200
    assert time.monotonic() - begin < 10


def test_one_address_cannot_take_every_connection(
    school: Stack, ending: contextlib.ExitStack
) -> None:
    refused = 0
    links = [reach(school, ending, "127.0.4.1") for _ in range(260)]
    for link in links:
        link.sendall(
            b"POST /antitheft/1/ HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n"
        )
    for link in links:
        link.settimeout(0.02)
        with contextlib.suppress(TimeoutError):
            refused += link.recv(200).startswith(b"HTTP/1.1 429")
    assert refused >= 50
    reply = school.post(Query(CROWD[0], "1").encode(), source="127.0.4.2")
    assert reply.status == 200


def test_giant_forms_are_refused(school: Stack) -> None:
    for path in ("/antitheft/1/", "/assign", "/login"):
        source = "127.0.4.7"
        reply = school.request("POST", path, b"x" * 20_000, source=source)
        assert reply.status == 413


# --- the recipe ---------------------------------------------------------------


@pytest.mark.needs("systemd")
def test_the_unit_is_one(tmp_path: Path) -> None:
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    places = {
        "/opt/olpc-update/bin/gunicorn": gunicorn,
        "olpc-site": "daemon",
        "postgresql.service": "",
    }
    unit = tmp_path / "olpc-update-admin.service"
    unit.write_text(configured(unit.name, places))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, [])


def test_every_file_of_the_recipe_is_explained() -> None:
    text = (CONFIGURATION.parent / "behind-nginx.md").read_text()
    for path in CONFIGURATION.iterdir():
        assert f"(nginx/{path.name})" in text
