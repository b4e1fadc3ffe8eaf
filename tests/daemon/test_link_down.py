"""A link goes down in the middle of a download; a link costs money."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import laptop
from bench.relay import Relay
from bench.school import School
from olpc_update_query.policy.schedule import LINK_SPREAD
from tests.daemon.namespaces import Network
from tests.daemon.running import TOP, wait_until
from tests.daemon.test_network_manager import daemon, moment

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("dbus", "dnsmasq-base", "iproute2", "network-manager"),
]

SIZE = 1_500_000
PACE = 300_000
PATIENCE = 120.0


def make_tree(tree: Path, content: bytes) -> Path:
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/motd").write_bytes(content)
    return tree


class Place(NamedTuple):
    """A school, a laptop's network with NetworkManager, and the wire between them."""

    school: School
    network: Network
    wire: Relay


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("place")
    directory.chmod(0o755)
    school = School(directory / "site")
    school.found(laptop.SOMEBODY)
    for build, content in (("760", b"hello\n"), ("762", os.urandom(SIZE))):
        tree = make_tree(directory / build, content)
        school.admin("publish", tree, "--build", build, "--any-tree")
    school.admin("assign", "--build", "762")
    network = Network(directory / "network", has_portals=False)
    with school.serve() as served, network.run(served.port) as wire, network.manager():
        network.nmcli("connection", "up", "wire")
        yield Place(school, network, wire)


@pytest.fixture
def root(tmp_path: Path, place: Place) -> Path:
    root, school = tmp_path / "laptop", place.school
    contents = school.site / "builds/760/contents"
    laptop.make(root, school.site.parent / "760", "760", contents)
    for role in ("oats", "lease"):
        laptop.trust(root, role, school.key(role))
    (root / "etc/oats-ignore-xs").touch()
    config = root / "etc/olpc-update-query/config.toml"
    config.write_text('server = "http://school.test/"\n')
    return root


def arrived(root: Path) -> int:
    """Return how many bytes of the build are on the laptop."""
    downloads = root / "versions/updates/olpc-update-query/asker/downloads"
    return sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())


def start(network: Network, root: Path) -> "subprocess.Popen[bytes]":
    words = ["-m", "olpc_update_query", "--root", str(root), "--now", "--quiet"]
    return subprocess.Popen(network.there(sys.executable, *words), cwd=TOP)


def test_a_download_goes_on_when_the_link_is_back(place: Place, root: Path) -> None:
    network, before = place.network, place.wire.read()
    with open(root / "etc/olpc-update-query/config.toml", "a") as config:
        config.write(f"bandwidth_limit = {PACE}\n")
    with start(network, root) as run:
        wait_until(lambda: arrived(root) > SIZE / 4, PATIENCE)
        network.nmcli("connection", "down", "wire")
        there = arrived(root)
        assert there < SIZE, "this was meant to be the middle"
        network.nmcli("connection", "up", "wire")
        code = run.wait(PATIENCE)
    if code:  # the run gave up; the next one goes on with what there is
        assert arrived(root) >= there
        with start(network, root) as run:
            assert run.wait(PATIENCE) == 0
    assert laptop.slots(root).current == "762"
    assert place.wire.read().since(before).down < SIZE + 3 * 64 * 1024


def test_a_metered_link_lets_a_lease_through_and_no_build(
    place: Place, root: Path
) -> None:
    """NetworkManager itself says what the link is, and when that has changed."""
    network, before = place.network, place.wire.read()

    def run(*words: str) -> str:
        program = (sys.executable, "-m", "olpc_update_query", "--root", str(root))
        return network.do(*program, *words)

    def set_metered(value: str) -> None:
        network.nmcli("connection", "modify", "wire", "connection.metered", value)
        network.nmcli("device", "reapply", "veth0")

    set_metered("yes")
    assert json.loads(run("--now", "--json"))["result"] == "waiting"
    assert (root / "security/lease.sig").read_text().startswith("act01: ")
    assert json.loads(run("status", "--json"))["held_back"]["gate"] == "metered"
    assert place.wire.read().since(before).down < 16 * 1024, "an answer and a lease"
    assert arrived(root) == 0

    with daemon(network, root):
        wait_until(lambda: network.has("org.laptop.UpdateQuery1"))
        time.sleep(1)  # NetworkManager tells it of the link
        due = moment(root)
        set_metered("no")
        wait_until(lambda: moment(root) < min(due, LINK_SPREAD + 1), PATIENCE)

    run("install")  # as the installer's unit does at boot
    run("--hand-over", "--now", "--quiet")
    assert arrived(root) > SIZE
    set_metered("yes")
    run("install")
    assert laptop.slots(root).current == "762", "what is here costs nothing"
