"""The daemon on a private bus, with stand-ins that do things in odd orders."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.buses import LOGIN, MANAGER, PYTHON, SERVICE, UPOWER, PrivateBus
from tests.daemon.running import PATIENCE, TOP, daemon, log_of, resident, wait_until
from tests.simulator import (
    DAY,
    HOUR,
    ServerSimulator,
    now,
    prepare_laptop,
    set_due,
    simulate,
    work_of,
)

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("dbus", "python3-dbus", "python3-dbusmock", "python3-gi"),
]

NAME = SERVICE[0]
STRANGER = 65534


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerSimulator]:
    with simulate(tmp_path) as simulator:
        yield simulator


@pytest.fixture
def root(tmp_path: Path, server: ServerSimulator) -> Path:
    return prepare_laptop(tmp_path / "laptop", server.url)


@pytest.fixture
def bus(tmp_path: Path) -> PrivateBus:
    return PrivateBus(tmp_path / "bus")


def overdue(root: Path) -> None:
    set_due(root, now() - 9 * DAY, now() - 8 * DAY)


def moment(root: Path) -> int:
    """Return how many seconds ahead the due time is."""
    return int((work_of(root) / "asker/due").read_text().split()[1]) - now()


def connect(bus: PrivateBus, state: int, connectivity: int) -> None:
    bus.mocked(MANAGER, "SetGlobalConnectionState", f"uint32:{state}")
    bus.mocked(MANAGER, "SetConnectivity", f"uint32:{connectivity}")


def test_a_portal_and_then_a_login(
    bus: PrivateBus, root: Path, server: ServerSimulator
) -> None:
    set_due(root, now() - 5, now() + HOUR)
    with bus.run(), bus.mock("networkmanager", MANAGER[0]):
        connect(bus, 60, 2)
        with daemon(root, tick=60, env=bus.env):
            wait_until(lambda: bus.has(NAME))
            overdue(root)
            for state in (60, 50, 60):
                connect(bus, state, 2)
            time.sleep(1)
            assert server.asked == 0
            begin = time.monotonic()
            connect(bus, 70, 4)
            connect(bus, 70, 4)
            wait_until(lambda: server.asked, 60)
            assert time.monotonic() - begin < 60
            time.sleep(1)
            assert server.asked == 1


def test_networkmanager_comes_late_and_the_bus_goes_and_comes_back(
    bus: PrivateBus, root: Path, server: ServerSimulator
) -> None:
    set_due(root, now() - 5, now() + HOUR)
    with daemon(root, env=bus.env) as process:
        wait_until(lambda: "no system bus" in log_of(root))
        with bus.run():
            wait_until(lambda: bus.has(NAME))
            overdue(root)
            wait_until(lambda: moment(root) > 0)  # the tick has drawn a moment
            set_due(root, now() - 5, now() + HOUR)
            with bus.mock("networkmanager", MANAGER[0]):
                connect(bus, 70, 4)
        wait_until(lambda: "the system bus is gone" in log_of(root))
        with bus.run():
            wait_until(lambda: bus.has(NAME))
            answer = bus.call(SERVICE, f"{NAME}.Check", "boolean:true").stdout
            assert '"started"' in answer
            wait_until(lambda: server.asked == 1)
        assert process.poll() is None
    assert log_of(root).count("no system bus") == 1


def test_mains_power_and_the_end_of_sleep_wake_it(bus: PrivateBus, root: Path) -> None:
    set_due(root, now() - 5, now() + HOUR)
    with (
        bus.run(),
        bus.mock("upower", UPOWER[0]),
        bus.mock("logind", LOGIN[0]),
        bus.monitor(root / "signals"),
        daemon(root, tick=60, env=bus.env),
    ):
        wait_until(lambda: bus.has(NAME))
        power = ("org.freedesktop.UPower", "OnBattery")
        changed = "org.freedesktop.DBus.Properties.Set"
        for value in ("true", "false"):
            words = (
                *(f"string:{word}" for word in power),
                f"variant:boolean:{value}",
            )
            done = bus.call(UPOWER, changed, *words)
            assert done.returncode == 0, done.stderr
        wait_until(lambda: "woken by: gate" in (root / "signals").read_text())
        wait_until(lambda: "idle" in (root / "signals").read_text())
        overdue(root)
        _emit_sleep(bus)
        wait_until(lambda: moment(root) > 0)


def _emit_sleep(bus: PrivateBus) -> None:
    """Send logind's signal with dbus-python: dbus-send knows no list of variants."""
    code = (
        "import dbus; o = dbus.SystemBus().get_object('org.freedesktop.login1',"
        " '/org/freedesktop/login1'); o.EmitSignal('org.freedesktop.login1.Manager',"
        " 'PrepareForSleep', 'b', [False], dbus_interface='org.freedesktop.DBus.Mock')"
    )
    subprocess.run([PYTHON, "-c", code], check=True, env={**bus.env, "PATH": "/bin"})


