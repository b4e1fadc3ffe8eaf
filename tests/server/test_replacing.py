"""A build that replaces another, and the power that fails meanwhile."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from olpc_update_query.server.app import create_app
from olpc_update_query.server.check import check_site
from olpc_update_query.server.replacing import (
    replace_build,
    settle,
    settle_at_start,
)
from olpc_update_query.system.files import exchange, hold_lock
from tests.server.sites import NOW, add_build, make_site
from tests.trees import build_tree

_REPLACE = """
import sys
from pathlib import Path
from olpc_update_query.server.replacing import replace_build
builds = Path(sys.argv[1])
replace_build(builds / ".mirror-1", builds / "1")
"""
_RENAMES = "/^rename(at)?$"


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    return build_tree(tmp_path / "builds", {"1/old": "", ".mirror-1/new": ""})


def test_nothing_is_left_of_the_old_one(builds: Path) -> None:
    replace_build(builds / ".mirror-1", builds / "1")
    assert os.listdir(builds) == ["1"]
    assert os.listdir(builds / "1") == ["new"]
    build_tree(builds, {".mirror-2/first": ""})
    replace_build(builds / ".mirror-2", builds / "2")
    assert os.listdir(builds / "2") == ["first"]


def test_two_paths_change_places(builds: Path) -> None:
    assert exchange(builds / ".mirror-1", builds / "1")
    assert os.listdir(builds / ".mirror-1") == ["old"]
    with pytest.raises(FileNotFoundError):
        exchange(builds / "absent", builds / "1")


@pytest.mark.needs("strace")
@pytest.mark.parametrize(
    ("kill", "found"),
    [
        pytest.param("renameat2:signal=KILL", "old", id="before"),
        pytest.param(f"{_RENAMES}:signal=KILL", "new", id="after"),
    ],
)
def test_killed_where_it_is_exchanged(builds: Path, kill: str, found: str) -> None:
    _replace(builds, kill)
    assert os.listdir(builds / "1") == [found], "one or the other is always there"
    settle(builds)
    assert os.listdir(builds / "1") == [found]


@pytest.mark.needs("strace")
def test_killed_where_nothing_can_be_exchanged(builds: Path) -> None:
    kill = f"{_RENAMES}:signal=KILL:when=2"
    _replace(builds, "renameat2:error=EINVAL", kill)
    assert not (builds / "1").exists()
    settle_at_start(builds)
    assert os.listdir(builds / "1") == ["old"]
    assert not list(builds.glob(".old-*"))


def _replace(builds: Path, *tampering: str) -> None:
    """Replace build 1 in a process that is killed."""
    words = [word for what in tampering for word in ("-e", f"inject={what}")]
    trace = f"trace=renameat2,{_RENAMES}"
    line = ["strace", "-qq", "-o", str(builds.parent / "calls"), "-e", trace, *words]
    line += [sys.executable, "-c", _REPLACE, str(builds)]
    done = subprocess.run(line, capture_output=True, check=False)
    assert "SIGKILL" in (builds.parent / "calls").read_text(), done


def test_a_server_that_starts_puts_a_build_back(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "760")
    (site.builds / "760").rename(site.builds / ".old-760")
    build_tree(site.builds, {".gone-759/contents": "x"})
    (found,) = [one for one in check_site(site, NOW) if one.where == "build 760"]
    assert "cut short" in found.text
    assert "puts it back" in found.mend
    with hold_lock(site.builds / ".lock", "a test"):
        create_app(site.path).extensions["reports"].close()
        assert site.build_names() == [], "somebody is just replacing it"
    create_app(site.path).extensions["reports"].close()
    assert site.build_names() == ["760"]
    assert sorted(os.listdir(site.builds)) == [".lock", "760"]
    assert not [one for one in check_site(site, NOW) if one.where == "build 760"]
