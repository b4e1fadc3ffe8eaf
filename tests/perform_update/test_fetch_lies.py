"""Web servers that lie, and copies that proved to be damaged."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.delta import DeltaHeader
from olpc_update_query.model.pack import (
    encode_pack_frame,
    encode_pack_header,
    pack_segment,
    read_pack_index,
)
from tests.http_server import Site, Trouble
from tests.perform_update.published import (
    make_build,
    make_delta,
    packed,
    publish,
)
from tests.perform_update.world import (
    DELTA_NAME,
    KERNEL,
    NEW_FILES,
    World,
    make_world,
    motd,
    shell,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path) as world:
        yield world


# --- lies ---------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 10, 400])
def test_damaged_delta_is_replaced_by_the_full_pack(world: World, after: int) -> None:
    world.near.misbehave(DELTA_NAME, Trouble.WRONG_BYTES, after=after)
    world.fetch(world.near.url)
    world.assert_complete()
    assert "pack" in world.near.names()
    assert not (world.downloads / "delta").exists()


def test_delta_of_other_builds_is_refused(world: World, tmp_path: Path) -> None:
    other = make_build(tmp_path / "other", "759", {"x": b"1"})
    (world.near.root / "delta" / DELTA_NAME).write_bytes(make_delta(other, world.new))
    world.fetch(world.near.url)
    world.assert_complete()
    assert any("starts from another build" in step for step in world.progress.steps)
    world.reset()
    (world.near.root / "delta" / DELTA_NAME).write_bytes(make_delta(world.old, other))
    world.fetch(world.near.url)
    world.assert_complete()
    assert any("leads to another build" in step for step in world.progress.steps)


def test_delta_that_would_fill_the_disk_is_refused(world: World) -> None:
    path = world.near.root / "delta" / DELTA_NAME
    data = path.read_bytes()
    line, newline, rest = data.partition(b"\n")
    was = f'"length":{len(data)}'.encode()
    huge = line.replace(was, b'"length":%d' % 10**12) + newline + rest
    path.write_bytes(huge)
    world.near.misbehave(DELTA_NAME, Trouble.ENDLESS)
    world.fetch(world.near.url)
    world.assert_complete()
    assert any("another length" in step for step in world.progress.steps)


def _patch_more(header: DeltaHeader) -> DeltaHeader:
    first = header.manifest[0]._replace(base_offset=10**6)
    return header._replace(manifest=(first, *header.manifest[1:]))


def _bring_less(header: DeltaHeader) -> DeltaHeader:
    first = header.manifest[0]
    grown = first._replace(packed=first.packed + 10**5)
    return header._replace(manifest=(grown, *header.manifest[1:]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(_patch_more, "patches more than there is", id="base"),
        pytest.param(_bring_less, "larger than what it brings", id="manifest"),
        pytest.param(
            lambda header: header._replace(index_size=10**12),
            "index is too large",
            id="index",
        ),
        pytest.param(
            lambda header: header._replace(index_packed=header.index_packed + 10**5),
            "index is too large",
            id="packed index",
        ),
    ],
)
def test_delta_with_insane_sizes_is_refused(
    world: World, change: Callable[[DeltaHeader], DeltaHeader], reason: str
) -> None:
    path = world.near.root / "delta" / DELTA_NAME
    line, newline, rest = path.read_bytes().partition(b"\n")
    header = change(DeltaHeader.parse(line + newline))
    for _ in range(3):  # its own length is in it
        header = header._replace(length=len(header.encode()) + len(rest))
    path.write_bytes(header.encode() + rest)
    world.fetch(world.near.url)
    world.assert_complete()
    assert any(reason in step for step in world.progress.steps)


@pytest.mark.parametrize("chunked", [True, False])
def test_delta_with_something_after_its_end_is_refused(
    world: World, chunked: bool
) -> None:
    if chunked:
        world.near.misbehave(DELTA_NAME, Trouble.CHUNKED)
    with open(world.near.root / "delta" / DELTA_NAME, "ab") as file:
        file.write(b"x" * 500)
    world.fetch(world.near.url)
    assert world.missing() <= world.arrived()


@pytest.mark.parametrize("size", [50, 100_000])
def test_file_that_is_no_delta_is_refused(world: World, size: int) -> None:
    (world.near.root / "delta" / DELTA_NAME).write_bytes(b"x" * size)
    world.fetch(world.near.url)
    world.assert_complete()
    assert any("no header line" in step for step in world.progress.steps)


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"garbage", id="no line"),
        pytest.param(b"garbage\nand more", id="no header"),
        pytest.param(None, id="of another pair"),
    ],
)
def test_beginning_of_something_else_is_dropped(
    world: World, planted: bytes | None
) -> None:
    if planted is None:
        planted = make_delta(world.new, world.old)[:5000]
    world.downloads.mkdir(parents=True)
    (world.downloads / "delta.part").write_bytes(planted)
    world.fetch(world.near.url)
    world.assert_complete()
    assert world.near.names() == [DELTA_NAME]


def test_complete_delta_without_its_name_is_not_fetched_again(world: World) -> None:
    """The power failed between the last byte and the rename."""
    world.fetch()
    whole = world.downloads / "delta"
    journal = f"0 {whole.stat().st_size} {world.near.url}\n"
    (world.downloads / "delta.part.have").write_text(journal)
    whole.rename(world.downloads / "delta.part")
    assert world.fetch().requests == 0
    world.assert_complete()


@pytest.mark.parametrize("both", [True, False])
def test_stale_manifest_is_not_believed(world: World, both: bool) -> None:
    world.without_delta()
    (world.near.root / "contents.zst").unlink()
    stale = world.old.manifest + b"x" * (
        len(world.new.manifest) - len(world.old.manifest)
    )
    (world.near.root / "contents").write_bytes(stale)
    if both:
        (world.near.root / "contents.zst").write_bytes(packed(stale))
    with pytest.raises(errors.SourceFailed, match="not what the order signs"):
        world.fetch(world.near.url)
    assert not (world.downloads / "contents").exists()
    world.fetch()
    world.assert_complete()


# what is wrong inside the pack itself is noticed by the installer, which then wants it
LIES = [
    (name, trouble)
    for name in ("contents.zst", "pack.index.zst", "pack")
    for trouble in (Trouble.ENDLESS, Trouble.WRONG_BYTES, Trouble.GZIP, Trouble.HTML)
    if name != "pack" or trouble in {Trouble.GZIP, Trouble.HTML}
]


@pytest.mark.parametrize(("name", "trouble"), LIES)
def test_lying_source_is_left_for_the_next(
    world: World, name: str, trouble: Trouble
) -> None:
    world.without_delta()
    world.near.misbehave(name, trouble)
    world.fetch()
    world.assert_complete()
    assert world.far.seen


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "a byte":
        data = data[:40] + bytes([data[40] ^ 1]) + data[41:]
    path.write_bytes({"a byte": data, "cut": data[:-9], "junk": b"junk" * 99}[how])


@pytest.mark.parametrize("how", ["a byte", "cut", "junk"])
@pytest.mark.parametrize("name", ["contents", "pack.index"])
def test_a_damaged_compressed_file_is_fetched_as_it_is(
    world: World, name: str, how: str
) -> None:
    """From the same source, before any other is asked."""
    world.without_delta()
    spoil(world.near.root / f"{name}.zst", how)
    world.fetch()
    world.assert_complete()
    assert name in world.near.names()
    assert not {name, f"{name}.zst"} & set(world.far.names())


def test_whoever_has_the_file_damaged_in_every_way_is_left(world: World) -> None:
    world.without_delta()
    for name in ("contents.zst", "contents"):
        spoil(world.near.root / name, "junk")
    world.fetch()
    world.assert_complete()
    assert world.near.names()[:3] == ["760.pack", "contents.zst", "contents"]
    assert "contents.zst" in world.far.names()
    assert "contents" not in world.far.names()


def test_nobody_has_the_manifest_whole(world: World) -> None:
    world.without_delta()
    for site in (world.near, world.far):
        for name in ("contents.zst", "contents"):
            spoil(site.root / name, "a byte")
    with pytest.raises(errors.SourceFailed, match="not what the order signs"):
        world.fetch()
    assert sorted(os.listdir(world.downloads)) == ["files"]


def test_index_of_another_build_is_refused(world: World, tmp_path: Path) -> None:
    world.without_delta()
    other = publish(tmp_path / "other", world.old)
    shutil.copy(other / "pack.index.zst", world.near.root)
    world.fetch()
    world.assert_complete()
    assert any("index of another build" in step for step in world.progress.steps)


# --- what proved to be damaged ------------------------------------------------


@pytest.mark.parametrize("digest", [motd(), shell()], ids=["of the delta", "installed"])
def test_wanted_contents_are_fetched_whole_and_proven(
    world: World, digest: bytes
) -> None:
    world.fetch()
    world.near.seen.clear()
    world.fetch(wanted=[digest])
    assert world.near.names() == ["pack.index.zst", "pack"]
    assert (world.downloads / "files" / digest.hex()).exists()
    world.assert_complete()
    world.near.seen.clear()
    assert world.fetch(wanted=[digest]).requests == 0


def test_base_that_is_damaged_makes_its_patches_useless(world: World) -> None:
    world.fetch()
    kernel = hashlib.sha256(KERNEL).digest()
    report = world.fetch(wanted=[kernel])
    assert dict(report.gave)["pack"] > 100_000
    assert hashlib.sha256(NEW_FILES["boot/vmlinuz"]).digest() in world.arrived()


def test_source_whose_pack_is_damaged_is_left_for_the_next(world: World) -> None:
    """The first round cannot know; the second one checks what comes."""
    world.without_delta()
    spoil_pack(world.near)
    world.fetch()
    wanted = world.missing() - world.arrived()
    assert wanted
    world.fetch(wanted=wanted)
    assert world.missing() <= world.arrived()
    assert "pack" in world.far.names()


def spoil_pack(site: Site) -> None:
    """Change the end of every frame, of which the beginning tells nothing."""
    data = bytearray((site.root / "pack").read_bytes())
    with open(site.root / "pack.index", "rb") as file:
        for frame in read_pack_index(file)[1]:
            data[frame.offset + frame.packed - 1] ^= 0x55
    (site.root / "pack").write_bytes(data)


def test_what_is_no_pack_at_all_is_noticed_at_once(world: World) -> None:
    world.without_delta()
    world.near.misbehave("pack", Trouble.WRONG_BYTES)
    report = world.fetch()
    world.assert_complete()
    pack = (world.far.root / "pack").stat().st_size
    assert dict(report.gave)["pack"] < pack, "each byte once"


def test_damaged_whole_content_is_fetched_again(world: World) -> None:
    world.fetch()
    world.fetch(wanted=[motd()])
    file = world.downloads / "files" / motd().hex()
    file.write_bytes(b"")
    world.fetch(wanted=[motd()])
    assert file.read_bytes() == NEW_FILES["etc/motd"]


def test_damaged_spool_is_dropped(world: World) -> None:
    world.without_delta()
    world.fetch()
    (world.downloads / "pack.index").write_bytes(b"[1,2,3]\n")
    world.fetch()
    world.assert_complete()


# --- mirrors that have packed the same build otherwise ------------------------------


def pack_otherwise(site: Site) -> None:
    """Put the frames of a site's pack in another order: as long, and as good."""
    data = (site.root / "pack").read_bytes()
    with open(site.root / "pack.index", "rb") as file:
        header, frames = read_pack_index(file)
        turned = list(frames)[::-1]
    pack = b"".join(data[one.offset : one.offset + one.packed] for one in turned)
    lines = b"".join(encode_pack_frame(one) for one in turned)
    assert len(pack) == len(data)
    assert pack != data
    (site.root / "pack").write_bytes(pack)
    index = encode_pack_header(header) + lines
    (site.root / "pack.index").write_bytes(index)
    (site.root / "pack.index.zst").write_bytes(pack_segment(index, b"", 3))


@pytest.mark.parametrize("after", [0, 300, 40_000])
def test_a_mirror_has_packed_in_another_order(world: World, after: int) -> None:
    """The first gives its index and some bytes of its pack, the other goes on."""
    world.without_delta()
    pack_otherwise(world.far)
    world.near.misbehave("pack", Trouble.DIES, after=after)
    report = world.fetch()
    world.assert_complete()
    pack = (world.far.root / "pack").stat().st_size
    assert dict(report.gave)["pack"] <= pack + after
    assert world.far.names().count("pack.index.zst") == 1


@pytest.mark.parametrize("after", [0, 300])
def test_the_index_of_a_mirror_that_is_gone(world: World, after: int) -> None:
    """A run later, when nobody is left who has the pack that the index is of."""
    world.without_delta()
    pack_otherwise(world.far)
    world.near.misbehave("pack", Trouble.DIES, after=after)
    with pytest.raises(errors.NetworkError):
        world.fetch(world.near.url)
    world.fetch(world.far.url)
    world.assert_complete()
    assert world.far.names().count("pack.index.zst") == 1
