import os
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.system.work import prepare, work_area


def test_beside_the_builds_where_there_are_any(tmp_path: Path) -> None:
    assert work_area(tmp_path).top == tmp_path / "var/lib/olpc-update-query"
    (tmp_path / "versions/updates").mkdir(parents=True)
    assert work_area(tmp_path).top == tmp_path / "versions/updates/olpc-update-query"


def test_preparing(tmp_path: Path) -> None:
    work = work_area(tmp_path)
    prepare(work)
    prepare(work)
    assert {"asker", "installer"} <= set(os.listdir(work.top))
    assert work.installer.stat().st_mode & 0o777 == 0o755
    assert work.installer.stat().st_uid == os.geteuid()


@pytest.mark.root
def test_the_askers_part_is_the_askers(tmp_path: Path) -> None:
    work = work_area(tmp_path)
    prepare(work)
    assert work.asker.stat().st_uid != 0
    assert work.asker.stat().st_gid != 0
    assert work.top.stat().st_uid == 0


@pytest.mark.root
def test_a_planted_link_is_not_given_away(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    work = work_area(tmp_path)
    work.top.mkdir(parents=True)
    work.asker.symlink_to(victim)
    prepare(work)
    assert victim.stat().st_uid == 0


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    with pytest.raises(errors.DiskFailed, match="olpc-update-query"):
        prepare(work_area(tmp_path))


@pytest.mark.root
def test_the_askers_lock_is_lent_to_the_asker(tmp_path: Path) -> None:
    work = work_area(tmp_path)
    prepare(work)
    found = work.asker_lock.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (0, 0o640)
    assert found.st_gid == work.asker.stat().st_gid != 0
