"""The real NetworkManager, its real dispatcher, a real server, a link between them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.namespaces import Network
from tests.daemon.running import TOP, wait_until
from tests.http_server import Trouble
from tests.simulator import (
    DAY,
    HOUR,
    ServerSimulator,
    prepare_laptop,
    set_due,
    simulate,
    work_of,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs(
        *("dbus", "dnsmasq-base", "iproute2", "network-manager", "python3-dbus")
    ),
]

PATIENCE = 120.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerSimulator]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www/check").write_text("NetworkManager is online\n")
    with simulate(tmp_path / "www") as simulator:
        yield simulator


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = prepare_laptop(tmp_path / "laptop", "http://school.test/")
    overdue(root)
    return root


@pytest.fixture
def network(tmp_path: Path, server: ServerSimulator) -> Iterator[Network]:
    directory = tmp_path / "network"
    directory.mkdir()
    network = Network(directory)
    with network.run(server.site.port):
        yield network


def overdue(root: Path) -> None:
    now = int(time.time())
    set_due(root, now - 9 * DAY, now - 8 * DAY)


def due_later(root: Path) -> None:
    now = int(time.time())
    set_due(root, now - 60, now + DAY)


def moment(root: Path) -> int:
    """Return how many seconds ahead the due time is."""
    return int((work_of(root) / "asker/due").read_text().split()[1]) - int(time.time())


def let_it_come(root: Path) -> None:
    """Let the drawn moment be now: minutes later would be too late for a test."""
    now = int(time.time())
    set_due(root, now - 60, now - 1)


def wake_script(root: Path) -> str:
    wake = Path(sys.executable).with_name("olpc-update-query-wake")
    return f'#!/bin/sh\nexec {wake} "$1" {root} >>{root}/log 2>&1\n'


def behind_portal(server: ServerSimulator) -> None:
    server.site.misbehave("*", Trouble.PORTAL)


def log_in(server: ServerSimulator) -> None:
    server.site.plans.clear()


@contextlib.contextmanager
def daemon(network: Network, root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    words = ["-m", "olpc_update_query", "daemon", "--root", str(root), "--tick", "60"]
    command = network.there(sys.executable, *words)
    with (
        open(root / "log", "a") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=TOP) as process,
    ):
        try:
            wait_until((root / "run/olpc-update-query/daemon").exists)
            yield process
        finally:
            process.terminate()


def test_the_dispatcher_a_portal_and_a_login(
    network: Network, root: Path, server: ServerSimulator
) -> None:
    network.hook()
    behind_portal(server)
    with network.manager():
        network.install("olpc-update-query-wake", wake_script(root))
        network.nmcli("connection", "up", "wire")
        wait_until(lambda: 0 < moment(root) <= 540, PATIENCE)  # the link came up
        wait_until(
            lambda: "portal" in network.nmcli("networking", "connectivity", "check"),
            PATIENCE,
        )
        wait_until(
            lambda: network.do("ls", "/run").count("olpc-update-query.portal"), PATIENCE
        )
        assert server.asked == 0
        begin = time.monotonic()
        log_in(server)
        wait_until(lambda: server.asked, 60)
        assert time.monotonic() - begin < 60
        wait_until(lambda: moment(root) > HOUR, PATIENCE)
        network.nmcli("connection", "down", "wire")
        network.nmcli("connection", "up", "wire")
        time.sleep(1)
        assert server.asked == 1, "a link before the due time is no reason"
        assert (root / "log").read_text() == ""


def test_the_daemon_a_link_a_portal_and_a_login(
    network: Network, root: Path, server: ServerSimulator
) -> None:
    due_later(root)
    with network.manager(), daemon(network, root) as process:
        wait_until(lambda: network.has("org.laptop.UpdateQuery1"))
        time.sleep(0.5)  # that was the first tick; there will be none for a minute
        overdue(root)
        network.nmcli("connection", "up", "wire")
        wait_until(lambda: 0 < moment(root) <= 540, PATIENCE)
        wait_until(
            lambda: "full" in network.nmcli("networking", "connectivity"), PATIENCE
        )
        time.sleep(1)  # whatever else NetworkManager has to say
        let_it_come(root)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.asked == 1, PATIENCE)
        wait_until(lambda: moment(root) > HOUR, PATIENCE)
        network.nmcli("connection", "down", "wire")
        behind_portal(server)
        overdue(root)
        network.nmcli("connection", "up", "wire")
        wait_until(
            lambda: "portal" in network.nmcli("networking", "connectivity", "check"),
            PATIENCE,
        )
        begin = time.monotonic()
        log_in(server)
        wait_until(lambda: server.asked == 2, 60)
        assert time.monotonic() - begin < 60


@pytest.mark.needs("cron", "faketime")
def test_cron_runs_the_job(
    network: Network, root: Path, server: ServerSimulator
) -> None:
    """As it is shipped, but for the minutes: it is called at each of them."""
    network.do("ip", "addr", "add", "198.18.0.5/24", "dev", "veth0")
    network.do("ip", "link", "set", "veth0", "up")
    due_later(root)
    network.install("olpc-update-query-wake", wake_script(root))
    text = (TOP / "cron/olpc-update-query").read_text().replace("*/5 ", "* ")
    (network.directory / "job").write_text(text)
    network.do("cp", str(network.directory / "job"), "/etc/cron.d/olpc-update-query")
    fast = ["faketime", "-f", "@2026-11-22 12:00:50 x20", "cron", "-f"]
    with subprocess.Popen(network.there(*fast), start_new_session=True) as process:
        try:
            wait_until((root / "log").exists, PATIENCE)
            time.sleep(4)
            assert server.asked == 0, "no query is due"
            assert (root / "log").read_text() == "", "and nothing is written"
            set_due(root, 10**9, 10**9 + 1)
            wait_until(lambda: 0 < moment(root) <= 300, PATIENCE)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    let_it_come(root)
    network.do("/usr/local/bin/olpc-update-query-wake", "timer")
    assert server.asked == 1
