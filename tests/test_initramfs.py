"""Which build the initramfs boots: the shipped script, run unmodified by busybox."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.trial import Mark, State, read_mark, write_mark
from tests import laptop
from tests.initramfs import Booted, boot, make_root, replace_applet, use_dash
from tests.trees import File, Link, Spec, build_tree

pytestmark = [pytest.mark.root, pytest.mark.needs("busybox-static", "dash")]

OLD, NEW = BuildId("760"), BuildId("762")
SCRIPTS = sorted((Path(__file__).parents[1] / "dracut").glob("*/*"))


def tree(name: str) -> Spec:
    return {
        ".olpc-configured": "",
        "boot/vmlinuz": name,
        "etc/build": name,
        "sbin/init": File("#!", mode=0o755),
        "usr/link": Link("../etc/build"),
        **{f"{path}/": None for path in ("bootpart", "home", "security", "versions")},
    }


class Machine:
    """A laptop with two builds, 762 just activated, and its initramfs."""

    def __init__(self, directory: Path, *, partitioned: bool) -> None:
        self.disk = directory / "disk"
        self.initramfs = make_root(directory / "initramfs")
        trees = [build_tree(directory / name, tree(name)) for name in (OLD, NEW)]
        laptop.make_laptop(
            self.disk, OLD, trees[0], partitioned=partitioned, contents=b"old\n"
        )
        laptop.add_build(self.disk, NEW, trees[1], contents=b"new\n")
        self.layout.activate(NEW, OLD, on_trial=True)

    @property
    def layout(self) -> Layout:
        return Layout.detect(self.disk)

    @property
    def mark(self) -> Mark | None:
        return read_mark(self.disk / "versions")

    def boot(self, words: str = "quiet") -> Booted:
        return boot(self.initramfs, self.disk, words=words)

    def boots(self, words: str = "quiet") -> str:
        found = self.boot(words)
        assert found.code == 0, found
        assert os.readlink(self.disk / "versions/running") == f"pristine/{found.build}"
        return found.build


@pytest.fixture(params=[False, True], ids=["unpartitioned", "partitioned"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, partitioned=request.param)


@pytest.fixture
def simple(tmp_path: Path) -> Machine:
    return Machine(tmp_path, partitioned=False)


# --- the trial ---------------------------------------------------------------------


def test_two_tries_then_back_for_good(machine: Machine) -> None:
    assert machine.mark == Mark(State.TRIAL, NEW, 0)
    for number in (1, 2):
        found = machine.boot()
        assert (found.build, machine.mark) == (NEW, Mark(State.TRIAL, NEW, number))
        assert f"build 762 is on trial, try {number} of 2" in found.said
    found = machine.boot()
    assert found.build == OLD
    assert "build 762 did not come up in 2 tries" in found.said
    assert "going back from build 762 to build 760" in found.said
    assert machine.mark == Mark(State.FAILED, NEW, 2)
    assert (machine.layout.current(), machine.layout.alternate()) == (OLD, NEW)
    assert (laptop.boots(machine.disk), laptop.boots_alternate(machine.disk)) == (
        OLD,
        NEW,
    )
    assert [machine.boots(), machine.boots()] == [OLD, OLD]
    assert machine.layout.is_sticky(NEW), "or an old initramfs would delete it"


def test_confirmed_stays(machine: Machine) -> None:
    assert machine.boots() == NEW
    (machine.disk / "versions/trial").unlink()
    assert [machine.boots() for _ in range(3)] == [NEW] * 3
    assert machine.mark is None


def test_a_mark_of_another_build_counts_nothing(machine: Machine) -> None:
    write_mark(machine.disk / "versions", Mark(State.TRIAL, BuildId("999"), 2))
    assert [machine.boots() for _ in range(3)] == [NEW] * 3


@pytest.mark.parametrize("mark", ["", "trial", "trial 762", "trial 762 x", "\0\0", "a"])
def test_a_damaged_mark_stops_nothing(machine: Machine, mark: str) -> None:
    (machine.disk / "versions/trial").write_text(mark)
    assert machine.boots() == NEW


@pytest.mark.parametrize("state", [State.FAILED, State.LEFT])
def test_what_the_power_interrupted_is_finished(machine: Machine, state: State) -> None:
    write_mark(machine.disk / "versions", Mark(state, NEW, 2))
    assert machine.boots() == OLD
    assert machine.layout.current() == OLD
    assert machine.mark == Mark(state, NEW, 2)


def test_nothing_to_go_back_to(machine: Machine) -> None:
    write_mark(machine.disk / "versions", Mark(State.TRIAL, NEW, 2))
    for name in ("run", "pristine"):
        shutil.rmtree(machine.disk / "versions" / name / OLD)
    found = machine.boot()
    assert found.build == NEW
    assert "there is no build to go back to" in found.said


def test_it_restarts_where_the_kernel_is_not_the_builds_own(machine: Machine) -> None:
    write_mark(machine.disk / "versions", Mark(State.TRIAL, NEW, 2))
    (machine.disk / "versions/run/760/lib/modules/1.2.3").mkdir(parents=True)
    use_dash(machine.initramfs)
    replace_applet(machine.initramfs, "reboot", 'echo "reboot $*" >&2')
    assert "reboot -f\n" in machine.boot().said
    assert "reboot" not in machine.boot().said, "or it would restart for ever"


# --- the alternate -----------------------------------------------------------------


@pytest.mark.parametrize("words", ["quiet olpc.alt", "altboot", "a olpc.alt b"])
def test_the_alternate_on_request(machine: Machine, words: str) -> None:
    (machine.disk / "versions/trial").unlink()
    assert machine.boots(words) == OLD
    assert machine.boots() == OLD, "it is for good"
    assert machine.mark == Mark(State.LEFT, NEW, 0)
    assert machine.boots(words) == NEW


def test_the_game_key(machine: Machine) -> None:
    path = machine.initramfs / "ofw/chosen/bootpath"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"/pci/nandflash@c:\\boot-alt\\vmlinuz.olpc\0")
    assert machine.boots() == OLD
    path.write_bytes(b"/pci/nandflash@c:\\boot\\vmlinuz.olpc\0")
    assert machine.boots() == OLD


@pytest.mark.parametrize("words", ["olpc.alternate", "xolpc.alt", "olpc.alt=no"])
def test_other_words_mean_nothing(simple: Machine, words: str) -> None:
    assert simple.boots(words) == NEW


def test_an_alternate_that_is_not_there(machine: Machine) -> None:
    machine.layout.activate(NEW, None)
    found = machine.boot("olpc.alt")
    assert (found.build, "no build to go back to" in found.said) == (NEW, True)


# --- odd disks ---------------------------------------------------------------------


def test_a_missing_run_copy_is_made(machine: Machine) -> None:
    shutil.rmtree(machine.disk / "versions/run" / NEW)
    found = machine.boot()
    assert found.build == NEW
    assert "build 762 has no copy to run; making it" in found.said
    laptop.boots(machine.disk)  # whole, and of links
    assert not (machine.disk / "versions/run/762/.olpc-configured").exists()
    assert (machine.disk / "versions/pristine/762/.olpc-configured").exists()


def test_the_run_copy_that_the_original_initramfs_makes(machine: Machine) -> None:
    run = machine.disk / "versions/run" / NEW
    run.rename(run.with_name("aside"))
    run.mkdir()
    run.with_name("aside").rename(run / "tmp.762")
    assert machine.boots() == NEW
    machine.layout.tidy()
    assert sorted(os.listdir(run.parent)) == [OLD, NEW]
    assert not (run / "tmp.762").exists()


@pytest.mark.parametrize(
    "target",
    [
        "../../pristine/762",
        "pristine/762",
        "/versions/pristine/../../etc",
        "/versions/pristine/",
        "/versions/pristine/.hidden",
        "/versions/pristine/a b",
        "/etc",
    ],
)
def test_odd_targets_are_refused_and_something_boots(
    simple: Machine, target: str
) -> None:
    current = simple.disk / "versions/boot/current"
    current.unlink()
    current.symlink_to(target)
    found = simple.boot()
    assert found.build == OLD
    assert f"refused: /sysroot/versions/configs/762/current leads to {target}" in (
        found.said
    )


@pytest.mark.parametrize("target", ["/versions/run/762", "../../run/762"])
def test_the_older_targets_are_taken(simple: Machine, target: str) -> None:
    current = simple.disk / "versions/boot/current"
    current.unlink()
    current.symlink_to(target)
    assert simple.boots() == NEW


def test_a_broken_build_is_passed_over(machine: Machine) -> None:
    shutil.rmtree(machine.disk / "versions/run" / NEW)
    shutil.rmtree(machine.disk / "versions/pristine" / NEW / "etc")
    found = machine.boot()
    assert found.build == OLD
    assert "build 762 cannot boot; booting build 760 instead" in found.said


def test_without_any_boot_link(machine: Machine) -> None:
    for link in ("versions/boot", "bootpart/boot"):
        (machine.disk / link).unlink(missing_ok=True)
    assert machine.boots() == OLD, "the one that ran last"


def test_nothing_at_all(machine: Machine) -> None:
    for name in ("run", "pristine"):
        shutil.rmtree(machine.disk / "versions" / name)
    found = machine.boot()
    assert found.code == 9
    assert "no build on this disk is whole" in found.said


def test_the_build_sees_what_the_disk_keeps(machine: Machine) -> None:
    (machine.disk / "home/olpc/work").write_text("mine")
    security = machine.disk / "security"
    if (machine.disk / "bootpart").exists():
        security = machine.disk / "bootpart/security"
    (security / "lease.sig").write_text("lease")
    build = machine.disk / "versions/run/762/etc/build"
    build.unlink()
    build.symlink_to("../home/olpc/work")
    assert machine.boot().build == "mine"
    build.unlink()
    build.symlink_to("../security/lease.sig")
    assert machine.boot().build == "lease"


# --- power cuts --------------------------------------------------------------------

WRITES = ("cp", "ln", "mkdir", "mv", "rm", "sync")


def cut_before(machine: Machine, change: int) -> None:
    """Let the power fail before a change: every program after it does nothing."""
    count = machine.initramfs / "count"
    count.write_text("")
    for name in WRITES:
        replace_applet(
            machine.initramfs,
            name,
            f'[ "$(/bin/busybox wc -c </count)" -lt {change} ] || {{\n'
            "  kill -9 -1; exit 1\n}\n"
            "printf x >>/count\n"
            f'exec /bin/busybox {name} "$@"',
        )


def power_is_back(machine: Machine) -> int:
    """Put the programs back; return how many changes were made."""
    for name in WRITES:
        path = machine.initramfs / "bin" / name
        path.unlink()
        path.symlink_to("busybox")
    return len((machine.initramfs / "count").read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", ["count", "go back", "alternate", "copy"])
def test_the_power_fails_before_every_change(
    tmp_path: Path, machine: Machine, job: str
) -> None:
    if job == "go back":
        write_mark(machine.disk / "versions", Mark(State.TRIAL, NEW, 2))
    if job == "copy":
        shutil.rmtree(machine.disk / "versions/run" / NEW)
    words = "olpc.alt" if job == "alternate" else "quiet"
    template = tmp_path / "template"
    subprocess.run(["cp", "-a", machine.disk, template], check=True)
    use_dash(machine.initramfs)
    for change in itertools.count():
        shutil.rmtree(machine.disk)
        subprocess.run(["cp", "-a", template, machine.disk], check=True)
        cut_before(machine, change)
        found = machine.boot(words)
        made = power_is_back(machine)
        assert made == change, "each is counted, and none comes after the cut"
        if found.code == 0:
            break
        if job != "copy":
            assert laptop.boots(machine.disk) in {OLD, NEW}, change
        after = machine.boot()
        assert after.code == 0, (change, after)
        expected = {"count": {NEW}, "copy": {NEW}, "go back": {OLD}}
        assert after.build in expected.get(job, {OLD, NEW}), (change, after)
        assert laptop.boots(machine.disk) == after.build
        machine.layout.tidy()
    assert change >= 4, "the sweep does not see what the script does"


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_no_fault() -> None:
    done = subprocess.run(
        ["shellcheck", *SCRIPTS], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
