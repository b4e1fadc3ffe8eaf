"""What bios-crypto signed, and what OpenFirmware prints: ours must agree."""

from typing import Any

import pytest

from olpc_update_query.errors import UntrustedAnswer, UntrustedLease
from olpc_update_query.model import canonical
from olpc_update_query.model.wire import parse_time
from olpc_update_query.trust.answer import open_answer
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role
from olpc_update_query.trust.lease import find_lease, lease_text, parse_line
from olpc_update_query.trust.signature import parse_signature
from tests.keys import line_holds
from tests.vectors import bios_crypto, openfirmware, vector_key, vector_ring

VECTORS = bios_crypto()
SERIAL, UUID = VECTORS["serial"], VECTORS["uuid"]
NOW = parse_time(VECTORS["now"])

LEASES = [pytest.param(lease, id=lease["name"]) for lease in VECTORS["leases"]]
ANSWERS = [pytest.param(answer, id=answer["name"]) for answer in VECTORS["answers"]]


def test_there_are_vectors_of_every_kind() -> None:
    assert [lease["expect"] for lease in VECTORS["leases"]].count("valid") == 5
    assert {lease["expect"] for lease in VECTORS["leases"]} == {
        "valid",
        "expired",
        "invalid",
    }
    assert len(VECTORS["answers"]) == 4


@pytest.mark.parametrize("vector", LEASES)
def test_leases(vector: dict[str, str]) -> None:
    facts: dict[str, Any] = {"serial": SERIAL, "uuid": UUID, "ring": vector_ring()}
    if vector["expect"] == "valid":
        lease = find_lease(vector["text"], now=NOW, **facts)
        assert lease.line == vector["text"]
        assert lease.expiry == parse_time("20991231T000000Z")
        assert lease.signers == (vector_key("master")[-32:].hex(),)
        return
    with pytest.raises(UntrustedLease, match=r"expired|is wrong"):
        find_lease(vector["text"], now=NOW, **facts)
    if vector["expect"] == "expired":
        assert find_lease(vector["text"], now=parse_time("20111231T000000Z"), **facts)


@pytest.mark.parametrize("vector", LEASES)
def test_the_independent_verifier_agrees_on_leases(vector: dict[str, str]) -> None:
    fields = parse_line(vector["text"])
    holds = line_holds(
        fields.signature + "\n",
        lease_text(SERIAL, UUID, fields.disposition, fields.expiry),
        trusted=[vector_key("master")],
        serial=SERIAL,
        now=VECTORS["now"],
    )
    assert holds == (vector["expect"] != "invalid")


def envelope(vector: dict[str, str]) -> bytes:
    """Put signed bytes and signature together as an OATS server does."""
    signature = canonical.encode(vector["signature"])
    return (
        b'["oatc-signed-resp",1,['
        + vector["signed_bytes"].encode()
        + b',["sig",1,['
        + signature
        + b"]]]]\n"
    )


@pytest.mark.parametrize("vector", ANSWERS)
def test_answers(vector: dict[str, str]) -> None:
    trusted = open_answer(
        envelope(vector),
        nonce="abc123",
        ring=vector_ring(),
        serial=SERIAL,
        now=NOW,
        floor=0,
    )
    assert vector["expect"] == "valid"
    assert trusted.answer.time == NOW
    assert trusted.signers == (vector_key("oats")[-32:].hex(),)
    assert line_holds(
        vector["signature"],
        vector["signed_bytes"].encode(),
        trusted=[vector_key("oats")],
        serial=SERIAL,
        now=VECTORS["now"],
    )


@pytest.mark.parametrize("vector", ANSWERS)
def test_answers_of_a_key_for_leases_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(UntrustedAnswer, match="no trusted key"):
        open_answer(
            envelope(vector),
            nonce="abc123",
            ring=KeyRing([PublicKey(Role.LEASE, vector_key("oats"), "vectors")]),
            serial=SERIAL,
            now=NOW,
            floor=0,
        )


def test_openfirmwares_answer_parses_but_does_not_verify() -> None:
    raw = openfirmware()["response_as_printed"].encode()
    der = bytes.fromhex(openfirmware()["public_pkcs1_der_hex"])
    facts: dict[str, Any] = {"nonce": "12345678\n", "serial": SERIAL, "now": 0}
    facts |= {"floor": 0, "ring": KeyRing([PublicKey(Role.OATS, der, "example")])}
    with pytest.raises(UntrustedAnswer, match=f"by {der[-32:].hex()} is wrong"):
        open_answer(raw, **facts)
    unsigned = open_answer(raw, check_signature=False, **facts)
    assert unsigned.answer.nonce == "12345678\n"
    assert unsigned.answer.time == parse_time("20120619T144129Z")


def test_openfirmwares_signature_is_a_salted_block_of_eight_bytes() -> None:
    envelope_ = canonical.decode(openfirmware()["response_as_printed"].encode())
    assert isinstance(envelope_, list)
    line = parse_signature(str(envelope_[2][1][2][0]).strip())  # type: ignore[index]
    assert line is not None
    der = bytes.fromhex(openfirmware()["public_pkcs1_der_hex"])
    number = int.from_bytes(line.groups[0].signature, "big")
    block = pow(number, 65537, int.from_bytes(der[9:265], "big")).to_bytes(256, "big")
    assert block[223:255].hex() == openfirmware()["pss_H_hex"]
    assert block[255] == 0xBC
