"""Keys: what counts as one, which are trusted, and how they are found."""

from collections.abc import Callable, Mapping

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from olpc_update_query.errors import UntrustedKey
from olpc_update_query.trust.builtin import BUILT_IN
from olpc_update_query.trust.keys import (
    KeyRing,
    PublicKey,
    Role,
    load_public,
    merge_tags,
    modulus,
)
from tests.keys import public, ring, signer
from tests.vectors import openfirmware, vector_key

DER = vector_key("oats")
OTHER = vector_key("master")
KEY_ID = "61100103c51e666f4eead6c5b5ae6bf091b47b03a95611dfa064130203010001"


def loaded() -> rsa.RSAPublicKey:
    key = form.load_der_public_key(DER)
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def exported(encoding: form.Encoding, layout: form.PublicFormat) -> bytes:
    return loaded().public_bytes(encoding, layout)


def other_key(
    make: Callable[[], rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey],
) -> bytes:
    return (
        make()
        .public_key()
        .public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(DER, id="PKCS1 DER"),
        pytest.param(
            exported(form.Encoding.PEM, form.PublicFormat.PKCS1), id="PKCS1 PEM"
        ),
        pytest.param(
            exported(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo),
            id="SubjectPublicKeyInfo PEM",
        ),
        pytest.param(
            exported(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo),
            id="SubjectPublicKeyInfo DER",
        ),
        pytest.param(
            exported(form.Encoding.PEM, form.PublicFormat.PKCS1) + b"\n\n",
            id="PEM and empty lines",
        ),
    ],
)
def test_key_files(data: bytes) -> None:
    assert load_public(data) == DER


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "neither DER nor PEM", id="nothing"),
        pytest.param(b"hello", "neither DER nor PEM", id="text"),
        pytest.param(DER[:-1], "neither DER nor PEM", id="one byte short"),
        pytest.param(DER + b"\n", "neither DER nor|follows it", id="one byte more"),
        pytest.param(
            exported(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo) + b"x",
            "neither DER nor|follows it",
            id="one byte after SubjectPublicKeyInfo",
        ),
        pytest.param(DER[:9] + bytes(256) + DER[265:], "not RSA-2048", id="modulus 0"),
        pytest.param(DER[:9] + b"\x7f" + DER[10:], "not RSA-2048", id="2047 bits"),
        pytest.param(DER[:264] + b"\x12" + DER[265:], "not RSA-2048", id="even"),
        pytest.param(DER[:-3] + b"\x00\x00\x03", "not RSA-2048", id="exponent 3"),
        pytest.param(b"\x30" * 270, "neither DER nor PEM", id="right length"),
        pytest.param(
            b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n",
            "neither DER nor PEM",
            id="PEM of nonsense",
        ),
        pytest.param(
            b"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n", "a private key", id="private"
        ),
    ],
)
def test_bad_key_files(data: bytes, reason: str) -> None:
    with pytest.raises(UntrustedKey, match=reason):
        load_public(data)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(
            lambda: rsa.generate_private_key(65537, 1024), "140 bytes", id="RSA-1024"
        ),
        pytest.param(
            lambda: rsa.generate_private_key(3, 2048), "268 bytes", id="RSA-2048, 3"
        ),
        pytest.param(
            lambda: ec.generate_private_key(ec.SECP256R1()), "not an RSA key", id="EC"
        ),
    ],
)
def test_other_kinds_of_keys_are_refused(
    make: Callable[[], rsa.RSAPrivateKey], reason: str
) -> None:
    with pytest.raises(UntrustedKey, match=reason):
        load_public(other_key(make))


def test_a_key_is_checked_when_it_is_made() -> None:
    with pytest.raises(UntrustedKey, match="269 bytes"):
        PublicKey(Role.OATS, DER[1:], "test")


def test_names_and_modulus() -> None:
    assert PublicKey(Role.OATS, DER, "test").key_id == KEY_ID
    assert modulus(DER) == loaded().public_numbers().n


def test_openfirmwares_example_key_is_not_built_in() -> None:
    assert modulus(bytes.fromhex(openfirmware()["public_pkcs1_der_hex"]))
    assert BUILT_IN == ()


# --- the ring ---------------------------------------------------------------------


