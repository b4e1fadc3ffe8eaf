"""One value, one spelling: the encoder and the decoder agree with the firmware."""

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed
from olpc_update_query.model.canonical import Json, decode, decode_at, encode

SPELLINGS = [
    pytest.param(None, b"null", id="null"),
    pytest.param(True, b"true", id="true"),
    pytest.param(False, b"false", id="false"),
    pytest.param(0, b"0", id="zero"),
    pytest.param(-1, b"-1", id="minus one"),
    pytest.param(2**63 - 1, b"9223372036854775807", id="greatest"),
    pytest.param(-(2**63), b"-9223372036854775808", id="least"),
    pytest.param("", b'""', id="empty string"),
    pytest.param("a\nb\x00\t\x7f", b'"a\nb\x00\t\x7f"', id="raw control characters"),
    pytest.param('"', b'"\\""', id="quote"),
    pytest.param("\\", b'"\\\\"', id="backslash"),
    pytest.param("\\n", b'"\\\\n"', id="backslash and n is not a newline"),
    pytest.param('\\"\\', b'"\\\\\\"\\\\"', id="escapes in a row"),
    pytest.param("é😀", '"é😀"'.encode(), id="UTF-8 as it is"),
    pytest.param([], b"[]", id="empty list"),
    pytest.param({}, b"{}", id="empty object"),
    pytest.param([1, [], "x", None], b'[1,[],"x",null]', id="list"),
    pytest.param({"b": 1, "a": {"": []}}, b'{"a":{"":[]},"b":1}', id="keys sorted"),
    pytest.param(
        {"\ue000": 1, "😀": 2, "z": 3, "é": 4},
        '{"z":3,"é":4,"\ue000":1,"😀":2}'.encode(),
        id="keys sorted by code point, not by UTF-16",
    ),
]


@pytest.mark.parametrize(("value", "spelling"), SPELLINGS)
def test_a_value_has_this_spelling(value: Json, spelling: bytes) -> None:
    assert encode(value) == spelling
    again = decode(spelling)
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "value is missing, at offset 0", id="nothing"),
        pytest.param(b" 1", "value is missing", id="space before"),
        pytest.param(b"1 ", "nothing may follow the value, at offset 1", id="space"),
        pytest.param(b"1\n", "nothing may follow", id="newline after"),
        pytest.param(b"[1, 2]", "value is missing, at offset 3", id="space in list"),
        pytest.param(b"[1 ,2]", "comma", id="space before comma"),
        pytest.param(b'{"a": 1}', "value is missing", id="space after colon"),
        pytest.param(b'{"a" :1}', "colon", id="space before colon"),
        pytest.param(b"[1][2]", "nothing may follow", id="two values"),
        pytest.param(b"\xef\xbb\xbf1", "value is missing", id="byte order mark"),
        pytest.param(b'{"b":1,"a":2}', "repeated or out of order", id="unsorted"),
        pytest.param(b'{"a":1,"a":2}', "repeated or out of order", id="repeated"),
        pytest.param(b"{1:2}", "string is missing", id="key is a number"),
        pytest.param(b'{"a"}', "colon", id="key without value"),
        pytest.param(b'{"a":1,}', "string is missing", id="comma before brace"),
        pytest.param(b'{"a":1', "closing bracket", id="open object"),
        pytest.param(b"{", "string is missing", id="only a brace"),
        pytest.param(b"[1,]", "value is missing", id="comma before bracket"),
        pytest.param(b"[,1]", "value is missing", id="comma first"),
        pytest.param(b"[1", "closing bracket", id="open list"),
        pytest.param(b"[1}", "closing bracket", id="wrong bracket"),
        pytest.param(b"[", "value is missing", id="only a bracket"),
        pytest.param(b"-0", "value is missing", id="minus zero"),
        pytest.param(b"-", "value is missing", id="minus"),
        pytest.param(b"+1", "value is missing", id="plus"),
        pytest.param(b"01", "nothing may follow", id="leading zero"),
        pytest.param(b"1.0", "nothing may follow", id="fraction"),
        pytest.param(b"1e400", "nothing may follow", id="exponent"),
        pytest.param("\u0661".encode(), "value is missing", id="Arabic digit"),
        pytest.param(b"9223372036854775808", "64 bits", id="too great"),
        pytest.param(b"-9223372036854775809", "64 bits", id="too small"),
        pytest.param(b"1" * 5000, "nothing may follow|64 bits", id="huge integer"),
        pytest.param(b"NaN", "value is missing", id="NaN"),
        pytest.param(b"Infinity", "value is missing", id="Infinity"),
        pytest.param(b"True", "value is missing", id="True"),
        pytest.param(b"nul", "value is missing", id="nul"),
        pytest.param(b"'a'", "value is missing", id="single quotes"),
        pytest.param(b'"a', "not closed", id="open string"),
        pytest.param(b'"a\\"', "not closed", id="escaped closing quote"),
        pytest.param(b'"\\n"', "wrongly escaped", id="escaped n"),
        pytest.param(b'"\\/"', "wrongly escaped", id="escaped slash"),
        pytest.param(b'"\\u0041"', "wrongly escaped", id="escaped code point"),
        pytest.param(b'"ab\xff"', "not UTF-8, at offset 3", id="not UTF-8"),
        pytest.param(b'"\xed\xa0\x80"', "not UTF-8", id="surrogate"),
        pytest.param(b'"\xc0\x80"', "not UTF-8", id="overlong"),
        pytest.param(b'{"\xff":1}', "not UTF-8", id="key not UTF-8"),
        pytest.param(b"[" * 16 + b"[]" + b"]" * 16, "too deeply", id="17 deep"),
        pytest.param(b"[" * 60000, "too deeply", id="very deep"),
        pytest.param(b'{"a":' * 60000, "too deeply", id="very deep objects"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        decode(data)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1.5, id="float"),
        pytest.param((1, 2), id="tuple"),
        pytest.param(b"x", id="bytes"),
        pytest.param({"a": {1, 2}}, id="set inside"),
        pytest.param(2**63, id="too great"),
        pytest.param(-(2**63) - 1, id="too small"),
        pytest.param("\ud800", id="lone surrogate"),
    ],
)
def test_what_has_no_form_is_a_bug(value: Json) -> None:
    with pytest.raises(ValueError, match=r"canonical form|64 bits|surrogates"):
        encode(value)


