"""How long leases last: the function, the policies, and the commands that set them."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query import errors
from olpc_update_query.model.messages import Query
from olpc_update_query.server.answers import Answerer
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import LeasePolicy, choose, lease_end
from olpc_update_query.server.newsite import create_site
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Kind, Scope
from olpc_update_query.server.site import Site, parse_settings
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.lease import parse_line
from tests.server.sites import LAPTOP, list_laptops, make_site

LIMA = "America/Lima"
GROUP, STREAM = Scope(Kind.GROUP, "5B"), Scope(Kind.STREAM, "testing")
ZONES = sorted(available_timezones())


def at(text: str, zone: str = LIMA) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return int(moment.timestamp())


@pytest.mark.parametrize(
    ("made", "days", "zone", "end"),
    [
        pytest.param("2027-03-01T15:00", 1, LIMA, "2027-03-02T06:00", id="a day"),
        pytest.param("2027-03-01T05:00", 1, LIMA, "2027-03-02T06:00", id="before six"),
        pytest.param("2027-03-05T12:00", 1, LIMA, "2027-03-08T06:00", id="Saturday"),
        pytest.param("2027-03-05T12:00", 2, LIMA, "2027-03-08T06:00", id="Sunday"),
        pytest.param("2027-03-05T12:00", 3, LIMA, "2027-03-08T06:00", id="Monday"),
        pytest.param("2027-03-01T23:59", 21, LIMA, "2027-03-22T06:00", id="weeks"),
        pytest.param("2027-12-30T12:00", 2, LIMA, "2028-01-03T06:00", id="a new year"),
        pytest.param(
            *("2027-03-27T12:00", 1, "Europe/Madrid", "2027-03-29T06:00"),
            id="the clocks go forward",
        ),
        pytest.param(
            *("2027-10-29T12:00", 3, "Europe/Madrid", "2027-11-01T06:00"),
            id="the clocks go back",
        ),
        pytest.param(
            *("2027-03-01T23:30", 1, "Pacific/Kiritimati", "2027-03-02T06:00"),
            id="a day ahead of UTC",
        ),
    ],
)
def test_when_a_lease_ends(made: str, days: int, zone: str, end: str) -> None:
    assert lease_end(at(made, zone), days, zone) == at(end, zone)


MOMENTS = st.integers(at("2026-01-01T00:00"), at("2100-01-01T00:00"))
DAYS = st.integers(1, 3650)


@given(MOMENTS, DAYS, st.sampled_from(ZONES))
def test_it_ends_in_the_morning_of_a_school_day(
    made: int, days: int, zone: str
) -> None:
    end = datetime.fromtimestamp(lease_end(made, days, zone), ZoneInfo(zone))
    assert (end.hour, end.minute, end.second) == (6, 0, 0)
    assert end.weekday() < 5
    began = datetime.fromtimestamp(made, ZoneInfo(zone)).date()
    assert 0 <= (end.date() - began).days - days <= 2
    assert end.timestamp() > made


@given(MOMENTS, st.integers(0, 400 * 86400), DAYS, st.sampled_from(ZONES))
def test_later_is_never_earlier(made: int, more: int, days: int, zone: str) -> None:
    end = lease_end(made, days, zone)
    assert lease_end(made + more, days, zone) >= end
    assert lease_end(made, days + more // 86400, zone) >= end


@given(MOMENTS, DAYS)
def test_no_zone_is_needed_for_utc(made: int, days: int) -> None:
    assert lease_end(made, days, "UTC") == lease_end(made, days, "Etc/UTC")


def test_whose_policy_counts() -> None:
    laptop = Laptop("SHC1", group="5B", stream="testing")
    default, five, testing = LeasePolicy(), LeasePolicy(60), LeasePolicy(7)
    both = {GROUP: five, STREAM: testing}
    assert choose(laptop, default, both) == (GROUP, five)
    assert choose(laptop._replace(group="6A"), default, both) == (STREAM, testing)
    assert choose(Laptop("SHC1"), default, both) == (DEFAULT, default)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param('timezone = "Lima"', "timezone: .*no time zone", id="no zone"),
        pytest.param('timezone = "../x"', "timezone: .*no time zone", id="a path"),
        pytest.param("[lease]\ndays = 3651", "days: 3651 is not", id="too long"),
        pytest.param(
            "[lease.group.5B]\ndays = -1", r"lease\.group\.5B\.days: -1", id="negative"
        ),
        pytest.param(
            "[lease.group.5B]\ndags = 1", "dags: is not a key", id="unknown key"
        ),
        pytest.param(
            '[lease.stream."a b"]\ndays = 1', r"lease, stream\.a b|stream", id="no name"
        ),
        pytest.param("[lease]\ngroup = 1", "group: is not a table", id="no table"),
    ],
)
def test_damaged_policies(text: str, told: str) -> None:
    with pytest.raises(errors.DamagedSite, match=told):
        parse_settings(f'name = "x"\n{text}\n'.encode())


def test_a_new_site_knows_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (target, zone) in enumerate(
        (
            ("/usr/share/zoneinfo/America/Lima", LIMA),
            ("/nowhere", "UTC"),
            ("/usr/share/zoneinfo/Not/There", "UTC"),
        )
    ):
        clock = tmp_path / f"localtime{number}"
        clock.symlink_to(target)
        monkeypatch.setattr("olpc_update_query.server.newsite._LOCALTIME", str(clock))
        create_site(tmp_path / f"site{number}", "x")
        settings = Site(tmp_path / f"site{number}", SystemClock()).settings()
        assert settings.timezone == zone


def test_what_a_laptop_is_given(tmp_path: Path) -> None:
    """By its group in laptops.csv; not by the stream that it names itself."""
    site = Site(make_site(tmp_path).path, SystemClock())
    now = SystemClock().now()
    site.save_settings(
        'name = "x"\ntimezone = "America/Lima"\n[lease]\ndays = 10\n'
        "[lease.group.5B]\ndays = 40\n[lease.stream.long]\ndays = 3000\n"
        "[lease.stream.never]\ndays = 0\n"
    )
    plain = LAPTOP._replace(group=None, stream=None)
    five = plain._replace(serial="SHC2", group="5B")
    none = plain._replace(serial="SHC3", stream="never")
    list_laptops(site, plain, five, none)
    reports = Reports(tmp_path / "reports.db")
    answerer = Answerer(site, reports, SystemClock())

    def days(serial: str) -> float | None:
        query = Query(serial, "1", stream="long")
        raw = answerer.answer(query.encode(), base="http://h/", address="h")
        assert raw is not None
        line = raw.partition(b'"lease":"')[2].partition(b"\n")[0].decode()
        if not line:
            return None
        expiry = parse_line(line).expiry
        assert expiry == lease_end(now, 40 if serial == "SHC2" else 10, LIMA)
        local = datetime.fromtimestamp(expiry, ZoneInfo(LIMA))
        assert local.weekday() < 5
        return (expiry - now) / 86400

    long, short = days("SHC2"), days(LAPTOP.serial)
    assert long is not None
    assert short is not None
    assert 39 <= long <= 43
    assert 9 <= short <= 13
    assert days("SHC3") is None
    reports.close()
