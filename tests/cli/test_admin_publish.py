import os
import shutil
import subprocess
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.run.places import on_stick
from olpc_update_query.server.answers import Answerer
from olpc_update_query.server.leasepolicy import lease_end
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.answer import open_order
from olpc_update_query.trust.lease import find_lease
from tests.cli.shell import Shell
from tests.keys import SERIAL, UUID, ring
from tests.server.sites import LAPTOP, list_laptops, make_site
from tests.trees import File, Link, Node, build_tree

NOISE = bytes(range(256)) * 900


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(make_site(tmp_path).path, SystemClock())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files: dict[str | bytes, Node | str | bytes | None] = {
        "sbin/init": File(NOISE, mode=0o755),
        "etc/motd": "hello",
        "bin": Link("sbin"),
    }
    build_tree(tmp_path / "tree", files)
    return tmp_path / "tree"


def test_a_tree_is_published_and_signed(shell: Shell, site: Site, tree: Path) -> None:
    list_laptops(site, LAPTOP)
    out = shell.good("publish", site.path, tree, "--build", "762", "--with-root")
    assert "Published build 762" in out
    assert "2 files" in out
    assert out.splitlines()[-1] == (
        f"Next: olpc-update-admin assign {site.path} --build 762 --percent 10"
    )
    build = site.need_build(parse_build_id("762"))
    assert build.has_root
    assert os.readlink(build.path / "root/bin") == "sbin"
    raw = (build.path / "order").read_bytes()
    order = open_order(raw, ring=ring(), serial=SERIAL, now=0).order
    assert (order.build, order.contents, order.size) == (
        "762",
        build.contents,
        build.size,
    )
    assert "publish build 762" in (site.path / "changes.log").read_text()


def test_what_is_published_can_be_assigned_and_ordered(
    shell: Shell, site: Site, tree: Path, tmp_path: Path
) -> None:
    shell.good("publish", site.path, tree, "--build", "762")
    shell.good("assign", site.path, "--build", "762")
    assert "error" not in shell.good("check", site.path, "--packs")
    reports = Reports(tmp_path / "reports.db")
    answerer = Answerer(site, reports, SystemClock())
    raw = answerer.answer(Query(SERIAL, "1").encode(), base="http://h/", address="h")
    assert raw is not None
    assert site.need_build(parse_build_id("762")).contents.encode() in raw
    reports.close()


def test_deltas_are_made_on_demand(shell: Shell, site: Site, tree: Path) -> None:
    shell.good("publish", site.path, tree, "--build", "760")
    (tree / "etc/motd").write_text("other words")
    ran = shell.run("publish", site.path, tree, "--build", "761")
    assert "--delta-from" in ran.err
    words = ["--delta-from", "760", "--delta-from", "761", "--delta-from", "760"]
    out = shell.good("publish", site.path, tree, "--build", "762", *words)
    assert "A laptop that runs 760 fetches" in out
    names = os.listdir(site.builds / "762/delta")
    assert sorted(names) == ["760.pack", "761.pack"]


def test_times_can_be_made_the_same(shell: Shell, site: Site, tree: Path) -> None:
    shell.good("publish", site.path, tree, "--build", "1", "--normalize-times")
    os.utime(tree / "etc/motd", (0, 12345))
    shell.good("publish", site.path, tree, "--build", "2", "--normalize-times")
    lines = [
        (site.builds / name / "contents").read_bytes().splitlines()[1:]
        for name in ("1", "2")
    ]
    assert lines[0] == lines[1]


def test_what_cannot_be_published_is_named(
    shell: Shell, site: Site, tree: Path
) -> None:
    shell.good("publish", site.path, tree, "--build", "760")
    told = shell.bad(
        errors.UnknownBuild,
        *("publish", site.path, tree, "--build", "762", "--delta-from", "759"),
    )
    assert "There are: 760." in told
    told = shell.bad(errors.SiteExists, "publish", site.path, tree, "--build", "760")
    log = (site.path / "changes.log").read_text().splitlines()
    assert "not done: publish build 760: " in log[-1]
    assert "builds/760" in told
    assert site.build_names() == ["760"]
    (tree / "sbin/init").unlink()
    ran = shell.run("publish", site.path, tree, "--build", "761")
    assert ran.code == errors.UnfitTree.exit_code
    assert "no laptop could boot it" in ran.err
    for name in ("", ".x", "a/b"):
        assert shell.run("publish", site.path, tree, "--build", name).code == 2
    ran = shell.run("publish", site.path, tree / "absent", "--build", "763")
    assert ran.code == 2


