"""The commands as a person runs them: other processes, output, exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

TOP = Path(__file__).parents[2]


class Done(NamedTuple):
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """Return the one object that was printed."""
        return json.loads(self.out)


def command(module: str, root: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", module, "--root", str(root), *words]


def query(root: Path, *words: str) -> Done:
    """Run olpc-update-query."""
    return _run(command("olpc_update_query", root, *words))


def update(root: Path, *words: str) -> Done:
    """Run olpc-update."""
    return _run(update_command(root, *words))


def update_command(root: Path, *words: str) -> list[str]:
    """Return the command line of olpc-update."""
    start = "from olpc_update_query.cli.update import main; main()"
    return [sys.executable, "-c", start, "--root", str(root), *words]


def _run(words: list[str]) -> Done:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=60, cwd=TOP
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)
