"""A full disk stops updates, but no lease: what boots lies on another file system."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.black_box import query
from tests.simulator import DAY, ServerSimulator, lease, prepare_laptop, simulate

NOW = int(time.time())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerSimulator]:
    (tmp_path / "www").mkdir()
    with simulate(tmp_path / "www") as simulator:
        yield simulator


@pytest.fixture
def root(tmp_path: Path, server: ServerSimulator) -> Iterator[Path]:
    """A laptop whose builds lie on a small file system of their own."""
    root = prepare_laptop(tmp_path / "laptop", server.url)
    versions = root / "versions"
    versions.mkdir()
    words = ["-t", "tmpfs", "-o", "size=128k,mode=755", "small"]
    subprocess.run(["mount", *words, versions], check=True)
    (versions / "updates").mkdir()
    yield root
    subprocess.run(["umount", versions], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


@pytest.mark.root
@pytest.mark.needs("mount")
def test_a_lease_comes_through(root: Path, server: ServerSimulator) -> None:
    query(root)
    fill(root / "versions/homework")
    server.lease = lease(NOW + 21 * DAY)
    done = query(root, "--now")
    assert done.code == 0, done.err
    assert (root / "security/lease.sig").read_text() == server.lease
    assert "could not be written" in done.err
    server.stolen = True
    assert query(root, "--now").code == 0
    assert not (root / "security/lease.sig").exists()
