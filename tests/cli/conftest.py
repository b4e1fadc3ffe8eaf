from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.school import School
from tests.cli.shell import Shell
from tests.simulator import simulate


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("SUDO_USER", "maria")
    return Shell(capsys, monkeypatch)


@pytest.fixture
def school(tmp_path: Path) -> Iterator[School]:
    """A server with two builds, and a laptop that runs the older one."""
    (tmp_path / "www").mkdir()
    with simulate(tmp_path / "www") as server:
        yield School(tmp_path, server)
