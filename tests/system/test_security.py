import os
from functools import cache
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.system.host import Identity
from olpc_update_query.system.security import (
    install_lease,
    installed_lease,
    is_marked_stolen,
    mark_stolen,
)
from olpc_update_query.trust.lease import Lease
from tests.keys import SERIAL, UUID, ring
from tests.simulator import DAY, lease
from tests.trees import difference, snapshot

NOW = 1_795_000_000
WHO = Identity(SERIAL, UUID, "test")


@cache  # each signature is another one
def good() -> Lease:
    return Lease(lease(NOW + DAY), NOW + DAY, ())


def test_a_lease_is_installed_once(tmp_path: Path) -> None:
    assert install_lease(tmp_path, good())
    path = tmp_path / "security/lease.sig"
    assert path.read_text() == good().line
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat().st_ino
    assert not install_lease(tmp_path, good())
    assert path.stat().st_ino == before, "the same lease is not written again"


def test_what_is_installed_is_found(tmp_path: Path) -> None:
    assert installed_lease(tmp_path, WHO, ring(), NOW) is None
    install_lease(tmp_path, good())
    found = installed_lease(tmp_path, WHO, ring(), NOW)
    assert found is not None
    assert found.expiry == NOW + DAY
    assert installed_lease(tmp_path, WHO, ring(), NOW + DAY) is None, "expired"
    assert installed_lease(tmp_path, WHO, ring(lease=["other"]), NOW) is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"x" * 70_000])
def test_a_damaged_file_is_no_lease(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "security").mkdir()
    (tmp_path / "security/lease.sig").write_bytes(content)
    assert installed_lease(tmp_path, WHO, ring(), NOW) is None
    assert install_lease(tmp_path, good())
    assert installed_lease(tmp_path, WHO, ring(), NOW) is not None


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "security").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "security/lease.sig").symlink_to(victim)
    install_lease(tmp_path, good())
    assert victim.read_text() == "mine"
    assert not (tmp_path / "security/lease.sig").is_symlink()


def test_stolen_and_found_again(tmp_path: Path) -> None:
    install_lease(tmp_path, good())
    assert mark_stolen(tmp_path)
    assert is_marked_stolen(tmp_path)
    assert not (tmp_path / "security/lease.sig").exists()
    before = snapshot(tmp_path)
    assert not mark_stolen(tmp_path), "there was no lease any more"
    assert not difference(before, snapshot(tmp_path))
    install_lease(tmp_path, good())
    assert not is_marked_stolen(tmp_path)


def test_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "security").mkdir()
    (tmp_path / "security/develop.sig").write_text("dev01: ...")
    mark_stolen(tmp_path)
    install_lease(tmp_path, good())
    assert sorted(os.listdir(tmp_path / "security")) == [
        ".private",
        "develop.sig",
        "lease.sig",
    ]


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "security").write_text("a file where the directory should be")
    with pytest.raises(errors.DiskFailed, match="security"):
        install_lease(tmp_path, good())
    with pytest.raises(errors.DiskFailed, match="security"):
        mark_stolen(tmp_path)
