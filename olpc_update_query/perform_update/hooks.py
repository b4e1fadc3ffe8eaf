"""A site's own programs, run on a new build before it may boot.

They put in what the site adds to every build. Each gets the run copy's directory as
its argument. A file there is a link of the untouched tree's: a hook replaces files,
it never writes into one.
"""

import contextlib
import os
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Final

from olpc_update_query.errors import HookFailed
from olpc_update_query.ports import Progress

TIMEOUT: Final = 600  # seconds
_TAIL: Final = 200  # bytes of output that go into a message
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/",
}


def run_hooks(
    hooks: Path, tree: Path, progress: Progress, *, timeout: float = TIMEOUT
) -> None:
    """Run every hook, in the order of their names.

    Only regular files that may be executed are hooks; names that begin with a dot or
    end in ``~`` are what editors leave behind.

    Args:
        hooks: The directory; it need not be there.
        tree: The new build's run copy.
        progress: Who is told.
        timeout: Seconds each may take.

    Raises:
        HookFailed: One failed, took too long, or may be changed by others.
    """
    for hook in _hooks_in(hooks):
        progress.step(f"running the site's hook {hook.name}")
        _run(hook, tree, timeout)


def _hooks_in(hooks: Path) -> list[Path]:
    if not hooks.is_dir():
        return []
    found: list[Path] = []
    for hook in sorted(hooks.iterdir()):
        mode = os.lstat(hook).st_mode
        is_program = stat.S_ISREG(mode) and mode & stat.S_IXUSR
        if not is_program or hook.name.startswith(".") or hook.name.endswith("~"):
            continue
        if mode & stat.S_IWOTH:
            raise HookFailed(f"hook {hook.name} may be changed by anybody")
        found.append(hook)
    return found


def _run(hook: Path, tree: Path, timeout: float) -> None:
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [hook.absolute(), tree.absolute()],
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailed(
                f"hook {hook.name} cannot be run: {error.strerror}"
            ) from error
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            reason = f"hook {hook.name} has not ended within {timeout:g} seconds"
            raise HookFailed(reason) from None
        finally:
            _end(process)
        if code:
            how = (
                f"ended with code {code}"
                if code > 0
                else f"was ended by signal {-code}"
            )
            raise HookFailed(f"hook {hook.name} {how}{_last_line(output)}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Leave nothing of a hook running, whatever it has started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(output: IO[bytes]) -> str:
    end = output.seek(0, os.SEEK_END)
    output.seek(max(0, end - _TAIL))
    lines = output.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1]}" if said else ""
