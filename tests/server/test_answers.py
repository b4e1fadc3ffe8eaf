from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from olpc_update_query.errors import Malformed, MissingKey, UnsafeKey
from olpc_update_query.model import canonical
from olpc_update_query.model.messages import NEVER_EXPIRES, Answer, Query
from olpc_update_query.model.orders import Order, Reboot
from olpc_update_query.model.wire import format_time, parse_build_id
from olpc_update_query.server import signing
from olpc_update_query.server.answers import Answerer
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import lease_end
from olpc_update_query.server.leases import EARLIEST
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import (
    DEFAULT,
    Assignment,
    Kind,
    Scope,
    admitted,
)
from olpc_update_query.server.signing import Signer
from olpc_update_query.server.site import DAY
from olpc_update_query.system.files import replace_file
from olpc_update_query.trust.answer import open_answer
from olpc_update_query.trust.lease import find_lease
from tests.keys import SERIAL, UUID, line_holds, ring, signer
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

OLD, NEW = parse_build_id("760"), parse_build_id("762")
NONCE = "263517231734"
QUERY = Query(SERIAL, NONCE, build=OLD)
BASE = "http://schoolserver/"


class School:
    """A site, its server, and what a laptop does with an answer."""

    def __init__(self, path: Path) -> None:
        self.clock = HandClock()
        self.site = make_site(path, clock=self.clock)
        self.manifest = add_build(self.site, NEW)
        list_laptops(self.site, LAPTOP)
        assign(self.site, DEFAULT, Assignment(NEW))
        self.reports = Reports(path / "reports.db")
        self.restart()

    def restart(self) -> None:
        self.reports.flush()
        self.answerer = Answerer(self.site, self.reports, self.clock)

    def raw(self, query: Query, base: str = BASE) -> bytes | None:
        return self.answerer.answer(query.encode(), base=base, address="10.0.0.7")

    def ask(self, query: Query = QUERY, base: str = BASE) -> Answer:
        """Ask, and trust the answer as a laptop does."""
        raw = self.raw(query, base)
        assert raw is not None
        found = open_answer(
            raw, nonce=query.nonce, ring=ring(), serial=query.serial, now=0, floor=0
        )
        assert not found.answer.faults
        return found.answer

    def lease(self, query: Query = QUERY) -> str:
        """Return the lease that comes with an answer; there must be one."""
        line = self.ask(query).lease
        assert line is not None
        return line

    def until(self, line: str) -> int:
        """Return until when a lease is good, as the laptop finds it."""
        found = find_lease(
            line, serial=SERIAL, uuid=UUID, ring=ring(), now=self.clock.now()
        )
        assert found.expiry is not None
        return found.expiry


@pytest.fixture
def school(tmp_path: Path) -> Iterator[School]:
    found = School(tmp_path)
    yield found
    found.reports.close()


# --- the answer -------------------------------------------------------------


def test_an_answer_holds_nonce_time_and_interval(school: School) -> None:
    answer = school.ask()
    assert (answer.nonce, answer.time, answer.interval) == (NONCE, NOW, DAY)
    assert not answer.stolen
    assert answer.message is None


def test_an_answer_verifies_by_the_description_alone(school: School) -> None:
    raw = school.raw(QUERY)
    assert raw is not None
    value = canonical.decode(raw)
    match value:
        case ["oatc-signed-resp", 1, [data, ["sig", 1, [str(line)]]]]:
            octets = canonical.encode(data)
        case _:
            pytest.fail(f"no envelope: {raw!r}")
    assert raw.startswith(b'["oatc-signed-resp",1,[' + octets + b",")
    trusted = [signer("oats").public]
    now = format_time(NOW)
    assert line_holds(line, octets, trusted=trusted, serial=SERIAL, now=now)
    assert not line_holds(line, octets + b" ", trusted=trusted, serial=SERIAL, now=now)


@pytest.mark.parametrize(
    "nonce", ["0", "x" * 256, 'quote " and \\', "new\nline", "ñandú"]
)
def test_any_nonce_is_repeated(school: School, nonce: str) -> None:
    assert school.ask(replace(QUERY, nonce=nonce)).nonce == nonce


def test_interval_and_message_are_those_of_the_site(school: School) -> None:
    settle(school.site, 'interval = 3600\nmessage = "Hola, señora"')
    answer = school.ask()
    assert (answer.interval, answer.message) == (3600, "Hola, señora")


