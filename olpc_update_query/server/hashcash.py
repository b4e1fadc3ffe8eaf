"""The gate before queries: whoever asks does some work first, if the site wants it.

A challenge is made for one query and five minutes, without remembering anything: its
nonce is a digest of both under a secret. To look at a stamp costs two digests, however
much work it was.
"""

import hashlib
import hmac
import threading
from collections import OrderedDict
from typing import Final

from olpc_update_query.model.hashcash import Challenge, parse_credentials, zero_bits
from olpc_update_query.server.delegations import SiteKey
from olpc_update_query.server.keys import LoadedKey

WINDOW: Final = 300
"""Seconds for which a challenge is made; it is taken for as long again."""

_SPENT: Final = 20_000
_FIELDS: Final = 7


class Gate:
    """Lets queries through that come with a stamp.

    The secret is derived from the site's key for answers, so that several copies of a
    server take each other's challenges.

    Args:
        key: That key.
    """

    def __init__(self, key: LoadedKey) -> None:
        self._key = key
        self._secret: tuple[SiteKey, bytes] | None = None
        self._spent: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def challenge(self, bits: int, body: bytes, now: int) -> Challenge:
        """Return the work to be done before a query is answered.

        Args:
            bits: How much.
            body: The query.
            now: The present.

        Raises:
            MissingKey, UnsafeKey, DamagedSite: There is no secret.
        """
        return Challenge(bits, self._nonce(body, now // WINDOW, now))

    def admits(self, bits: int, body: bytes, authorization: str, now: int) -> bool:
        """Tell whether the work was done, for this very query, and not used before.

        Args:
            bits: How much.
            body: The query.
            authorization: The header that came with it, empty if none.
            now: The present.

        Raises:
            MissingKey, UnsafeKey, DamagedSite: There is no secret.
        """
        stamp = parse_credentials(authorization)
        fields = (stamp or "").split(":")
        if stamp is None or len(fields) != _FIELDS or fields[0] != "1":
            return False
        windows = (now // WINDOW, now // WINDOW - 1)
        nonces = [self._nonce(body, window, now) for window in windows]
        ours = any(hmac.compare_digest(fields[3], nonce) for nonce in nonces)
        return ours and zero_bits(stamp) >= bits and self._spend(stamp)

    def _nonce(self, body: bytes, window: int, now: int) -> str:
        key = self._key.get(now)
        if self._secret is None or self._secret[0] is not key:
            secret = hashlib.sha256(b"hashcash\0" + key.signer.private_bytes())
            self._secret = key, secret.digest()
        text = b"%d:" % window + hashlib.sha256(body).digest()
        return hmac.new(self._secret[1], text, "sha256").hexdigest()[:32]

    def _spend(self, stamp: str) -> bool:
        with self._lock:
            if stamp in self._spent:
                return False
            self._spent[stamp] = None
            if len(self._spent) > _SPENT:
                self._spent.popitem(last=False)
            return True