def test_a_key_is_found_by_name_and_whole() -> None:
    key = PublicKey(Role.OATS, DER, "test")
    keys = KeyRing([key, PublicKey(Role.OATS, OTHER, "other")])
    assert keys.find(Role.OATS, KEY_ID) == (key,)
    assert keys.find(Role.OATS, DER.hex()) == (key,)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty suffix"),
        pytest.param("0203010001", id="suffix of every key"),
        pytest.param(KEY_ID[2:], id="31 bytes"),
        pytest.param(DER[-33:].hex(), id="33 bytes"),
        pytest.param(DER[1:].hex(), id="269 bytes"),
        pytest.param(KEY_ID.upper(), id="upper case"),
        pytest.param(OTHER.hex(), id="another key"),
    ],
)
def test_no_other_suffix_is_a_name(name: str) -> None:
    assert KeyRing([PublicKey(Role.OATS, DER, "test")]).find(Role.OATS, name) == ()


def test_a_key_counts_for_its_role_only() -> None:
    keys = KeyRing([PublicKey(Role.OATS, DER, "test")])
    assert keys.find(Role.LEASE, KEY_ID) == ()


def test_keys_of_one_name_are_all_found() -> None:
    twin = bytearray(DER)
    twin[20] ^= 1
    keys = [PublicKey(Role.OATS, der, "test") for der in (DER, bytes(twin))]
    assert KeyRing(keys).find(Role.OATS, KEY_ID) == tuple(keys)


def test_a_key_given_twice_counts_once() -> None:
    first = PublicKey(Role.OATS, DER, "first")
    keys = KeyRing([first, PublicKey(Role.OATS, DER, "second")])
    assert list(keys) == [first]
    assert len(keys) == 1


def test_a_ring_keeps_the_order_of_its_keys() -> None:
    names = ("oats", "lease", "other")
    keys = [public(name, role) for name in names for role in Role]
    assert list(KeyRing(keys)) == keys


def test_an_empty_ring() -> None:
    assert list(KeyRing()) == []
    assert len(ring(oats=(), lease=())) == 0


# --- manufacturing data -------------------------------------------------------------

BUILT = [PublicKey(Role.OATS, DER, "built in"), PublicKey(Role.LEASE, DER, "built in")]


@pytest.mark.parametrize(
    ("tags", "origins", "warnings"),
    [
        pytest.param({}, ["oats built in", "lease built in"], 0, id="no tags"),
        pytest.param(
            {"t1": OTHER, "t9": OTHER},
            [
                "oats built in",
                "oats manufacturing data t1",
                "oats manufacturing data t9",
                "lease built in",
            ],
            0,
            id="digits 1 to 9 add",
        ),
        pytest.param(
            {"t0": OTHER, "a2": OTHER},
            [
                "oats manufacturing data t0",
                "lease built in",
                "lease manufacturing data a2",
            ],
            0,
            id="digit 0 replaces, for its role",
        ),
        pytest.param(
            {"a0": OTHER},
            ["oats built in", "lease manufacturing data a0"],
            0,
            id="a are leases",
        ),
        pytest.param(
            {"t0": OTHER[:-1], "a1": OTHER + b"\n"},
            ["oats built in", "lease built in"],
            2,
            id="of another length: skipped",
        ),
        pytest.param(
            {"t0": bytes(270)}, ["oats built in", "lease built in"], 1, id="zeros"
        ),
        pytest.param(
            {"o0": OTHER, "w1": OTHER, "SN": b"SHC12900018", "t": OTHER, "t10": OTHER},
            ["oats built in", "lease built in"],
            0,
            id="other tags are not looked at",
        ),
    ],
)
def test_manufacturing_data(
    tags: Mapping[str, bytes], origins: list[str], warnings: int
) -> None:
    merged = merge_tags(iter(BUILT), tags)
    assert [f"{key.role} {key.origin}" for key in merged.keys] == origins
    assert len(merged.warnings) == warnings
    assert all(line.startswith("manufacturing data ") for line in merged.warnings)


def test_a_replaced_key_is_no_longer_trusted() -> None:
    merged = merge_tags(BUILT, {"t0": signer("oats").public})
    keys = KeyRing(merged.keys)
    assert keys.find(Role.OATS, KEY_ID) == ()
    assert keys.find(Role.LEASE, KEY_ID) != ()
    assert keys.find(Role.OATS, signer("oats").key_id) != ()
