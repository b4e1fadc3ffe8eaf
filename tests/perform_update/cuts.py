"""Ending a process at its N-th change to the disk, as a dead battery would.

The process is a real one and SIGKILL is what ends it, so nothing is cleaned up: no
``finally``, no ``except``, no handler at exit.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

CHANGES = (
    "chmod",
    "chown",
    "copy_file_range",
    "fchmod",
    "fchown",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "mknod",
    "pwrite",
    "removexattr",
    "rename",
    "replace",
    "rmdir",
    "setxattr",
    "symlink",
    "unlink",
    "utime",
    "write",
)
_FAILED = 3


def run_until(change: int, function: Callable[[], object]) -> bool:
    """Run a function in a process of its own that dies before a change.

    Args:
        change: The number of the change, from 0.
        function: What to run.

    Returns:
        Whether it ended by itself, before there were so many changes.
    """
    child = os.fork()
    if child == 0:
        code = _FAILED
        try:
            _arm(change)
            function()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "it failed"
    return True


def _arm(change: int) -> None:
    left = change

    def armed(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return original(*args, **kwargs)

        return call

    for name in CHANGES:
        setattr(os, name, armed(getattr(os, name)))
    plain_open = os.open

    def open_(path: Any, flags: int, mode: int = 0o777, **kwargs: Any) -> int:
        opener = armed(plain_open) if flags & os.O_CREAT else plain_open
        descriptor: int = opener(path, flags, mode, **kwargs)
        return descriptor

    os.open = open_