def test_without_a_key_there_is_no_signed_order(
    shell: Shell, site: Site, tree: Path
) -> None:
    (site.keys / "oats.private").unlink()
    ran = shell.run("publish", site.path, tree, "--build", "762")
    assert ran.code == 0
    assert "keygen" in ran.err
    assert not (site.builds / "762/order").exists()
    (site.keys / "lease.private").rename(site.keys / "oats.private")
    (site.keys / "oats.private").chmod(0o644)
    ran = shell.run("publish", site.path, tree, "--build", "763")
    assert ran.code == errors.UnsafeKey.exit_code
    assert not (site.builds / "763").exists()


def test_check_proves_packs_when_it_is_asked_to(
    shell: Shell, site: Site, tree: Path
) -> None:
    list_laptops(site, LAPTOP)
    shell.good("publish", site.path, tree, "--build", "762")
    shell.good("assign", site.path, "--build", "762")
    pack = site.builds / "762/pack"
    octets = bytearray(pack.read_bytes())
    octets[9] ^= 1
    pack.write_bytes(octets)
    assert "in order" in shell.good("check", site.path)
    ran = shell.run("check", site.path, "--packs")
    assert ran.code == errors.SiteError.exit_code
    assert "error: build 762: " in ran.out
    assert f"  mend: Delete {site.builds / '762'}, then publish it again" in ran.out
    shutil.rmtree(site.builds / "762")
    (site.builds / "762").mkdir()
    ran = shell.run("check", site.path)
    assert "error: rollout.toml: build 762 is assigned but not published" in ran.out
    assert "762: is no build: it has no manifest" in ran.out
    (site.builds / "762").rmdir()
    told = shell.good("publish", site.path, tree, "--build", "762")
    assert f"Next: olpc-update-admin status {site.path}" in told, "it is assigned"
    assert "in order" in shell.good("check", site.path, "--packs")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param("rm contents.zst", "contents.zst is missing", id="manifest"),
        pytest.param("rm pack", "it has neither pack nor root/", id="pack"),
        pytest.param("rm pack.index", "pack.index is missing", id="index"),
        pytest.param("truncate -s -1 pack", "pack is not as long as", id="cut short"),
        pytest.param("echo >pack.index", "pack.index: ", id="index damaged"),
        pytest.param("rm order", "it has no signed order", id="order"),
        pytest.param("sed -i s/sig/gis/ order", "order refused", id="order damaged"),
        pytest.param("cp ../761/order .", "is for another manifest", id="another"),
    ],
)
def test_check_finds_at_once_what_keeps_laptops_from_a_build(
    shell: Shell, site: Site, tree: Path, damage: str, found: str
) -> None:
    list_laptops(site, LAPTOP)
    shell.good("publish", site.path, tree, "--build", "761")
    (tree / "etc/motd").write_text("changed")
    words = ("publish", site.path, tree, "--build", "762", "--delta-from", "761")
    shell.good(*words)
    shell.good("assign", site.path, "--build", "762")
    place = site.builds / "762"
    subprocess.run(damage, shell=True, check=True, cwd=place)
    said = shell.run("check", site.path).out
    assert ": build 762: " in said
    assert found in said
    assert f"mend: Delete {place}, then publish it again" in said
    shutil.rmtree(place)
    shell.good(*words)
    assert "in order" in shell.good("check", site.path, "--packs")


# --- archives ------------------------------------------------------------------


def make_bundle(tree: Path, directory: Path, packer: str) -> Path:
    """Make what a school server of the original system is given."""
    directory.mkdir()
    archive = directory / f"os860_jffs2-tree.tar.{packer}"
    subprocess.run(["tar", "-caf", archive, "-C", tree, "."], check=True)
    summed = subprocess.run(
        ["md5sum", archive.name], cwd=directory, check=True, capture_output=True
    )
    Path(f"{archive}.md5").write_bytes(summed.stdout)
    (directory / "os860_jffs2.contents").write_text("the old manifest")
    (directory / "os860_jffs2.name").write_text("860\n")
    return archive


