r"""Canonical JSON, the one form in which a value may be signed.

The rules are those of the OLPC firmware: no white space between tokens, object keys
unique and sorted, integers only, and in strings nothing is escaped but ``"`` and
``\``. Every other character, a newline as well, stands in a string as itself. So one
value has exactly one spelling, and ``json`` neither writes nor accepts it.
"""

import re
from typing import Final, TypeAlias

from olpc_update_query.errors import Malformed

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"

_MIN: Final = -(2**63)
_MAX: Final = 2**63 - 1
_DEEPEST: Final = 100
_STRING: Final = re.compile(rb'"([^"\\]*+(?:\\["\\][^"\\]*+)*+)"')
_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}+")
_ESCAPED: Final = re.compile(r"\\(.)")
_LITERALS: Final[tuple[tuple[bytes, bool | None], ...]] = (
    (b"true", True),
    (b"false", False),
    (b"null", None),
)


def encode(value: Json) -> bytes:
    """Write a value.

    Object keys are sorted by code point, which is the order of their UTF-8 bytes.

    Args:
        value: What to write.

    Returns:
        Its only canonical spelling, UTF-8.

    Raises:
        ValueError: It holds a float, an integer beyond 64 bits, a lone surrogate, or
            an object of another type.
    """
    return _write(value).encode()


def decode(data: bytes, *, max_depth: int = 16) -> Json:
    """Read a value that fills ``data`` to the last byte.

    Succeeds only when ``encode`` of the result gives ``data`` again.

    Args:
        data: The octets. The caller bounds their number.
        max_depth: How deep lists and objects may be nested, at most 100.

    Returns:
        The value.

    Raises:
        Malformed: The octets are not canonical, or nested too deeply.
    """
    value, end = decode_at(data, 0, max_depth=max_depth)
    if end != len(data):
        raise _broken(end, "nothing may follow the value")
    return value


def decode_at(data: bytes, start: int, *, max_depth: int = 16) -> tuple[Json, int]:
    """Read the value that begins at an offset, to slice the octets it was read from.

    Args:
        data: The octets.
        start: Offset of the value's first byte.
        max_depth: How deep lists and objects may be nested, at most 100.

    Returns:
        The value, and the offset of the first byte after it.

    Raises:
        Malformed: No canonical value begins there.
        ValueError: ``max_depth`` is above 100.
    """
    if max_depth > _DEEPEST:
        raise ValueError(f"max_depth is at most {_DEEPEST}")
    return _value(data, start, max_depth)


def _broken(at: int, reason: str) -> Malformed:
    return Malformed("canonical JSON", f"{reason}, at offset {at}")


def _value(data: bytes, at: int, depth: int) -> tuple[Json, int]:
    lead = data[at : at + 1]
    if lead == b'"':
        return _string(data, at)
    if lead == b"{":
        return _object(data, at, depth)
    if lead == b"[":
        return _list(data, at, depth)
    return _scalar(data, at)


def _scalar(data: bytes, at: int) -> tuple[Json, int]:
    if found := _INTEGER.match(data, at):
        number = int(found[0])
        if not _MIN <= number <= _MAX:
            raise _broken(at, "an integer has at most 64 bits")
        return number, found.end()
    for name, literal in _LITERALS:
        if data.startswith(name, at):
            return literal, at + len(name)
    raise _broken(at, "a value is missing")


def _string(data: bytes, at: int) -> tuple[str, int]:
    found = _STRING.match(data, at)
    if found is None:
        raise _broken(at, "a string is missing, not closed or wrongly escaped")
    try:
        text = found[1].decode()
    except UnicodeDecodeError as error:
        raise _broken(at + 1 + error.start, "a string is not UTF-8") from error
    if "\\" in text:
        text = _ESCAPED.sub(r"\1", text)
    return text, found.end()


def _list(data: bytes, at: int, depth: int) -> tuple[Json, int]:
    items: list[Json] = []
    at, more = _enter(data, at, depth, b"]")
    while more:
        item, at = _value(data, at, depth - 1)
        items.append(item)
        at, more = _go_on(data, at, b"]")
    return items, at


def _object(data: bytes, at: int, depth: int) -> tuple[Json, int]:
    members: dict[str, Json] = {}
    last: str | None = None
    at, more = _enter(data, at, depth, b"}")
    while more:
        begin = at
        key, at = _string(data, at)
        if last is not None and key <= last:
            raise _broken(begin, "a key is repeated or out of order")
        if data[at : at + 1] != b":":
            raise _broken(at, "a colon is missing")
        members[key], at = _value(data, at + 1, depth - 1)
        last = key
        at, more = _go_on(data, at, b"}")
    return members, at


def _enter(data: bytes, at: int, depth: int, close: bytes) -> tuple[int, bool]:
    if depth <= 0:
        raise _broken(at, "nested too deeply")
    if data[at + 1 : at + 2] == close:
        return at + 2, False
    return at + 1, True


def _go_on(data: bytes, at: int, close: bytes) -> tuple[int, bool]:
    mark = data[at : at + 1]
    if mark not in {b",", close}:
        raise _broken(at, "a comma or a closing bracket is missing")
    return at + 1, mark == b","


def _write(value: Json) -> str:
    if isinstance(value, str):  # most values are, so they are asked about first
        return _quote(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _digits(value)
    if isinstance(value, list):
        return f"[{','.join(map(_write, value))}]"
    if isinstance(value, dict):
        members = [f"{_quote(key)}:{_write(value[key])}" for key in sorted(value)]
        return f"{{{','.join(members)}}}"
    return _word(value)


def _word(value: bool | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    raise ValueError(f"{type(value).__name__} has no canonical form")


def _digits(value: int) -> str:
    if not _MIN <= value <= _MAX:
        raise ValueError("an integer has at most 64 bits")
    return int.__repr__(value)


def _quote(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
