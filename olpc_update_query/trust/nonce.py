"""The nonce of a query whose answer another process will take in.

The asker that sends the query is not trusted by the installer that obeys the answer.
So the installer draws a *seed*, and the asker, for each query, a *salt*; the nonce
follows from both. Who holds an old answer would have to find a salt that leads from
today's seed to the old nonce, which is as hard as guessing 128 bits.
"""

import hashlib
from typing import Final

SEED: Final = 32
"""Bytes of a seed: drawn at boot, and anew whenever an answer was verified."""
SALT: Final = 16
"""Bytes of a salt: drawn for each query."""
_PURPOSE: Final = b"olpc-update-query nonce\0"
_NONCE: Final = 16


def derive_nonce(seed: bytes, salt: bytes) -> str:
    """Return the nonce that belongs to a seed and a salt: 128 bits in decimal.

    Raises:
        ValueError: One of them does not have its length.
    """
    if len(seed) != SEED or len(salt) != SALT:
        raise ValueError("a seed or a salt of the wrong length")
    digest = hashlib.sha256(_PURPOSE + seed + salt).digest()
    return str(int.from_bytes(digest[:_NONCE], "big"))
