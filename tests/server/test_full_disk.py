"""A full disk costs reports, never a lease; and nothing is left of what failed."""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from olpc_update_query.errors import NoSpace
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server import rotating
from olpc_update_query.server.clearing import unpublish
from olpc_update_query.server.newsite import create_site
from olpc_update_query.server.publish import publish
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.steer import Actor
from olpc_update_query.trust.keys import Role
from tests.keys import SERIAL
from tests.server.served import Served, serve
from tests.server.sites import LAPTOP, list_laptops, make_site
from tests.trees import File, build_tree

pytestmark = [pytest.mark.root, pytest.mark.needs("mount")]

QUERY = (
    f"serialnum={SERIAL}&version=1&nonce=5&build=760"
    "&report=%7B%22build%22%3A%22762%22%2C%22code%22%3A0%7D"
).encode()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(place)]
    subprocess.run(mount, check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    with suppress(OSError), open(place / "filler", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return place / "filler"


def ask(server: Served) -> None:
    reply = server.post(QUERY)
    assert reply.status == 200
    assert b"act01: " + SERIAL.encode() in reply.body


def test_it_answers_and_keeps_reports_when_there_is_room(small: Path) -> None:
    site = make_site(small)
    list_laptops(site, LAPTOP)
    filler = fill(small)
    with serve(site.path) as server:
        ask(server)
        ask(server)
        page = server.get("/")
        assert page.status == 500
        assert b"no space is left" in page.body
        filler.unlink()
        deadline = time.monotonic() + 20
        while server.get("/").status != 200:
            assert time.monotonic() < deadline, "the pages stay away"
        ask(server)
        while SERIAL.encode() not in server.get("/laptops").body:
            assert time.monotonic() < deadline, "the report was not kept"
        fill(small)
        ask(server)
    filler.unlink()
    kept = Reports(site.reports)
    state, lease = kept.state(SERIAL), kept.lease(SERIAL)
    kept.close()
    assert state is not None
    assert state.tried == "762"
    assert lease is None or lease.serial == SERIAL


def test_a_new_site_is_there_or_not(small: Path) -> None:
    filler = fill(small)
    with pytest.raises(NoSpace):
        create_site(small / "schools/site", "Escuela")
    assert list(small.iterdir()) == [filler]
    (small / "mine").mkdir()
    with pytest.raises(NoSpace):
        create_site(small / "mine", "Escuela")
    assert list((small / "mine").iterdir()) == []


def test_no_key_changes_on_a_full_disk(small: Path) -> None:
    site = make_site(small)
    with site.change("a test", "so that the log has room"):
        pass
    before = {path.name: path.read_bytes() for path in site.keys.iterdir()}
    fill(small)
    with pytest.raises(NoSpace), site.change("a test", "rotate"):
        rotating.rotate(site, Role.OATS, "2027", int(time.time()))
    assert {path.name: path.read_bytes() for path in site.keys.iterdir()} == before


def test_what_did_not_fit_and_is_gone_again_is_not_said_to_be_missing(
    small: Path,
) -> None:
    tree = build_tree(small.parent / "tree", {"sbin/init": File("#!", mode=0o755)})
    (tree / "etc").mkdir()
    (tree / "etc/noise").write_bytes(random.Random(1).randbytes(1 << 20))
    with pytest.raises(NoSpace, match=r"not enough space .*; [0-9,]+ bytes are free"):
        publish(small / "builds", tree, parse_build_id("762"))
    assert os.listdir(small / "builds") == [".lock"]


def test_reports_that_cannot_be_opened_for_want_of_room(tmp_path: Path) -> None:
    """SQLite calls it an error of the disk; what mends it is room, by `unpublish`."""
    small, image = tmp_path / "small", tmp_path / "image"
    small.mkdir()
    with open(image, "wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, small], check=True)
    try:
        site = make_site(small)
        tree = build_tree(tmp_path / "tree", {"a": random.Random(1).randbytes(200_000)})
        build = parse_build_id("760")
        publish(site.builds, tree, build)
        Reports(site.reports).close()
        with site.change("maria", "something"):
            pass
        fill(small)
        with pytest.raises(NoSpace):
            Reports(site.reports)
        unpublish(site, Actor("maria", 0), build)
        Reports(site.reports).close()
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
