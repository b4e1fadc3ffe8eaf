"""Genuine answers at the wrong time, to somebody else, or without an end."""

import gzip
from collections.abc import Callable

import pytest

from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import MAX_ANSWER, MAX_INTERVAL
from tests.attacks.cases import EXPIRED, WRONG, Case, line, table
from tests.attacks.forge import OTHER_SERIAL, Forge, delegated
from tests.attacks.victim import Make, Victim
from tests.http_server import Reply
from tests.keys import signer
from tests.run.polled import NOW
from tests.simulator import DAY, HOUR

STALE = "its nonce is not that of our query"
NO_NONCE = "nonce"
OATS = signer("oats")


Change = str | int | list[Json] | Callable[[Forge], Json] | None


def nonced(name: str, change: Change, code: int = 21, says: str = STALE) -> Case:
    """Make a case of a genuine answer with another nonce."""

    def make(forge: Forge) -> bytes:
        said = change(forge) if callable(change) else change
        return forge.signed(forge.data(nonce=said))

    return name, make, code, says


REUSE: list[Case] = [
    ("the answer before this one", lambda forge: forge.overheard, 21, STALE),
    nonced("the nonce before this one", lambda forge: forge.earlier.nonce),
    nonced("a newline behind it", lambda forge: forge.query.nonce + "\n"),
    nonced("a space before it", lambda forge: " " + forge.query.nonce),
    nonced("a zero before it", lambda forge: "0" + forge.query.nonce),
    nonced("a digit more", lambda forge: forge.query.nonce + "0"),
    nonced("a digit less", lambda forge: forge.query.nonce[:-1]),
    nonced("backwards", lambda forge: forge.query.nonce[::-1]),
    nonced("in hexadecimal", lambda forge: f"{int(forge.query.nonce):x}"),
    nonced(
        "in digits of another script",
        lambda forge: "".join(chr(0xFF10 + int(digit)) for digit in forge.query.nonce),
    ),
    nonced("two nonces", lambda f: f"{f.earlier.nonce},{f.query.nonce}"),
    nonced("an empty one", ""),
    nonced("zero", "0"),
    nonced("a pattern", ".*"),
    nonced("a number", 12345, 25, NO_NONCE),
    nonced("a list", lambda forge: [forge.query.nonce], 25, NO_NONCE),
    nonced("true", True, 25, NO_NONCE),
    nonced("none", None, 25, NO_NONCE),
]


@table("nonce reuse", REUSE)
def test_nonce_reuse(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)


LAPTOPS: list[Case] = [
    nonced("the answer to another laptop", "84467440737095516161234567890123456789"),
    line(
        lambda data: OATS.sig02(data, serial=OTHER_SERIAL, expiry=None),
        21,
        WRONG,
        "bound to another laptop, with our nonce",
    ),
    line(
        lambda data: OATS.sig02(data, serial="", expiry=None),
        21,
        WRONG,
        "bound to no laptop",
    ),
    line(
        lambda data: OATS.sig02(data, serial="shc12900018", expiry=None),
        21,
        WRONG,
        "bound to our serial number in small letters",
    ),
    line(
        lambda data: OATS.sig02(b":" + data, serial="SHC12900018:", expiry=None),
        21,
        WRONG,
        "bound to our serial number and a colon",
    ),
    line(
        lambda data: delegated(data, signs_for=OTHER_SERIAL),
        21,
        WRONG,
        "a delegate's, for another laptop",
    ),
]


@table("replay between laptops", LAPTOPS)
def test_replay_between_laptops(
    victim: Victim, make: Make, code: int, says: str
) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)


def cached(forge: Forge) -> Reply:
    kept = {"Age": "86400", "X-Cache": "HIT", "Warning": '110 - "stale"'}
    return Reply(200, kept, forge.overheard)


TEN_YEARS = {"Retry-After": "315360000"}
FREEZES: list[Case] = [
    ("a cache's copy", cached, 21, STALE),
    ("not modified", lambda _: Reply(304, {}, b""), 11, "304 Not Modified"),
    ("no content", lambda _: Reply(204, {}, b""), 11, "204"),
    ("come back in ten years, 503", lambda _: Reply(503, TEN_YEARS, b""), 15, "503"),
    ("come back in ten years, 429", lambda _: Reply(429, TEN_YEARS, b""), 15, "429"),
    (
        "the server's own sorry page, for ever",
        lambda _: Reply(500, {"Content-Type": "text/html"}, b"<html>"),
        15,
        "500",
    ),
]


