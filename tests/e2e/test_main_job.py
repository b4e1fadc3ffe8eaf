"""The main job, end to end: real commands, a real server, a laptop below a directory.

What happened is judged by ``bench``'s code, which shares none with the product.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bench import compare, laptop, rsyncd, trees
from bench.laptop import SOMEBODY, Layout
from bench.measure import Cost, run
from bench.relay import Traffic, relay_to
from bench.school import School, free_port, program
from olpc_update_query import errors
from tests.http_server import Reply, serve

OLD, NEW = "760", "762"
ROUNDING = 64 * 1024  # what a cut link may cost again, promise 3
ONE_POLL = 2048  # what a poll without news may cost, both ways
LAYOUTS = [pytest.param(layout, id=layout.value) for layout in Layout]


class World:
    """A school with two builds, and the trees they were made from."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.old, self.new = directory / "old", directory / "new"
        trees.make_first(self.old, files=250, megabytes=12)
        trees.make_second(self.old, self.new)
        self.school = School(directory / "site")
        self.school.found(SOMEBODY)
        self.school.admin("publish", self.old, "--build", OLD)
        self.school.admin(
            *("publish", self.new, "--build", NEW, "--delta-from", OLD, "--with-root")
        )
        self.school.admin("assign", "--build", NEW, "--serial", SOMEBODY.serial)
        self.wanted = compare.survey(self.new)

    def laptop(self, root: Path, layout: Layout = Layout.UNPARTITIONED) -> Path:
        """Make a laptop that runs the old build."""
        contents = self.school.site / "builds" / OLD / "contents"
        laptop.make(root, self.old, OLD, contents, layout=layout)
        for role in ("oats", "lease"):
            laptop.trust(root, role, self.school.key(role))
        return root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("world")
    directory.chmod(0o755)
    return World(directory)


def query(root: Path, port: int, *options: str) -> Cost:
    server = f"http://127.0.0.1:{port}/"
    words = ["-v", "--root", str(root), "--server", server]
    return run([program("olpc-update-query"), *words, *options])


def poll(root: Path, port: int, *options: str) -> Cost:
    return query(root, port, "--now", *options)


def update(root: Path, *words: str) -> Cost:
    return run([program("olpc-update"), "--root", str(root), *words])


def insist(cost: Cost) -> str:
    assert cost.code == 0, cost.output
    return cost.output


def slot(root: Path, build: str) -> list[compare.Survey]:
    places = (root / "versions" / name / build for name in ("pristine", "run"))
    return [compare.survey(place) for place in places]


def picture(root: Path, but: tuple[bytes, ...]) -> compare.Survey:
    found = compare.survey(root)
    return {name: item for name, item in found.items() if not name.startswith(but)}


@contextmanager
def untouched(root: Path, *but: bytes) -> Iterator[None]:
    """Assert that the block leaves the laptop as it was, the work area apart.

    Args:
        root: The laptop.
        *but: Other paths that may change, with all below them.
    """
    but += (b"versions/updates",)
    before = picture(root, but)
    yield
    assert compare.differences(before, picture(root, but)) == []
    assert laptop.boot(root) == OLD


def assert_updated(world: World, root: Path) -> None:
    pristine, run_tree = slot(root, NEW)
    assert compare.differences(world.wanted, pristine) == []
    # The original's copier keeps whole seconds of directories and no times of links.
    assert compare.differences(world.wanted, run_tree, forgive_times="dl") == []
    assert laptop.boot(root) == NEW


