"""Laptops in both layouts, for the tests of the installer."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.install import Installed, install
from tests.laptop import make_laptop
from tests.perform_update.builds import Build, Told, make_build, put_delta
from tests.trees import File, Picture, Spec, build_tree, snapshot

BIG = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(10_000))
OLD_TREE: Spec = {
    "bin/sh": File("#!", mode=0o755),
    "boot/vmlinuz": "old kernel",
    "etc/motd": "old words",
    "etc/same": "same",
    "home/": None,
    "lib/big": BIG,
    "usr/gone": "gone",
}
NEW_TREE: Spec = {
    "bin/sh": File("#!", mode=0o755),
    "boot/vmlinuz": "new kernel",
    "etc/fresh": "fresh",
    "etc/motd": "new words",
    "etc/same": "same",
    "home/": None,
    "lib/big": BIG + b"more",
}


@dataclass
class Laptop:
    """A laptop that runs build 760, and a work area of its own."""

    root: Path
    old: Build
    told: Told

    @property
    def layout(self) -> Layout:
        return Layout.detect(self.root)

    @property
    def work(self) -> Path:
        return self.root / "versions/updates/olpc-update-query/installer"

    @property
    def hooks(self) -> Path:
        return self.root / "etc/olpc-update-query/hooks.d"

    def downloads(self, new: Build) -> Path:
        asker = self.root / "versions/updates/olpc-update-query/asker"
        return asker / "downloads" / new.digest

    def pristine(self, build: Build) -> dict[bytes, Picture]:
        return snapshot(self.root / "versions/pristine" / build.name)

    def install(self, new: Build) -> Installed:
        return install(
            new.order,
            layout=self.layout,
            downloads=self.downloads(new),
            work=self.work,
            hooks=self.hooks,
            progress=self.told,
        )

    def fetch_and_install(self, new: Build) -> Installed:
        put_delta(self.downloads(new), self.old, new)
        return self.install(new)


@pytest.fixture(params=[False, True], ids=["unpartitioned", "partitioned"])
def partitioned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


LaptopMaker = Callable[[Build], Laptop]


@pytest.fixture
def make(tmp_path: Path, partitioned: bool) -> LaptopMaker:
    def make_it(old: Build) -> Laptop:
        root = make_laptop(
            tmp_path / "laptop",
            old.name,
            old.tree,
            partitioned=partitioned,
            contents=old.contents,
        )
        return Laptop(root, old, Told())

    return make_it


@pytest.fixture
def old(tmp_path: Path) -> Build:
    return make_build("760", build_tree(tmp_path / "760", OLD_TREE))


@pytest.fixture
def new(tmp_path: Path) -> Build:
    return make_build("762", build_tree(tmp_path / "762", NEW_TREE))


@pytest.fixture
def laptop(make: LaptopMaker, old: Build) -> Laptop:
    return make(old)


@pytest.fixture
def simple(tmp_path: Path, old: Build) -> Laptop:
    """A laptop of one layout, for what has nothing to do with booting."""
    root = make_laptop(
        tmp_path / "laptop",
        old.name,
        old.tree,
        partitioned=False,
        contents=old.contents,
    )
    return Laptop(root, old, Told())
