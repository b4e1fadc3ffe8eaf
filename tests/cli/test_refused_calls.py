"""A call that the system refuses where nobody expects it: one plain line."""

import errno
import os

import pytest

from olpc_update_query.cli.console import Console
from olpc_update_query.errors import DiskFailed, NoSpace, NotPermitted


@pytest.mark.parametrize(
    ("code", "error"),
    [
        pytest.param(errno.EMFILE, DiskFailed, id="too many open files"),
        pytest.param(errno.EIO, DiskFailed, id="a broken disk"),
        pytest.param(errno.ENOSPC, NoSpace, id="a full disk"),
        pytest.param(errno.EACCES, NotPermitted, id="no permission"),
    ],
)
def test_it_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], code: int, error: type[DiskFailed]
) -> None:
    console = Console("olpc-update")
    with pytest.raises(SystemExit) as left, console.guard():
        raise OSError(code, os.strerror(code), "/some/file")
    assert left.value.code == error.exit_code
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith("olpc-update: ")
    assert "/some/file" in first
    assert all(line.startswith("  hint") for line in rest)
