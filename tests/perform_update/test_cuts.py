"""The power fails before every single change that an installation makes."""

import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.laptop import boots, boots_alternate
from tests.perform_update.builds import Build, Told, make_build, put_delta
from tests.perform_update.conftest import Laptop, LaptopMaker
from tests.perform_update.cuts import run_until
from tests.trees import File, Hard, Link, Spec, build_tree, difference, snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

AREA = "versions/updates/olpc-update-query"


@pytest.fixture
def old(tmp_path: Path) -> Build:
    tree: Spec = {"boot/k": "old", "etc/a": "a", "etc/b": "b", "h": "x", "i": Hard("h")}
    return make_build("760", build_tree(tmp_path / "760", tree))


@pytest.fixture
def new(tmp_path: Path) -> Build:
    tree: Spec = {
        "boot/k": "new",
        "etc/a": "a",
        "etc/b": File("b", mode=0o600),
        "etc/l": Link("a"),
        "h": "x",
        "i": Hard("h"),
    }
    return make_build("762", build_tree(tmp_path / "762", tree))


def state(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Return what there is of a laptop, but for the times outside of the trees."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path, picture in snapshot(root).items():
        is_tree = path.startswith((b"versions/pristine/", b"versions/run/"))
        if is_tree and picture.kind != "l":  # which are made when they are made
            found[path] = tuple(picture)
        elif not path.startswith(AREA.encode()):
            found[path] = (picture.kind, picture.mode, picture.sha256, picture.target)
    return found


def sweep(
    template: Path,
    job: Callable[[Laptop], object],
    check: Callable[[Laptop], None],
    laptop: Laptop,
) -> int:
    """Cut a job short before every change; then let it run again, to its end.

    Returns:
        How many changes the job makes.
    """
    job(laptop)
    goal = state(laptop.root)
    for change in itertools.count():
        shutil.rmtree(laptop.root)
        subprocess.run(["cp", "-a", template, laptop.root], check=True)
        if run_until(change, lambda: job(laptop)):
            return change
        check(laptop)
        job(laptop)
        assert state(laptop.root) == goal, f"cut before change {change}"
        assert not any((laptop.root / AREA / "installer").iterdir())
    raise AssertionError("it never ends")


def test_install(make: LaptopMaker, old: Build, new: Build, tmp_path: Path) -> None:
    laptop = make(old)
    put_delta(laptop.downloads(new), old, new)
    template = tmp_path / "template"
    subprocess.run(["cp", "-a", laptop.root, template], check=True)
    before = laptop.pristine(old)

    def install(laptop: Laptop) -> None:
        Laptop(laptop.root, old, Told()).install(new)

    def check(laptop: Laptop) -> None:
        if boots(laptop.root) == "762":
            assert boots_alternate(laptop.root) == "760"
            assert not difference(snapshot(new.tree), laptop.pristine(new))
        else:
            assert boots(laptop.root) == "760"
            assert boots_alternate(laptop.root) is None
        assert not difference(before, laptop.pristine(old))

    changes = sweep(template, install, check, laptop)
    assert boots(laptop.root) == "762"
    assert changes > 60, "the sweep does not see what the installer does"


def test_rollback(make: LaptopMaker, old: Build, new: Build, tmp_path: Path) -> None:
    laptop = make(old)
    laptop.fetch_and_install(new)
    template = tmp_path / "template"
    subprocess.run(["cp", "-a", laptop.root, template], check=True)

    def rollback(laptop: Laptop) -> None:
        if laptop.layout.current() == "762":
            laptop.layout.rollback()
        laptop.layout.tidy()

    def check(laptop: Laptop) -> None:
        found = {boots(laptop.root), boots_alternate(laptop.root)}
        assert found == {"760", "762"}

    assert sweep(template, rollback, check, laptop) > 5
    assert boots(laptop.root) == "760"


def test_purge(make: LaptopMaker, old: Build, new: Build, tmp_path: Path) -> None:
    laptop = make(old)
    laptop.fetch_and_install(new)
    laptop.layout.rollback()
    template = tmp_path / "template"
    subprocess.run(["cp", "-a", laptop.root, template], check=True)

    def purge(laptop: Laptop) -> None:
        if new.name in laptop.layout.purgeable():
            laptop.layout.purge(new.name)
        laptop.layout.tidy()

    def check(laptop: Laptop) -> None:
        assert boots(laptop.root) == "760"

    assert sweep(template, purge, check, laptop) > 10
    assert not (laptop.root / "versions/pristine/762").exists()
