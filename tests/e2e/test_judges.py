"""The judges of the demonstration and of the end-to-end tests can say no."""

import os
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from bench import compare, laptop, measure
from bench.laptop import Layout, NoBootError
from bench.relay import Traffic, relay_to
from tests.http_server import serve

DAMAGE: dict[str, Callable[[Path], object]] = {
    "other bytes, same size and time": lambda tree: rewrite(tree / "etc/motd"),
    "another mode": lambda tree: (tree / "etc/motd").chmod(0o600),
    "another time, by a nanosecond": lambda tree: os.utime(tree / "etc", ns=(0, 1)),
    "another time of a link": lambda tree: os.utime(
        tree / "sh", ns=(0, 1), follow_symlinks=False
    ),
    "another target": lambda tree: relink(tree / "sh", "bin/bash/"),
    "missing": lambda tree: (tree / "etc/motd").unlink(),
    "too much": lambda tree: (tree / ".olpc-configured").touch(),
    "a hard link less": lambda tree: separate(tree / "bin/ash"),
    "another attribute": lambda tree: os.setxattr(
        tree / "bin/sh", "user.comment", b"new"
    ),
    "another kind": lambda tree: relink(tree / "etc/motd", "motd"),
}


def rewrite(path: Path) -> None:
    before = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before, before))


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def separate(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    for name in ("etc", "bin", "boot"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/motd").write_text("hello\n")
    (tree / "boot/vmlinuz").write_text("kernel")
    (tree / "bin/sh").write_text("#!")
    (tree / "bin/ash").hardlink_to(tree / "bin/sh")
    (tree / "sh").symlink_to("bin/sh")
    return tree


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_difference_is_seen(tree: Path, damage: str) -> None:
    before = compare.survey(tree)
    assert compare.differences(before, compare.survey(tree)) == []
    DAMAGE[damage](tree)
    assert compare.differences(before, compare.survey(tree)) != []


@pytest.mark.root
def test_another_owner_is_seen(tree: Path) -> None:
    before = compare.survey(tree)
    os.lchown(tree / "sh", 1, 1)
    assert len(compare.differences(before, compare.survey(tree))) == 1


@pytest.fixture(params=Layout, ids=str)
def root(request: pytest.FixtureRequest, tmp_path: Path, tree: Path) -> Path:
    root = tmp_path / "laptop"
    contents = tree / "etc/motd"
    laptop.make(root, tree, "760", contents, layout=request.param)
    return root


def test_a_new_laptop_boots_its_build(root: Path, tree: Path) -> None:
    assert laptop.boot(root) == "760"
    assert laptop.slots(root).alternate is None
    wanted = compare.survey(tree)
    for place in ("pristine", "run"):
        found = compare.survey(root / "versions" / place / "760")
        assert compare.differences(wanted, found) == []


def test_boot_purges_what_is_not_sticky(root: Path) -> None:
    versions = root / "versions"
    for build in ("761", "762"):
        shutil.copytree(versions / "run/760", versions / "run" / build, symlinks=True)
    (versions / "sticky/762").touch()
    (versions / "updates/kept").touch()
    laptop.boot(root)
    assert sorted(os.listdir(versions / "run")) == ["760", "762"]
    assert (versions / "updates/kept").exists()


@pytest.mark.parametrize("lost", ["run/760", "pristine/760", "run/760/etc"])
def test_no_boot_without_a_whole_build(root: Path, lost: str) -> None:
    shutil.rmtree(root / "versions" / lost)
    with pytest.raises(NoBootError):
        laptop.boot(root)


@pytest.mark.parametrize("root", [Layout.PARTITIONED], indirect=True)
def test_no_boot_without_its_kernel(root: Path) -> None:
    (root / "bootpart/boot-versions/760/vmlinuz").write_text("of another build")
    with pytest.raises(NoBootError):
        laptop.boot(root)


@pytest.mark.parametrize("root", [Layout.UNPARTITIONED], indirect=True)
@pytest.mark.parametrize(
    ("target", "boots"),
    [
        ("/versions/pristine/760", True),
        ("/versions/run/760", True),
        ("../../run/760", True),
        ("../../pristine/760", False),
        ("pristine/760", False),
        ("/versions/pristine/", False),
        ("/versions/pristine/760/boot", False),
    ],
)
def test_the_initramfs_takes_three_forms(root: Path, target: str, boots: bool) -> None:
    relink(root / "versions/boot/current", target)
    if boots:
        assert laptop.boot(root) == "760"
    else:
        with pytest.raises(NoBootError):
            laptop.boot(root)


def talk(port: int, *messages: bytes) -> bytes:
    """Send messages one after another, each after some reply; return all that came."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), 10) as end:
        for message in messages:
            end.sendall(message)
            found += end.recv(1 << 16)
        end.shutdown(socket.SHUT_WR)
        while data := end.recv(1 << 16):
            found += data
    return found


def test_the_relay_counts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    request = b"GET /file HTTP/1.0\r\n\r\n"
    with serve(tmp_path) as site, relay_to(site.port) as relay:
        found = talk(relay.port, request)
        assert found.endswith(b"x" * 1000)
        assert relay.read() == Traffic(len(request), len(found), 1, 1, 1)


def test_the_relay_dies_and_is_mended(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 5_000_000)
    request = b"GET /file HTTP/1.0\r\n\r\n"
    with serve(tmp_path) as site, relay_to(site.port, 100_000) as relay:
        assert len(talk(relay.port, request)) < 1_000_000
        with suppress(OSError):
            assert talk(relay.port, request) == b""
        relay.mend()
        assert len(talk(relay.port, request)) > 5_000_000


def test_measuring_sees_memory_time_and_exit_code() -> None:
    plain = measure.run([sys.executable, "-c", "pass"])
    greedy = "import sys, time; x = b'x' * 50_000_000; time.sleep(0.3); sys.exit(3)"
    cost = measure.run([sys.executable, "-c", greedy], together=True)
    assert (plain.code, cost.code) == (0, 3)
    assert cost.seconds > 0.3 > plain.seconds
    assert plain.peak < 30_000
    assert 49_000 < cost.peak < 100_000
    assert 49_000 < cost.together < 100_000
