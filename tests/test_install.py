"""`make install` and `make uninstall`, below a directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


def make(*words: str) -> None:
    clean = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LC_ALL": "C"}
    done = subprocess.run(
        ["make", "-f", "share/install.mk", *words],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **clean},
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def laid_down(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay down everything but the modules, as for pip with commands in /opt."""
    target = tmp_path_factory.mktemp("root")
    share = tmp_path_factory.mktemp("share")
    words = [sys.executable, "-m", "share.build", str(share)]
    subprocess.run(words, check=True, cwd=TOP)
    make("install-files", f"DESTDIR={target}", "BINDIR=/opt/bin", f"BUILT={share}")
    return target


def test_everything_is_at_its_place(laid_down: Path) -> None:
    wanted = [
        "etc/cron.d/olpc-update-query",
        "etc/olpc-update-query/keys.d",
        "usr/lib/NetworkManager/dispatcher.d/90-olpc-update-query",
        "usr/lib/systemd/system/olpc-update-installer.path",
        "usr/lib/systemd/system/olpc-update-query@.service",
        "usr/lib/sysusers.d/olpc-update-query.conf",
        "usr/lib/tmpfiles.d/olpc-update-query.conf",
        "usr/share/bash-completion/completions/olpc-update",
        "usr/share/doc/olpc-update-query/config.sample.toml",
        "usr/share/man/man1/olpc-update-admin.1.gz",
        "usr/share/man/man5/olpc-update-query.conf.5.gz",
    ]
    assert [name for name in wanted if not (laid_down / name).exists()] == []


def test_nothing_of_the_repository_is_forgotten(laid_down: Path) -> None:
    there = {path.name for path in laid_down.rglob("*")}
    for directory in ("cron", "nm-dispatcher"):
        assert {path.name for path in (TOP / directory).iterdir()} <= there
    units = {path.name for path in (TOP / "systemd").iterdir()}
    assert {
        name for name in units if not name.endswith((".sysusers", ".tmpfiles"))
    } <= there


def test_units_start_the_commands_where_they_are(laid_down: Path) -> None:
    for unit in (laid_down / "usr/lib/systemd/system").iterdir():
        text = unit.read_text()
        assert "/usr/bin/olpc" not in text, unit
        assert "ExecStart=" not in text or "ExecStart=/opt/bin/olpc-update" in text


def test_hooks_call_the_command_where_it_is(laid_down: Path) -> None:
    hook = laid_down / "usr/lib/NetworkManager/dispatcher.d/90-olpc-update-query"
    for path in (hook, laid_down / "etc/cron.d/olpc-update-query"):
        assert " /opt/bin/olpc-update-query-wake " in path.read_text()
    assert os.access(laid_down / "opt/bin/olpc-update-query-wake", os.X_OK)


def test_the_dispatcher_may_be_run(laid_down: Path) -> None:
    hook = laid_down / "usr/lib/NetworkManager/dispatcher.d/90-olpc-update-query"
    assert os.access(hook, os.X_OK)
    assert hook.stat().st_mode & 0o022 == 0, "NetworkManager runs no other"
