"""Verifying: a sound build is found sound, and any damage is found."""

import hashlib
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olpc_update_query.errors import (
    CorruptContent,
    Malformed,
    UpdateError,
)
from olpc_update_query.model.delta import DeltaHeader
from olpc_update_query.model.whole import pack_content
from olpc_update_query.server import deltas
from olpc_update_query.server.deltas import write_delta
from olpc_update_query.server.publish import (
    check_build,
)
from olpc_update_query.server.verify import Checked
from tests.server.published import flip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_found(pair: Path, data: st.DataObject) -> None:
    build = pair / "762"
    path = data.draw(
        st.sampled_from([one for one in build.rglob("*") if one.is_file()])
    )
    good = path.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = data.draw(
        st.sampled_from(
            [
                good[:at],
                good + b"\0",
                good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :],
            ]
        )
    )
    path.write_bytes(bad)
    try:
        check_build(build)
    except UpdateError:
        return
    finally:
        path.write_bytes(good)
    # What zstd does not look at, such as an unused bit, is no damage.
    assert path.suffix in {".zst", ".pack"} or path.name == "pack"
    assert len(bad) >= len(good)


@pytest.mark.parametrize("name", ["contents.zst", "pack", "pack.index.zst"])
def test_a_missing_file_is_found(pair: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(pair, tmp_path / "builds")
    (tmp_path / "builds/762" / name).unlink()
    with pytest.raises(FileNotFoundError):
        check_build(tmp_path / "builds/762")


@pytest.mark.parametrize(
    "names", [["pack", "pack.index", "pack.index.zst"], ["delta/760.pack"]]
)
def test_files_of_another_build_are_found(
    pair: Path, tmp_path: Path, names: list[str]
) -> None:
    builds = shutil.copytree(pair, tmp_path / "builds")
    shutil.copytree(builds / "762/delta", builds / "760/delta")
    for name in names:
        shutil.copyfile(builds / "762" / name, builds / "760" / name)
    with pytest.raises(Malformed, match="another manifest"):
        check_build(builds / "760")


def test_without_its_old_build_a_delta_cannot_be_proven(
    pair: Path, tmp_path: Path
) -> None:
    builds = shutil.copytree(pair, tmp_path / "builds")
    shutil.rmtree(builds / "760")
    assert check_build(builds / "762") == Checked(8, ("760",), ("760",))
    flip(
        builds / "762/delta/760.pack",
        -1 + (builds / "762/delta/760.pack").stat().st_size,
    )
    with pytest.raises(CorruptContent):
        check_build(builds / "762")


def test_a_pack_of_other_contents_is_found(pair: Path, tmp_path: Path) -> None:
    builds = shutil.copytree(pair, tmp_path / "builds")
    build = builds / "760"
    for name in ("pack", "pack.index"):
        shutil.copyfile(builds / "762" / name, build / name)
    index = (build / "pack.index").read_bytes()
    old, new = (
        hashlib.sha256((builds / name / "contents").read_bytes()).hexdigest().encode()
        for name in ("760", "762")
    )
    (build / "pack.index").write_bytes(index.replace(new, old))
    packed = pack_content([index.replace(new, old)], len(index), 3)
    (build / "pack.index.zst").write_bytes(b"".join(packed))
    with pytest.raises(Malformed, match="other contents"):
        check_build(build)


def test_a_delta_that_lacks_a_content_is_found(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds = shutil.copytree(pair, tmp_path / "builds")
    really_missing = deltas._missing
    monkeypatch.setattr(
        deltas, "_missing", lambda old, new: really_missing(old, new)[:-1]
    )
    write_delta(builds / "760", builds / "762", builds / "762/delta/760.pack")
    with pytest.raises(Malformed, match="what is missing"):
        check_build(builds / "762")


def test_a_base_that_the_old_build_lacks_is_found(pair: Path, tmp_path: Path) -> None:
    builds = shutil.copytree(pair, tmp_path / "builds")
    for name in ("pack", "pack.index"):
        shutil.copyfile(builds / "762" / name, builds / "760" / name)
    with pytest.raises(Malformed, match="a base"):
        check_build(builds / "762")


def test_a_delta_of_no_file_is_found(pair: Path, tmp_path: Path) -> None:
    builds = shutil.copytree(pair, tmp_path / "builds")
    write_delta(builds / "762", builds / "760", tmp_path / "delta")
    data = (tmp_path / "delta").read_bytes()
    header = DeltaHeader.parse(data[: data.index(b"\n") + 1])
    forged = header._replace(old=header.new, new=header.old)
    (builds / "762/delta/760.pack").write_bytes(
        forged.encode() + data[header.manifest_offset :]
    )
    with pytest.raises(Malformed, match="no file"):
        check_build(builds / "762")
