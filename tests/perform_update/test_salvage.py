"""What is kept of a delta pack that nobody can go on with."""

import gzip
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.model.delta import DeltaHeader, read_delta_index
from olpc_update_query.model.pack import Frame, unpack_segment
from olpc_update_query.server.deltas import write_delta
from tests.perform_update.published import install, make_build, publish, write_inside
from tests.perform_update.world import World, make_world
from tests.server.test_takeapart import cpio

pytestmark = pytest.mark.needs("zstd")

_random = random.Random(4)
MODULES = {f"m{number}.ko": _random.randbytes(300_000) for number in range(3)}
REST = {f"r{number}.ko": _random.randbytes(400_000) for number in range(2)}


def packed(contents: dict[str, bytes]) -> bytes:
    return gzip.compress(cpio(contents), 9, mtime=0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A laptop whose kernel's modules change a little, in the tree and the initrd."""
    patched = {name: content[:-9] + b"otherwise" for name, content in MODULES.items()}
    with make_world(tmp_path) as world:
        old = {"boot/initrd": packed(MODULES)}
        new = {
            "boot/initrd": packed(patched),
            "lib/other": subprocess.run(
                ["zstd", "-q9c"], input=cpio(REST), stdout=-1, check=True
            ).stdout,
            **REST,
        }
        world.old = make_build(tmp_path / "o", "760", old)
        world.new = make_build(tmp_path / "n", "762", new)
        world.layout = install(tmp_path / "school laptop", world.old)
        world.near.root = publish(tmp_path / "site", world.new)
        world.downloads = world.downloads.with_name(world.new.digest)
        yield world


def frames(delta: bytes) -> list[Frame]:
    header = DeltaHeader.parse(delta[: delta.index(b"\n") + 1])
    index = delta[header.index_offset :][: header.index_packed]
    raw = b"".join(unpack_segment(index, b"", header.index_size))
    return list(read_delta_index(raw, header.frames_offset, header.length))


def begin(world: World, scratch: Path, name: str, *, short: int = 0) -> None:
    """Leave of a delta pack all but one content, or all but the end of one.

    Args:
        world: Whose.
        scratch: Where to make it.
        name: The content that is lacking.
        short: How many of its bytes are lacking; 0 for all.
    """
    olds = publish(scratch / "site of the old", world.old)
    assert write_inside(world.near.root) == 1
    delta = scratch / "760.pack"
    write_delta(olds, world.near.root, delta)
    (world.near.root / "inside.pack").unlink()
    found = frames(delta.read_bytes())
    assert sum(one.inside is not None for one in found) == 2, "two are taken apart"
    digest = hashlib.sha256((world.new.tree / name).read_bytes()).digest()
    lacking = next(one for one in found if one.digest == digest)
    end = lacking.offset + lacking.packed
    start = end - (short or lacking.packed)
    world.downloads.mkdir(parents=True)
    (world.downloads / "delta.part").write_bytes(delta.read_bytes())
    size = delta.stat().st_size
    journal = f"0 {start} http://gone.test\n{end} {size} http://gone.test\n"
    (world.downloads / "delta.part.have").write_text(journal)


@pytest.mark.parametrize("lacking", ["boot/initrd", "lib/other"])
def test_contents_that_were_taken_apart_are_kept(
    world: World, tmp_path: Path, lacking: str
) -> None:
    begin(world, tmp_path, lacking)
    report = world.fetch(world.near.url)
    assert world.missing() <= world.arrived()
    assert report.received < os.path.getsize(world.new.tree / lacking) + 20_000


def test_half_of_what_is_inside_is_no_beginning(world: World, tmp_path: Path) -> None:
    begin(world, tmp_path, "boot/initrd", short=1)
    world.fetch(world.near.url)
    assert world.missing() <= world.arrived()
    assert not (world.downloads / "rsync/tree/boot/initrd").exists()
