"""Sticks as they are: FAT and ext4, read-only, full, damaged, pulled out."""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import BuildId, Query
from olpc_update_query.model.wire import format_time
from tests import media
from tests.cli.black_box import update
from tests.cli.school import NOISE, School
from tests.cli.shell import Shell
from tests.keys import SERIAL
from tests.laptop import boots
from tests.perform_update.published import make_build
from tests.server.sites import LAPTOP, list_laptops, make_site
from tests.simulator import work_of
from tests.trees import build_tree, difference, snapshot

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("dosfstools", "e2fsprogs", "fusefat", "util-linux"),
]

MIB = 1 << 20


@pytest.fixture(params=media.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(school: School, kind: str, image: Path, where: Path) -> None:
    """Put the school's builds on a new stick."""
    media.make_image(kind, image, 40 * MIB)
    with media.mounted(kind, image, where) as stick:
        words = map(str, ("cp", "-r", school.www / "builds", stick))
        subprocess.run(list(words), check=True)


def test_from_the_site_to_the_laptop_and_home_again(
    shell: Shell, school: School, tmp_path: Path, kind: str
) -> None:
    """The whole way: `usb`, `olpc-update --usb`, `reports import`."""
    site = make_site(tmp_path)
    list_laptops(site, LAPTOP)
    tree = tmp_path / "tree"
    build_tree(tree, {"etc/motd": "from a stick", "lib/big": NOISE})
    shell.good("publish", site.path, tree, "--build", "770", "--any-tree")
    shell.good("assign", site.path, "--build", "770")
    image = media.make_image(kind, tmp_path / "image", 40 * MIB)
    with media.mounted(kind, image, tmp_path / "mnt") as stick:
        for _ in range(2):
            shell.good("usb", site.path, stick, "--leases", "60")
    with media.mounted(kind, image, tmp_path / "mnt") as stick:
        done = update(school.root, "--usb", str(stick))
        assert (done.code, done.err) == (0, "")
    assert boots(school.root) == "770"
    pristine = school.root / "versions/pristine/770"
    assert (pristine / "etc/motd").read_text() == "from a stick"
    assert (school.root / "security/lease.sig").read_text().count("\n") == 1
    with media.mounted(kind, image, tmp_path / "mnt") as stick:
        names = sorted(path.name for path in stick.iterdir())
        assert set(names) - {"lost+found"} == {
            "builds",
            "lease.sig",
            "reports",
            "security",
        }
        assert "1 new" in shell.good("reports", "import", site.path, stick)
    out = shell.good("laptops", "show", site.path, SERIAL)
    assert "build 770 is installed" in out
    checker = ["e2fsck", "-fn"] if kind == "ext4" else ["fsck.vfat", "-n"]
    subprocess.run([*checker, image], check=True)


def test_read_only(school: School, tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    fill(school, kind, image, tmp_path / "mnt")
    with media.mounted(kind, image, tmp_path / "mnt", read_only=True) as stick:
        done = update(school.root, "--usb", str(stick))
        assert (done.code, boots(school.root)) == (0, "762")
        assert not (stick / "reports").exists()
    (line,) = done.err.splitlines()
    assert "the report on the stick could not be written: " in line


def test_full(school: School, tmp_path: Path, kind: str) -> None:
    image = tmp_path / "image"
    fill(school, kind, image, tmp_path / "mnt")
    with media.mounted(kind, image, tmp_path / "mnt") as stick:
        media.fill_up(stick)
        done = update(school.root, "--usb", str(stick))
        assert (done.code, boots(school.root)) == (0, "762")
        assert "the report on the stick could not be written: " in done.err
        assert not [path for path in stick.rglob("*") if path.name.endswith(".new")]


def test_that_may_not_be_written(shell: Shell, tmp_path: Path) -> None:
    """The site's owner is of no help there."""
    site = make_site(tmp_path)
    build_tree(tmp_path / "tree", {"etc/motd": "x"})
    shell.good("publish", site.path, tmp_path / "tree", "--build", "770", "--any-tree")
    image = media.make_image("ext4", tmp_path / "image", 40 * MIB)
    with media.mounted("ext4", image, tmp_path / "mnt") as stick:
        subprocess.run(["chattr", "+i", stick], check=True)
        ran = shell.run("usb", site.path, stick, "--build", "770")
        subprocess.run(["chattr", "-i", stick], check=True)
    assert ran.code == errors.StickForbidden.exit_code, ran
    told, hint = ran.err.splitlines()
    assert f"no permission to use {stick}" in told
    assert hint.startswith("  hint: Mount the stick so that")


def test_that_is_locked(shell: Shell, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    build_tree(tmp_path / "tree", {"etc/motd": "x"})
    shell.good("publish", site.path, tmp_path / "tree", "--build", "770", "--any-tree")
    image = media.make_image("ext4", tmp_path / "image", 40 * MIB)
    with media.mounted("ext4", image, tmp_path / "mnt", read_only=True) as stick:
        ran = shell.run("usb", site.path, stick, "--build", "770")
    assert ran.code == errors.StickFailed.exit_code, ran
    told, hint = ran.err.splitlines()
    assert told == f"olpc-update-admin: {stick}: Read-only file system"
    assert hint.startswith("  hint: Slide the lock on it")


def test_pulled_out_while_it_is_read(school: School, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("mfusepy")
    image, where = tmp_path / "image", tmp_path / "mnt"
    files = {"lib/huge": os.urandom(8 * MIB), "etc/x": b"x"}
    school.publish(make_build(tmp_path / "763", "763", files))
    fill(school, kind, image, where)
    before = snapshot(school.root / "versions/pristine/760")
    with media.plugged_in(image, tmp_path / "socket") as (device, socket):
        with media.mounted(kind, device, where) as stick:
            socket.pull_out_after(4 * MIB)
            done = update(school.root, "--usb", str(stick))
            assert done.code == errors.StickFailed.exit_code, done.err
            line, hint = done.err.splitlines()
            assert line.startswith("olpc-update: build 763: file://")
            assert hint.startswith("  hint: Put the stick in again")
            assert boots(school.root) == "760"
            socket.plug_in()
        arrived = sum(
            path.stat().st_size
            for path in (work_of(school.root) / "asker/downloads").rglob("*")
        )
        assert arrived > MIB, "what has come is kept"
        with media.mounted(kind, device, where) as stick:
            socket.pull_out_after(14 * MIB - arrived)
            done = update(school.root, "--usb", str(stick))
    assert (done.code, boots(school.root)) == (0, "763"), done.err
    assert not difference(before, snapshot(school.root / "versions/pristine/760"))


@pytest.mark.parametrize("what", ["everything", "leases"])
def test_pulled_out_before_it_is_read(
    school: School, tmp_path: Path, kind: str, what: str
) -> None:
    pytest.importorskip("mfusepy")
    image, where = tmp_path / "image", tmp_path / "mnt"
    fill(school, kind, image, where)
    with media.mounted(kind, image, where) as stick:
        (stick / "lease.sig").write_bytes(NOISE)
        if what == "leases":
            shutil.rmtree(stick / "builds")
    with (
        media.plugged_in(image, tmp_path / "socket") as (device, socket),
        media.mounted(kind, device, where) as stick,
    ):
        list(stick.rglob("*"))  # its names are remembered, as by a desktop
        socket.pull_out_after(0)
        for words in ((), ("762",)) if what == "everything" else ((),):
            done = update(school.root, "--usb", str(stick), *words)
            gone = {errors.StickFailed.exit_code}
            if kind == "fat":  # what fusefat cannot read is not there, it says
                gone.add(errors.BuildNotFound.exit_code)
            assert done.code in gone, (done, words)
            assert "hint: " in done.err
    assert boots(school.root) == "760"
    assert not (school.root / "security/lease.sig").exists()


def test_pulled_out_before_it_mends(school: School, tmp_path: Path) -> None:
    pytest.importorskip("mfusepy")
    image, where = tmp_path / "image", tmp_path / "mnt"
    fill(school, "ext4", image, where)
    damaged = school.root / "versions/pristine/760/etc/motd"
    damaged.write_bytes(b"something else")
    words = ("--verify", "760", "--repair", "--usb", str(where))
    with (
        media.plugged_in(image, tmp_path / "socket") as (device, socket),
        media.mounted("ext4", device, where) as stick,
    ):
        assert sum(path.stat().st_size for path in stick.rglob("*"))
        socket.pull_out_after(0)
        done = update(school.root, *words)
        assert done.code == errors.StickFailed.exit_code, done
        assert damaged.read_bytes() == b"something else"
        socket.plug_in()
    with media.mounted("ext4", image, where):
        done = update(school.root, *words)
    assert done.code == 0, done
    assert damaged.read_bytes() == b"old words"


def test_reports_that_cannot_be_read(shell: Shell, tmp_path: Path) -> None:
    """Those that can be are kept, and the next try brings the others."""
    pytest.importorskip("mfusepy")
    site = make_site(tmp_path)
    image, where = tmp_path / "image", tmp_path / "mnt"
    media.make_image("ext4", image, 40 * MIB)
    with media.mounted("ext4", image, where) as stick:
        for number in range(40):
            leave_report(stick, f"SHC000000{number:02}")
            (stick / f"other{number}").write_bytes(bytes(MIB // 4))
    with media.plugged_in(image, tmp_path / "socket") as (device, socket):
        with media.mounted("ext4", device, where) as stick:
            found = list(stick.rglob("*.txt"))
            assert sum(path.stat().st_size for path in found)
            for path in found[:7]:
                path.read_bytes()
            socket.pull_out_after(0)
            ran = shell.run("reports", "import", site.path, stick)
            assert ran.code == errors.StickFailed.exit_code, ran
            assert "Put the stick in again" in ran.err
            new = re.match(r"Reports: (\d+) new, 0 known already, 0 refused, ", ran.out)
            assert new is not None, ran
            taken = int(new[1])
            assert 7 <= taken < 40, ran
        socket.plug_in()
        with media.mounted("ext4", device, where) as stick:
            out = shell.good("reports", "import", site.path, stick)
    assert out.startswith(f"Reports: {40 - taken} new, {taken} known already, 0 ")


def leave_report(stick: Path, serial: str) -> None:
    report: dict[str, Json] = {"free": 500, "time": format_time(int(time.time()))}
    query = Query(serial, "1", build=BuildId("760"), report=report)
    path = stick / f"reports/{serial}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(query.encode())


@pytest.mark.parametrize("count", [0, 6 * MIB], ids=["at once", "late"])
def test_pulled_out_while_it_is_written(
    shell: Shell, school: School, tmp_path: Path, kind: str, count: int
) -> None:
    pytest.importorskip("mfusepy")
    site = make_site(tmp_path)
    list_laptops(site, LAPTOP)
    tree = tmp_path / "tree"
    build_tree(tree, {"etc/motd": "from a stick", "lib/huge": os.urandom(8 * MIB)})
    shell.good("publish", site.path, tree, "--build", "770", "--any-tree")
    before = snapshot(site.path / "builds")
    image = media.make_image(kind, tmp_path / "image", 40 * MIB)
    with media.plugged_in(image, tmp_path / "socket") as (device, socket):
        with media.mounted(kind, device, tmp_path / "mnt") as stick:
            socket.pull_out_after(count)
            ran = shell.run("usb", site.path, stick, "--build", "770")
            wanted = {errors.StickFailed.exit_code}
            if kind == "fat":  # what fusefat cannot write nobody may, it says
                wanted.add(errors.StickForbidden.exit_code)
            assert ran.code in wanted, ran
            line, hint = ran.err.splitlines()
            assert line.startswith("olpc-update-admin: ")
            assert str(stick) in line
            assert hint.startswith("  hint: ")
        socket.plug_in()
        subprocess.run(CHECK[kind](device), check=False, capture_output=True)
        with media.mounted(kind, device, tmp_path / "mnt") as stick:
            shell.good("usb", site.path, stick, "--build", "770")
            done = update(school.root, "--usb", str(stick))
            assert (done.code, boots(school.root)) == (0, "770"), done.err
    assert not difference(before, snapshot(site.path / "builds"))


def test_pulled_out_before_the_report(
    school: School, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("mfusepy")
    image, where = tmp_path / "image", tmp_path / "mnt"
    fill(school, kind, image, where)
    hook = school.root / "etc/olpc-update-query/hooks.d/10-pull"
    with media.plugged_in(image, tmp_path / "socket") as (device, socket):
        with media.mounted(kind, device, where) as stick:
            marker = tmp_path / "pulled"
            hook.parent.mkdir(parents=True, exist_ok=True)
            hook.write_text(f"#!/bin/sh\ntouch {marker}\nsleep 2\n")
            hook.chmod(0o755)
            watcher = threading.Thread(target=pull_when, args=(marker, socket))
            watcher.start()
            done = update(school.root, "--usb", str(stick))
            watcher.join()
        socket.plug_in()
    assert (done.code, boots(school.root)) == (0, "762"), done.err
    (line,) = done.err.splitlines()
    assert "the report on the stick could not be written: " in line


def pull_when(marker: Path, socket: media.Socket) -> None:
    for _ in range(6000):
        if marker.exists():
            socket.pull_out_after(0)
            return
        time.sleep(0.01)


def test_unmounted_when_it_is_pulled_out(
    shell: Shell, school: School, tmp_path: Path
) -> None:
    """As desktops do; what lies below the mount point is somebody's disk."""
    image, where = tmp_path / "image", tmp_path / "mnt"
    fill(school, "ext4", image, where)
    hook = school.root / "etc/olpc-update-query/hooks.d/10-unmount"
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(f"#!/bin/sh\numount -l {where}\n")
    hook.chmod(0o755)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    done = update(school.root, "--usb", str(where))
    assert (done.code, boots(school.root)) == (0, "762"), done.err
    assert "not be written" in done.err
    assert "not mounted any more" in done.err
    assert list(where.iterdir()) == []


CHECK: dict[str, Callable[[Path], list[str]]] = {
    "fat": lambda device: ["fsck.vfat", "-a", str(device)],
    "ext4": lambda device: ["e2fsck", "-fp", str(device)],
}


@pytest.mark.parametrize("name", ["order", "contents", "contents.zst", "pack"])
def test_damaged(school: School, tmp_path: Path, name: str) -> None:
    """Bits that have flipped on a stick are never believed."""
    image, where = tmp_path / "image", tmp_path / "mnt"
    fill(school, "ext4", image, where)
    with media.mounted("ext4", image, where) as stick:
        shutil.rmtree(stick / "builds/762/delta")
        path = stick / "builds/762" / name
        data = bytearray(path.read_bytes())
        for place in range(len(data) // 3, len(data), max(len(data) // 5, 1)):
            data[place] ^= 0x10
        path.write_bytes(data)
        done = update(school.root, "--usb", str(stick))
    if done.code == 0:
        assert name.startswith("contents"), "there are two of them"
        found = snapshot(school.root / "versions/pristine/762")
        assert not difference(snapshot(school.new.tree), found)
    else:
        assert done.code in {14, 23, 25}, done.err
        assert boots(school.root) == "760"


def test_too_large_for_fat(shell: Shell, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    build_tree(tmp_path / "tree", {"etc/motd": "x"})
    shell.good("publish", site.path, tmp_path / "tree", "--build", "770", "--any-tree")
    with open(site.builds / "770/pack", "r+b") as file:
        file.truncate(1 << 32)
    image = media.make_image("fat", tmp_path / "image", 40 * MIB)
    with media.mounted("fat", image, tmp_path / "mnt") as stick:
        told = shell.bad(errors.UnfitStick, "usb", site.path, stick, "--build", "770")
        assert list(stick.iterdir()) == []
    assert "it is FAT, which holds no file of 4 GiB" in told
    assert "ext4" in told


def test_too_large_for_the_stick(shell: Shell, tmp_path: Path) -> None:
    site = make_site(tmp_path)
    build_tree(tmp_path / "tree", {"lib/huge": os.urandom(60 * MIB)})
    shell.good("publish", site.path, tmp_path / "tree", "--build", "770", "--any-tree")
    image = media.make_image("ext4", tmp_path / "image", 40 * MIB)
    with media.mounted("ext4", image, tmp_path / "mnt") as stick:
        ran = shell.run("usb", site.path, stick, "--build", "770")
        assert ran.code == errors.NoSpace.exit_code
        assert "hint: Delete something there" in ran.err
        assert not (stick / "builds").exists()
    needed = re.search(r": ([0-9,]+) bytes are needed, ([0-9,]+) are free", ran.out)
    assert needed is not None
    assert int(needed[1].replace(",", "")) > 60 * MIB


def test_what_an_earlier_try_has_left_takes_no_room(
    shell: Shell, tmp_path: Path
) -> None:
    site = make_site(tmp_path)
    build_tree(tmp_path / "tree", {"lib/huge": os.urandom(20 * MIB)})
    shell.good("publish", site.path, tmp_path / "tree", "--build", "770", "--any-tree")
    image = media.make_image("ext4", tmp_path / "image", 40 * MIB)
    with media.mounted("ext4", image, tmp_path / "mnt") as stick:
        build = stick / "builds/770"
        build.mkdir(parents=True)
        (build / ".pack.new").write_bytes(bytes(16 * MIB))
        (build / ".contents.new").touch()
        shell.good("usb", site.path, stick, "--build", "770")
        names = {path.name for path in build.iterdir()}
        assert not [name for name in names if name.startswith(".")]
        assert {"contents", "order", "pack", "pack.index"} <= names


def test_the_stick_of_a_desktop(school: School, tmp_path: Path) -> None:
    """`/media/USER` is closed to everybody else; the stick below it is not."""
    place = school.root / "media/child"
    place.mkdir(parents=True)
    shutil.copytree(school.www / "builds", place / "STICK/builds")
    place.chmod(0o700)
    done = update(school.root, "--usb")
    assert (done.code, boots(school.root)) == (0, "762"), done.err
    assert done.lines[0].startswith(f"{place}/STICK: ")
    assert "/proc/" not in done.out + done.err
