"""A laptop whose build has a manifest of the original system, which nobody reads."""

import os
import shutil
from pathlib import Path

import pytest

from tests import rsyncd
from tests.cli.black_box import query, update
from tests.cli.school import School
from tests.laptop import boots, boots_alternate

ENTRY = b'"boot":{"group":"root","mode":493,"type":"dir","user":"root"}'
KINDS = {
    "json": b'["olpc-contents",1,{' + ENTRY + b"}]",
    "lines": b"[" + b",\n".join([b"{" + ENTRY + b"}"] * 2000) + b"]\n",
    "octets": bytes(range(256)) * 64,
    "empty": b"",
}

pytestmark = pytest.mark.root


@pytest.fixture
def laptop(school: School) -> Path:
    (school.root / "versions/contents/760").write_bytes(KINDS["json"])
    return school.root


def test_an_unsigned_tree_is_installed(school: School, laptop: Path) -> None:
    done = update(laptop, "-u", "-", str(school.new.tree), "653")
    assert done.code == 0, done.err
    assert (boots(laptop), boots_alternate(laptop)) == ("653", "760")


@pytest.mark.needs("rsync")
def test_and_one_from_a_daemon(school: School, laptop: Path, tmp_path: Path) -> None:
    site = tmp_path / "653"
    shutil.copytree(school.new.tree, site / "root")
    with rsyncd.serve(tmp_path / "rsyncd", {"build-653": site}) as url:
        done = update(laptop, "-u", "-", f"{url}build-653/root")
    assert done.code == 0, done.err
    assert (boots(laptop), boots_alternate(laptop)) == ("653", "760")


@pytest.mark.parametrize("kind", KINDS)
def test_a_poll_takes_what_has_not_changed(
    school: School, laptop: Path, kind: str
) -> None:
    (laptop / "versions/contents/760").write_bytes(KINDS[kind])
    school.server.update = school.order()
    done = query(laptop)
    assert done.code == 0, done.err
    assert (boots(laptop), boots_alternate(laptop)) == ("762", "760")
    old, new = (laptop / f"versions/pristine/{b}/usr/same" for b in ("760", "762"))
    assert os.path.samefile(old, new)
    assert not [s for s in school.server.site.seen if "delta" in s.path]


def test_an_order_for_the_build_it_runs_asks_nothing_of_it(
    school: School, laptop: Path
) -> None:
    school.server.update = school.order(school.old)
    done = query(laptop)
    assert done.code == 0, done.err
    assert "nothing to do" in done.out
    assert boots(laptop) == "760"


def test_verify_says_that_it_is_left_out(school: School, laptop: Path) -> None:
    assert update(laptop, "762").code == 0
    done = update(laptop, "--verify")
    assert done.code == 0, done.err
    assert "build 760 is left out: " in done.err
    os.truncate(laptop / "versions/pristine/762/usr/fresh", 1)
    assert update(laptop, "--verify").code != 0


def test_it_keeps_no_other_build_from_being_mended(
    school: School, laptop: Path
) -> None:
    assert update(laptop, "762").code == 0
    fresh = laptop / "versions/pristine/762/usr/fresh"
    os.truncate(fresh, 1)
    done = update(laptop, "--verify", "--repair", "762")
    assert done.code == 0, done.err
    assert fresh.read_bytes() == b"fresh"
