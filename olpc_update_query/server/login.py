"""Who may change things on the pages: whoever knows the site's password.

``keys/admin.password`` holds a salted hash, as werkzeug writes it; without that file
nobody can log in and the pages only show. What the browser keeps is a token, signed
with a key that is derived from the hash: a new password ends every login. The token
holds a secret that each form must repeat, which no other web page knows.
"""

import hashlib
import hmac
import secrets
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.security import check_password_hash, generate_password_hash

from olpc_update_query.server.watch import Watched
from olpc_update_query.system.files import replace_file

FILE: Final = "admin.password"
SHORTEST: Final = 8
LONGEST: Final = 1000
LASTS: Final = 12 * 3600
"""Seconds until somebody has to log in again."""

TRIES: Final = 5
TRIES_OF_ALL: Final = 50
PERIOD: Final = 300
"""So many wrong passwords in so many seconds, from one address and from all."""


class TooManyTriesError(Exception):
    """There were too many wrong passwords lately."""


class Login(NamedTuple):
    """Somebody who is logged in.

    Attributes:
        secret: What each form must repeat.
    """

    secret: str


def set_password(keys: Path, password: str) -> None:
    """Set the password of a site; call it inside ``site.change``."""
    line = generate_password_hash(password) + "\n"
    replace_file(keys / FILE, line.encode(), mode=0o600)


class Tries:
    """How often somebody guessed wrong lately, by address and of all."""

    def __init__(self) -> None:
        self._wrong: deque[tuple[int, str]] = deque(maxlen=TRIES_OF_ALL)

    def may_try(self, address: str, now: int) -> bool:
        """Tell whether an address may try once more."""
        while self._wrong and self._wrong[0][0] <= now - PERIOD:
            self._wrong.popleft()
        own = sum(where == address for _, where in self._wrong)
        return own < TRIES and len(self._wrong) < TRIES_OF_ALL

    def note(self, address: str, now: int) -> None:
        """Note a wrong password."""
        self._wrong.append((now, address))


class Door:
    """The login of a site.

    Args:
        keys: The directory of the site's keys.
        now: The present.
    """

    def __init__(self, keys: Path, now: Callable[[], int]) -> None:
        self._stored = Watched(keys / FILE, _parse)
        self._now, self._tries = now, Tries()
        # each proof takes 32 MiB, and a wrong one is counted only when it is over
        self._one_at_a_time = threading.Lock()

    @property
    def has_password(self) -> bool:
        """Whether anybody can log in."""
        return bool(self._stored.get())

    def open(self, password: str, address: str) -> str | None:
        """Return a token for whoever knows the password; None for all others.

        Raises:
            TooManyTriesError: This address, or everybody, has guessed too often.
        """
        with self._one_at_a_time:
            return self._open(password, address)

    def _open(self, password: str, address: str) -> str | None:
        if not self._tries.may_try(address, self._now()):
            raise TooManyTriesError
        stored = self._stored.get()
        known = len(password) <= LONGEST and check_password_hash(stored, password)
        if not stored or not known:
            self._tries.note(address, self._now())
            return None
        return str(self._serializer().dumps(secrets.token_urlsafe(16)))

    def look(self, token: str | None) -> Login | None:
        """Return who is logged in, if the token is a good one."""
        if not token or not self.has_password:
            return None
        try:
            secret = self._serializer().loads(token, max_age=LASTS)
        except BadData:
            return None
        return Login(secret) if isinstance(secret, str) else None

    def _serializer(self) -> URLSafeTimedSerializer:
        key = hashlib.sha256(b"login:" + self._stored.get().encode()).digest()
        return URLSafeTimedSerializer(key, salt="olpc-update-admin")


def repeats(login: Login, secret: str) -> bool:
    """Tell whether a form comes from a page that we showed to this login."""
    return hmac.compare_digest(login.secret.encode(), secret.encode())


def _parse(data: bytes | None) -> str:
    return "" if data is None else data.decode("ascii", "replace").strip()
