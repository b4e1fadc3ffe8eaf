"""The units as shipped: systemd finds no fault, and their sandboxes are tight.

That systemd really keeps them in is shown by a machine that boots (``make machine``).
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[1] / "systemd"
KINDS = {".service", ".timer", ".path", ".socket"}
UNITS = sorted(path for path in SYSTEMD.glob("olpc-*") if path.suffix in KINDS)
ASKER = SYSTEMD / "olpc-update-query@.service"
INSTALLER = SYSTEMD / "olpc-update-installer.service"
CONFIRM = SYSTEMD / "olpc-update-confirm.service"
DAEMON = SYSTEMD / "olpc-update-query-daemon.service"
MIRROR = SYSTEMD / "olpc-update-mirror@.service"
MIRROR_TIMER = SYSTEMD / "olpc-update-mirror@.timer"
SERVE = SYSTEMD / "olpc-update-serve@.service"
SCORE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")

pytestmark = pytest.mark.needs("systemd")


def analyze(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{directory}:/lib/systemd/system"},
    )


def put(directory: Path, unit: Path) -> str:
    """Copy a unit, an instance of a template, to where its commands exist."""
    name = unit.name.replace("@.", "@timer.")
    text = re.sub(r"/usr/bin/olpc-update\S*", "/bin/true", unit.read_text())
    (directory / name).write_text(text)
    return f"./{name}"


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    names = [put(tmp_path, unit) for unit in UNITS]
    done = analyze(tmp_path, "verify", "--man=no", *names)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        pytest.param(ASKER, 1.5, id="asker"),
        pytest.param(INSTALLER, 4.0, id="installer"),
        pytest.param(CONFIRM, 1.5, id="confirm"),
        pytest.param(DAEMON, 2.0, id="daemon"),
        pytest.param(MIRROR, 2.5, id="mirror"),
        pytest.param(SERVE, 2.5, id="serve"),
    ],
)
def test_what_a_unit_exposes(tmp_path: Path, unit: Path, most: float) -> None:
    done = analyze(tmp_path, "security", "--offline=true", put(tmp_path, unit))
    found = SCORE.search(done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= most


def settings(unit: Path, name: str) -> list[str]:
    lines = unit.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_the_asker_has_no_capability() -> None:
    assert settings(ASKER, "CapabilityBoundingSet") == [""]
    assert settings(ASKER, "User") == ["olpc-update"]


def test_the_mirror_writes_into_its_site_alone() -> None:
    assert settings(MIRROR, "ReadWritePaths") == ["%f"]
    assert settings(MIRROR, "CapabilityBoundingSet") == ["CAP_SETGID CAP_SETUID"]


def test_the_server_writes_into_its_site_alone() -> None:
    assert settings(SERVE, "ReadWritePaths") == ["%f"]
    assert settings(SERVE, "CapabilityBoundingSet") == [
        "CAP_NET_BIND_SERVICE CAP_SETGID CAP_SETUID"
    ]


def test_every_mirror_has_a_moment_of_its_own_and_misses_none() -> None:
    assert settings(MIRROR_TIMER, "RandomizedDelaySec") == ["15min"]
    assert settings(MIRROR_TIMER, "FixedRandomDelay") == ["yes"]
    assert settings(MIRROR_TIMER, "Persistent") == ["true"]


@pytest.mark.parametrize("unit", [INSTALLER, DAEMON], ids=["installer", "daemon"])
def test_what_runs_as_root_has_no_network(unit: Path) -> None:
    assert settings(unit, "PrivateNetwork") == ["yes"]
    assert settings(unit, "RestrictAddressFamilies") == ["AF_UNIX"]


@pytest.mark.parametrize("unit", [ASKER, INSTALLER], ids=["asker", "installer"])
def test_starting_and_ending_is_not_logged(unit: Path) -> None:
    assert settings(unit, "LogLevelMax") == settings(unit, "SyslogLevel") == ["notice"]


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.root
def test_the_user_and_the_directories(tmp_path: Path) -> None:
    """As the package's maintainer scripts make them, in a file system of their own."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    root = f"--root={tmp_path}"
    run("systemd-sysusers", root, str(SYSTEMD / "olpc-update-query.sysusers"))
    (line,) = [
        line
        for line in (tmp_path / "etc/passwd").read_text().splitlines()
        if line.startswith("olpc-update:")
    ]
    *_, uid, gid, _, home, shell = line.split(":")
    assert (home, shell) == ("/nonexistent", "/usr/sbin/nologin")
    run(
        "systemd-tmpfiles",
        "--create",
        root,
        str(SYSTEMD / "olpc-update-query.tmpfiles"),
    )
    box = (tmp_path / "run/olpc-update-query/asker").stat()
    assert (box.st_uid, box.st_gid, box.st_mode & 0o777) == (int(uid), int(gid), 0o700)
    assert (tmp_path / "run/olpc-update-query").stat().st_uid == 0
    assert not (tmp_path / "versions").exists(), "that is where builds can be held"
