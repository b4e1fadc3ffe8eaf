"""What boots, what is kept, and what may be deleted, in both layouts."""

import os
from pathlib import Path

import pytest

from olpc_update_query.errors import (
    ActivationError,
    NoAlternate,
    NotInstalled,
    NoVersions,
)
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import Layout
from tests.laptop import add_build, boot, boots, boots_alternate
from tests.perform_update.builds import Build, make_build
from tests.perform_update.conftest import Laptop
from tests.trees import build_tree, difference, snapshot

A, B, C, D = (BuildId(name) for name in ("760", "762", "763", "764"))

partitioned_only = pytest.mark.parametrize(
    "partitioned", [pytest.param(True, id="partitioned")], indirect=True
)
unpartitioned_only = pytest.mark.parametrize(
    "partitioned", [pytest.param(False, id="unpartitioned")], indirect=True
)


@pytest.fixture
def two(laptop: Laptop, new: Build) -> Layout:
    """A laptop that runs 760 and has 762 beside it."""
    add_build(laptop.root, "762", new.tree, contents=new.contents)
    return laptop.layout


def add(layout: Layout, name: str) -> BuildId:
    tree = build_tree(layout.root.parent / name, {"boot/vmlinuz": name, "etc/": None})
    build = make_build(name, tree)
    add_build(layout.root, name, tree, contents=build.contents)
    return build.name


def test_a_fresh_laptop_is_read(laptop: Laptop) -> None:
    layout = laptop.layout
    assert (layout.running(), layout.current(), layout.alternate()) == (A, A, None)
    assert [tree.build for tree in layout.installed()] == [A]
    assert layout.purgeable() == []


def test_activated_build_boots_and_the_old_one_is_its_alternate(two: Layout) -> None:
    two.activate(B, A)
    assert boots(two.root) == B
    assert boots_alternate(two.root) == A
    assert (two.running(), two.current(), two.alternate()) == (A, B, A)


def test_the_alternate_survives_the_purge_of_the_next_boot(two: Layout) -> None:
    two.activate(B, A)
    assert boot(two.root) == B
    assert boots_alternate(two.root) == A
    assert two.rollback() == A
    assert boot(two.root) == A
    assert boots_alternate(two.root) == B


def test_rollback_twice_is_none(two: Layout) -> None:
    two.activate(B, A)
    before = snapshot(two.versions / "sticky")
    assert [two.rollback(), two.rollback()] == [A, B]
    assert boots(two.root) == B
    assert boots_alternate(two.root) == A
    assert snapshot(two.versions / "sticky").keys() == before.keys()


def test_rollback_needs_an_alternate(laptop: Laptop) -> None:
    with pytest.raises(NoAlternate):
        laptop.layout.rollback()
    assert boots(laptop.root) == A


def test_current_is_absolute_and_not_followed(two: Layout, partitioned: bool) -> None:
    two.activate(B, A)
    if partitioned:
        assert os.readlink(two.root / "bootpart/boot") == "boot-versions/762"
        assert os.readlink(two.root / "bootpart/boot/alt") == "../760"
        assert os.readlink(two.root / "bootpart/boot-alt") == "boot/alt"
    else:
        current = two.versions / "boot/current"
        assert os.readlink(current) == "/versions/pristine/762"
        assert not current.exists(), "it led out of the root"


def test_only_one_configuration_is_left(two: Layout, partitioned: bool) -> None:
    for _ in range(3):
        two.activate(B, A)
        two.activate(A, B)
    if not partitioned:
        assert len(os.listdir(two.versions / "configs")) == 1


def test_activating_without_an_alternate_leaves_none(two: Layout) -> None:
    two.activate(B, A)
    two.activate(B, None)
    assert boots(two.root) == B
    assert boots_alternate(two.root) is None
    assert not two.is_sticky(A)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/etc/passwd", id="elsewhere"),
        pytest.param("/versions/pristine/..", id="upwards"),
        pytest.param("/versions/pristine/", id="no name"),
        pytest.param("762", id="only a name"),
        pytest.param("/versions/pristine/-rf", id="no build's name"),
    ],
)
def test_a_link_to_no_build_is_no_build(two: Layout, target: str) -> None:
    (two.versions / "running").unlink()
    (two.versions / "running").symlink_to(target)
    assert two.running() is None


@unpartitioned_only
@pytest.mark.parametrize(
    "target", ["/versions/run/762", "../../run/762", "/versions/pristine/762"]
)
def test_every_form_that_boots_is_understood(two: Layout, target: str) -> None:
    current = two.versions / "boot/current"
    current.unlink()
    current.symlink_to(target)
    assert two.current() == boots(two.root) == B


# --- refusals -------------------------------------------------------------------


def test_a_build_without_run_copy_is_not_activated(two: Layout) -> None:
    os.rename(two.run(B), two.versions / "elsewhere")
    with pytest.raises(NotInstalled):
        two.activate(B, A)
    assert boots(two.root) == A


def test_a_build_is_not_its_own_alternate(two: Layout) -> None:
    with pytest.raises(ActivationError):
        two.activate(B, B)
    assert boots(two.root) == A


@partitioned_only
def test_a_build_without_kernel_is_not_activated(laptop: Laptop) -> None:
    tree = build_tree(laptop.root.parent / "763", {"etc/": None})
    build = make_build("763", tree)
    add_build(laptop.root, "763", tree, contents=build.contents)
    with pytest.raises(ActivationError, match="no /boot"):
        laptop.layout.activate(C, A)
    assert boots(laptop.root) == A


