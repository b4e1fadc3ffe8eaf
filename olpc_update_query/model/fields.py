"""The fields of headers and index lines, for every kind of pack."""

import json

from olpc_update_query.errors import Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.entry import DIGEST_LENGTH, MAX_INT
from olpc_update_query.model.wire import shown

MAX_HEADER = 64 << 10


def parse_header_fields(line: bytes, name: str, version: int) -> Json:
    """Return the third item of a header line ``[name, version, fields]``.

    Raises:
        Malformed: It is not such a line, or longer than `MAX_HEADER`.
    """
    if len(line) > MAX_HEADER:
        raise Malformed(name, f"its header is longer than {MAX_HEADER} bytes")
    value = canonical.decode(line.removesuffix(b"\n"))
    if not isinstance(value, list) or len(value) != 3 or value[0] != name:
        raise Malformed(name, "the first line is not its header")
    if type(value[1]) is not int or value[1] != version:
        raise Malformed(name, f"version {shown(str(value[1]))} is not known")
    return value[2]


def parse_line(line: bytes) -> Json:
    """Parse a line quickly and leniently; the caller compares it with its twin.

    Raises:
        Malformed: It is not JSON at all.
    """
    try:
        value: Json = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed("index entry", "it is not JSON") from None
    return value


def read_count(value: Json) -> int:
    """Return a number of bytes or things.

    Raises:
        Malformed: It is anything else.
    """
    if type(value) is not int or not 0 <= value <= MAX_INT:
        raise Malformed("index entry", "a number of bytes is not one")
    return value


def read_digest(value: Json) -> bytes:
    """Return the raw bytes of a digest in hex.

    Raises:
        Malformed: It is anything else.
    """
    try:
        raw = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != DIGEST_LENGTH:
        raise Malformed("index entry", "a digest is not one")
    return raw