@pytest.mark.parametrize("packer", ["bz2", "lzma", "xz"])
def test_a_bundle_drops_in(
    shell: Shell, site: Site, tree: Path, tmp_path: Path, packer: str
) -> None:
    archive = make_bundle(tree, tmp_path / "bundle", packer)
    assert "Published build 860" in shell.good("publish", site.path, archive)
    assert "error" not in shell.good("check", site.path, "--packs")


def test_what_is_wrong_with_a_bundle_is_named(
    shell: Shell, site: Site, tree: Path, tmp_path: Path
) -> None:
    archive = make_bundle(tree, tmp_path / "bundle", "xz")
    octets = bytearray(archive.read_bytes())
    octets[-1] ^= 1
    archive.write_bytes(octets)
    told = shell.bad(errors.UnfitTree, "publish", site.path, archive)
    assert "its MD5 is" in told
    assert "copy its archive again" in told
    for name, text in (("os860_jffs2.name", "../x"), (f"{archive.name}.md5", "none")):
        (archive.parent / name).write_text(text)
        assert name in shell.bad(errors.UnfitTree, "publish", site.path, archive)
        (archive.parent / "os860_jffs2.name").write_text("860")
    (archive.parent / "os860_jffs2.name").write_bytes(b"8" * 5000)
    told = shell.bad(errors.UnfitTree, "publish", site.path, archive)
    assert "longer than 4096 bytes" in told
    lonely = archive.rename(tmp_path / "os860_jffs2-tree.tar.xz")
    ran = shell.run("publish", site.path, lonely)
    assert ran.code == 2
    assert "--build NAME" in ran.err
    ran = shell.run("publish", site.path, lonely, "--build", "860")
    assert ran.code == errors.UnfitTree.exit_code
    assert "is damaged" in ran.err
    assert site.build_names() == []


# --- sticks ---------------------------------------------------------------------


def test_a_stick_holds_what_is_assigned_and_leases(
    shell: Shell, site: Site, tree: Path, tmp_path: Path
) -> None:
    gone = LAPTOP._replace(serial="SHC2", stolen=True)
    list_laptops(site, LAPTOP, gone, gone._replace(serial="SHC3", uuid=None))
    for name in ("760", "761", "762"):
        words = ["--delta-from", "760"] if name == "762" else []
        shell.good("publish", site.path, tree, "--build", name, "--with-root", *words)
    shell.good("assign", site.path, "--build", "762")
    stick = tmp_path / "stick"
    stick.mkdir()
    out = shell.good("usb", site.path, stick, "--leases", "60")
    assert "1 laptops find a lease" in out
    assert list(on_stick(stick)) == ["762"]
    for name in ("contents", "pack", "delta/760.pack"):
        copied = (stick / "builds/762" / name).read_bytes()
        assert copied == (site.builds / "762" / name).read_bytes()
    assert not (stick / "builds/762/root").exists()
    now = SystemClock().now()
    lease = find_lease(
        (stick / "lease.sig").read_bytes(),
        serial=SERIAL,
        uuid=UUID,
        ring=ring(),
        now=now,
    )
    assert lease.expiry == lease_end(now, 60, "UTC")
    assert b"SHC2" not in (stick / "lease.sig").read_bytes()


def test_a_stick_is_only_written_where_it_must_be(
    shell: Shell, site: Site, tree: Path, tmp_path: Path
) -> None:
    shell.good("publish", site.path, tree, "--build", "762")
    told = shell.bad(errors.NoAssignment, "usb", site.path, tmp_path)
    assert "--build" in told
    stick = tmp_path / "stick"
    (stick / "builds/762").mkdir(parents=True)
    (stick / "builds/762/.pack.new").touch()  # a stick pulled out too early
    out = shell.good("usb", site.path, stick, "--build", "762")
    assert "bytes are needed" in out
    assert not [path for path in stick.rglob("*") if path.name.startswith(".")]
    before = (stick / "builds/762/pack").stat()
    out = shell.good("usb", site.path, stick, "--build", "762")
    assert "is there already" in out
    assert (stick / "builds/762/pack").stat().st_ino == before.st_ino
    (stick / "builds/762/order").write_bytes(b"old")
    shell.good("usb", site.path, stick, "--build", "762")
    raw = (stick / "builds/762/order").read_bytes()
    now = SystemClock().now()
    order = open_order(raw, ring=ring(), serial=SERIAL, now=now)
    assert order.expiry is not None
    assert 89 * 86400 < order.expiry - now <= 90 * 86400
    shell.bad(errors.UnknownBuild, "usb", site.path, stick, "--build", "763")
