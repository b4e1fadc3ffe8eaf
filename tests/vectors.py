"""What other programs signed: ``tests/data``, made by bios-crypto and OpenFirmware."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from olpc_update_query.trust.keys import KeyRing, PublicKey, Role

DATA = Path(__file__).parent / "data"


@cache
def bios_crypto() -> dict[str, Any]:
    """Return leases and answers made with the bios-crypto tools."""
    return dict(json.loads((DATA / "bios-crypto.json").read_bytes()))


@cache
def openfirmware() -> dict[str, Any]:
    """Return the example answer in OpenFirmware's ``oatstime.fth``."""
    return dict(json.loads((DATA / "openfirmware-answer.json").read_bytes()))


def vector_key(name: str) -> bytes:
    """Return a public key of the bios-crypto vectors."""
    return bytes.fromhex(bios_crypto()["keys"][name]["public_pkcs1_der_hex"])


def vector_ring() -> KeyRing:
    """Return the keys that the bios-crypto vectors trust."""
    return KeyRing(
        [
            PublicKey(Role.LEASE, vector_key("master"), "vectors"),
            PublicKey(Role.OATS, vector_key("oats"), "vectors"),
        ]
    )
