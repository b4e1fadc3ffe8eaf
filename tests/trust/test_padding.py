"""RSASSA-PSS with these parameters, and nothing that merely looks like it."""

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from olpc_update_query.errors import UntrustedAnswer
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.signature import verify_credential
from tests.keys import pss_holds, ring, signer

DATA = b"some data"
OATS = signer("oats")


def verify(signature: bytes) -> None:
    line = f"sig01: sha256 {OATS.key_id} {signature.hex()}\n"
    verify_credential(DATA, [line], ring(), Role.OATS, serial=None, now=0)


def test_the_right_parameters() -> None:
    signature = OATS._key.sign(DATA, PSS(MGF1(SHA256()), 8), SHA256())
    assert pss_holds(OATS.public, DATA, signature)
    verify(signature)


@pytest.mark.parametrize("salt", [0, 20, 32, 222])
def test_no_other_salt_length(salt: int) -> None:
    signature = OATS._key.sign(DATA, PSS(MGF1(SHA256()), salt), SHA256())
    assert pss_holds(OATS.public, DATA, signature, salt=salt)
    with pytest.raises(UntrustedAnswer, match="is wrong"):
        verify(signature)


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(OATS._key.sign(DATA, PKCS1v15(), SHA256()), id="PKCS1 v1.5"),
        pytest.param(OATS._key.sign(DATA, PSS(MGF1(SHA1()), 8), SHA256()), id="MGF1"),
        pytest.param(OATS._key.sign(DATA, PSS(MGF1(SHA256()), 8), SHA1()), id="SHA-1"),
        pytest.param(bytes(256), id="zero"),
        pytest.param(bytes(255) + b"\x01", id="one"),
        pytest.param(b"\xff" * 256, id="above the modulus"),
    ],
)
def test_no_other_padding(signature: bytes) -> None:
    with pytest.raises(UntrustedAnswer, match="is wrong"):
        verify(signature)
