"""What is forecast before the first byte, beside what the disk then really has less.

On real images of the file systems that laptops have.
"""

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.perform_update import making
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.install import install
from olpc_update_query.perform_update.plan import Totals
from olpc_update_query.perform_update.space import Need, forecast
from tests.laptop import make_laptop
from tests.perform_update.builds import (
    Build,
    Told,
    make_build,
    put_files,
    put_manifest,
)
from tests.trees import File, Spec, build_tree

pytestmark = pytest.mark.root

FORMATS = {
    "ext4, blocks of 1 KiB": ["mkfs.ext4", "-q", "-b", "1024"],
    "ext4, blocks of 4 KiB": ["mkfs.ext4", "-q", "-b", "4096"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
WITHIN = {"btrfs": 0.02}  # its trees are more or less full
CHUNKS = {"xfs": 10 * 64 * 512}  # bytes: inodes that it makes 64 at a time, in advance
FILES = 3000
SECOND = 10**9


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Build]:
    scratch = tmp_path_factory.mktemp("builds")
    old, new = (
        make_build(name, build_tree(scratch / name, tree(version)))
        for version, name in enumerate(("760", "762"))
    )
    return old, new


@pytest.fixture(
    params=[
        pytest.param(name, id=name, marks=needed)
        for name, needed in zip(
            FORMATS,
            (
                pytest.mark.needs("e2fsprogs"),
                pytest.mark.needs("e2fsprogs"),
                pytest.mark.needs("e2fsprogs", "xfsprogs"),
                pytest.mark.needs("e2fsprogs", "btrfs-progs"),
            ),
            strict=True,
        )
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def disk(tmp_path: Path, kind: str) -> Iterator[Path]:
    image, where = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run([*FORMATS[kind], image], check=True)
    where.mkdir()
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


def tree(version: int) -> Spec:
    """Return files of the sizes that files have; some change with the version."""
    shape = random.Random(1)
    spec: dict[str | bytes, File | str | bytes] = {}
    for number in range(FILES):
        size = min(int(shape.lognormvariate(8, 1.8)), 600_000)
        of = version if number % 10 < 3 else 0
        data = random.Random(number * 10 + of).randbytes(size)
        spec[f"usr/lib/package{number % 90}/part{number % 3}/file-{number}.py"] = data
        if number % 12 == 0:
            spec[f"usr/bin/program-{number}"] = File(b"%d" % number, mode=0o755)
    spec["usr/share/large"] = File(
        random.Random(0).randbytes(3_000_000), mtime_ns=version * SECOND
    )
    return {**spec}


def used(disk: Path) -> int:
    for how in ("ro", "rw"):  # XFS gives back what was deleted when it has the time
        subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)
    room = os.statvfs(disk)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


class Case:
    """An update on a disk, what was forecast, and what it took."""

    def __init__(
        self, disk: Path, builds: tuple[Build, Build], downloads: Path
    ) -> None:
        old, new = builds
        self.root = make_laptop(
            disk / "laptop",
            old.name,
            old.tree,
            partitioned=False,
            contents=old.contents,
        )
        self.totals: list[Totals] = []
        self.needs: list[Need] = []
        before = used(disk)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(making, "forecast", self._forecast)
            self._install(old, new, downloads / new.digest)
        # the manifest is there before anything is planned
        manifest = self.totals[0].disk.blocks(len(new.contents))
        self.taken = used(disk) - before - manifest

    def _forecast(self, layout: Layout, totals: Totals, at_hand: int) -> list[Need]:
        self.totals.append(totals)
        self.needs = forecast(layout, totals, at_hand)
        return self.needs

    def _install(self, old: Build, new: Build, downloads: Path) -> None:
        known = old.bytes_of()
        put_manifest(downloads, new.contents)
        put_files(downloads, (c for d, c in new.bytes_of().items() if d not in known))
        work = self.root / "versions/updates/olpc-update-query/installer"
        install(
            new.order,
            layout=Layout.detect(self.root),
            downloads=downloads,
            work=work,
            hooks=self.root / "hooks",
            progress=Told(),
        )


def test_forecast_is_right(
    disk: Path, kind: str, builds: tuple[Build, Build], tmp_path: Path
) -> None:
    case = Case(disk, builds, tmp_path / "downloads")
    assert case.needs[0].size == pytest.approx(
        case.taken, rel=WITHIN.get(kind, 0.01), abs=CHUNKS.get(kind, 0)
    )
    large = "usr/share/large"
    two = [
        (case.root / f"versions/pristine/{name}" / large).stat()
        for name in ("760", "762")
    ]
    assert two[0].st_ino != two[1].st_ino, "it has another time"
    if kind in {"xfs", "btrfs"}:
        shared = extents(disk, "760", large) == extents(disk, "762", large)
        assert shared, "it takes no blocks of its own"


def extents(disk: Path, build: str, name: str) -> list[str]:
    """Return where a file lies on the disk."""
    path = disk / "laptop/versions/pristine" / build / name
    done = subprocess.run(
        ["filefrag", "-v", path], check=True, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()[3:-1]
    assert lines
    return [line.split(":")[2] for line in lines]