def test_the_service(bus: PrivateBus, root: Path, server: ServerSimulator) -> None:
    set_due(root, now() - 5, now() + HOUR)
    log = root / "signals"
    with bus.run(), bus.monitor(log), daemon(root, tick=60, env=bus.env) as process:
        wait_until(lambda: bus.has(NAME))
        check, status = f"{NAME}.Check", f"{NAME}.Status"
        assert '"not-due"' in bus.call(SERVICE, check, "boolean:false").stdout
        assert '"started"' in bus.call(SERVICE, check, "boolean:true").stdout
        wait_until(lambda: '"idle"' in log.read_text())
        assert server.asked == 1
        assert f"asking {server.url}" in log.read_text()
        assert '"not-due"' in bus.call(SERVICE, check, "boolean:true").stdout, "a limit"
        shown = bus.call(SERVICE, status).stdout
        text = shown[shown.index('"') + 1 : shown.rindex('"')]
        assert json.loads(text)["last_answer"]["from"] == server.url
        assert "until" in bus.call(SERVICE, f"{NAME}.Hold", "string:3d").stdout
        assert "false" in bus.call(SERVICE, f"{NAME}.Release").stdout
        wrong = bus.call(SERVICE, f"{NAME}.Hold", "string:--help").stderr
        assert f"{NAME}.Error.Failed" in wrong
        assert "'--help' is not a duration" in wrong
        assert resident(process.pid) <= 32 * 1024
        _compare_with_the_page(bus)


def _compare_with_the_page(bus: PrivateBus) -> None:
    words = ("org.freedesktop.DBus.Introspectable.Introspect",)
    found = bus.call(SERVICE, *words).stdout
    page = (TOP / "docs/dbus.md").read_text()
    shape = re.compile(r'<(?:method|signal) name="\w+"|<arg [^>]*>')

    def facts(text: str) -> list[tuple[str, ...]]:
        begin = text.index(f'<interface name="{NAME}"')
        body = text[begin : text.index("</interface>", begin)]
        return [tuple(sorted(tag.strip("</>").split())) for tag in shape.findall(body)]

    def bare(text: str) -> list[tuple[str, ...]]:
        rows = []
        for words in facts(text):
            is_arg = "arg" in words
            kept = (w for w in words if not (is_arg and w.startswith("name=")))
            rows.append(tuple(word.strip("/") for word in kept if word.strip("/")))
        return rows

    assert sorted(bare(found)) == sorted(bare(page))


@pytest.mark.parametrize("active", ["true", "false"])
def test_who_may_call(
    bus: PrivateBus, root: Path, server: ServerSimulator, active: str
) -> None:
    set_due(root, now() - 5, now() + HOUR)
    with bus.run(), bus.mock("logind", LOGIN[0]):
        words = (f"uint32:{STRANGER}", "string:child", f"boolean:{active}")
        bus.mocked(LOGIN, "AddUser", *words)
        with daemon(root, tick=60, env=bus.env):
            wait_until(lambda: bus.has(NAME))
            hold = bus.call(SERVICE, f"{NAME}.Hold", "string:3d", user=STRANGER)
            assert "AccessDenied" in hold.stderr
            release = bus.call(SERVICE, f"{NAME}.Release", user=STRANGER)
            assert "AccessDenied" in release.stderr
            check = bus.call(SERVICE, f"{NAME}.Check", "boolean:true", user=STRANGER)
            status = bus.call(SERVICE, f"{NAME}.Status", user=STRANGER)
            if active == "true":
                assert '"started"' in check.stdout
                assert "next_query" in status.stdout
                wait_until(lambda: server.asked, PATIENCE)
            else:
                assert "AccessDenied" in check.stderr
                assert "whoever sits at the laptop" in status.stderr


def test_the_template_for_others(bus: PrivateBus, tmp_path: Path) -> None:
    log = tmp_path / "signals"
    template = str(TOP / "docs/samples/update_query.py")
    with bus.run(), bus.monitor(log), bus.mock(template, NAME):
        assert '"started"' in bus.call(SERVICE, f"{NAME}.Check", "boolean:true").stdout
        bus.mocked(SERVICE, "SetCheck", "string:not-due")
        assert '"not-due"' in bus.call(SERVICE, f"{NAME}.Check", "boolean:true").stdout
        assert "idle" in bus.call(SERVICE, f"{NAME}.Status").stdout
        assert "held" in bus.call(SERVICE, f"{NAME}.Hold", "string:3d").stdout
        assert "false" in bus.call(SERVICE, f"{NAME}.Release").stdout
        bus.mocked(SERVICE, "SetState", "string:running", "string:asking")
        bus.mocked(SERVICE, "SetProgress", "uint64:3", "uint64:9")
        wait_until(lambda: "Progress" in log.read_text())
        assert '"asking"' in log.read_text()
