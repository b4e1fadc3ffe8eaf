"""The command with which a school's server fetches builds from a national one."""

import hashlib
import os
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.messages import BuildId, Order, Query
from olpc_update_query.server.signing import store_private
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.answer import open_answer, open_order
from tests.cli.shell import Shell
from tests.keys import SERIAL, ring, signer
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
    list_laptops(nation, LAPTOP)
    list_laptops(school, LAPTOP)
    store_private(school.keys / "oats.private", signer("stranger"))
    (school.keys / "oats.public").write_bytes(signer("stranger").public)
    given, key = tmp_path / "d-oats.sig", nation.keys / "oats.public"
    words = (school.keys / "oats.public", "--role", "oats", "--out", given)
    shell.good("keys", "delegate", nation.path, "--to", *words)
    shell.good("keys", "accept", school.path, given, "--from", key)
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
