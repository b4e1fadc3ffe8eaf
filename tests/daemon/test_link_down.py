"""A link goes down in the middle of a download; a link costs money."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import laptop
from bench.school import School
from olpc_update_query.policy.schedule import LINK_SPREAD
from tests.daemon.namespaces import Network
from tests.daemon.running import TOP, wait_until
from tests.daemon.test_network_manager import daemon, moment

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("dbus", "dnsmasq-base", "iproute2", "network-manager"),
]

SIZE = 2_000_000
PACE = 300_000
PATIENCE = 60.0


def make_tree(tree: Path, content: bytes) -> Path:
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/motd").write_bytes(content)
    return tree


@pytest.fixture
def school(tmp_path: Path) -> School:
    school = School(tmp_path / "site")
    school.found(laptop.SOMEBODY)
    for build, content in (("760", b"hello\n"), ("762", os.urandom(SIZE))):
        tree = make_tree(tmp_path / build, content)
        school.admin("publish", tree, "--build", build, "--any-tree")
    school.admin("assign", "--build", "762")
    return school


@pytest.fixture
def root(tmp_path: Path, school: School) -> Path:
    root = tmp_path / "laptop"
    contents = school.site / "builds/760/contents"
    laptop.make(root, tmp_path / "760", "760", contents)
    for role in ("oats", "lease"):
        laptop.trust(root, role, school.key(role))
    (root / "etc/oats-ignore-xs").touch()
    (root / "etc/olpc-update-query/config.toml").write_text(
        f'server = "http://school.test/"\nbandwidth_limit = {PACE}\n'
    )
    return root


def arrived(root: Path) -> int:
    """Return how many bytes of the build are on the laptop."""
    downloads = root / "versions/updates/olpc-update-query/asker/downloads"
    return sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())


def start(network: Network, root: Path) -> "subprocess.Popen[bytes]":
    words = ["-m", "olpc_update_query", "--root", str(root), "--now", "--quiet"]
    return subprocess.Popen(network.there(sys.executable, *words), cwd=TOP)


def test_a_download_goes_on_when_the_link_is_back(
    tmp_path: Path, school: School, root: Path
) -> None:
    network = Network(tmp_path / "network", has_portals=False)
    with school.serve() as served, network.run(served.port) as wire, network.manager():
        network.nmcli("connection", "up", "wire")
        with start(network, root) as run:
            wait_until(lambda: arrived(root) > SIZE / 4, PATIENCE)
            network.nmcli("connection", "down", "wire")
            before = arrived(root)
            assert before < SIZE, "this was meant to be the middle"
            network.nmcli("connection", "up", "wire")
            code = run.wait(PATIENCE)
        if code:  # the run gave up; the next one goes on with what there is
            assert arrived(root) >= before
            with start(network, root) as run:
                assert run.wait(PATIENCE) == 0
        assert laptop.slots(root).current == "762"
        assert wire.read().down < SIZE + 3 * 64 * 1024


def test_a_metered_link_lets_a_lease_through_and_no_build(
    tmp_path: Path, school: School, root: Path
) -> None:
    """NetworkManager itself says what the link is, and when that has changed."""
    network = Network(tmp_path / "network", has_portals=False)

    def run(*words: str) -> str:
        program = (sys.executable, "-m", "olpc_update_query", "--root", str(root))
        return network.do(*program, *words)

    def set_metered(value: str) -> None:
        network.nmcli("connection", "modify", "wire", "connection.metered", value)
        network.nmcli("device", "reapply", "veth0")

    with school.serve() as served, network.run(served.port) as wire, network.manager():
        network.nmcli("connection", "up", "wire")
        set_metered("yes")
        assert json.loads(run("--now", "--json"))["result"] == "waiting"
        assert (root / "security/lease.sig").read_text().startswith("act01: ")
        assert json.loads(run("status", "--json"))["held_back"]["gate"] == "metered"
        assert wire.read().down < 16 * 1024, "an answer and a lease"
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
