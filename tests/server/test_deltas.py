"""Deltas: small, and they lead from one build to the other."""

import gzip
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from olpc_update_query.errors import CorruptContent, Malformed
from olpc_update_query.model.delta import DeltaHeader, read_delta_index
from olpc_update_query.model.pack import (
    BASE_WINDOW,
    SEGMENT,
    Frame,
    unpack_segment,
)
from olpc_update_query.server import publish
from olpc_update_query.server.deltas import write_delta
from olpc_update_query.server.publish import (
    check_build,
)
from olpc_update_query.server.verify import Checked
from tests.server.published import FIRST, SECOND, THIRD, entries, flip, noise
from tests.server.test_takeapart import cpio
from tests.system.test_compressors import text
from tests.trees import (
    Spec,
    build_tree,
)


def read_delta(path: Path) -> tuple[DeltaHeader, list[Frame], bytes]:
    data = path.read_bytes()
    header = DeltaHeader.parse(data[: data.index(b"\n") + 1])
    packed = data[header.index_offset : header.frames_offset]
    index = b"".join(unpack_segment(packed, b"", header.index_size))
    return header, list(read_delta_index(index, header.frames_offset, len(data))), data


def unfold(frame: Frame, data: bytes, base: bytes) -> bytes:
    content, at = b"", frame.offset
    for offset, length, packed, size in frame.segments:
        content += b"".join(
            unpack_segment(data[at : at + packed], base[offset : offset + length], size)
        )
        at += packed
    return content


def contents_of(tree: Path) -> dict[bytes, bytes]:
    found = (path.read_bytes() for path in tree.rglob("*") if path.is_file())
    return {hashlib.sha256(content).digest(): content for content in found}


def publish_pair(tmp_path: Path, builds: Path, old: Spec, new: Spec) -> list[Frame]:
    """Publish two trees, apply the delta, and return its frames."""
    before = build_tree(tmp_path / "before", old)
    after = build_tree(tmp_path / "after", new)
    publish.publish(builds, before, FIRST)
    found = publish.publish(builds, after, SECOND, delta_from=[FIRST])
    path = builds / "2/delta/1.pack"
    assert found.deltas == {FIRST: path.stat().st_size}
    header, frames, data = read_delta(path)
    have, want = contents_of(before), contents_of(after)
    assert [frame.digest for frame in frames] == [
        digest
        for digest in dict.fromkeys(one.digest for one in entries(builds / "2"))
        if digest and digest not in have
    ]
    for frame in frames:
        base = have[frame.base] if frame.base else b""
        assert unfold(frame, data, base) == want[frame.digest]
    manifest = Frame(b"", 0, None, header.manifest_offset, header.manifest)
    base = (builds / "1/contents").read_bytes()
    assert unfold(manifest, data, base) == (builds / "2/contents").read_bytes()
    assert check_build(builds / "2").unproven == ()
    return frames


def test_a_delta_of_everything(tmp_path: Path, tree: Path, builds: Path) -> None:
    publish.publish(builds, tree, FIRST)
    publish.publish(
        builds, build_tree(tmp_path / "none", {}), SECOND, delta_from=[FIRST]
    )
    publish.publish(builds, tree, THIRD, delta_from=[SECOND, FIRST])
    assert check_build(builds / "3") == Checked(len(contents_of(tree)), ("1", "2"), ())
    assert read_delta(builds / "3/delta/1.pack")[1] == []
    assert len(read_delta(builds / "3/delta/2.pack")[1]) == len(contents_of(tree))


def test_a_change_is_a_small_patch(tmp_path: Path, builds: Path) -> None:
    content = noise(100_000)
    changed = content[:50_000] + b"!" + content[50_000:]
    (frame,) = publish_pair(tmp_path, builds, {"a": content}, {"a": changed})
    assert frame.base == hashlib.sha256(content).digest()
    assert frame.packed < 200


def test_a_file_that_moved_is_patched(tmp_path: Path, builds: Path) -> None:
    content = noise(50_000)
    old, new = "lib/modules/6.1.0-9/fs/ext4.ko", "lib/modules/6.1.0-10/fs/ext4.ko"
    spec: Spec = {old: content, "lib/modules/6.1.0-9/other/ext4.ko": noise(9, 1)}
    (frame,) = publish_pair(tmp_path, builds, spec, {new: content + b"!"})
    assert frame.base == hashlib.sha256(content).digest()
    assert frame.packed < 200


def test_what_resembles_nothing_is_whole(tmp_path: Path, builds: Path) -> None:
    old: Spec = {"a": noise(9999), "empty": "", "e": "x"}
    new: Spec = {"a": noise(9999, 1), "new": "unheard of", "empty": "not now", "e": ""}
    frames = publish_pair(tmp_path, builds, old, new)
    assert len(frames) == 3  # the empty one is in the old build
    assert all(frame.base is None for frame in frames)


