"""Installing without being root, into a directory of one's own."""

import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from olpc_update_query.errors import NotPermitted
from tests.laptop import boots
from tests.perform_update.builds import Build, make_build, put_delta
from tests.perform_update.conftest import Laptop, LaptopMaker
from tests.trees import Dir, File, Spec, build_tree, difference, every_kind, snapshot

pytestmark = pytest.mark.root

USER = 4321


def as_user(function: Callable[[], object]) -> None:
    """Run a function in a process of an ordinary user."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            function()
            code = 0
        except BaseException:  # noqa: BLE001 - shown, and then it is over
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def give(*paths: Path) -> None:
    subprocess.run(["chown", "-Rh", f"{USER}:{USER}", *paths], check=True)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    give(tmp_path)
    return tmp_path


def test_a_tree_of_ones_own(make: LaptopMaker, mine: Path, tmp_path: Path) -> None:
    spec: Spec = {"boot/k": "x", "etc/a": File("a", mode=0o400), "no/entry": "b"}
    trees = [build_tree(mine / "760", spec)]
    as_user(lambda: every_kind(mine / "762"))
    locked = {"locked/": Dir(mode=0o555), "locked/in/file": "c", "boot/k": "y"}
    trees.append(build_tree(mine / "762", locked))  # type: ignore[arg-type] # a `Spec`
    give(*trees)
    (mine / "762/locked").chmod(0o555)
    old, new = (make_build(tree.name, tree) for tree in trees)
    laptop = make(old)
    put_delta(laptop.downloads(new), old, new)
    give(laptop.root)
    as_user(lambda: laptop.install(new))
    assert boots(laptop.root) == "762"
    assert not difference(snapshot(new.tree), laptop.pristine(new))


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"file": File("x", owner=(0, 0))}, id="a file"),
        pytest.param({"dir/": Dir(owner=(0, 0))}, id="a directory"),
        pytest.param({"file": File("x", owner=(USER, 0))}, id="another group"),
    ],
)
def test_what_belongs_to_somebody_else(
    make: LaptopMaker, mine: Path, spec: Spec
) -> None:
    old = make_build("760", build_tree(mine / "760", {"boot/k": "x"}))
    tree = build_tree(mine / "762", {"boot/k": "x"})
    give(mine / "760", tree)
    new = make_build("762", build_tree(tree, spec))
    laptop = make(make_build("760", mine / "760"))
    put_delta(laptop.downloads(new), old, new)
    give(laptop.root)

    def install() -> None:
        with pytest.raises(NotPermitted, match=r"(file|dir) as user \d+, group 0"):
            laptop.install(new)

    as_user(install)
    assert boots(laptop.root) == "760"
    assert not laptop.layout.pristine(new.name).exists()


def test_devices_take_root(make: LaptopMaker, mine: Path) -> None:
    old = make_build("760", build_tree(mine / "760", {"boot/k": "x"}))
    new = make_build("762", every_kind(mine / "762"))
    laptop = make(old)
    put_delta(laptop.downloads(new), old, new)
    give(laptop.root)

    def install(laptop: Laptop, new: Build) -> None:
        with pytest.raises(NotPermitted):
            laptop.install(new)

    as_user(lambda: install(laptop, new))
    assert boots(laptop.root) == "760"
