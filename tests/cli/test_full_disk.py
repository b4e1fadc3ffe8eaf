"""A full disk stops updates, but no lease: what boots lies on another file system."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.black_box import Done, query, update
from tests.cli.school import School
from tests.perform_update.published import make_build, publish
from tests.simulator import DAY, ServerSimulator, lease, now, prepare_laptop, simulate


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
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


@pytest.mark.root
@pytest.mark.needs("mount")
def test_a_lease_comes_through(root: Path, server: ServerSimulator) -> None:
    query(root)
    fill(root / "versions/homework")
    server.lease = lease(now() + 21 * DAY)
    done = query(root, "--now")
    assert done.code == 0, done.err
    assert (root / "security/lease.sig").read_text() == server.lease
    assert "could not be written" in done.err
    server.stolen = True
    assert query(root, "--now").code == 0
    assert not (root / "security/lease.sig").exists()


def warnings(done: Done) -> list[str]:
    return [line for line in done.err.splitlines() if "could not be written" in line]


@pytest.mark.root
@pytest.mark.needs("mount")
def test_one_warning_for_each_side(root: Path, server: ServerSimulator) -> None:
    query(root)
    fill(root / "versions/homework")
    assert len(warnings(query(root, "--now"))) == 2


# --- the first run ------------------------------------------------------------


@pytest.fixture
def full(tmp_path: Path, server: ServerSimulator) -> Iterator[Path]:
    """A laptop on whose disk nothing more can be made, a directory neither."""
    root = prepare_laptop(tmp_path / "full", server.url)
    versions = root / "versions"
    versions.mkdir()
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(2 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, versions], check=True)
    (versions / "updates").mkdir()
    (versions / "pristine").mkdir()
    (versions / "boot").symlink_to("configs/none")
    fill(versions / "homework")
    yield root
    subprocess.run(["umount", versions], check=True)


needs_a_disk = pytest.mark.needs("mount", "e2fsprogs")


@pytest.mark.root
@needs_a_disk
def test_a_first_run_takes_its_lease(full: Path, server: ServerSimulator) -> None:
    server.lease = lease(now() + 21 * DAY)
    done = query(full)
    assert done.code == 0, done.err
    assert (full / "security/lease.sig").read_text() == server.lease
    assert len(done.err.splitlines()) == 1
    assert "only the lease is looked after" in done.err
    assert not (full / "versions/updates/olpc-update-query").exists()
    asked = len(server.queries)
    assert query(full).code == 0
    assert len(server.queries) == asked, "the due time is kept, in memory"


@pytest.mark.root
@needs_a_disk
def test_a_first_run_installs_nothing(
    full: Path, server: ServerSimulator, tmp_path: Path
) -> None:
    build = make_build(tmp_path / "tree", "762", {"etc/motd": b"new"})
    publish(tmp_path / "www/builds/762", build)
    school = School.__new__(School)
    school.server, school.www = server, tmp_path / "www"
    server.update = school.order(build)
    server.lease = lease(now() + 21 * DAY)
    done = query(full, "--json")
    assert done.code == 33, done.err
    assert "space" in done.json["text"]
    assert (full / "security/lease.sig").read_text() == server.lease
    memory = full / "run/olpc-update-query/asker"
    assert not (memory / "downloads").exists()
    assert update(full, "762").code == 33


@pytest.mark.root
@needs_a_disk
def test_status_and_history_tell_of_it(full: Path, server: ServerSimulator) -> None:
    server.lease = lease(now() + 21 * DAY)
    query(full)
    found = query(full, "status", "--json").json
    assert found["last_run"]["exit_code"] == 0
    assert found["last_answer"]["from"] == server.url
    assert found["next_query"] > now()
    assert found["free_space"] < 4096, "on the disk"
    server.lease = lease(now() + 21 * DAY, key="oats")
    assert query(full, "--now").code == 22
    assert "(exit code 22)" in query(full, "history").out


@pytest.mark.root
@needs_a_disk
def test_with_room_the_disk_is_used_again(full: Path, server: ServerSimulator) -> None:
    query(full)
    (full / "versions/homework").unlink()
    assert query(full, "--now").err == ""
    assert (full / "versions/updates/olpc-update-query/asker/due").exists()


@pytest.mark.root
@needs_a_disk
def test_two_units_take_it_as_well(full: Path, server: ServerSimulator) -> None:
    server.lease = lease(now() + 21 * DAY)
    for words in (("install",), ("--hand-over",), ("install",)):
        done = query(full, *words)
        assert done.code == 0, done.err
    assert (full / "security/lease.sig").read_text() == server.lease


# --- what is not full ---------------------------------------------------------


def test_something_else_in_place_of_the_lock(root: Path) -> None:
    (root / "versions/updates/olpc-update-query/lock").mkdir(parents=True)
    done = query(root)
    assert done.code == 75
    assert "Is a directory" in done.err
    assert "move it away" in done.err