def test_a_large_file_is_patched_in_segments(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("olpc_update_query.server.deltafile._LEVEL", 16)
    content = noise(20 << 20)
    moved = noise(3 << 20, 1) + content[: 9 << 20] + content[13 << 20 :]
    (frame,) = publish_pair(tmp_path, builds, {"a": content}, {"a": moved})
    assert frame.base == hashlib.sha256(content).digest()
    assert [segment.size for segment in frame.segments] == [SEGMENT] * 4 + [3 << 20]
    assert max(segment.base_length for segment in frame.segments) == BASE_WINDOW
    assert frame.packed < (3 << 20) + 10_000


def test_a_patch_that_gains_nothing_is_given_up(tmp_path: Path, builds: Path) -> None:
    old, new = noise(9 << 20), noise(9 << 20, 1)
    (frame,) = publish_pair(tmp_path, builds, {"a": old}, {"a": new})
    assert frame.base is None


def test_a_delta_needs_no_tree(tmp_path: Path, builds: Path) -> None:
    tree = build_tree(tmp_path / "tree", {"a": noise(9999)})
    publish.publish(builds, tree, FIRST)
    build_tree(tree, {"a": noise(9999) + b"!"})
    publish.publish(builds, tree, SECOND, delta_from=[FIRST])
    shutil.rmtree(tree)
    write_delta(builds / "1", builds / "2", tmp_path / "again")
    made = (builds / "2/delta/1.pack").read_bytes()
    assert (tmp_path / "again").read_bytes() == made


def test_a_damaged_base_is_no_base(tmp_path: Path, builds: Path) -> None:
    spec: Spec = {f"{number:03}": noise(999, number) for number in range(300)}
    changed: Spec = {f"{number:03}": noise(999, number) + b"!" for number in range(300)}
    publish.publish(builds, build_tree(tmp_path / "old", spec), FIRST)
    flip(builds / "1/pack", 50 * 1009)
    tree = build_tree(tmp_path / "new", changed)
    with pytest.raises(CorruptContent):
        publish.publish(builds, tree, SECOND, delta_from=[FIRST])
    assert sorted(os.listdir(builds)) == [".lock", "1"]


# --- contents taken apart -------------------------------------------------------


def initrd(tmp_path: Path, **files: bytes) -> bytes:
    (tmp_path / "cpio").write_bytes(cpio({"init": b"#!/bin/sh\n", **files}))
    words = ["zstd", "-q9c", str(tmp_path / "cpio")]
    return subprocess.run(words, stdout=-1, check=True).stdout


def test_a_compressed_file_is_patched_inside(tmp_path: Path, builds: Path) -> None:
    old = text(60_000)
    new = b"a new line first\n" + old[:30_000] + b"!" + old[30_000:]
    before = build_tree(tmp_path / "before", {"log.gz": gzip.compress(old, mtime=0)})
    after = build_tree(tmp_path / "after", {"log.gz": gzip.compress(new, mtime=0)})
    publish.publish(builds, before, FIRST)
    publish.publish(builds, after, SECOND, delta_from=[FIRST])
    ((frame,), _) = read_delta(builds / "2/delta/1.pack")[1:]
    assert frame.inside is not None
    assert frame.packed < 500 < frame.size
    assert check_build(builds / "2").unproven == ()


@pytest.mark.needs("zstd")
def test_an_initrd_is_made_of_other_contents(tmp_path: Path, builds: Path) -> None:
    one, two, three = text(400_000), text(300_000), text(300_001)
    old: Spec = {"initrd": initrd(tmp_path, one=one, two=two), "one": one, "two": two}
    new: Spec = {"initrd": initrd(tmp_path, one=one, x=three), "one": one, "x": three}
    publish.publish(builds, build_tree(tmp_path / "before", old), FIRST)
    publish.publish(
        builds, build_tree(tmp_path / "after", new), SECOND, delta_from=[FIRST]
    )
    whole = (builds / "2/inside.pack").stat().st_size
    assert whole < 1500 < len(new["initrd"])  # type: ignore[arg-type] # it is bytes
    frames = read_delta(builds / "2/delta/1.pack")[1]
    assert [frame.inside is None for frame in frames] == [True, False], "it comes last"
    assert check_build(builds / "2").unproven == ()


@pytest.mark.needs("zstd")
def test_damage_of_what_is_made_of_others_is_found(
    tmp_path: Path, builds: Path
) -> None:
    one = text(400_000)
    spec: Spec = {"initrd": initrd(tmp_path, one=one), "one": one}
    publish.publish(builds, build_tree(tmp_path / "tree", spec), FIRST)
    path = builds / "1/inside.pack"
    _, (frame,), data = read_delta(path)
    flip(path, frame.offset + frame.packed // 2)
    with pytest.raises((CorruptContent, Malformed)):
        check_build(builds / "1")
    path.write_bytes(data)
    check_build(builds / "1")