@pytest.mark.parametrize(
    "missing",
    [
        pytest.param("versions/pristine", id="no builds"),
        pytest.param("versions", id="nothing at all"),
    ],
)
def test_other_machines_have_no_layout(laptop: Laptop, missing: str) -> None:
    os.rename(laptop.root / missing, laptop.root / "elsewhere")
    with pytest.raises(NoVersions):
        Layout.detect(laptop.root)


def test_a_machine_without_boot_link_has_no_layout(tmp_path: Path) -> None:
    (tmp_path / "versions/pristine").mkdir(parents=True)
    with pytest.raises(NoVersions, match="versions/boot"):
        Layout.detect(tmp_path)


# --- sticky ---------------------------------------------------------------------


def test_our_mark_goes_with_the_alternate_and_a_persons_stays(two: Layout) -> None:
    c = add(two, "763")
    two.set_sticky(B)
    two.activate(B, A)
    two.activate(c, B)
    assert (two.is_sticky(A), two.is_sticky(B)) == (False, True)
    two.activate(B, None)
    two.activate(A, c)
    assert two.is_sticky(B), "the person's mark"
    assert two.is_sticky(c)


def test_a_persons_mark_on_the_alternate_outlives_it(two: Layout) -> None:
    two.activate(B, A)
    two.set_sticky(A)
    two.activate(B, None)
    assert two.is_sticky(A)


def test_the_alternate_stays_marked_when_a_person_takes_the_mark(two: Layout) -> None:
    two.activate(B, A)
    two.set_sticky(A)
    two.set_sticky(A, sticky=False)
    assert two.is_sticky(A)
    two.activate(B, None)
    assert not two.is_sticky(A)


def test_marks_come_and_go(two: Layout) -> None:
    two.set_sticky(B)
    assert two.is_sticky(B)
    two.set_sticky(B, sticky=False)
    two.set_sticky(B, sticky=False)
    assert not two.is_sticky(B)
    with pytest.raises(NotInstalled):
        two.set_sticky(D)


# --- purging ----------------------------------------------------------------------


def test_what_may_go_and_in_which_order(two: Layout) -> None:
    c, d = add(two, "763"), add(two, "764")
    e = add(two, "a-sticky-one")
    two.set_sticky(e)
    two.activate(B, c)
    two.set_sticky(d, sticky=False)
    assert two.purgeable() == [d, c], "neither running, next nor sticky; then alternate"


def test_the_older_one_goes_first(two: Layout) -> None:
    names = [add(two, name) for name in ("zz", "aa", "mm")]
    assert two.purgeable() == [B, *names]


def test_nothing_of_a_purged_build_is_left(two: Layout) -> None:
    two.activate(B, A)
    two.activate(A, B)
    before = snapshot(two.pristine(A))
    two.purge(B)
    left = [path for path in two.root.rglob("*762*") if "updates" not in path.parts]
    assert left == []
    assert boots(two.root) == A
    assert boots_alternate(two.root) is None
    assert not difference(before, snapshot(two.pristine(A)))


def test_half_a_build_can_be_purged(two: Layout) -> None:
    os.rename(two.pristine(B), two.versions / "elsewhere")
    two.purge(B)
    assert not two.run(B).exists()
    assert not two.contents(B).exists()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        pytest.param(A, "running", id="the running one"),
        pytest.param(B, "boots next", id="the next one"),
        pytest.param(C, "sticky", id="a sticky one"),
    ],
)
def test_what_may_not_be_purged(two: Layout, build: BuildId, reason: str) -> None:
    two.set_sticky(add(two, "763"))
    two.activate(B, None)
    with pytest.raises(ActivationError, match=reason):
        two.purge(build)
    assert two.pristine(build).is_dir()
    assert boots(two.root) == B


def test_purging_what_is_not_there(two: Layout) -> None:
    with pytest.raises(NotInstalled):
        two.purge(D)


def test_leftovers_are_tidied_and_nothing_else(two: Layout) -> None:
    everything = snapshot(two.root).keys()
    for place in ("pristine", "run", "contents"):
        build_tree(two.versions / place, {".olpc-update.old.761/etc/x": "half gone"})
    (two.versions / "sticky/.760.0123.new").touch()
    (two.versions / ".boot.0123.new").symlink_to("configs/760")
    two.tidy()
    assert snapshot(two.root).keys() == everything


# --- the boot partition ---------------------------------------------------------


@partitioned_only
def test_an_incomplete_copy_on_the_boot_partition_is_replaced(two: Layout) -> None:
    half = two.root / "bootpart/boot-versions/762"
    build_tree(half, {"vmlinuz": "new ke", "junk": ""})
    two.activate(B, A)
    assert boots(two.root) == B
    assert sorted(os.listdir(half)) == ["alt", "vmlinuz"]


@partitioned_only
def test_a_good_copy_on_the_boot_partition_is_kept(two: Layout) -> None:
    two.activate(B, A)
    kernel = two.root / "bootpart/boot-versions/760/vmlinuz"
    before = kernel.stat().st_ino
    two.rollback()
    assert boots(two.root) == A
    assert kernel.stat().st_ino == before
