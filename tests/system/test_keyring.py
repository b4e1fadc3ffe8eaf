from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.system.keyring import add_key, load_keys, remove_keys
from olpc_update_query.trust.keys import Role
from tests.keys import signer


def deploy(root: Path, name: str, data: bytes) -> Path:
    path = root / "etc/olpc-update-query/keys.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def found(root: Path) -> list[tuple[Role, str]]:
    return [(key.role, key.key_id) for key in load_keys(root)]


def test_by_default_nobody_is_trusted(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("oats.public", Role.OATS),
        ("oats-school.public", Role.OATS),
        ("lease.public", Role.LEASE),
        ("lease-a.b.public", Role.LEASE),
        ("oats-school.private", None),
        ("oats-school.public~", None),
        ("oatsy.public", None),
        ("developer-x.public", None),
    ],
)
def test_deployed_keys(tmp_path: Path, name: str, role: Role | None) -> None:
    deploy(tmp_path, name, signer("one").public)
    expected = [] if role is None else [(role, signer("one").key_id)]
    assert found(tmp_path) == expected


@pytest.mark.parametrize("place", ["proc/device-tree/mfg-data", "ofw/mfg-data"])
def test_keys_of_the_manufacturing_data(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    for tag, name in (("t0", "one"), ("t9", "two"), ("a3", "three"), ("d0", "four")):
        (tmp_path / place / tag).write_bytes(signer(name).public)
    assert sorted(found(tmp_path)) == sorted(
        [
            (Role.OATS, signer("one").key_id),
            (Role.OATS, signer("two").key_id),
            (Role.LEASE, signer("three").key_id),
        ]
    )


def test_deployed_keys_add_to_those(tmp_path: Path) -> None:
    (tmp_path / "ofw/mfg-data").mkdir(parents=True)
    (tmp_path / "ofw/mfg-data/t0").write_bytes(signer("one").public)
    deploy(tmp_path, "oats-x.public", signer("two").public)
    assert len(found(tmp_path)) == 2


def test_a_bad_key_is_named_and_the_others_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ofw/mfg-data").mkdir(parents=True)
    (tmp_path / "ofw/mfg-data/t1").write_bytes(b"short")
    (tmp_path / "ofw/mfg-data/a1").mkdir()
    deploy(tmp_path, "oats-bad.public", b"not a key")
    deploy(tmp_path, "oats-huge.public", b"x" * 20_000)
    deploy(tmp_path, "oats-good.public", signer("one").public)
    assert found(tmp_path) == [(Role.OATS, signer("one").key_id)]
    for name in ("t1", "a1", "oats-bad.public", "oats-huge.public"):
        assert name in caplog.text
    assert "oats-good" not in caplog.text


def test_adding_and_removing(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(signer("one").public)
    path = add_key(tmp_path, file, role=Role.LEASE, name="north")
    assert path.name == "lease-north.public"
    assert found(tmp_path) == [(Role.LEASE, signer("one").key_id)]
    assert remove_keys(tmp_path, signer("two").key_id) == []
    assert remove_keys(tmp_path, signer("one").key_id[:16]) == [path]
    assert found(tmp_path) == []


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="nothing-here"):
        add_key(tmp_path, tmp_path / "nothing-here", role=Role.OATS, name="x")


def test_keys_that_are_not_deployed_stay(tmp_path: Path) -> None:
    (tmp_path / "ofw/mfg-data").mkdir(parents=True)
    (tmp_path / "ofw/mfg-data/t0").write_bytes(signer("one").public)
    assert remove_keys(tmp_path, signer("one").key_id) == []
    assert len(found(tmp_path)) == 1
