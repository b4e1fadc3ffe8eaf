"""``olpc-update-admin`` in this process: what it prints, and how it ends."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from olpc_update_query import errors
from olpc_update_query.cli.admin import main


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Shell:
    """Runs commands in this process, and catches what they print."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self._capsys, self._patch = capsys, patch

    def run(self, *words: str | Path) -> Ran:
        arguments = ["olpc-update-admin", *map(str, words)]
        self._patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, out, err)

    def good(self, *words: str | Path) -> str:
        """Insist that a command succeeds, and return what it printed."""
        ran = self.run(*words)
        assert ran.code == 0, ran
        return ran.out

    def bad(self, error: type[errors.UpdateError], *words: str | Path) -> str:
        """Insist that a command fails so, in one line with a hint."""
        ran = self.run(*words)
        assert ran.code == error.exit_code, ran
        assert ran.out == "" or error is errors.SiteError
        lines = ran.err.splitlines()
        assert lines[0].startswith("olpc-update-admin: "), ran
        assert lines[1].startswith("  hint: ")
        assert len(lines) == 2
        return ran.err
