"""Runs as systemd's units; that they really are is shown in ``tests/machine``.

Here ``systemctl`` is a script that writes down how it was called: no systemd runs.
"""

import os
import threading
from pathlib import Path

import pytest

from olpc_update_query.daemon import units
from olpc_update_query.daemon.child import Progress, Step
from olpc_update_query.daemon.keeper import Keeper
from olpc_update_query.policy.schedule import Trigger
from tests.daemon.running import wait_until
from tests.daemon.test_keeper import NOW, Hand
from tests.simulator import FakeClock, set_due

ASKER = "olpc-update-query@daemon-timer.service"


class Systemctl:
    """A stand-in, first in the path."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.log = directory, directory / "called"
        directory.mkdir()

    def is_now(self, script: str) -> None:
        path = self.directory / "systemctl"
        path.write_text(f'#!/bin/sh\necho "$*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemctl:
    found = Systemctl(tmp_path / "bin")
    found.is_now("exit 0")
    monkeypatch.setenv("PATH", f"{found.directory}:{os.environ['PATH']}")
    return found


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
def keeper(tmp_path: Path, hand: Hand) -> Keeper:
    set_due(tmp_path, NOW - 10, NOW - 1)
    return Keeper(units.UnitRuns(), tmp_path, FakeClock(NOW), hand, hand)


def work(keeper: Keeper, hand: Hand) -> None:
    while keeper._run is not None:
        hand.inbox.get(timeout=20)()


def test_the_asker_and_then_the_installer(
    keeper: Keeper, hand: Hand, systemctl: Systemctl
) -> None:
    keeper.tick()
    work(keeper, hand)
    assert systemctl.calls() == [f"start {ASKER}", f"start {units.INSTALLER}"]
    assert hand.told[-1] == ("idle", "the last run ended with exit code 0")


def test_an_asker_that_fails_is_told_by_its_own_exit_code(
    keeper: Keeper, hand: Hand, systemctl: Systemctl
) -> None:
    systemctl.is_now('[ "$1" = start ] && exit 1; echo 23')
    keeper.tick()
    work(keeper, hand)
    assert units.INSTALLER not in "".join(systemctl.calls())
    assert hand.told[-1] == ("idle", "the last run ended with exit code 23")


def test_stopping_stops_the_asker_and_starts_no_installer(
    keeper: Keeper, hand: Hand, systemctl: Systemctl, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    systemctl.is_now(
        f'[ "$1" = stop ] && touch {end}\n'
        f'[ "$1" = start ] && while [ ! -e {end} ]; do sleep 0.05; done\nexit 0'
    )
    keeper.tick()
    wait_until(systemctl.calls)
    keeper.close()
    work(keeper, hand)
    assert systemctl.calls() == [f"start {ASKER}", f"stop {ASKER}"]


def test_what_units_tell_is_passed_on_during_a_run(
    keeper: Keeper, hand: Hand, systemctl: Systemctl, tmp_path: Path
) -> None:
    keeper.run_told(Step("of no run of ours"))
    systemctl.is_now(f"while [ ! -e {tmp_path}/end ]; do sleep 0.05; done")
    keeper.tick()
    for told in (Step("asking"), Progress(1, 2)):
        keeper.run_told(told)
    (tmp_path / "end").touch()
    work(keeper, hand)
    assert hand.told == [
        ("running", "woken by: timer"),
        ("running", "asking"),
        (1, 2),
        ("idle", "the last run ended with exit code 0"),
    ]


def test_without_systemctl_it_fails_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended, codes = threading.Event(), []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    units.UnitRuns().begin(Trigger.DBUS, print, end, now=True)
    assert ended.wait(20)
    assert codes == [1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("asking http://schoolserver/", Step("asking http://schoolserver/")),
        ("0 of 12 bytes", Progress(0, 12)),
        ("1 of 99999999999999999999 bytes", Step("1 of 99999999999999999999 bytes")),
        ("a\x1b[2J", Step("a [2J")),
    ],
)
def test_status_texts(text: str, told: object) -> None:
    assert units.parse(text) == told


def test_units_have_the_names_that_systemd_gives_them() -> None:
    assert units.asker(Trigger.DBUS, now=True) == (
        "olpc-update-query@daemon-dbus-now.service"
    )
    place = "/org/freedesktop/systemd1/unit/"
    paths = units.object_paths()
    assert f"{place}olpc_2dupdate_2dinstaller_2eservice" in paths
    assert f"{place}olpc_2dupdate_2dquery_40daemon_2dportal_2eservice" in paths


def test_only_the_machine_s_own_root_has_units(tmp_path: Path) -> None:
    assert not units.are_installed(tmp_path)