def test_each_answer_costs_one_signature(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    school.ask()
    signed: list[bytes] = []
    real = Signer.sign

    def count(self: Signer, data: bytes) -> bytes:
        signed.append(data)
        return real(self, data)

    monkeypatch.setattr(Signer, "sign", count)
    for _ in range(5):
        assert school.ask().lease
    school.restart()
    assert school.ask().lease
    assert len(signed) == 6


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"serialnum=SHC1&nonce=1", id="no version"),
        pytest.param(b"serialnum=SHC1&version=2&nonce=1", id="version 2"),
        pytest.param(b"serialnum=SHC1&version=1", id="no nonce"),
        pytest.param(b"serialnum=../..&version=1&nonce=1", id="serial"),
        pytest.param(b"serialnum=A&version=1&nonce=1&nonce=2", id="twice"),
        pytest.param(b"\xff\xfe", id="octets"),
        pytest.param(b"serialnum=A&version=1&nonce=1&x=" + b"y" * 9000, id="long"),
    ],
)
def test_a_malformed_query_is_refused_and_not_recorded(
    school: School, body: bytes
) -> None:
    with pytest.raises(Malformed):
        school.answerer.answer(body, base=BASE, address="h")
    school.reports.flush()
    assert school.reports.latest(9) == []


def test_a_site_without_a_usable_key_cannot_answer(school: School) -> None:
    path = school.site.keys / "oats.private"
    path.chmod(0o644)
    with pytest.raises(UnsafeKey):
        school.raw(QUERY)
    path.unlink()
    with pytest.raises(MissingKey):
        school.raw(QUERY)


def test_a_poll_is_recorded(school: School) -> None:
    query = replace(QUERY, stream="testing", lease_expiry=NOW + 5)
    school.ask(replace(query, report={"result": "done"}))
    state = school.reports.state(SERIAL)  # without a flush: it was confirmed
    assert state is not None
    assert (state.asked, state.address, state.listed) == (NOW, "10.0.0.7", True)
    assert (state.build, state.stream, state.ordered) == (OLD, "testing", NEW)
    assert (state.lease_expiry, state.result) == (NOW + 5, "done")


