"""Envelopes: ``[type,version,content]``, and the signed pair of data and credential.

The octets that are signed are those of the data as they came, from its ``[`` to its
matching ``]``; so they are sliced out of the whole, never written anew.
"""

from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import MAX_ANSWER

ANSWER: Final = ("oatc-signed-resp", "oatc-resp")
ORDER: Final = ("olpc-update-signed-order", "olpc-update-order")
STATEMENT: Final = ("olpc-update-signed-keys", "olpc-update-keys")
"""Types of an envelope and of the data in it."""


class Opened(NamedTuple):
    """An envelope of which nothing is proved yet.

    Attributes:
        octets: What is signed, as it came.
        data: The same, decoded, without its type and version.
        lines: The credential.
    """

    octets: bytes
    data: Json
    lines: tuple[str, ...]


def open_envelope(raw: bytes, types: tuple[str, str], *, bare: bool = False) -> Opened:
    """Take an envelope apart.

    Args:
        raw: At most 64 KiB; one newline is tolerated after the final bracket.
        types: What it and its data must be.
        bare: Whether data alone, without an envelope and a credential, will do.

    Returns:
        Its parts.

    Raises:
        Malformed: It is not strictly canonical, or not of this type, version 1.
    """
    what = types[1]
    if len(raw) > MAX_ANSWER:
        raise Malformed(what, f"it is larger than {MAX_ANSWER} bytes")
    text = raw.removesuffix(b"\n")
    if bare and text.startswith(b'["%s",' % what.encode()):
        return Opened(text, _content(canonical.decode(text), what), ())
    parts = _content(canonical.decode(text), types[0])
    if not isinstance(parts, list) or len(parts) != 2:
        raise Malformed(what, "it is not data and a signature")
    # Equal versions and types have one spelling, so the data begins right here.
    start = len(b'["%s",1,[' % types[0].encode())
    _, end = canonical.decode_at(text, start)
    lines = _content(parts[1], "sig")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise Malformed("sig", "it is not a list of lines")
    return Opened(text[start:end], _content(parts[0], what), tuple(map(str, lines)))


def _content(envelope: Json, kind: str) -> Json:
    if isinstance(envelope, list) and len(envelope) == 3:
        found, version, content = envelope
        if found == kind and version == 1 and version is not True:
            return content
    raise Malformed(kind, "it is not an envelope of this type, version 1")