def test_sixteen_levels_are_read() -> None:
    data = b"[" * 16 + b"]" * 16
    assert encode(decode(data)) == data


def test_the_caller_bounds_the_depth() -> None:
    with pytest.raises(Malformed, match="too deeply"):
        decode(b"[[]]", max_depth=1)
    assert decode(b"[" * 100 + b"]" * 100, max_depth=100)
    with pytest.raises(ValueError, match="at most 100"):
        decode(b"[]", max_depth=101)


def test_decode_at_tells_where_a_value_ends() -> None:
    data = b'xx["a",[1]],tail'
    assert decode_at(data, 2) == (["a", [1]], 11)
    assert data[2:11] == encode(["a", [1]])


def test_decode_at_beyond_the_end() -> None:
    with pytest.raises(Malformed, match="at offset 99"):
        decode_at(b"1", 99)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"[" + b"1," * 32000 + b"1]", id="integers"),
        pytest.param(b'"' + b'\\"' * 32000 + b'"', id="escapes"),
        pytest.param(b'"' + b'\\"' * 32000, id="escapes, not closed"),
        pytest.param(b'"' + b"a" * 65000, id="string, not closed"),
        pytest.param(b"[" + b'"a",' * 16000 + b"x", id="bad at the end"),
        pytest.param(b"9" * 65000, id="digits"),
    ],
)
def test_hostile_input_takes_no_time(data: bytes) -> None:
    start = time.process_time()
    with contextlib.suppress(Malformed):
        decode(data)
    assert time.process_time() - start < 1  # quadratic would take a minute


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def plain(value: Json) -> str:
    """Write a value by the rules as they stand in the specification."""
    if isinstance(value, dict):
        order = sorted(value, key=lambda key: key.encode())
        return (
            "{" + ",".join(plain(key) + ":" + plain(value[key]) for key in order) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(plain, value)) + "]"
    if isinstance(value, str):
        return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    words: dict[Json, str] = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"{value}"


@given(VALUES)
def test_every_value_comes_back(value: Json) -> None:
    data = encode(value)
    assert data == plain(value).encode()
    assert decode(data, max_depth=50) == value


@given(VALUES, st.integers(min_value=0), st.integers(1, 255))
def test_what_is_accepted_is_canonical(value: Json, at: int, change: int) -> None:
    data = bytearray(encode(value))
    data[at % len(data)] ^= change
    _accepted_only_if_canonical(bytes(data))


@given(st.binary(max_size=40))
def test_bytes_are_canonical_or_malformed(data: bytes) -> None:
    _accepted_only_if_canonical(data)


@given(st.text(alphabet='[]{}":,\\0123-truefalsn é\n', max_size=30))
def test_near_misses_are_canonical_or_malformed(text: str) -> None:
    _accepted_only_if_canonical(text.encode())


def _accepted_only_if_canonical(data: bytes) -> None:
    try:
        value = decode(data, max_depth=50)
    except Malformed:
        return
    assert encode(value) == data
