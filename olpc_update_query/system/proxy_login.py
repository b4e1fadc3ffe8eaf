"""User name and password for a proxy that HTTP requests are forwarded through.

No password is sent before the proxy has asked for one and said how: Digest with
SHA-256 or MD5 (RFC 7616), else Basic (RFC 7617). A tunnel for HTTPS (``CONNECT``) is
not made here: requests makes it, and offers Basic at once.
"""

import base64
import hashlib
import os
import threading
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import parse_http_list, parse_keqv_list

_DIGESTS = {"SHA-256": "sha256", "MD5": "md5"}  # best first


class Challenge(NamedTuple):
    """What a proxy wants.

    Attributes:
        scheme: ``digest`` or ``basic``.
        fields: Its parameters.
    """

    scheme: str
    fields: dict[str, str]


class ProxyLogin:
    """What one proxy was told, and is told with the next request, from any thread.

    Args:
        address: The proxy, ``http://user:password@host:port``.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password or "")
        self._challenge: Challenge | None = None
        self._count = 0
        self._lock = threading.Lock()

    def learn(self, offered: Sequence[str], proof: str | None) -> bool:
        """Take in why a request was refused.

        Args:
            offered: Each ``Proxy-Authenticate`` header.
            proof: The ``Proxy-Authorization`` that the request had.

        Returns:
            Whether another request, with another header, may succeed.
        """
        found = best_challenge(offered)
        if found is None or not self._user:
            return False
        with self._lock:
            self._challenge, self._count = found, 0
        return proof is None or found.fields.get("stale", "").lower() == "true"

    def header(self, method: str, target: str) -> str | None:
        """Return ``Proxy-Authorization`` for a request; None before one was asked for.

        Args:
            method: Such as ``POST``.
            target: What the request line names, for a proxy the whole address.
        """
        with self._lock:
            self._count += 1
            challenge, count = self._challenge, f"{self._count:08x}"
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            pair = f"{self._user}:{self._password}".encode()
            return "Basic " + base64.b64encode(pair).decode()
        cnonce = os.urandom(8).hex()
        return self._digest(challenge.fields, (method, target), cnonce, count)

    def _digest(
        self, fields: dict[str, str], asked: tuple[str, str], cnonce: str, count: str
    ) -> str:
        """Return the header of RFC 7616, 3.4; without ``qop`` that of RFC 2069."""
        algorithm = fields.get("algorithm", "MD5").upper()

        def digest(*parts: str) -> str:
            text = ":".join(parts).encode()
            name = _DIGESTS[algorithm]
            return hashlib.new(name, text, usedforsecurity=False).hexdigest()

        realm, nonce = fields["realm"], fields["nonce"]
        secret = digest(self._user, realm, self._password)
        request = digest(*asked)
        quoted = {
            "username": self._user,
            "realm": realm,
            "nonce": nonce,
            "uri": asked[1],
        }
        plain = {"algorithm": algorithm}
        if "qop" in fields:
            quoted["cnonce"] = cnonce
            plain |= {"qop": "auth", "nc": count}
            response = digest(secret, nonce, count, cnonce, "auth", request)
        else:
            response = digest(secret, nonce, request)
        quoted["response"] = response
        if "opaque" in fields:
            quoted["opaque"] = fields["opaque"]
        words = [f'{name}="{_escaped(text)}"' for name, text in quoted.items()]
        words += [f"{name}={text}" for name, text in plain.items()]
        return "Digest " + ", ".join(words)


def best_challenge(offered: Sequence[str]) -> Challenge | None:
    """Return the strongest challenge that can be met, None if there is none."""
    known = [found for found in map(_parse, offered) if found is not None]
    return min(known, key=_rank, default=None)


def _parse(header: str) -> Challenge | None:
    scheme, _, rest = header.strip().partition(" ")
    try:
        found = parse_keqv_list(parse_http_list(rest))
    except (ValueError, IndexError):
        return None
    fields = {name.lower(): value for name, value in found.items()}
    if scheme.lower() == "basic":
        return Challenge("basic", fields)
    usable = (
        scheme.lower() == "digest"
        and fields.keys() >= {"realm", "nonce"}
        and fields.get("algorithm", "MD5").upper() in _DIGESTS
        and "auth" in fields.get("qop", "auth").replace(" ", "").split(",")
        and all(text.isprintable() and text.isascii() for text in fields.values())
    )
    return Challenge("digest", fields) if usable else None


def _rank(challenge: Challenge) -> int:
    if challenge.scheme == "basic":
        return len(_DIGESTS)
    algorithm = challenge.fields.get("algorithm", "MD5").upper()
    return list(_DIGESTS).index(algorithm)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
