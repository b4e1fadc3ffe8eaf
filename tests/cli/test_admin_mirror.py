"""The command with which a school's server fetches builds from a national one."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.messages import BuildId, Order, Query
from olpc_update_query.server.signing import store_private
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.answer import open_answer, open_order
from olpc_update_query.trust.keys import KeyRing, Role
from olpc_update_query.trust.rotation import join_statements
from tests.cli.shell import Shell
from tests.keys import SERIAL, ring, signer
from tests.rotations import statement
from tests.server import served
from tests.server.sites import LAPTOP, list_laptops, make_site
from tests.trees import File, build_tree


@pytest.fixture
def nation(shell: Shell, tmp_path: Path) -> Site:
    site = Site(make_site(tmp_path / "nation").path, SystemClock())
    tree = build_tree(
        tmp_path / "tree", {"etc/motd": "hello", "sbin/init": File("#!", mode=0o755)}
    )
    shell.good("publish", site.path, tree, "--build", "760")
    (tree / "etc/motd").write_text("other words")
    shell.good("publish", site.path, tree, "--build", "762", "--delta-from", "760")
    return site


@pytest.fixture
def school(tmp_path: Path) -> Site:
    path = make_site(tmp_path / "school", keys=("lease",)).path
    return Site(path, SystemClock())


def test_builds_come_from_a_real_server(
    shell: Shell, nation: Site, school: Site, tmp_path: Path
) -> None:
    key = nation.keys / "oats.public"
    with served.serve(nation.path) as server:
        url = f"http://127.0.0.1:{server.port}/"
        told = shell.bad(errors.MissingUpstreamKey, "mirror", url, school.path)
        assert "--key FILE" in told
        out = shell.good(*("mirror", url, school.path, "--build", "760", "--key", key))
        assert "Build 760 is here" in out
        out = shell.good("mirror", url, school.path)
        assert "Build 762 is here" in out
        assert "There is a delta from 760." in out
        assert shell.good("mirror", url, school.path) == "Nothing new.\n"
    assert school.build_names() == ["760", "762"]
    assert os.listdir(school.builds / "762/delta") == ["760.pack"]
    log = (school.path / "changes.log").read_text()
    assert f"mirror build 762 from {url}" in log
    assert shell.run("mirror", url, school.path).code == errors.NetworkError.exit_code
    assert "build 76" not in shell.run("check", school.path, "--packs").out


def test_a_school_orders_what_it_has_fetched(
    shell: Shell, nation: Site, school: Site, tmp_path: Path
) -> None:
    """Signed by delegation: laptops know the national key, and no other."""
    below(shell, nation, school, tmp_path)
    with served.serve(nation.path) as server:
        shell.good("mirror", f"http://127.0.0.1:{server.port}/", school.path)
    shell.good("assign", school.path, "--build", "762")
    with served.serve(school.path) as server:
        reply = server.post(Query(SERIAL, "17", build=BuildId("760")).encode())
        now = SystemClock().now()
        trusted = open_answer(
            reply.body, nonce="17", ring=ring(), serial=SERIAL, now=now, floor=0
        )
        order = trusted.answer.update
        assert isinstance(order, Order)
        assert order.build == "762"
        assert order.urls == (f"http://127.0.0.1:{server.port}/builds/762/",)
        manifest = server.get("/builds/762/contents").body
        beside = server.get("/builds/762/order").body
    assert hashlib.sha256(manifest).hexdigest() == order.contents
    found = open_order(beside, ring=ring(), serial=SERIAL, now=now)
    assert found.order.contents == order.contents


def test_builds_come_on_a_stick(
    shell: Shell, nation: Site, school: Site, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    shell.good("usb", nation.path, stick, "--build", "762")
    key = nation.keys / "oats.public"
    out = shell.good("mirror", str(stick), school.path, "--key", key)
    assert "Build 762 is here" in out
    assert shell.run("mirror", "ftp://x/", school.path).code == 2
    assert shell.run("mirror", str(tmp_path / "absent"), school.path).code == 2


def test_a_school_follows_the_keys_of_the_nation(
    shell: Shell, nation: Site, school: Site, tmp_path: Path
) -> None:
    below(shell, nation, school, tmp_path)
    shell.good("keys", "rotate", nation.path, "--role", "oats", "--name", "2027")
    with served.serve(nation.path) as server:
        url = f"http://127.0.0.1:{server.port}/"
        told = shell.run("mirror", url, school.path)
        assert told.code == 0
        assert "Statement 1 about oats keys is taken over." in told.out
        assert "This site signs by what a retired oats key has delegated." in told.err
        assert "Build 762 is here" in told.out
        again = shell.run("mirror", url, school.path)
        assert (again.code, again.out, again.err) == (0, "Nothing new.\n", "")
        assert server.get("/keys.sig").body == (nation.keys / "keys.sig").read_bytes()
    assert "says about keys" in (school.path / "changes.log").read_text()
    checked = shell.run("check", school.path)
    assert "d-oats.sig: it is by a key that the higher site has retired" in checked.out


def test_a_school_hands_on_the_keys_of_the_nation(
    shell: Shell, nation: Site, school: Site, tmp_path: Path
) -> None:
    """Its laptops hear of a new key when it can sign by that key's delegation."""
    below(shell, nation, school, tmp_path)
    shell.good("keys", "rotate", nation.path, "--role", "oats", "--name", "2027")
    with served.serve(nation.path) as server:
        shell.good("mirror", f"http://127.0.0.1:{server.port}/", school.path)
    shell.good("assign", school.path, "--build", "762")
    with served.serve(school.path) as server:
        keys, count = ask(server, ring())
        assert count == 0, "it could believe nothing that is said here"
        assert keys.fingerprints() == ring().fingerprints()
        stick = tmp_path / "stick"
        stick.mkdir()
        shell.good("usb", school.path, stick, "--build", "762")
        assert not (stick / "keys.sig").exists()
        given = delegated(shell, nation, school, tmp_path)
        shell.good("keys", "accept", school.path, given)
        until_the_next_second()
        keys, count = ask(server, ring())
        assert count == 1
        new = (nation.keys / "oats-2027.public").read_bytes()
        assert [key.der for key in keys if key.role is Role.OATS] == [new]
        assert ask(server, keys) == (keys, 0)
        shell.good("usb", school.path, stick, "--build", "762")
        assert (stick / "keys.sig").exists()
        served_below = server.get("/keys.sig").body
    assert served_below == (nation.keys / "keys.sig").read_bytes()
    assert "d-oats.sig" not in shell.run("check", school.path).out