def test_a_report_that_is_repeated_is_not_waited_for(
    school: School, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(school.reports, "wait", waited.append)

    def report(result: str, free: int) -> None:
        told: dict[str, canonical.Json] = {"build": "762", "code": 33, "free": free}
        school.ask(replace(QUERY, report={**told, "result": result}))

    for free, result in enumerate(("full", "full", "full", "done", "full")):
        report(result, free)
    assert len(waited) == 3
    school.restart()
    report("full", 9)
    assert len(waited) == 4


def test_an_answer_is_logged_in_words(
    school: School, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "olpc_update_query.server.answers")
    school.ask()
    list_laptops(school.site, LAPTOP._replace(stolen=True))
    school.ask(replace(QUERY, build=None))
    assert caplog.messages == [
        f"{SERIAL} at 10.0.0.7: runs 760, given a lease, told to run 762",
        f"{SERIAL} at 10.0.0.7: runs an unknown build, told that it is stolen",
    ]


# --- who is known -------------------------------------------------------------


def test_an_unknown_laptop_gets_updates_and_no_lease(school: School) -> None:
    answer = school.ask(replace(QUERY, serial=OTHER))
    assert answer.lease is None
    assert isinstance(answer.update, Order)
    school.reports.flush()
    assert [state.serial for state in school.reports.unlisted(9)] == [OTHER]


def test_an_unknown_laptop_is_only_listed(school: School) -> None:
    settle(school.site, 'unknown = "list"')
    answer = school.ask(replace(QUERY, serial=OTHER))
    assert (answer.lease, answer.update) == (None, None)
    assert answer.message == "This laptop is not on the list of Escuela 1."
    school.reports.flush()
    assert [state.serial for state in school.reports.unlisted(9)] == [OTHER]
    assert school.ask().lease is not None


def test_an_unknown_laptop_is_ignored(school: School) -> None:
    settle(school.site, 'unknown = "ignore"')
    assert school.raw(replace(QUERY, serial=OTHER)) is None
    school.reports.flush()
    assert school.reports.unlisted(9) == []
    assert school.ask().lease is not None


def test_an_xo_in_lower_case_is_the_same_laptop(school: School) -> None:
    raw = school.raw(replace(QUERY, serial=SERIAL.lower()))
    assert raw is not None
    assert b"act01: " + SERIAL.encode() in raw


def test_a_stolen_laptop_is_told_so_and_nothing_else(school: School) -> None:
    list_laptops(school.site, LAPTOP._replace(stolen=True))
    answer = school.ask()
    assert answer.stolen
    assert (answer.lease, answer.update) == (None, None)
    school.reports.flush()
    assert ("stolen", "10.0.0.7") in {
        (event.kind, event.detail) for event in school.reports.events(SERIAL)
    }
    list_laptops(school.site, LAPTOP)
    assert not school.ask().stolen


# --- leases -------------------------------------------------------------


def test_a_lease_is_good_for_its_laptop(school: School) -> None:
    line = school.lease()
    assert school.until(line) == lease_end(NOW, 21, "UTC")
    fields = line.split(" ", 4)
    assert fields[:4] == ["act01:", SERIAL, "K", format_time(lease_end(NOW, 21, "UTC"))]
    text = f"{SERIAL}:{UUID}:K:{fields[3]}".encode()
    trusted = [signer("lease").public]
    assert line_holds(fields[4], text, trusted=trusted, serial=SERIAL, now="0")


def test_a_lease_is_handed_out_until_half_of_it_is_over(school: School) -> None:
    line = school.lease()
    school.clock.time += 10 * DAY
    assert school.lease() == line
    school.restart()
    assert school.lease() == line
    school.clock.time += DAY
    later = school.lease(replace(QUERY, lease=line))
    assert school.until(later) == lease_end(NOW, 32, "UTC")
    school.reports.flush()
    events = school.reports.events(SERIAL)
    assert [event.detail for event in events if event.kind == "lease"] == [
        format_time(lease_end(NOW, 32, "UTC")),
        format_time(lease_end(NOW, 21, "UTC")),
    ]


def test_a_laptop_that_has_the_lease_is_not_given_it_again(school: School) -> None:
    line = school.lease()
    for known in (
        replace(QUERY, lease=line),
        replace(QUERY, lease=line.rstrip("\n")),
        replace(QUERY, lease_expiry=NOW + 21 * DAY),
        replace(QUERY, lease_expiry=NOW + 90 * DAY),
        replace(QUERY, lease_expiry=NEVER_EXPIRES),
    ):
        assert school.ask(known).lease is None


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"lease_expiry": NOW + DAY}, id="a shorter one"),
        pytest.param({"lease_expiry": NOW - DAY}, id="an expired one"),
        pytest.param({"lease": "nonsense"}, id="nonsense"),
    ],
)
def test_a_laptop_that_lacks_the_lease_is_given_it(
    school: School, said: dict[str, str]
) -> None:
    assert school.ask(replace(QUERY, **said)).lease is not None  # type: ignore[arg-type]  # what a test says


def test_a_lease_of_another_key_is_replaced(school: School) -> None:
    foreign = signing.make_lease(SERIAL, UUID, NOW + 90 * DAY, signer("stranger").sig01)
    line = school.lease(replace(QUERY, lease=foreign))
    assert school.until(line) == lease_end(NOW, 21, "UTC")


def test_a_long_lease_is_shortened_where_the_site_says_so(school: School) -> None:
    ours = signing.make_lease(SERIAL, UUID, NOW + 90 * DAY, signer("lease").sig01)
    said = replace(QUERY, lease=ours)
    assert school.ask(said).lease is None
    settle(school.site, "[lease]\nshorten = true")
    assert school.until(school.lease(said)) == lease_end(NOW, 21, "UTC")
    for_ever = replace(QUERY, lease_expiry=NEVER_EXPIRES)
    assert school.ask(for_ever).lease is not None


def test_a_new_length_or_uuid_or_key_makes_a_new_lease(school: School) -> None:
    first = school.lease()
    settle(school.site, "[lease]\ndays = 60")
    second = school.lease()
    assert school.until(second) == lease_end(NOW, 60, "UTC")
    list_laptops(school.site, LAPTOP._replace(uuid=UUID.lower()))
    third = school.lease()
    assert len({first, second, third}) == 3
    replace_file(
        school.site.keys / "lease.private", signer("new").private_bytes(), mode=0o600
    )
    school.clock.time += 1
    assert signer("new").key_id in school.lease()


def test_no_lease_without_uuid_or_days_or_key_or_clock(
    school: School, caplog: pytest.LogCaptureFixture
) -> None:
    list_laptops(school.site, Laptop(SERIAL))
    assert school.ask().lease is None
    list_laptops(school.site, LAPTOP)
    settle(school.site, "[lease]\ndays = 0")
    assert school.ask().lease is None
    settle(school.site, "[lease]\ndays = 21")
    assert school.ask().lease is not None
    school.clock.time = EARLIEST - 1
    assert school.ask().lease is None
    school.clock.time = NOW
    (school.site.keys / "lease.private").unlink()
    school.clock.time += 1
    for _ in range(3):
        answer = school.ask()
        assert answer.lease is None
        assert answer.update is not None
    assert caplog.text.count("no lease can be signed") == 1


