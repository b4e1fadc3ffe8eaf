"""Laptops and a server, for tests of runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.model.canonical import Json, encode
from tests.laptop import make_laptop
from tests.run.polled import NOW, Laptop
from tests.simulator import (
    FakeClock,
    ServerSimulator,
    prepare_laptop,
    simulate,
)
from tests.trees import build_tree


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerSimulator]:
    (tmp_path / "www").mkdir()
    with simulate(tmp_path / "www") as simulator:
        simulator.time = NOW
        yield simulator


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory that is closed to the asker's user: both sides are one process.

    Only so can this process hear what the asker tells. ``cli/test_query.py`` runs the
    same things as two processes.
    """
    path = tmp_path / "private"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def laptop(private: Path, server: ServerSimulator) -> Laptop:
    root = prepare_laptop(private / "laptop", server.url)
    return Laptop(root, FakeClock(NOW))


@pytest.fixture
def school_laptop(private: Path, server: ServerSimulator) -> Laptop:
    """A laptop that keeps builds side by side."""
    root = prepare_laptop(private / "laptop", server.url)
    tree = private / "tree"
    build_tree(tree, {"boot/vmlinuz": "kernel", "etc/motd": "hello"})
    header: dict[str, Json] = {"build": "760", "bytes": 0, "entries": 0, "files": 0}
    contents = encode(["olpc-update-contents", 1, header]) + b"\n"
    make_laptop(root, "760", tree, partitioned=False, contents=contents)
    return Laptop(root, FakeClock(NOW))
