"""What the server signs is checked by a verifier that shares no code with it."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from olpc_update_query.errors import ConfigError, UntrustedKey
from olpc_update_query.model.messages import Answer
from olpc_update_query.model.orders import Order, OrderFile
from olpc_update_query.model.wire import format_time, parse_build_id, parse_sha256
from olpc_update_query.server.signing import (
    Signer,
    bulk_leases,
    generate,
    load_private,
    make_answer,
    make_lease,
    make_order,
    store_private,
)
from olpc_update_query.trust.keys import load_public
from tests.keys import SERIAL, UUID, line_holds, signer

NOW = 1_795_381_200
MASTER, REGION, SCHOOL = signer("lease"), signer("region"), signer("school")
DATA = b"whatever is signed"
PKCS1 = form.PrivateFormat.TraditionalOpenSSL


def holds(line: str, data: bytes, *, serial: str = SERIAL, now: int = NOW) -> bool:
    return line_holds(
        line, data, trusted=[MASTER.public], serial=serial, now=format_time(now)
    )


def chain_to_school(expiry: int | None) -> str:
    chain = MASTER.delegate(REGION.public, serial=SERIAL, expiry=expiry)
    return REGION.delegate(SCHOOL.public, serial=SERIAL, expiry=expiry, chain=chain)


# --- lines ------------------------------------------------------------------------


def test_sig01() -> None:
    line = MASTER.sig01(DATA)
    assert re.fullmatch(r"sig01: sha256 [0-9a-f]{64} [0-9a-f]{512}\n", line)
    assert holds(line, DATA)
    assert not holds(line, DATA + b"\n")
    assert line != MASTER.sig01(DATA)  # salted


def test_sig02() -> None:
    line = MASTER.sig02(DATA, serial=SERIAL, expiry=NOW + 1)
    pattern = r"sig02: sha256 [0-9a-f]{64} 20261122T210001Z [0-9a-f]{512}\n"
    assert re.fullmatch(pattern, line)
    assert holds(line, DATA)
    assert not holds(line, DATA, serial="SHC12900019")
    assert not holds(line, DATA, now=NOW + 1)
    assert holds(MASTER.sig02(DATA, serial=SERIAL, expiry=None), DATA, now=2**37)


def test_a_chain_of_delegations() -> None:
    chain = chain_to_school(NOW + 1)
    line = SCHOOL.sig02(DATA, serial=SERIAL, expiry=NOW + 1, chain=chain)
    group = r" sha256 [0-9a-f]{%d} 20261122T210001Z [0-9a-f]{512}"
    assert re.fullmatch("sig02:" + group % 64 + group % 540 * 2 + "\n", line)
    assert holds(line, DATA)
    assert not holds(line, DATA, serial="SHC12900019")
    assert not holds(line, DATA, now=NOW + 1)
    assert not holds(line, b"other data")
    thief = signer("thief").sig02(DATA, serial=SERIAL, expiry=None, chain=chain)
    assert not holds(thief, DATA)


def test_only_keys_are_delegated_to() -> None:
    with pytest.raises(UntrustedKey):
        MASTER.delegate(b"x", serial=SERIAL, expiry=None)


def test_a_chain_ends_at_100_groups() -> None:
    group = MASTER.delegate(REGION.public, serial=SERIAL, expiry=None)
    chain = " ".join([group] * 99)
    assert REGION.sig02(DATA, serial=SERIAL, expiry=None, chain=chain)
    with pytest.raises(ValueError, match="at most 100"):
        REGION.sig02(DATA, serial=SERIAL, expiry=None, chain=f"{chain} {group}")


# --- what is made of them -------------------------------------------------------------


def test_an_answer() -> None:
    raw = make_answer(Answer("12\n3", NOW, message='"hi"'), MASTER.sig01)
    data = (
        b'["oatc-resp",1,{"message":"\\"hi\\"","nonce":"12\n3",'
        b'"time":"20261122T210000Z"}]'
    )
    head, tail = b'["oatc-signed-resp",1,[' + data + b',["sig",1,["', b'"]]]]'
    assert raw.startswith(head)
    assert raw.endswith(tail)
    assert holds(raw[len(head) : -len(tail)].decode(), data)


def test_an_order() -> None:
    order = Order(parse_build_id("762"), parse_sha256("ab" * 32), 9, ("file:///b",))
    raw = make_order(OrderFile(order, NOW), MASTER.sig01)
    data = (
        b'["olpc-update-order",1,{"order":{"build":"762","contents":"'
        + b"ab" * 32
        + b'","size":9,"urls":["file:///b"]},"time":"20261122T210000Z"}]'
    )
    head = b'["olpc-update-signed-order",1,[' + data + b',["sig",1,["'
    tail = b'"]]]]'
    assert raw.startswith(head)
    assert holds(raw[len(head) : -len(tail)].decode(), data)


def test_no_answer_is_larger_than_a_laptop_reads() -> None:
    assert make_answer(Answer("1", NOW, lease="x" * 64_000), MASTER.sig01)
    with pytest.raises(ValueError, match="at most 65536 bytes"):
        make_answer(Answer("1", NOW, lease="x" * 65_536), MASTER.sig01)


@pytest.mark.parametrize(
    ("expiry", "text"),
    [
        pytest.param(NOW + 1, "20261122T210001Z", id="until"),
        pytest.param(None, "00000000T000000Z", id="for ever"),
    ],
)
def test_leases(expiry: int | None, text: str) -> None:
    line = make_lease(SERIAL, UUID, expiry, MASTER.sig01)
    head = f"act01: {SERIAL} K {text} "
    assert line.startswith(head)
    assert holds(line.removeprefix(head), f"{SERIAL}:{UUID}:K:{text}".encode())
    line = make_lease(
        SERIAL,
        UUID,
        expiry,
        lambda data: MASTER.sig02(data, serial=SERIAL, expiry=expiry),
        disposition="A",
    )
    head = f"act01: {SERIAL} A {text} "
    assert holds(line.removeprefix(head), f"{SERIAL}:{UUID}:A:{text}".encode())


def test_no_lease_is_longer_than_the_firmware_reads() -> None:
    def sign(delegations: int) -> str:
        chain = MASTER.delegate(REGION.public, serial=SERIAL, expiry=None)
        for _ in range(delegations - 1):
            chain = REGION.delegate(
                REGION.public, serial=SERIAL, expiry=None, chain=chain
            )
        return make_lease(
            SERIAL,
            UUID,
            None,
            lambda data: REGION.sig02(data, serial=SERIAL, expiry=None, chain=chain),
        )

    assert 7000 < len(sign(6)) <= 8192
    with pytest.raises(ValueError, match="at most 8192"):
        sign(7)


def test_bulk_files() -> None:
    assert bulk_leases({}) == b"[1,{}]"
    leases = {"SHC2": "act01: b\n", "SHC1": "act01: a\n"}
    assert bulk_leases(leases) == b'[1,{"SHC1":"act01: a\n","SHC2":"act01: b\n"}]'


# --- keys ---------------------------------------------------------------------------


def test_new_keys_differ_and_are_usable() -> None:
    one = generate()
    assert one.public != MASTER.public
    assert load_public(one.public) == one.public
    assert one.key_id == one.public[-32:].hex()


def test_a_key_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "oats.private"
    store_private(path, MASTER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == MASTER.private_bytes()
    assert load_private(path).public == MASTER.public


@pytest.mark.needs("openssl")
def test_openssl_reads_the_key_file(tmp_path: Path) -> None:
    path = tmp_path / "oats.private"
    store_private(path, MASTER)
    command = ["openssl", "rsa", "-inform", "DER", "-in", str(path)]
    public = subprocess.run(
        [*command, "-RSAPublicKey_out", "-outform", "DER"],
        check=True,
        capture_output=True,
    ).stdout
    assert public == MASTER.public


def test_the_mode_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store_private(tmp_path / "key", MASTER)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda path: path.write_bytes(b"old"), id="by a file"),
        pytest.param(
            lambda path: path.symlink_to("elsewhere"), id="by a dangling link"
        ),
        pytest.param(lambda path: path.mkdir(), id="by a directory"),
    ],
)
def test_no_key_is_overwritten(tmp_path: Path, occupy: object) -> None:
    path = tmp_path / "key"
    assert callable(occupy)
    occupy(path)
    with pytest.raises(ConfigError, match="it exists"):
        store_private(path, MASTER)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]
    assert not path.is_file() or path.read_bytes() == b"old"


def test_a_key_that_cannot_be_stored(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store_private(tmp_path / "missing" / "key", MASTER)


def test_a_part_of_a_key_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        store_private(tmp_path / "key", MASTER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(MASTER.private_bytes(), id="PKCS1 DER"),
        pytest.param(
            MASTER._key.private_bytes(form.Encoding.PEM, PKCS1, form.NoEncryption()),
            id="PKCS1 PEM",
        ),
        pytest.param(
            MASTER._key.private_bytes(
                form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
            ),
            id="PKCS8 PEM",
        ),
    ],
)
def test_forms_of_a_private_key(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(data)
    assert load_private(path).public == MASTER.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_private_key_of_everybody_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    store_private(path, MASTER)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_private(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "it is empty", id="nothing"),
        pytest.param(MASTER.public, "no private key", id="public key"),
        pytest.param(MASTER.private_bytes()[:-9], "cannot be parsed", id="cut short"),
        pytest.param(b"-----BEGIN X-----", "no private key", id="odd PEM"),
        pytest.param(
            MASTER._key.private_bytes(
                form.Encoding.PEM,
                form.PrivateFormat.PKCS8,
                form.BestAvailableEncryption(b"x"),
            ),
            "it has a pass phrase",
            id="with a pass phrase",
        ),
        pytest.param(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
            ),
            "not an RSA key",
            id="EC",
        ),
        pytest.param(
            rsa.generate_private_key(65537, 1024).private_bytes(
                form.Encoding.DER, PKCS1, form.NoEncryption()
            ),
            "140 bytes",
            id="RSA-1024",
        ),
    ],
)
def test_bad_private_keys(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=reason) as caught:
        load_private(path)
    assert caught.value.where == str(path)


def test_a_missing_private_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_private(tmp_path / "key")


def test_a_signer_shows_nothing_private() -> None:
    assert "Signer object" in repr(Signer(MASTER._key))
