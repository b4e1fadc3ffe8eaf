"""An old build without a manifest of ours, installed by hand from an rsync daemon."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.relay import relay_to
from olpc_update_query import errors
from olpc_update_query.run.legacy import name_of
from tests import media, rsyncd
from tests.cli.black_box import update
from tests.cli.school import School
from tests.laptop import boots, boots_alternate
from tests.simulator import work_of
from tests.trees import difference, snapshot

pytestmark = [pytest.mark.root, pytest.mark.needs("rsync")]


@pytest.fixture
def old(school: School, tmp_path: Path) -> Path:
    """A tree of long ago, as a school server had it: what only root can make."""
    site = tmp_path / "653"
    tree = site / "root"
    shutil.copytree(school.new.tree, tree)
    (site / "contents").write_bytes(b"a manifest of a format that is lost")
    (tree / "lib/ünïcode name\n").write_bytes(b"odd")
    (tree / "etc/link").symlink_to("../lib/big/")
    (tree / "etc/secret").write_bytes(b"mine")
    os.chmod(tree / "etc/secret", 0o400)
    os.chown(tree / "etc/secret", 500, 501)
    os.chmod(tree / "lib/big", 0o4755)
    os.mkfifo(tree / "fifo", 0o620)
    os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (1_194_004_800, 1_194_004_800), follow_symlinks=False)
    return site


def test_tree_is_installed_with_everything_it_has(
    school: School, old: Path, tmp_path: Path
) -> None:
    before = snapshot(school.root / "versions/pristine/760")
    with rsyncd.serve(tmp_path / "rsyncd", {"build-653": old}) as url:
        where = f"{url}build-653"
        done = update(school.root, "-v", "-u", f"{where}/contents", f"{where}/root")
    assert done.code == 0, done.err
    assert "NOTHING OF BUILD 653 IS SIGNED" in done.err
    assert where in done.err
    assert boots(school.root) == "653"
    assert boots_alternate(school.root) == "760"
    found = snapshot(school.root / "versions/pristine/653")
    assert not difference(snapshot(old / "root"), found)
    assert not difference(before, snapshot(school.root / "versions/pristine/760"))
    left = school.root / "versions/updates/olpc-update-query/asker/downloads"
    assert not [path for path in left.rglob("*") if path.is_file()]
    assert update(school.root, "--verify").code == 0


def test_it_may_be_named_and_told_as_json(
    school: School, old: Path, tmp_path: Path
) -> None:
    with rsyncd.serve(tmp_path / "rsyncd", {"old": old}) as url:
        words = ("--json", "-u", f"{url}old/contents", f"{url}old/root", "653x")
        done = update(school.root, *words)
    assert done.json["result"] == "installed"
    assert done.json["build"] == "653x"
    assert "SIGNED" in done.err
    assert boots(school.root) == "653x"


def test_cut_download_goes_on(school: School, old: Path, tmp_path: Path) -> None:
    (old / "root/lib/large").write_bytes(os.urandom(3_000_000))
    with rsyncd.serve(tmp_path / "rsyncd", {"build-653": old}) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        with relay_to(port, 2_000_000) as relay:
            where = f"rsync://127.0.0.1:{relay.port}/build-653"
            done = update(school.root, "-u", f"{where}/contents", f"{where}/root")
            assert done.code == errors.NetworkError.exit_code
            before = relay.read().down
            relay.mend()
            done = update(school.root, "-u", f"{where}/contents", f"{where}/root")
            came = relay.read().down - before
    assert done.code == 0, done.err
    assert came < 1_600_000
    assert boots(school.root) == "653"


def test_server_without_it(school: School, old: Path, tmp_path: Path) -> None:
    with rsyncd.serve(tmp_path / "rsyncd", {"build-653": old}) as url:
        where = f"{url}build-999"
        done = update(school.root, "-u", f"{where}/contents", f"{where}/root")
    assert done.code == errors.BuildNotFound.exit_code
    assert boots(school.root) == "760"


def test_tree_without_a_name_is_refused(school: School) -> None:
    done = update(school.root, "-u", "-", "rsync://127.0.0.1:1/old/root")
    assert done.code == errors.Malformed.exit_code
    assert "has no build-NAME in it; say the name as well" in done.err


# --- from a directory, such as an old stick whose root is the tree -------------------


@pytest.mark.needs("fuseiso", "util-linux", "xorriso")
def test_an_old_iso_image(school: School, old: Path, tmp_path: Path) -> None:
    tree, image = old / "root", tmp_path / "old.iso"
    (tree / "null").unlink()  # fuseiso knows no device numbers
    (tree / "etc/link").unlink()  # nor a slash at the end of a link
    (tree / "etc/link").symlink_to("../lib/big")
    (tree / "lib/ünïcode name\n").unlink()
    words = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", "8.2.0 767"]
    subprocess.run([*words, "-o", image, tree], check=True, capture_output=True)
    before = snapshot(school.root / "versions/pristine/760")
    with media.mounted("iso", image, tmp_path / "mnt") as stick:
        done = update(school.root, "--usb", str(stick))
        assert done.code == errors.BuildNotFound.exit_code
        assert f"`olpc-update -u - {stick} BUILD` installs it all the same" in done.err
        assert boots(school.root) == "760"
        done = update(school.root, "-u", "-", str(stick), "767")
    assert done.code == 0, done.err
    assert "NOTHING OF BUILD 767 IS SIGNED" in done.err
    assert (boots(school.root), boots_alternate(school.root)) == ("767", "760")
    pristine = school.root / "versions/pristine/767"
    facts = (pristine / "etc/secret").stat()
    assert (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid) == (0o400, 500, 501)
    assert (pristine / "etc/secret").read_bytes() == b"mine"
    assert (pristine / "lib/big").stat().st_mode & 0o7777 == 0o4755
    assert (pristine / "lib/big").read_bytes() == (tree / "lib/big").read_bytes()
    assert os.readlink(pristine / "etc/link") == "../lib/big"
    assert int((pristine / "etc/motd").stat().st_mtime) == 1_194_004_800
    assert not difference(before, snapshot(school.root / "versions/pristine/760"))
    left = work_of(school.root) / "asker/downloads"
    assert not [path for path in left.rglob("*") if path.is_file()]
    assert update(school.root, "--verify").code == 0


@pytest.mark.needs("e2fsprogs", "util-linux")
@pytest.mark.parametrize("count", [0, 1 << 20], ids=["at once", "late"])
def test_an_old_stick_that_is_pulled_out(
    school: School, old: Path, tmp_path: Path, count: int
) -> None:
    """What cannot be listed is not taken to be empty."""
    pytest.importorskip("mfusepy")
    for number in range(20):
        (old / f"root/d{number}").mkdir()
        (old / f"root/d{number}/big").write_bytes(os.urandom(200_000))
    image = media.make_image("ext4", tmp_path / "image", 40 << 20)
    with media.mounted("ext4", image, tmp_path / "mnt") as stick:
        subprocess.run(["cp", "-a", f"{old}/root/.", stick], check=True)
    with (
        media.plugged_in(image, tmp_path / "socket") as (device, socket),
        media.mounted("ext4", device, tmp_path / "mnt") as stick,
    ):
        assert sum(path.lstat().st_size for path in stick.iterdir()), "known by now"
        socket.pull_out_after(count)
        done = update(school.root, "-u", "-", str(stick), "653")
    assert done.code == errors.StickFailed.exit_code, done
    assert f"{tmp_path}/mnt: Input/output error\n  hint: " in done.err
    assert boots(school.root) == "760"
    assert not (school.root / "versions/pristine/653").exists()


def test_a_tree_in_a_directory(school: School, old: Path) -> None:
    """Everything it has, also what only root can read, below what only root enters."""
    tree = old / "root"
    old.chmod(0o700)
    for url in (str(tree), f"file://{tree}"):
        done = update(school.root, "-f", "-u", "-", url, "653")
        assert done.code == 0, done.err
    assert boots(school.root) == "653"
    found = snapshot(school.root / "versions/pristine/653")
    assert not difference(snapshot(tree), found)


def test_a_directory_must_be_named_and_there(school: School, tmp_path: Path) -> None:
    done = update(school.root, "-u", "-", str(tmp_path))
    assert done.code == errors.Malformed.exit_code
    assert "say the name as well" in done.err
    done = update(school.root, "-u", "-", str(tmp_path / "nothing"), "653")
    assert done.code == errors.DiskFailed.exit_code
    for url in ("http://h/build-1/root", "tree"):
        assert update(school.root, "-u", "-", url, "653").code == 2


@pytest.mark.parametrize("words", [("--usb",), ("--rollback",), ("--installed",)])
def test_it_goes_with_nothing_else(school: School, words: tuple[str, ...]) -> None:
    assert update(school.root, *words, "-u", "a", "b").code == 2


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rsync://updates.laptop.org/build-653/root/", "653"),
        ("rsync://updates.laptop.org/build-candidate-801/root", "candidate-801"),
    ],
)
def test_name_is_that_of_the_module(url: str, name: str) -> None:
    assert name_of(url) == name