def assert_no_processes_left(root: Path) -> None:
    found = subprocess.run(
        ["pgrep", "-fa", "--", str(root)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_poll_update_boot_and_roll_back(
    world: World, tmp_path: Path, layout: Layout
) -> None:
    root = world.laptop(tmp_path / "laptop", layout)
    before = slot(root, OLD)
    with world.school.serve() as relay:
        story = insist(poll(root, relay.port))
        first = relay.read()
        assert_updated(world, root)  # boots it
        insist(poll(root, relay.port))  # tells the server how the update went
        before_last = relay.read()
        insist(poll(root, relay.port))
        last = relay.read().since(before_last)
    assert slot(root, OLD) == before
    assert OLD in story
    assert NEW in story
    assert first.up <= 10_000
    assert first.down < whole_size(world.new) / 4
    assert last.up + last.down <= ONE_POLL
    insist(update(root, "--rollback"))
    assert laptop.boot(root) == OLD
    assert slot(root, OLD) == before
    assert_no_processes_left(root)


def whole_size(tree: Path) -> int:
    return sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file())


def test_a_lease_comes_with_the_answer(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    with world.school.serve() as relay:
        insist(poll(root, relay.port))
    lease = (root / "security/lease.sig").read_text()
    assert lease.startswith(f"act01: {SOMEBODY.serial} ")
    assert lease.count("\n") == 1


def test_a_dry_run_changes_nothing(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    with world.school.serve() as relay, untouched(root):
        story = insist(poll(root, relay.port, "--dry-run"))
    assert NEW in story


def test_a_run_that_is_not_due_asks_nobody(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    with world.school.serve() as relay:
        insist(poll(root, relay.port))
        before = relay.read()
        story = insist(query(root, relay.port))
        assert relay.read() == before
    assert story


def test_a_cut_link_costs_at_most_64_kib_again(world: World, tmp_path: Path) -> None:
    whole = traffic_of_a_whole_update(world, tmp_path / "other").down
    root = world.laptop(tmp_path / "laptop")
    with world.school.serve() as relay, relay_to(relay.port, whole // 2) as cut:
        with untouched(root, b"security"):
            broken = poll(root, cut.port)
        assert broken.code == errors.SourceFailed.exit_code, broken.output
        cut.mend()
        insist(poll(root, cut.port))
        assert cut.read().down <= whole + ROUNDING + ONE_POLL
    assert_updated(world, root)


def traffic_of_a_whole_update(world: World, root: Path) -> Traffic:
    world.laptop(root)
    with world.school.serve() as relay:
        insist(poll(root, relay.port))
        return relay.read()


@pytest.mark.needs("rsync")
def test_update_from_an_rsync_daemon(world: World, tmp_path: Path) -> None:
    site = tmp_path / "site"
    only_rsync_has = shutil.ignore_patterns("pack*", "delta", "root")
    shutil.copytree(world.school.site, site, ignore=only_rsync_has)
    (site / "builds" / NEW / "root").mkdir()  # so that the server names rsync at all
    root = world.laptop(tmp_path / "laptop")
    text = rsyncd.configuration({f"build-{NEW}": world.school.site / "builds" / NEW})
    with rsyncd.serve(tmp_path, text) as port, relay_to(port) as counted:
        settings = site / "site.toml"
        line = f'rsync_url = "rsync://127.0.0.1:{counted.port}/"\n'
        settings.write_text(line + settings.read_text())
        with School(site).serve() as relay:
            insist(poll(root, relay.port))
        assert counted.read().down > 10_000
    assert_updated(world, root)


def test_update_by_hand(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    with world.school.serve() as relay:
        insist(update(root, "-v", "-s", f"http://127.0.0.1:{relay.port}/", NEW))
    assert_updated(world, root)


def test_update_from_a_stick(world: World, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    world.school.admin("usb", stick)
    root = world.laptop(tmp_path / "laptop")
    insist(update(root, "-v", "--usb", str(stick)))
    assert_updated(world, root)


def test_unknown_build(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    with world.school.serve() as relay, untouched(root):
        cost = update(root, "-s", f"http://127.0.0.1:{relay.port}/", "999")
    assert cost.code == errors.BuildNotFound.exit_code, cost.output
    assert "999" in cost.output


def test_no_server(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    with untouched(root):
        cost = poll(root, free_port())
    assert cost.code == errors.NetworkError.exit_code, cost.output
    assert "127.0.0.1" in cost.output


def test_a_captive_portal_is_no_answer(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    page = Reply(headers={"Content-Type": "text/html"}, body=b"<html>Please log in")
    with serve(tmp_path) as portal, untouched(root):
        portal.reply = page
        cost = poll(root, portal.port)
        assert len(portal.seen) >= 1
    assert cost.code == errors.NoAnswer.exit_code, cost.output


def test_another_schools_key(world: World, tmp_path: Path) -> None:
    other = School(tmp_path / "other")
    other.found(SOMEBODY)
    root = world.laptop(tmp_path / "laptop")
    laptop.trust(root, "oats", other.key("oats"))
    with world.school.serve() as relay, untouched(root):
        cost = poll(root, relay.port)
    assert cost.code == errors.UntrustedAnswer.exit_code, cost.output
    assert not (root / "security/lease.sig").exists()


def test_a_second_run_at_once(world: World, tmp_path: Path) -> None:
    root = world.laptop(tmp_path / "laptop")
    with socket.create_server(("127.0.0.1", 0)) as silent, untouched(root):
        port = silent.getsockname()[1]
        words = ["--now", "--root", str(root), "--server", f"http://127.0.0.1:{port}/"]
        first = subprocess.Popen([program("olpc-update-query"), *words])
        try:
            connection, _ = silent.accept()  # it asks, so it holds the lock
            second = poll(root, port)
            connection.close()
        finally:
            first.terminate()
            first.wait(20)
    assert second.code == errors.Busy.exit_code, second.output
    assert str(first.pid) in second.output


@contextmanager
def mounted(kind: str, directory: Path, size: int) -> Iterator[Path]:
    """Mount a small file system of its own."""
    where = directory / kind
    where.mkdir()
    if kind == "tmpfs":
        words = ["-t", "tmpfs", "-o", f"size={size},mode=755", "small"]
    else:
        image = directory / "image"
        with open(image, "wb") as file:
            file.truncate(size)
        mkfs = ["mkfs.ext4", "-q", "-m", "0", "-N", "4000", str(image)]
        subprocess.run(mkfs, check=True)
        words = ["-o", "loop", str(image)]
    subprocess.run(["mount", *words, str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.mark.root
@pytest.mark.needs("e2fsprogs", "mount")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk(world: World, tmp_path: Path, kind: str) -> None:
    room = whole_size(world.old) + 12_000_000
    with mounted(kind, tmp_path, room) as small:
        root = world.laptop(small / "laptop")
        fill(small / "homework", leave=200_000)
        with world.school.serve() as relay, untouched(root, b"security", b"homework"):
            cost = poll(root, relay.port)
        assert cost.code == errors.NoSpace.exit_code, cost.output
        (small / "homework").unlink()
        with world.school.serve() as relay:
            insist(poll(root, relay.port))
        assert_updated(world, root)


def fill(path: Path, *, leave: int) -> None:
    """Fill the file system up to a rest."""
    with open(path, "wb") as file, suppress(OSError):
        status = os.statvfs(path)
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
