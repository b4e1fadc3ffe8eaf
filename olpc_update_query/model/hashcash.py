"""Hashcash: work that a server may ask for before it answers a query.

::

    401 Hashcash required.  WWW-Authenticate: OLPC-hashcash bits="16", nonce="..."
    the same query again    Authorization: OLPC-hashcash hc="1:16:261125:...::...:9f"

A stamp is ``1:BITS:DATE:NONCE::SALT:COUNTER``, and its SHA-1 begins with that many zero
bits. SHA-1 is what hashcash is; nothing is proved by it but work.
"""

import hashlib
import re
from collections.abc import Callable
from itertools import count
from typing import Final, NamedTuple

MAX_BITS: Final = 20
"""A million tries: about a second on a new laptop, half a minute on the oldest."""

STATUS: Final = 401

_BETWEEN_LOOKS: Final = 2048
_CHALLENGE: Final = re.compile(
    r'OLPC-hashcash\s+bits="([0-9]{1,3})",\s*nonce="([!#-9;-~]{1,128})"'
)
_CREDENTIALS: Final = re.compile(r'OLPC-hashcash hc="([!#-~]{1,256})"')


class Challenge(NamedTuple):
    """What a server asks for.

    Attributes:
        bits: How many zero bits.
        nonce: Printable ASCII without quotes and colons.
    """

    bits: int
    nonce: str

    def header(self) -> str:
        """Return the value of ``WWW-Authenticate``."""
        return f'OLPC-hashcash bits="{self.bits}", nonce="{self.nonce}"'


def parse_challenge(header: str) -> Challenge | None:
    """Read the value of ``WWW-Authenticate``, None when it asks for something else."""
    found = _CHALLENGE.fullmatch(header.strip())
    return None if found is None else Challenge(int(found[1]), found[2])


def credentials(stamp: str) -> str:
    """Return the value of ``Authorization``."""
    return f'OLPC-hashcash hc="{stamp}"'


def parse_credentials(header: str) -> str | None:
    """Read the value of ``Authorization``, None when it is no stamp."""
    found = _CREDENTIALS.fullmatch(header.strip())
    return None if found is None else found[1]


def zero_bits(stamp: str) -> int:
    """Return with how many zero bits the digest of a stamp begins."""
    digest = hashlib.sha1(stamp.encode(), usedforsecurity=False).digest()
    return 160 - int.from_bytes(digest, "big").bit_length()


def mint(
    challenge: Challenge, *, date: str, salt: str, may_go_on: Callable[[], bool]
) -> str | None:
    """Do the work.

    Args:
        challenge: What is asked for.
        date: ``YYMMDDhhmmss``; nobody compares it.
        salt: Digits that make the stamp ours.
        may_go_on: Asked every few thousand tries.

    Returns:
        The stamp; None when it may not go on.
    """
    start = f"1:{challenge.bits}:{date}:{challenge.nonce}::{salt}:"
    begun = hashlib.sha1(start.encode(), usedforsecurity=False)
    limit = 1 << (160 - challenge.bits)
    for number in count():
        if number % _BETWEEN_LOOKS == 0 and not may_go_on():
            return None
        tried, counter = begun.copy(), b"%x" % number
        tried.update(counter)
        if int.from_bytes(tried.digest(), "big") < limit:
            return start + counter.decode()
    raise RuntimeError("there is no end to numbers")
