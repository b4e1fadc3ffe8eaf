"""Entries: one line for an entry, one entry for a line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed, UnsafePath
from olpc_update_query.model.entry import MAX_ID, MAX_INT
from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    decode_name,
    encode_entry,
    encode_name,
    parse_entry,
    parse_path,
)
from tests.model.entries import DIGEST, HEX, PLAIN, entries, path

NAMES = [
    pytest.param(b"", "", id="nothing"),
    pytest.param(b"bin/busybox", "bin/busybox", id="plain"),
    pytest.param(b"two words", "two words", id="space"),
    pytest.param(b'"\\', '"\\', id="what JSON quotes"),
    pytest.param(b"100%", "100%25", id="percent"),
    pytest.param(b"%41", "%2541", id="looks escaped"),
    pytest.param(b"a\nb\x00\x1f\x7f", "a%0Ab%00%1F%7F", id="control"),
    pytest.param("caf\u00e9".encode(), "caf\u00e9", id="two bytes"),
    pytest.param("\U0001f9d2".encode(), "\U0001f9d2", id="four bytes"),
    pytest.param("\u0085\u2028\ufffe".encode(), "\u0085\u2028\ufffe", id="odd"),
    pytest.param(b"caf\xe9", "caf%E9", id="latin-1"),
    pytest.param(b"\xe2\x82", "%E2%82", id="cut short"),
    pytest.param(b"\xc0\xaf", "%C0%AF", id="overlong slash"),
    pytest.param(b"\xed\xa0\x80", "%ED%A0%80", id="surrogate"),
    pytest.param(b"\xf4\x90\x80\x80", "%F4%90%80%80", id="beyond Unicode"),
]


@pytest.mark.parametrize(("raw", "text"), NAMES)
def test_names(raw: bytes, text: str) -> None:
    assert encode_name(raw) == text
    assert decode_name(text) == raw


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("%", id="cut"),
        pytest.param("100%", id="bare percent"),
        pytest.param("%4", id="one digit"),
        pytest.param("%e9", id="lower case"),
        pytest.param("%GG", id="no digits"),
        pytest.param("%41", id="needs no escape"),
        pytest.param("%C3%A9", id="valid UTF-8 escaped"),
        pytest.param("a\nb", id="control not escaped"),
        pytest.param("\x7f", id="delete not escaped"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param("\udce9", id="byte as surrogate"),
    ],
)
def test_refused_names(text: str) -> None:
    with pytest.raises(Malformed):
        decode_name(text)


@given(st.binary(max_size=40))
def test_every_name_has_one_text(raw: bytes) -> None:
    text = encode_name(raw)
    assert decode_name(text) == raw
    assert not set(text) & set(map(chr, (*range(32), 127)))


@given(st.text(alphabet="%0123456789ABCDEFabcdef\u00e9\n/x", max_size=12))
def test_every_text_has_one_name_or_none(text: str) -> None:
    try:
        raw = decode_name(text)
    except Malformed:
        return
    assert encode_name(raw) == text


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="the tree"),
        pytest.param(b"a/b/c", id="deep"),
        pytest.param(b"...", id="three dots"),
        pytest.param(b"..a/.b", id="hidden"),
        pytest.param(b"\xff\n%", id="odd bytes"),
        pytest.param(b"n" * 255, id="longest name"),
        pytest.param(b"/".join([b"n" * 255] * 15 + [b"n" * 255]), id="longest"),
    ],
)
def test_safe_paths(raw: bytes) -> None:
    assert parse_path(raw) == raw


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"/", id="slash"),
        pytest.param(b"/etc/passwd", id="absolute"),
        pytest.param(b"a/", id="ends in a slash"),
        pytest.param(b"a//b", id="empty component"),
        pytest.param(b".", id="dot"),
        pytest.param(b"..", id="dots"),
        pytest.param(b"a/../b", id="up"),
        pytest.param(b"a/..", id="up at the end"),
        pytest.param(b"./a", id="here"),
        pytest.param(b"a\0b", id="NUL"),
        pytest.param(b"n" * 256, id="long name"),
        pytest.param(b"a/" * 2048 + b"b", id="long path"),
    ],
)
def test_unsafe_paths(raw: bytes) -> None:
    with pytest.raises(UnsafePath):
        parse_path(raw)


@given(st.binary(max_size=30), st.sampled_from([b"..", b".", b""]))
def test_no_path_leads_out(start: bytes, part: bytes) -> None:
    with pytest.raises(UnsafePath):
        parse_path(start + b"/" + part + b"/x")


ENTRIES = [
    pytest.param(
        Entry(path(""), Kind.DIRECTORY, 0o755, 0, 0, 1_600_000_000_000_000_000),
        b'["","d",493,0,0,1600000000000000000]\n',
        id="the tree",
    ),
    pytest.param(
        Entry(path("bin/sh"), Kind.FILE, 0o755, 0, 0, 1600000000123456789, 4, DIGEST),
        PLAIN,
        id="file",
    ),
    pytest.param(
        Entry(path('"a\\\n'), Kind.FILE, 0o4755, 1000, 4294967294, -1, 0, DIGEST),
        b'["\\"a\\\\%%0A","f",2541,1000,4294967294,-1,0,"%s"]\n' % HEX.encode(),
        id="odd file",
    ),
    pytest.param(
        Entry(
            *(path("b"), Kind.FILE, 0o644, 0, 0, 0, 3, DIGEST),
            leader=path("a\xff".encode("latin-1")),
            xattrs=((b"user.%", b""), (b"user.a", b"\x00\xff")),
        ),
        b'["b","f",420,0,0,0,3,"%s",{"leader":"a%%FF",'
        b'"xattrs":{"user.%%25":"","user.a":"AP8="}}]\n' % HEX.encode(),
        id="hard link with attributes",
    ),
    pytest.param(
        Entry(path("l"), Kind.SYMLINK, 0o777, 0, 0, 1, target=b"../x/\xe9"),
        b'["l","l",511,0,0,1,"../x/%E9"]\n',
        id="link",
    ),
    pytest.param(
        Entry(path("null"), Kind.CHAR, 0o666, 0, 0, 1, device=(1, 3)),
        b'["null","c",438,0,0,1,1,3]\n',
        id="character device",
    ),
    pytest.param(
        Entry(path("sda"), Kind.BLOCK, 0o660, 0, 6, 1, device=(259, 70000)),
        b'["sda","b",432,0,6,1,259,70000]\n',
        id="block device",
    ),
    pytest.param(
        Entry(path("p"), Kind.FIFO, 0o622, 0, 0, 1), b'["p","p",402,0,0,1]\n', id="pipe"
    ),
]


@pytest.mark.parametrize(("entry", "line"), ENTRIES)
def test_lines(entry: Entry, line: bytes) -> None:
    assert encode_entry(entry) == line
    assert parse_entry(line) == entry


def changed(**fields: object) -> bytes:
    """Return the line of a plain file with some of its fields changed."""
    names = ["path", "kind", "mode", "uid", "gid", "mtime_ns", "size", "digest"]
    values = dict(zip(names, json.loads(PLAIN), strict=True)) | fields
    return json.dumps(list(values.values()), separators=(",", ":")).encode() + b"\n"


REFUSED_LINES = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\n", id="empty line"),
    pytest.param(PLAIN[:-1], id="no newline"),
    pytest.param(PLAIN[:-1] + b" \n", id="space at the end"),
    pytest.param(PLAIN.replace(b",4", b", 4"), id="space inside"),
    pytest.param(PLAIN + PLAIN, id="two lines"),
    pytest.param(PLAIN.replace(b"493", b"0493"), id="leading zero"),
    pytest.param(PLAIN.replace(b"493", b"-0"), id="minus zero"),
    pytest.param(PLAIN.replace(b"493", b"4.93e2"), id="float"),
    pytest.param(PLAIN.replace(b"493", b"true"), id="bool"),
    pytest.param(PLAIN.replace(b"493", b"1.0"), id="float that prints the same"),
    pytest.param(PLAIN.replace(b"493", b"NaN"), id="not a number"),
    pytest.param(PLAIN.replace(b"493", b"-1"), id="negative mode"),
    pytest.param(PLAIN.replace(b"493", b"4096"), id="mode too large"),
    pytest.param(PLAIN.replace(b",0,0,", b",4294967295,0,"), id="no user"),
    pytest.param(PLAIN.replace(b",0,0,", b",0,4294967295,"), id="no group"),
    pytest.param(PLAIN.replace(b",4,", b",-4,"), id="negative size"),
    pytest.param(PLAIN.replace(b",4,", b",9223372036854775808,"), id="huge size"),
    pytest.param(changed(mtime_ns=-MAX_INT - 1), id="time before time"),
    pytest.param(changed(mtime_ns=MAX_INT + 1), id="time after time"),
    pytest.param(PLAIN.replace(b"16", b"9" * 5000), id="thousands of digits"),
    pytest.param(PLAIN.upper(), id="upper case"),
    pytest.param(changed(digest=HEX[:-2]), id="short digest"),
    pytest.param(changed(digest=HEX[:-1] + "g"), id="digest of no hex"),
    pytest.param(changed(digest=7), id="digest of no text"),
    pytest.param(changed(kind="s"), id="a socket"),
    pytest.param(changed(kind=7), id="kind of no text"),
    pytest.param(changed(kind="l"), id="a link with a digest"),
    pytest.param(changed(path=7), id="path of no text"),
    pytest.param(PLAIN.replace(b"bin", rb"\ud800"), id="lone surrogate"),
    pytest.param(PLAIN.replace(b"bin", rb"\u0062in"), id="escaped letter"),
    pytest.param(PLAIN.replace(b"bin/", rb"bin\/"), id="escaped slash"),
    pytest.param(PLAIN.replace(b"bin", b"b%69n"), id="needless percent"),
    pytest.param(PLAIN.replace(b"bin", b"b\tn"), id="raw tab"),
    pytest.param(PLAIN.replace(b"bin", b"b\xffn"), id="raw byte"),
    pytest.param(PLAIN.decode().encode("utf-16"), id="UTF-16"),
    pytest.param(changed(more=1), id="a field more"),
    pytest.param(changed(more={}), id="empty options"),
    pytest.param(changed(more={"x": 1}), id="unknown option"),
    pytest.param(changed(more={"leader": "bin/sh"}), id="linked to itself"),
    pytest.param(changed(more={"leader": "c"}), id="linked to a later one"),
    pytest.param(changed(more={"leader": ""}), id="linked to the tree"),
    pytest.param(changed(more={"xattrs": {}}), id="no attributes"),
    pytest.param(changed(more={"xattrs": []}), id="attributes in a list"),
    pytest.param(changed(more={"xattrs": {"a": 1}}), id="attribute of no text"),
    pytest.param(changed(more={"xattrs": {"a": "A"}}), id="no base64"),
    pytest.param(changed(more={"xattrs": {"a": "AB=="}}), id="base64 with loose bits"),
    pytest.param(changed(more={"xattrs": {"": "AA=="}}), id="attribute without name"),
    pytest.param(changed(more={"xattrs": {"a%00": "AA=="}}), id="attribute with NUL"),
    pytest.param(
        changed(more={"xattrs": {"b": "", "a": ""}}), id="unsorted attributes"
    ),
    pytest.param(b'["b","d",493,0,0,0,{"leader":"a"}]\n', id="linked directory"),
    pytest.param(b'["b","d",493,0,0,0,0]\n', id="directory with a size"),
    pytest.param(b'["b","c",438,0,0,0,1]\n', id="device with one number"),
    pytest.param(b'["b","c",438,0,0,0,1,-1]\n', id="device with a negative number"),
    pytest.param(b'["b","l",511,0,0,0,""]\n', id="link to nothing"),
    pytest.param(b'["b","l",511,0,0,0,"a%00"]\n', id="link with NUL"),
    pytest.param(b'["b","l",511,0,0,0,"%s"]\n' % (b"x" * 4096), id="long link"),
    pytest.param(b'["b","d",493,0,0]\n', id="a field less"),
    pytest.param(b'{"b":"d"}\n', id="an object"),
    pytest.param(b"7\n", id="a number"),
    pytest.param(b"[" * 100_000 + b"\n", id="endless nesting"),
]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("mode", 0o7777, id="mode"),
        pytest.param("mode", 0, id="no mode"),
        pytest.param("uid", MAX_ID, id="user"),
        pytest.param("gid", MAX_ID, id="group"),
        pytest.param("mtime_ns", MAX_INT, id="late"),
        pytest.param("mtime_ns", -MAX_INT, id="early"),
        pytest.param("size", MAX_INT, id="large"),
        pytest.param("size", 0, id="empty"),
    ],
)
def test_extreme_numbers(field: str, value: int) -> None:
    line = changed(**{field: value})
    assert getattr(parse_entry(line), field) == value
    assert encode_entry(parse_entry(line)) == line


@pytest.mark.parametrize("line", REFUSED_LINES)
def test_refused_lines(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse_entry(line)


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a/./b", "a//b"])
def test_lines_that_lead_out(name: str) -> None:
    with pytest.raises(UnsafePath):
        parse_entry(changed(path=name))
    with pytest.raises(UnsafePath):
        parse_entry(changed(path=name, mode=0))
    with pytest.raises(UnsafePath):
        parse_entry(changed(more={"leader": name}))


@given(entries())
def test_every_entry_survives_its_line(entry: Entry) -> None:
    line = encode_entry(entry)
    assert line.endswith(b"]\n")
    assert line.count(b"\n") == 1
    assert parse_entry(line) == entry


@given(entries(), st.data())
def test_a_changed_line_is_another_entry_or_none(
    entry: Entry, data: st.DataObject
) -> None:
    line = bytearray(encode_entry(entry))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    try:
        found = parse_entry(bytes(line))
    except (Malformed, UnsafePath):
        return
    assert found != entry
    assert encode_entry(found) == line