def test_a_lease_survives_reports_that_cannot_be_read(
    school: School, tmp_path: Path
) -> None:
    with school.reports._opened().begin() as connection:
        connection.exec_driver_sql("DROP TABLE leases")
    assert school.lease()
    school.restart()
    assert school.lease()


# --- orders -------------------------------------------------------------


def test_an_order_says_what_was_published_and_assigned(school: School) -> None:
    assign(
        school.site,
        DEFAULT,
        Assignment(
            NEW,
            allow_downgrade=True,
            not_before=NOW + 60,
            reboot=Reboot.IDLE,
            sticky=True,
        ),
    )
    build = school.site.need_build(NEW)
    assert school.ask().update == Order(
        NEW,
        build.contents,
        len(school.manifest),
        (f"{BASE}builds/762/",),
        allow_downgrade=True,
        not_before=NOW + 60,
        reboot=Reboot.IDLE,
        sticky=True,
    )


def test_no_order_for_the_build_that_runs(school: School) -> None:
    assert school.ask(replace(QUERY, build=NEW)).update is None
    assert school.ask(replace(QUERY, build=None)).update is not None


def test_no_order_for_a_build_that_is_not_published(
    school: School, caplog: pytest.LogCaptureFixture
) -> None:
    assign(school.site, DEFAULT, Assignment(parse_build_id("763")))
    assert school.ask().update is None
    assert school.ask().lease is not None
    assert caplog.text.count("build 763 is assigned but not published") == 1
    add_build(school.site, "763")
    assert school.ask().update is not None


def test_the_group_and_stream_of_the_list_decide(school: School) -> None:
    for name in ("700", "701", "702"):
        add_build(school.site, name)
    builds = {
        Scope(Kind.GROUP, "5B"): "700",
        Scope(Kind.STREAM, "testing"): "701",
        Scope(Kind.SERIAL, SERIAL): "702",
    }

    def ordered(query: Query = QUERY) -> str | None:
        update = school.ask(query).update
        return None if update is None else update.build

    for scope, name in builds.items():
        assign(school.site, scope, Assignment(parse_build_id(name)))
    assert ordered() == "702"
    assign(school.site, Scope(Kind.SERIAL, SERIAL), None)
    assert ordered(replace(QUERY, stream="testing")) == "700"
    list_laptops(school.site, LAPTOP._replace(group=None))
    assert ordered(replace(QUERY, stream="testing")) == "701"
    list_laptops(school.site, LAPTOP._replace(group=None, stream="stable"))
    assert ordered(replace(QUERY, stream="testing")) == "762"
    assert ordered(Query(OTHER, NONCE, stream="testing")) == "701"
    list_laptops(school.site, LAPTOP._replace(group=None))
    assert ordered(replace(QUERY, stream="none")) is None


def test_a_percentage_reaches_who_it_says(school: School) -> None:
    add_build(school.site, "759")
    others = parse_build_id("759")
    assign(school.site, DEFAULT, Assignment(NEW, 40, others))
    for number in range(8):
        serial = f"SHC{number:08X}"
        update = school.ask(Query(serial, NONCE, build=OLD)).update
        assert update is not None
        assert update.build == (NEW if admitted(serial, NEW, 40) else others)


@pytest.mark.parametrize(
    ("text", "base", "urls"),
    [
        pytest.param("", BASE, ["http://schoolserver/builds/762/"], id="as asked"),
        pytest.param(
            "",
            "https://[fe80::1]:8080/prefix/",
            ["https://[fe80::1]:8080/prefix/builds/762/"],
            id="elsewhere",
        ),
        pytest.param(
            'public_url = "http://updates.example:81"',
            BASE,
            ["http://updates.example:81/builds/762/"],
            id="as told",
        ),
        pytest.param(
            'mirrors = ["http://m.example/b", "file:///media/b/"]\n'
            'rsync_url = "rsync://r.example"',
            BASE,
            [
                "http://schoolserver/builds/762/",
                "http://m.example/b/762/",
                "file:///media/b/762/",
                "rsync://r.example/build-762/",
            ],
            id="mirrors and rsync",
        ),
    ],
)
def test_an_order_names_where_the_build_is(
    school: School, text: str, base: str, urls: list[str]
) -> None:
    settle(school.site, text)
    update = school.ask(base=base).update
    assert isinstance(update, Order)
    assert list(update.urls) == urls


