"""A child that may do less than its parent."""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.system import privilege

pytestmark = pytest.mark.root
NOBODY = pwd.getpwnam("nobody")


def status_of_self() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_child_is_nobody_for_good(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    out = tmp_path / "status"

    def tell() -> int:
        out.write_text(repr((status_of_self(), os.umask(0o022))))
        return 7

    assert privilege.run_as(("nobody",), tell) == 7
    status, umask = eval(out.read_text())
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert status["Uid"].split() == [str(uid)] * 4
    assert status["Gid"].split() == [str(gid)] * 4
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"] == "1"
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert umask == 0o022


def test_child_that_may_read_everything(tmp_path: Path) -> None:
    """It opens what is closed to everybody, and can still write nothing there."""
    tmp_path.chmod(0o700)
    secret, shared = tmp_path / "secret", tmp_path.with_name("shared")
    secret.write_text("mine")
    secret.chmod(0o400)
    shared.mkdir()
    shared.chmod(0o777)

    def look() -> int:
        status = status_of_self()
        (shared / "told").write_text(repr(status))
        if secret.read_text() != "mine":
            return 1
        for way in (secret.write_text, (tmp_path / "new").write_text):
            with contextlib.suppress(PermissionError):
                way("no")
                return 2
        with contextlib.suppress(PermissionError):
            os.setuid(0)
            return 3
        return 0

    assert privilege.run_as(("nobody",), look, reads_all=True) == 0
    status = eval((shared / "told").read_text())
    assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert status["CapEff"] == status["CapPrm"] == f"{1 << 2:016x}"
    assert (status["CapInh"], status["NoNewPrivs"]) == ("0" * 16, "1")


def test_child_cannot_become_root_again() -> None:
    def refused(way: Callable[[int], None]) -> bool:
        try:
            way(0)
        except PermissionError:
            return True
        return False

    def try_it() -> int:
        return sum(map(refused, (os.setuid, os.seteuid, os.setgid, os.setegid)))

    assert privilege.run_as(("nobody",), try_it) == 4


def test_first_user_that_exists() -> None:
    users = ("no-such-user-here", "nobody", "daemon")
    assert privilege.run_as(users, lambda: int(os.getuid() == NOBODY.pw_uid)) == 1


@pytest.mark.parametrize("users", [(), ("no-such-user-here",), ("root",)])
def test_never_runs_as_root_instead(users: tuple[str, ...]) -> None:
    with pytest.raises(errors.ConfigError):
        privilege.run_as(users, lambda: 0)


def _raise(error: BaseException) -> Callable[[], int]:
    def function() -> int:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "code"),
    [
        pytest.param(lambda: 0, 0, id="good"),
        pytest.param(lambda: 33, 33, id="its own code"),
        pytest.param(_raise(SystemExit(5)), 5, id="sys.exit"),
        pytest.param(_raise(SystemExit("x")), privilege.CRASHED, id="sys.exit, text"),
        pytest.param(_raise(KeyError("a bug")), privilege.CRASHED, id="a bug"),
    ],
)
def test_exit_code_comes_back(function: Callable[[], int], code: int) -> None:
    assert privilege.run_as(("nobody",), function) == code


def test_bug_leaves_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    privilege.run_as(("nobody",), _raise(KeyError("a bug")))
    assert "KeyError: 'a bug'" in capfd.readouterr().err


def test_output_of_both_is_whole_and_in_order() -> None:
    code = (
        "from olpc_update_query.system.privilege import run_as\n"
        "def child(): print('two'); return 0\n"
        "print('one'); run_as(('nobody',), child); print('three')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert run.stdout == "one\ntwo\nthree\n"


def test_killed_child_is_told_clearly() -> None:
    def die() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    with pytest.raises(RuntimeError, match="user nobody was ended by SIGKILL"):
        privilege.run_as(("nobody",), die)


def test_interrupt_in_the_child_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        privilege.run_as(("nobody",), _raise(KeyboardInterrupt()))


_SLEEPER = (
    "import time, os, sys\n"
    "from olpc_update_query.system.privilege import run_as\n"
    "def child():\n"
    "    os.write(1, b'%d\\n' % os.getpid()); time.sleep(600); return 0\n"
    "run_as(('nobody',), child)"
)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_child_does_not_outlive_its_parent(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _SLEEPER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) != parent.pid
        parent.send_signal(how)
        assert parent.wait(10) == -how
        assert parent.stdout.read() == b""  # the child's copy of the pipe is closed


def test_only_root_can_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.NotPermitted):
        privilege.run_as(("nobody",), lambda: 0)
