"""The command that says how long leases last."""

from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.rollout import Kind, Scope
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from tests.cli.shell import Shell
from tests.server.sites import LAPTOP, list_laptops, make_site

LIMA = "America/Lima"
GROUP, STREAM = Scope(Kind.GROUP, "5B"), Scope(Kind.STREAM, "testing")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(make_site(tmp_path).path, SystemClock())


def test_the_command(shell: Shell, site: Site) -> None:
    text = "# a comment\n" + site.settings_text()
    site.save_settings(text)
    plain = LAPTOP._replace(group=None, stream=None)
    five = plain._replace(serial="SHC2", group="5B")
    list_laptops(site, plain, five, five._replace(serial="SHC3"))
    out = shell.good("policy", site.path, "--timezone", LIMA, "--days", "14")
    assert "a school day, America/Lima" in out
    assert "every other laptop: leases of 14 days (3 laptops)" in out
    out = shell.good("policy", site.path, "--group", "5B", "--days", "60")
    assert "group 5B: leases of 60 days (2 laptops)" in out
    assert "every other laptop: leases of 14 days (1 laptop)" in out
    shell.good("policy", site.path, "--group", "5B", "--shorten")
    shell.good("policy", site.path, "--stream", "testing", "--days", "0")
    settings = site.settings()
    assert settings.lease_rules == {
        GROUP: LeasePolicy(60, shorten=True),
        STREAM: LeasePolicy(0),
    }
    assert "# a comment" in site.settings_text()
    assert shell.good("policy", site.path) in shell.good("status", site.path)
    shell.good("policy", site.path, "--group", "5B", "--clear")
    told = shell.bad(
        errors.NoAssignment, "policy", site.path, "--group", "5B", "--clear"
    )
    assert "no policy for group 5B" in told
    log = (site.path / "changes.log").read_text()
    assert "the time zone is America/Lima" in log
    assert "leases for group 5B: days 60\n" in log
    assert "leases for group 5B: shorten True\n" in log
    assert "leases for group 5B: as for every other laptop\n" in log


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--days", "3651"], id="too long"),
        pytest.param(["--timezone", "Lima"], id="no zone"),
        pytest.param(["--clear"], id="clear all"),
        pytest.param(["--group", "5B", "--clear", "--days", "1"], id="both"),
        pytest.param(["--group", "5B"], id="nothing"),
        pytest.param(["--group", "5B", "--stream", "x", "--days", "1"], id="two"),
    ],
)
def test_wrong_words(shell: Shell, site: Site, words: list[str]) -> None:
    before = site.settings_text()
    assert shell.run("policy", site.path, *words).code == 2
    assert site.settings_text() == before


def test_a_file_that_no_program_can_edit(shell: Shell, site: Site) -> None:
    site.save_settings('name = "x"\nlease = {days = 3, group = {5B = {days = 4}}}\n')
    words = ("policy", site.path, "--group", "6A", "--days", "9")
    assert "only a person can edit it" in shell.bad(errors.DamagedSite, *words)
    assert site.settings().lease_rules[GROUP] == LeasePolicy(4)


def test_check_names_policies_of_nobody(shell: Shell, site: Site) -> None:
    shell.good("policy", site.path, "--group", "9Z", "--days", "60")
    assert (
        "last for group 9Z, in which no laptop is" in shell.run("check", site.path).out
    )
