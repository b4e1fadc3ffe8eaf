"""The samples of ``docs/server.md`` are what the program reads and writes."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server.laptops import COLUMNS, parse_laptops
from olpc_update_query.server.overview import look
from olpc_update_query.server.records import Poll
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import (
    DEFAULT,
    Assignment,
    Kind,
    Scope,
    parse_rollout,
)
from olpc_update_query.server.rsyncd import configuration, served_builds
from olpc_update_query.server.site import Settings, parse_settings
from tests.keys import SERIAL, UUID
from tests.server.sites import (
    LAPTOP,
    NOW,
    add_build,
    assign,
    list_laptops,
    make_site,
)

TEXT = (Path(__file__).parents[2] / "docs/server.md").read_text()


def sample(kind: str, number: int = 0) -> str:
    block = re.compile(rf"^```{kind}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return list(block.finditer(TEXT))[number][1]


def table(heading: str) -> dict[str, str]:
    """Return the first two columns of the table below a heading."""
    part = TEXT.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", part, re.MULTILINE)
    return {
        name: default
        for names, default in rows
        for name in re.findall("`(.*?)`", names)
    }


def test_site_toml() -> None:
    found = parse_settings(sample("toml").encode())
    assert found.name == "Escuela 1"
    told = table("site.toml")
    names = {
        "lease_days": "lease.days",
        "shorten": "lease.shorten",
        "lease_rules": "lease.group.NAME",
    }
    told.pop("lease.stream.NAME")
    assert set(told) == {names.get(one.name, one.name) for one in fields(Settings)}
    plain = parse_settings(b'name = "x"')
    assert told["interval"] == str(plain.interval)
    assert told["unknown"] == f'`"{plain.unknown}"`'
    assert told["status_page"] == f'`"{plain.status_page}"`'
    assert told["behind_proxies"] == str(plain.behind_proxies)
    assert told["timezone"] == f'`"{plain.timezone}"`'
    assert told["lease.days"] == str(plain.lease_days)
    assert told["lease.shorten"] == str(plain.shorten).lower()


def test_laptops_csv() -> None:
    found = parse_laptops(sample("csv").encode())
    assert len(found) == 3
    assert found[SERIAL].uuid == UUID
    assert [one.serial for one in found.values() if one.stolen] == ["SHC1290001A"]
    assert sample("csv").splitlines()[0] == ",".join(COLUMNS)


def test_rollout_toml() -> None:
    found = parse_rollout(sample("toml", 1).encode())
    assert {scope.kind for scope in found.assignments} == set(Kind)
    assert found.assignments[DEFAULT].percent == 10
    assert found.assignments[Scope(Kind.STREAM, "testing")].sticky
    told = table("rollout.toml")
    assert set(told) == {one.name for one in fields(Assignment)}
    plain = Assignment(parse_build_id("1"))
    assert told["percent"] == str(plain.percent)
    assert told["reboot"] == f'`"{plain.reboot}"`'
    for name in ("paused", "allow_downgrade", "sticky"):
        assert told[name] == str(getattr(plain, name)).lower()


def shape(value: object) -> object:
    """Return what a JSON value is made of, of lists the first item."""
    if isinstance(value, dict):
        named = {"running", "result"}
        return {key: None if key in named else shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[:1]]
    return None


def test_status_json(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    assign(site, DEFAULT, Assignment(parse_build_id("762")))
    reports = Reports(tmp_path / "reports.db")
    list_laptops(site, LAPTOP)
    reports.record(Poll(SERIAL, NOW, "10.0.0.7"))
    with site.change("maria", "assign build 762"):
        pass
    view = look(site, reports, NOW).to_json()
    reports.close()
    assert shape(json.loads(sample("json"))) == shape(view)


def test_rsyncd_conf(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "762")
    text = configuration(site, served_builds(site), as_root=True)
    module = text[text.index("[build-762]") :]
    assert module.replace(str(site.path), "/srv/site") == sample("ini")


@pytest.mark.parametrize("name", ["site.toml", "laptops.csv", "rollout.toml"])
def test_every_file_has_its_section(name: str) -> None:
    assert f"\n### {name}\n" in TEXT
