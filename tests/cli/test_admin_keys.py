"""What ``olpc-update-admin keys`` does, as it is typed."""

import json
from pathlib import Path
from typing import TypeAlias

import pytest

from olpc_update_query import errors
from olpc_update_query.model.wire import format_time
from olpc_update_query.server.site import DAY, Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.rotation import follow, split_statements
from tests.cli.shell import Shell
from tests.firmware import boots, grep_lease
from tests.keys import SERIAL, UUID, ring, signer
from tests.server.sites import LAPTOP, OTHER, add_build, list_laptops, make_site

Words: TypeAlias = list[str | Path]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path)
    list_laptops(made, LAPTOP, LAPTOP._replace(serial=OTHER, group="6A"))
    return made


def states(shell: Shell, site: Site) -> dict[str, str]:
    rows = json.loads(shell.good("keys", "list", site.path, "--json"))
    return {row["origin"]: row["state"] for row in rows}


def test_rotate(shell: Shell, site: Site) -> None:
    add_build(site, "762")
    (site.builds / "762/order").write_bytes(b"old")
    words = ("keys", "rotate", site.path, "--role", "oats", "--name", "2027")
    out = shell.good(*words)
    assert "oats-2027.private signs from now on" in out
    assert "orders beside 1 builds" in out
    assert states(shell, site) == {
        "oats-2027.public": "signs",
        "lease.public": "signs",
        "oats.public": "retired by statement 1",
    }
    assert "retired by statement 1" in shell.good("keys", "list", site.path)
    shell.bad(errors.SiteExists, *words)
    assert "rotate the key for oats" in (site.path / "changes.log").read_text()


def test_two_people_sign(shell: Shell, site: Site, tmp_path: Path) -> None:
    draft, home = tmp_path / "draft", tmp_path / "home"
    home.mkdir()
    for name in ("oats", "school"):
        path = home / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(signer(name).private_bytes())
    add = site.keys / "new-oats-2027.public"
    (site.keys / "oats-ben.public").write_bytes(signer("school").public)
    shell.good("keys", "new", site.path, "--role", "oats", "--name", "2027")
    words: Words = [
        "keys",
        "draft",
        site.path,
        "--role",
        "oats",
        "--out",
        draft,
    ]
    out = shell.good(*words, "--add", add, "--threshold", "2")
    assert "the next statement needs 2 signatures" in out
    shell.bad(errors.UntrustedStatement, "keys", "publish", site.path, draft)
    shell.good("keys", "sign", draft, "--key", home / "oats.pem")
    shell.good("keys", "publish", site.path, draft)
    assert "signs" in states(shell, site)["oats.public"], "it is not retired"
    shell.good(*words, "--retire", "oats.public")
    shell.good("keys", "sign", draft, "--key", home / "oats.pem")
    told = shell.bad(errors.UntrustedStatement, "keys", "publish", site.path, draft)
    assert "2 trusted keys must sign it, 1 did" in told
    out = shell.good("keys", "sign", draft, "--key", home / "school.pem")
    assert out.count("signed by key") == 2
    shell.good("keys", "publish", site.path, draft)
    assert states(shell, site)["oats-2027.public"] == "signs"
    raws = split_statements((site.keys / "keys.sig").read_bytes())
    keys = follow(raws, ring(oats=["oats", "school"])).ring
    assert signer("oats").public not in {key.der for key in keys}


def test_mistakes(shell: Shell, site: Site, tmp_path: Path) -> None:
    junk, out = tmp_path / "junk", tmp_path / "out"
    junk.write_bytes(b"junk")
    words: Words = [
        "keys",
        "draft",
        site.path,
        "--role",
        "oats",
        "--out",
        out,
    ]
    shell.bad(errors.SiteError, *words)
    shell.bad(errors.UntrustedKey, *words, "--add", junk)
    shell.bad(errors.UntrustedKey, *words, "--add", site.keys / "oats.private")
    shell.bad(errors.SiteError, *words, "--retire", "lease.public")
    assert not out.exists()
    shell.bad(errors.Malformed, "keys", "publish", site.path, junk)
    key = ("--key", site.keys / "oats.private")
    shell.bad(errors.Malformed, "keys", "sign", junk, *key)
    assert junk.read_bytes() == b"junk"


# --- leases and delegations -----------------------------------------------------------


def test_leases_for_many(shell: Shell, site: Site) -> None:
    now = format_time(SystemClock().now())
    ran = shell.run("lease", site.path, "--all", "--days", "9")
    assert ran.code == 0
    for serial in (SERIAL, OTHER):
        line = grep_lease(ran.out, serial)
        trusted = [signer("lease").public]
        assert boots(line, serial, UUID, trusted=trusted, now=now)
    assert OTHER not in shell.run("lease", site.path, "--group", "5B").out
    shell.bad(errors.UnknownLaptop, "lease", site.path, "--group", "none")
    assert shell.run("lease", site.path).code == 2
    assert shell.run("lease", site.path, SERIAL, "--all").code == 2


def test_a_school_below(shell: Shell, site: Site, tmp_path: Path) -> None:
    school = tmp_path / "school"
    shell.good("init", school)
    list_laptops(Site(school, SystemClock()), LAPTOP)
    begin = SystemClock().now()
    given, public = tmp_path, tmp_path
    for role in Role:
        given = tmp_path / f"d-{role}.sig"
        public = school / f"keys/{role}.public"
        words: Words = [
            "keys",
            "delegate",
            site.path,
            "--to",
            public,
            "--group",
            "5B",
        ]
        assert "1 laptops" in shell.good(*words, "--days", "30", "--out", given)
        above = site.keys / f"{role}.public"
        out = shell.good("keys", "accept", school, given, "--from", above)
        assert "1 laptops are signed for by delegation" in out
    line = shell.run("lease", school, SERIAL, "--days", "90").out
    trusted, end = [signer("lease").public], begin + 30 * DAY
    for now, starts in ((begin, True), (end - 60, True), (end + 60, False)):
        found = boots(line, SERIAL, UUID, trusted=trusted, now=format_time(now))
        assert found == starts
    assert "d-lease.sig: 1 of 1 end from " in shell.good("check", school)
    renewed: Words = ["keys", "delegate", site.path, "--to", public, "--out", given]
    shell.good(*renewed)
    shell.good("keys", "accept", school, given)
    assert "d-lease.sig" not in shell.good("check", school)
    wrong: Words = ["--from", site.keys / "oats.public", "--role", "lease"]
    shell.bad(errors.UntrustedDelegation, "keys", "accept", school, given, *wrong)
    shell.bad(errors.DamagedSite, "keys", "accept", school, public, "--role", "lease")
    assert shell.run("keys", "accept", school, public).code == 2
    nobody: Words = ["--to", public, "--group", "none", "--out", given]
    shell.bad(errors.SiteError, "keys", "delegate", site.path, *nobody)
