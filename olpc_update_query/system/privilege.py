"""Running a function as somebody who may do less.

Only an exit code comes back. The child shares nothing else with its parent: what it
learned is in files that the parent verifies again before it believes them.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import sys
import traceback
from collections.abc import Callable

from olpc_update_query import errors

CRASHED = 70  # EX_SOFTWARE: the function ended in an exception; see its traceback

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_CAP_DAC_READ_SEARCH = 2
_CAPABILITIES_3 = 0x20080522


def run_as(
    users: tuple[str, ...], function: Callable[[], int], *, reads_all: bool = False
) -> int:
    """Run ``function`` in a child process as the first user that exists.

    The child gives up root, its groups and the way back (no_new_privs), has umask
    022, and ends when its parent does. Uncaught exceptions print their traceback.

    Args:
        users: Names in order of preference, such as ``("olpc-update", "nobody")``.
        function: Does the work; what it returns (0 to 255) is the exit code.
        reads_all: Let it read every file, whoever owns it, and nothing else of root's.

    Returns:
        The exit code; ``CRASHED`` when the function raised.

    Raises:
        ConfigError: None of the users exists.
        NotPermitted: The caller is not root.
        KeyboardInterrupt: The child was interrupted, or the parent was.
        RuntimeError: The child was killed by another signal.
    """
    account = _account(users)
    if os.geteuid() != 0:
        raise errors.NotPermitted(f"as user {account.pw_name}")
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(_live(parent, account, function, reads_all=reads_all))
    return _outcome(account.pw_name, _wait(child))


def _account(users: tuple[str, ...]) -> pwd.struct_passwd:
    for name in users:
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            if account.pw_uid != 0 and account.pw_gid != 0:
                return account
    raise errors.ConfigError(
        "/etc/passwd", f"no unprivileged user called {' or '.join(users)}"
    )


def _live(
    parent: int,
    account: pwd.struct_passwd,
    function: Callable[[], int],
    *,
    reads_all: bool,
) -> int:
    """Live the child's life; return its exit code."""
    code = CRASHED
    try:
        drop_to(account.pw_uid, account.pw_gid, reads_all=reads_all)
        die_with(parent)
        code = function() & 0xFF
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else CRASHED
    except BaseException:  # noqa: BLE001 - nothing may unwind into the parent's frames
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def drop_to(uid: int, gid: int, *, reads_all: bool = False) -> None:
    """Become ``uid`` and ``gid`` for good, and lose every other group and way back.

    Args:
        uid: The user.
        gid: Its group.
        reads_all: Keep the capability to read every file, and no other.

    Raises:
        OSError: The kernel refused; the caller must not go on.
    """
    os.setgroups([])
    if reads_all:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if reads_all:
        _keep_only(1 << _CAP_DAC_READ_SEARCH)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o022)


def die_with(parent: int) -> None:
    """Have the kernel end this process when ``parent`` ends, however it does."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


def _keep_only(capabilities: int) -> None:
    """Keep these capabilities, which are among the first 32, and give up the rest."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    # effective, permitted, inheritable; then the same for those above the 32nd
    wanted = (ctypes.c_uint32 * 6)(capabilities, capabilities, 0, 0, 0, 0)
    library = ctypes.CDLL(None, use_errno=True)
    if library.capset(header, wanted) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    if library.prctl(option, *arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _wait(child: int) -> int:
    """Wait for the child; an interrupt of the parent interrupts the child first."""
    try:
        return os.waitpid(child, 0)[1]
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGINT)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        raise


def _outcome(user: str, status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGINT:
        raise KeyboardInterrupt
    if code < 0:
        name = signal.Signals(-code).name
        raise RuntimeError(f"the process of user {user} was ended by {name}")
    return code