def below(shell: Shell, nation: Site, school: Site, tmp_path: Path) -> None:
    """Let a school sign for a laptop of the nation."""
    list_laptops(nation, LAPTOP)
    list_laptops(school, LAPTOP)
    store_private(school.keys / "oats.private", signer("stranger"))
    (school.keys / "oats.public").write_bytes(signer("stranger").public)
    given, key = delegated(shell, nation, school, tmp_path), nation.keys / "oats.public"
    shell.good("keys", "accept", school.path, given, "--from", key)


def delegated(shell: Shell, nation: Site, school: Site, tmp_path: Path) -> Path:
    """Return what the nation delegates to a school."""
    given = tmp_path / "d-oats.sig"
    words = (school.keys / "oats.public", "--role", "oats", "--out", given)
    shell.good("keys", "delegate", nation.path, "--to", *words)
    return given


def until_the_next_second() -> None:
    """The server looks at the directory of its keys when its clock's second changes."""
    before = SystemClock().now()
    while SystemClock().now() == before:
        time.sleep(0.05)


def ask(server: served.Served, keys: KeyRing) -> tuple[KeyRing, int]:
    """Ask as a laptop that trusts these keys; return what it trusts then."""
    query = Query(SERIAL, "17", build=BuildId("760"), keys=keys.fingerprints())
    opened = open_answer(
        server.post(query.encode()).body,
        nonce="17",
        ring=keys,
        serial=SERIAL,
        now=SystemClock().now(),
        floor=0,
    )
    assert isinstance(opened.answer.update, Order)
    followed = opened.keys.ring if opened.answer.keys else keys
    return followed, len(opened.answer.keys)


def test_a_school_takes_over_nothing_that_it_cannot_prove(
    shell: Shell, nation: Site, school: Site, tmp_path: Path
) -> None:
    below(shell, nation, school, tmp_path)
    stick = tmp_path / "stick"
    stick.mkdir()
    shell.good("usb", nation.path, stick, "--build", "762")
    forged = statement(1, "new", add="new", retire="oats")
    about_leases = statement(1, "lease", add="new", role=Role.LEASE)
    for raw, told in (
        (forged, "no trusted key"),
        (b"<html>a portal</html>", "keys.sig is left out"),
        (about_leases, ""),
    ):
        (stick / "keys.sig").write_bytes(raw)
        out = shell.good("mirror", str(stick), school.path)
        assert told in out
        assert "taken over" not in out
        assert not (school.keys / "above-keys.sig").exists()
    good = statement(1, "oats", add="new", retire="oats")
    (stick / "keys.sig").write_bytes(join_statements([forged, about_leases, good]))
    out = shell.run("mirror", str(stick), school.path).out
    assert "Statement 1 about oats keys is taken over." in out
    assert (school.keys / "above-keys.sig").read_bytes() == join_statements([good])
