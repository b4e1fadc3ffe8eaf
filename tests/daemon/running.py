"""A daemon as a real process, and waiting for what it does."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

TOP = Path(__file__).parents[2]
PATIENCE = 120.0  # only a test that fails waits for so long


def wait_until(is_so: Callable[[], object], patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@contextlib.contextmanager
def daemon(
    root: Path, *, tick: int = 1, env: Mapping[str, str] | None = None, prefix: str = ""
) -> Iterator["subprocess.Popen[str]"]:
    """Run `olpc-update-query daemon`; its log goes to ``root/log``."""
    words = ["daemon", "--root", str(root), "--tick", str(tick)]
    command = [*prefix.split(), sys.executable, "-m", "olpc_update_query", *words]
    nowhere = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={root}/no-bus"}
    with (
        open(root / "log", "a") as log,
        subprocess.Popen(
            command,
            stderr=log,
            text=True,
            cwd=TOP,
            env={**os.environ, **nowhere, **(env or {})},
        ) as process,
    ):
        try:
            wait_until((root / "run/olpc-update-query/daemon").exists)
            yield process
        finally:
            process.kill()


def log_of(root: Path) -> str:
    return (root / "log").read_text()


def resident(pid: int) -> int:
    """Return the resident memory of a process in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def switches(pid: int) -> int:
    """Return how often the threads of a process went to sleep so far."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )
