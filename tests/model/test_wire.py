"""Names, digests, times and URLs: strict, and returned as they came."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed
from olpc_update_query.model.wire import (
    format_expiry,
    format_time,
    parse_build_id,
    parse_expiry,
    parse_serial,
    parse_sha256,
    parse_time,
    parse_url,
    parse_uuid,
)

LAST = 253402300799


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        pytest.param(parse_build_id, "762", id="build number"),
        pytest.param(parse_build_id, "os14.1_xo-4+local", id="build with marks"),
        pytest.param(parse_build_id, "x" * 64, id="longest build"),
        pytest.param(parse_serial, "SHC12900018", id="serial number"),
        pytest.param(parse_uuid, "1273E0EC-AEF1-9FF6-45B2-fb706dc24b8d", id="UUID"),
        pytest.param(parse_sha256, "0123456789abcdef" * 4, id="sha256"),
        pytest.param(parse_url, "http://schoolserver/b/762/", id="http"),
        pytest.param(parse_url, "https://[2001:db8::1]:8443/b", id="https, IPv6"),
        pytest.param(parse_url, "http://host", id="only a host"),
        pytest.param(parse_url, "rsync://host:8730/build-762", id="rsync"),
        pytest.param(parse_url, "file:///media/usb/builds/762", id="file"),
        pytest.param(parse_url, "http://host/a@b:c", id="@ in the path"),
        pytest.param(parse_url, "http://h/" + "x" * 2039, id="longest URL"),
    ],
)
def test_a_good_name_is_returned_as_it_is(
    parse: Callable[[str], str], text: str
) -> None:
    assert parse(text) == text


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        pytest.param(parse_build_id, "", id="build: empty"),
        pytest.param(parse_build_id, "x" * 65, id="build: too long"),
        pytest.param(parse_build_id, ".", id="build: dot"),
        pytest.param(parse_build_id, "..", id="build: dot dot"),
        pytest.param(parse_build_id, ".hidden", id="build: begins with a dot"),
        pytest.param(parse_build_id, "-rf", id="build: an option"),
        pytest.param(parse_build_id, "a/b", id="build: slash"),
        pytest.param(parse_build_id, "762\n", id="build: newline"),
        pytest.param(parse_build_id, "76\u0662", id="build: Arabic digit"),
        pytest.param(parse_serial, "SHC 129", id="serial number: space"),
        pytest.param(parse_serial, "SHC:129", id="serial number: colon"),
        pytest.param(parse_serial, 'SHC"', id="serial number: quote"),
        pytest.param(parse_uuid, "1273E0EC-AEF1-9FF6-45B2", id="UUID: short"),
        pytest.param(parse_uuid, "1273E0EC-AEF1-9FF6-45B2-FB706DC24B8G", id="UUID: G"),
        pytest.param(parse_sha256, "AB" * 32, id="sha256: upper case"),
        pytest.param(parse_sha256, "ab" * 31, id="sha256: short"),
        pytest.param(parse_sha256, "ab" * 32 + "\n", id="sha256: newline"),
        pytest.param(parse_url, "ftp://host/", id="URL: ftp"),
        pytest.param(parse_url, "HTTP://host/", id="URL: upper-case scheme"),
        pytest.param(parse_url, "javascript:alert(1)", id="URL: javascript"),
        pytest.param(parse_url, "/etc/passwd", id="URL: a path"),
        pytest.param(parse_url, "http:///path", id="URL: no host"),
        pytest.param(parse_url, "http://:80/", id="URL: only a port"),
        pytest.param(parse_url, "http://user@host/", id="URL: user"),
        pytest.param(parse_url, "http://user:pw@host/", id="URL: password"),
        pytest.param(parse_url, "file://host/path", id="URL: file on a host"),
        pytest.param(parse_url, "file://:80/path", id="URL: file at a port"),
        pytest.param(parse_url, "http://host/?q", id="URL: query"),
        pytest.param(parse_url, "http://host/?", id="URL: empty query"),
        pytest.param(parse_url, "http://host/#f", id="URL: fragment"),
        pytest.param(parse_url, "http://host:port/", id="URL: port is a word"),
        pytest.param(parse_url, "http://host:99999/", id="URL: port too great"),
        pytest.param(parse_url, "http://[::1/", id="URL: open bracket"),
        pytest.param(parse_url, "http://host\\@evil/", id="URL: backslash"),
        pytest.param(parse_url, "http://host/a b", id="URL: space"),
        pytest.param(parse_url, "http://host/a\nb", id="URL: newline"),
        pytest.param(parse_url, "http://host/\x00", id="URL: NUL"),
        pytest.param(parse_url, "http://host/é", id="URL: not ASCII"),
        pytest.param(parse_url, "http://h/" + "x" * 2040, id="URL: too long"),
    ],
)
def test_a_bad_name_is_refused(parse: Callable[[str], str], text: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(text)
    shown = str(caught.value)
    assert shown.isprintable()
    assert len(shown) < 200


def test_a_password_is_not_repeated_in_the_message() -> None:
    with pytest.raises(Malformed) as caught:
        parse_url("http://user:hunter2@host/")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("19700101T000000Z", 0, id="epoch"),
        pytest.param("20261122T210000Z", 1795381200, id="the vectors' now"),
        pytest.param("20240229T235959Z", 1709251199, id="leap day"),
        pytest.param("19691231T235959Z", -1, id="before the epoch"),
        pytest.param("00010101T000000Z", -62135596800, id="first"),
        pytest.param("99991231T235959Z", LAST, id="last"),
    ],
)
def test_times(text: str, seconds: int) -> None:
    assert parse_time(text) == seconds
    assert format_time(seconds) == text


@given(st.integers(-62135596800, LAST))
def test_every_time_comes_back(seconds: int) -> None:
    assert parse_time(format_time(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("20260229T000000Z", id="no leap year"),
        pytest.param("20261301T000000Z", id="month 13"),
        pytest.param("20261122T240000Z", id="hour 24"),
        pytest.param("20161231T235960Z", id="leap second"),
        pytest.param("00000000T000000Z", id="never is no time"),
        pytest.param("20261122T210000", id="no Z"),
        pytest.param("20261122t210000z", id="lower case"),
        pytest.param("2026-11-22T21:00:00Z", id="other ISO 8601"),
        pytest.param("20261122T210000Z\n", id="newline"),
        pytest.param("2026112\u0662T210000Z", id="Arabic digit"),
    ],
)
def test_no_such_time(text: str) -> None:
    with pytest.raises(Malformed, match="YYYYMMDDTHHMMSSZ"):
        parse_time(text)


@pytest.mark.parametrize("seconds", [LAST + 1, 10**20, -62135596801])
def test_a_time_that_cannot_be_written(seconds: int) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        format_time(seconds)


def test_expiries() -> None:
    assert parse_expiry("00000000T000000Z") is None
    assert parse_expiry("19700101T000000Z") == 0
    assert format_expiry(None) == "00000000T000000Z"
    assert format_expiry(0) == "19700101T000000Z"