@table("freeze", FREEZES)
def test_freeze(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    assert victim.laptop.wait() <= 1.25 * DAY, "nobody silences it for longer"
    victim.obeys(Forge.genuine)


def test_freeze_by_a_clock_that_is_set_back(victim: Victim) -> None:
    """What has ended stays ended: the greatest signed time is remembered."""
    victim.laptop.clock.time = 0

    def ended(forge: Forge) -> bytes:
        return forge.with_line(lambda data: delegated(data, until=NOW - 1))

    victim.is_unmoved_by(ended, 21, EXPIRED)
    victim.obeys(lambda forge: forge.with_line(delegated))


def test_freeze_by_the_longest_interval(victim: Victim) -> None:
    """Even a genuine server cannot silence a laptop for more than a month."""
    victim.obeys(lambda forge: forge.signed(forge.data(interval=2**52)))
    assert 20 * DAY < victim.laptop.wait() <= 1.25 * MAX_INTERVAL


def test_freeze_of_the_next_interval(victim: Victim) -> None:
    """The control: what is within bounds counts."""
    victim.obeys(lambda forge: forge.signed(forge.data(interval=HOUR)))
    assert victim.laptop.wait() <= 1.25 * HOUR


def padded_to(length: int) -> Make:
    """Return a genuine answer of so many bytes."""

    def make(forge: Forge) -> bytes:
        missing = length - len(forge.signed(forge.data(message="")))
        found = forge.signed(forge.data(message="x" * missing))
        assert len(found) == length
        return found

    return make


TOO_LONG = "longer than 65537 bytes"
NOT_JSON = "canonical JSON refused: "
PACKED = {"Content-Encoding": "gzip"}
ENDLESS: list[Case] = [
    ("a byte more than 64 KiB, signed", padded_to(MAX_ANSWER + 1), 25, "larger than"),
    ("two bytes more than 64 KiB, signed", padded_to(MAX_ANSWER + 2), 11, TOO_LONG),
    ("spaces behind an answer", lambda f: f.genuine() + b" " * 10**6, 11, TOO_LONG),
    ("spaces before an answer", lambda f: b" " * 10**6 + f.genuine(), 11, TOO_LONG),
    ("newlines behind an answer", lambda f: f.genuine() + b"\n" * 9999, 25, NOT_JSON),
    (
        "a gzip bomb",
        lambda _: Reply(200, PACKED, gzip.compress(bytes(10**7))),
        11,
        TOO_LONG,
    ),
    (
        "an answer in a gzip bomb",
        lambda f: Reply(200, PACKED, gzip.compress(f.genuine() + b" " * 10**7)),
        11,
        TOO_LONG,
    ),
    ("brackets", lambda _: b"[" * 65_000, 25, NOT_JSON),
    ("a list without an end", lambda _: b"[" + b"0," * 32_000, 25, NOT_JSON),
    ("a number without an end", lambda _: b"[" + b"9" * 65_000 + b"]", 25, NOT_JSON),
    ("a string without an end", lambda _: b'["' + b"x" * 65_000, 25, NOT_JSON),
    (
        "deep members",
        lambda f: f.genuine().replace(b'"obey"', b'{"a":' * 9000 + b"1" + b"}" * 9000),
        25,
        NOT_JSON,
    ),
    (
        "a nonce without an end",
        lambda f: f.signed(f.data(nonce=f.query.nonce * 1500)),
        21,
        STALE,
    ),
    (
        "a header line without an end",
        lambda f: Reply(200, {"X-Long": "x" * 70_000}, f.genuine()),
        10,
        "header line",
    ),
    (
        "headers without an end",
        lambda f: Reply(200, {f"X-{n}": "x" for n in range(200)}, f.genuine()),
        10,
        "more than 100 headers",
    ),
]


@table("endless data", ENDLESS)
def test_endless_data(victim: Victim, make: Make, code: int, says: str) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)


@pytest.mark.parametrize("length", [MAX_ANSWER - 1, MAX_ANSWER])
def test_the_longest_answer(victim: Victim, length: int) -> None:
    victim.obeys(padded_to(length))
