"""The laptop for which the corpus was made, and when."""

from struct import Struct
from typing import Final

from olpc_update_query.model.wire import parse_time
from tests.keys import SERIAL, UUID

__all__ = ["NONCE", "NOW", "SERIAL", "UUID"]

NOW: Final = parse_time("20261122T210000Z")
NONCE: Final = "184467440737095516161234567890123456789"

FRAME: Final = Struct("!IH")
"""Before a packed segment: the size to expect, and the length of the base that follows.

Of the size only the lower 24 bits count: a longer content takes longer, and is no
other case."""

MAX_SIZE: Final = 1 << 24
