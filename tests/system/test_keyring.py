from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.keyring import (
    add_key,
    follow_file,
    load_keys,
    remove_keys,
)
from olpc_update_query.system.work import prepare, work_area
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.rotation import join_statements
from tests.keys import signer
from tests.rotations import statement


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
    with pytest.raises(errors.ConfigError, match=r"no key in keys\.d"):
        remove_keys(tmp_path, signer("two").key_id)
    assert remove_keys(tmp_path, signer("one").key_id[:16]) == [path]
    assert found(tmp_path) == []


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="nothing-here"):
        add_key(tmp_path, tmp_path / "nothing-here", role=Role.OATS, name="x")


def test_keys_that_are_not_deployed_stay(tmp_path: Path) -> None:
    (tmp_path / "ofw/mfg-data").mkdir(parents=True)
    (tmp_path / "ofw/mfg-data/t0").write_bytes(signer("one").public)
    with pytest.raises(errors.ConfigError, match="from manufacturing data t0"):
        remove_keys(tmp_path, signer("one").key_id)
    assert len(found(tmp_path)) == 1


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_the_file_s_name_tells_role_and_name(tmp_path: Path) -> None:
    north = write(tmp_path / "lease-north.public", signer("one").public)
    assert add_key(tmp_path, north).name == "lease-north.public"
    plain = write(tmp_path / "oats.public", signer("two").public)
    assert add_key(tmp_path, plain).name == "oats-site.public"
    with pytest.raises(errors.ConfigError, match="its name says oats, --role lease"):
        add_key(tmp_path, plain, role=Role.LEASE)
    other = write(tmp_path / "developer.public", signer("two").public)
    with pytest.raises(errors.ConfigError, match="give --role"):
        add_key(tmp_path, other)


def test_a_key_is_not_written_over_another(tmp_path: Path) -> None:
    add_key(tmp_path, write(tmp_path / "oats.public", signer("one").public))
    again = write(tmp_path / "oats.public", signer("two").public)
    with pytest.raises(errors.ConfigError, match="holds another key"):
        add_key(tmp_path, again)
    add_key(tmp_path, again, name="two")
    assert len(found(tmp_path)) == 2
    add_key(tmp_path, again, name="two")  # the same again is no harm


def test_private_keys_are_refused_in_every_form(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key, public = signer("one")._key, form.PublicFormat
    kinds = (form.PrivateFormat.TraditionalOpenSSL, form.PrivateFormat.PKCS8)
    secret = form.BestAvailableEncryption(b"pass")
    forms = [
        key.private_bytes(encoding, kind, form.NoEncryption())
        for encoding in (form.Encoding.DER, form.Encoding.PEM)
        for kind in kinds
    ]
    forms.append(key.private_bytes(form.Encoding.DER, kinds[1], secret))
    forms.append(key.private_bytes(form.Encoding.PEM, kinds[1], secret))
    for data in forms:
        with pytest.raises(errors.UntrustedKey, match="it is a private key"):
            add_key(tmp_path, write(tmp_path / "oats.public", data))
    assert found(tmp_path) == []
    good = key.public_key().public_bytes(form.Encoding.PEM, public.SubjectPublicKeyInfo)
    add_key(tmp_path, write(tmp_path / "oats.public", good))


def test_statements_from_a_file(tmp_path: Path) -> None:
    deploy(tmp_path, "oats.public", signer("one").public)
    chain = [
        statement(1, "one", add="two", retire="one"),
        statement(2, "two", add="three"),
    ]
    done = follow_file(tmp_path, join_statements(chain))
    assert [one.number for one in done.statements] == [1, 2]
    assert {name for _, name in found(tmp_path)} == {
        signer("two").key_id,
        signer("three").key_id,
    }
    assert not follow_file(tmp_path, chain[0]).statements, "a replay"
    with pytest.raises(errors.UntrustedKey, match="statement 1 has retired it"):
        add_key(tmp_path, write(tmp_path / "oats.public", signer("one").public))
    with pytest.raises(errors.Malformed):
        follow_file(tmp_path, b"act01: x")


def test_statements_wait_for_a_run_that_is_at_work(tmp_path: Path) -> None:
    deploy(tmp_path, "oats.public", signer("one").public)
    work = work_area(tmp_path)
    prepare(work)
    with hold_lock(work.lock, "a test"), pytest.raises(errors.Busy, match="a test"):
        follow_file(tmp_path, statement(1, "one", add="two"))


def test_manufacturing_data_can_be_retired(tmp_path: Path) -> None:
    (tmp_path / "ofw/mfg-data").mkdir(parents=True)
    (tmp_path / "ofw/mfg-data/t0").write_bytes(signer("one").public)
    follow_file(tmp_path, statement(1, "one", add="two", retire="one"))
    ring = load_keys(tmp_path)
    assert [key.origin for key in ring] == ["statement 1"]
    assert [key.origin for key in ring.retired] == ["manufacturing data t0"]