def test_rsync_is_named_only_where_the_tree_is(school: School, tmp_path: Path) -> None:
    settle(school.site, 'rsync_url = "rsync://r.example/"')
    (school.site.builds / "762/root").rename(tmp_path / "root")
    school.clock.time += 1
    update = school.ask().update
    assert isinstance(update, Order)
    assert list(update.urls) == ["http://schoolserver/builds/762/"]


def test_what_is_damaged_meanwhile_stops_nothing(school: School) -> None:
    before = school.ask()
    replace_file(school.site.path / "rollout.toml", b"[default\n")
    replace_file(school.site.path / "laptops.csv", b"nonsense\n")
    replace_file(school.site.path / "site.toml", b"name = 3\n")
    school.clock.time += 1
    after = school.ask()
    assert (after.lease, after.update) == (before.lease, before.update)
    assert len(school.site.problems()) == 3


def test_the_keys_of_answers_and_leases_are_not_mixed_up(school: School) -> None:
    raw = school.raw(QUERY)
    assert raw is not None
    oats, lease = signer("oats").key_id, signer("lease").key_id
    assert raw.count(oats.encode()) == 1
    assert raw.count(lease.encode()) == 1
    assert raw.index(lease.encode()) < raw.index(oats.encode())


# --- the brake -------------------------------------------------------------

CLASS = [f"SHC{number:08X}" for number in range(10)]


def tell(school: School, serial: str, code: int, build: str = NEW) -> None:
    report: dict[str, canonical.Json]
    report = {"build": build, "code": code, "free": 9, "result": f"code {code}"}
    query = Query(serial, NONCE, build=OLD, report=report)
    assert school.raw(query) is not None


@pytest.fixture
def trying(school: School) -> School:
    list_laptops(school.site, *(Laptop(serial) for serial in CLASS))
    assign(school.site, DEFAULT, Assignment(NEW, changed=NOW))
    return school


@pytest.mark.parametrize(
    ("codes", "halted"),
    [
        pytest.param([30] * 4, None, id="too few"),
        pytest.param([0, 0, 0, 0, 30], None, id="just the share"),
        pytest.param([0, 0, 0, 30, 30], "2 of 5 laptops failed", id="too many"),
        pytest.param([30] * 5, "5 of 5 laptops failed", id="all"),
        pytest.param([10, 11, 14, 63, 64, 5], None, id="bad links"),
        pytest.param([30] * 5 + [0] * 5, "5 of 5 laptops failed", id="stays halted"),
    ],
)
def test_a_build_that_fails_is_halted(
    trying: School, codes: list[int], halted: str | None
) -> None:
    for serial, code in zip(CLASS, codes, strict=False):
        tell(trying, serial, code)
    found = trying.site.rollout().assignments[DEFAULT]
    assert (found.paused, found.halted) == (halted is not None, halted)
    log = trying.site.path / "changes.log"
    text = log.read_text() if log.exists() else ""
    assert text.count("the server: halt build 762") == (halted is not None)


def test_only_what_was_told_since_the_change_counts(trying: School) -> None:
    assign(trying.site, DEFAULT, Assignment(NEW, changed=NOW + 1))
    for serial in CLASS:
        tell(trying, serial, 30)
    assert not trying.site.rollout().assignments[DEFAULT].paused
    trying.clock.time += 1
    for serial in CLASS:
        tell(trying, serial, 30)  # what was told before is not told anew
    assert not trying.site.rollout().assignments[DEFAULT].paused
    for serial in CLASS:
        tell(trying, serial, 31)
    assert trying.site.rollout().assignments[DEFAULT].halted


def test_other_builds_and_strangers_do_not_count(trying: School) -> None:
    for serial in CLASS:
        tell(trying, serial, 30, build=OLD)
        tell(trying, f"CSN{serial[3:]}", 30)
    assert not trying.site.rollout().assignments[DEFAULT].paused


def test_a_rollout_that_cannot_be_written_stops_no_answer(
    trying: School, caplog: pytest.LogCaptureFixture
) -> None:
    text = 'stream.a.build = "2"\ndefault.build = "762"\n'
    trying.site.save_rollout(text)
    for serial in CLASS:
        tell(trying, serial, 30)
    if not trying.site.rollout().assignments[DEFAULT].halted:
        assert "cannot be paused" in caplog.text
