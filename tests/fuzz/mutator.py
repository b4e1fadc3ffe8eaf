"""Mutations that keep enough of a format to get past its first check.

All chance comes from a `random.Random`, so that a mutant can be made again from a
number, and so that Hypothesis, whose own `Random` it takes as well, can shrink one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Final, TypeAlias

Operator: TypeAlias = Callable[[Random, bytes, bytes], bytes]
"""Makes a mutant of some octets; the other octets lend it parts."""

_MOST_STEPS: Final = 4
_TOKENS: Final = (
    *(bytes([mark]) for mark in b'"\\[]{},:\n\r\t \0\x7f\x80\xff%&=+;#/.-019AFaf'),
    *(b'\\"', b"\\\\", b"\\n", b"\\u0041", b"\\/", b'""', b"[]", b"{}", b"],[", b"]]"),
    *(b"null", b"true", b"false", b"NaN", b"1e3", b"1.0", b"-0", b"00", b"0x1"),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809"),
    *(b"00000000T000000Z", b"99991231T235959Z", b"19700101T000000Z"),
    *(b"sig01: ", b"sig02: ", b"sig03: ", b"act01: ", b"sha256 ", b"rmd160 "),
    *(b"%00", b"%2F", b"%41", b"%GG", b"../", b"/", b"\xed\xa0\x80", b"\xc0\x80"),
    *(b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xc2\x85", b"\xf4\x90\x80\x80", b"\xe9"),
    *(b'"leader":', b'"xattrs":', b'"update":', b'"lease":', b'"stolen":true,'),
    *(b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"[" * 20, b"0" * 30),
)
_NUMBERS: Final = (0, 1, 255, 899, 4096, 1 << 30, 1 << 31, 1 << 32, 1 << 63, 1 << 64)
_JOINTS: Final = re.compile(
    rb'(?=,\["sig")|(?="[a-z_]+":)|(?=sig0[12]: )|(?<=sha256 )|\n|(?<=act01: )|(?=,\{)'
)
_WORD: Final = re.compile(rb"[A-Za-z0-9]+|\s|[^A-Za-z0-9\s]")
_CHUNK: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|\[[^\[\]]*\]|\{[^{}]*\}|[0-9]+')
_NUMBER: Final = re.compile(rb"-?[0-9]+")
_HEX: Final = re.compile(rb"[0-9a-f]{16,}")
Span: TypeAlias = tuple[int, int]


class Mutator:
    """Makes mutants of seeds.

    Args:
        seeds: What to begin with, by name. Those whose name begins with ``good`` are
            mutated; all of them lend parts.
    """

    def __init__(self, seeds: Mapping[str, bytes]) -> None:
        self._all = list(seeds.values())
        self._good = [seed for name, seed in seeds.items() if name.startswith("good")]
        self._known = frozenset(self._all)

    def make(self, random: Random) -> bytes:
        """Return a mutant of a good seed, which is no seed itself."""
        while True:
            made = self.change(random, random.choice(self._good))
            if made not in self._known:
                return made

    def change(self, random: Random, data: bytes) -> bytes:
        """Return some octets, changed in one place or in a few."""
        steps = 1
        while steps < _MOST_STEPS and random.random() < 0.3:
            steps += 1
        for _ in range(steps):
            data = random.choice(OPERATORS)(random, data, random.choice(self._all))
        return data


# --- octets -----------------------------------------------------------------------


def flip_bit(random: Random, data: bytes, _other: bytes) -> bytes:
    """Turn one bit over."""
    if not data:
        return b"\1"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def set_octet(random: Random, data: bytes, _other: bytes) -> bytes:
    """Put another octet in the place of one."""
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def insert_octets(random: Random, data: bytes, _other: bytes) -> bytes:
    """Put octets between two."""
    at = random.randrange(len(data) + 1)
    more = bytes(random.randrange(256) for _ in range(random.randint(1, 8)))
    return data[:at] + more + data[at:]


def insert_token(random: Random, data: bytes, _other: bytes) -> bytes:
    """Put something that means something between two octets, or over some."""
    token = random.choice(_TOKENS)
    at = random.randrange(len(data) + 1)
    return data[:at] + token + data[at + random.choice((0, len(token))) :]


def delete_octets(random: Random, data: bytes, _other: bytes) -> bytes:
    """Leave out one octet, or a stretch."""
    first, end = _stretch(random, data)
    return data[:first] + data[random.choice((first + 1, end)) :]


def truncate(random: Random, data: bytes, _other: bytes) -> bytes:
    """Leave out all that follows, or all before."""
    at = random.randrange(len(data) + 1)
    return data[at:] if random.random() < 0.2 else data[:at]


def swap_blocks(random: Random, data: bytes, _other: bytes) -> bytes:
    """Exchange two stretches."""
    a, b, c, d = sorted(random.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def repeat_block(random: Random, data: bytes, _other: bytes) -> bytes:
    """Say a stretch again, there or elsewhere."""
    first, end = _stretch(random, data)
    at = random.choice((end, random.randrange(len(data) + 1)))
    return data[:at] + data[first:end] + data[at:]


def _stretch(random: Random, data: bytes) -> Span:
    first = random.randrange(len(data) + 1)
    longest = random.choice((4, 64, len(data)))
    return first, min(len(data), first + random.randint(0, longest))


# --- tokens -----------------------------------------------------------------------


def swap_words(random: Random, data: bytes, _other: bytes) -> bytes:
    """Exchange two words."""
    return _exchange(data, *sorted(_two(random, _spans(_WORD, data))))


def swap_chunks(random: Random, data: bytes, _other: bytes) -> bytes:
    """Exchange two strings, numbers, lists or objects."""
    return _exchange(data, *sorted(_two(random, _spans(_CHUNK, data))))


def graft(random: Random, data: bytes, other: bytes) -> bytes:
    """Put a string, number, list or object of another seed in the place of one."""
    return _transplant(random, _CHUNK, data, other)


def graft_number(random: Random, data: bytes, other: bytes) -> bytes:
    """Put a key's name or a signature of another seed in the place of one."""
    return _transplant(random, _HEX, data, other)


def splice(random: Random, data: bytes, other: bytes) -> bytes:
    """Go on, from some joint, as another seed goes on from a joint."""
    heads = [span[0] for span in _spans(_JOINTS, data)] or [0]
    tails = [span[0] for span in _spans(_JOINTS, other)] or [0]
    return data[: random.choice(heads)] + other[random.choice(tails) :]


def splice_alike(random: Random, data: bytes, other: bytes) -> bytes:
    """Put the part of another seed between two joints where the same part is here."""
    here, there = _spans(_JOINTS, data), _spans(_JOINTS, other)
    if len(here) < 2 or len(there) < 2:
        return splice(random, data, other)
    number = random.randrange(min(len(here), len(there)) - 1)
    (first, _), (end, _) = here[number : number + 2]
    (start, _), (stop, _) = there[number : number + 2]
    return data[:first] + other[start:stop] + data[end:]


def change_number(random: Random, data: bytes, _other: bytes) -> bytes:
    """Write another number, or the same one otherwise."""
    span = _one(random, _spans(_NUMBER, data))
    old = data[span[0] : span[1]]
    try:
        value = int(old)
    except ValueError:  # none, or more digits than Python converts
        value = 0
    forms = (
        *(b"%d" % (value + step) for step in (-1, 1, 10**9)),
        *(b"%d" % random.choice(_NUMBERS), b"-" + old, b"0" + old, b"+" + old),
        *(old + b"0", old + b".0", old + b"e0", b'"%b"' % old, b"%d" % -value),
    )
    return data[: span[0]] + random.choice(forms) + data[span[1] :]


def change_hex(random: Random, data: bytes, _other: bytes) -> bytes:
    """Write other digits, fewer, more, or capitals."""
    first, end = _one(random, _spans(_HEX, data))
    old = data[first:end]
    at = random.randrange(len(old) + 1)
    digit = b"%x" % random.randrange(16)
    forms = (
        *(old[:at] + digit + old[at + 1 :], old[:at] + digit + old[at:]),
        *(old[:at] + old[at + 1 :], old[:at] + old[at + 2 :], old.upper(), old * 2),
        *(old[:at] + old[at : at + 1].upper() + old[at + 1 :], b"0" * len(old)),
        *(b"f" * len(old), old[-64:], old[::-1], old[2:] + b"00", b"00" + old[:-2]),
    )
    return data[:first] + random.choice(forms) + data[end:]


OPERATORS: Final[Sequence[Operator]] = (
    *(flip_bit, flip_bit, set_octet, insert_octets, insert_token, insert_token),
    *(delete_octets, delete_octets, truncate, swap_blocks, repeat_block),
    *(swap_words, swap_chunks, graft, graft, graft_number, graft_number),
    *(splice, splice, splice_alike, splice_alike, change_number, change_hex),
)


def _transplant(
    random: Random, part: re.Pattern[bytes], data: bytes, other: bytes
) -> bytes:
    first, end = _one(random, _spans(part, data))
    start, stop = _one(random, _spans(part, other))
    return data[:first] + other[start:stop] + data[end:]


def _exchange(data: bytes, one: Span, two: Span) -> bytes:
    (a, b), (c, d) = one, two
    if c < b:
        return data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


@lru_cache(maxsize=256)
def _spans(part: re.Pattern[bytes], data: bytes) -> Sequence[Span]:
    return [found.span() for found in part.finditer(data)]


def _one(random: Random, spans: Sequence[Span]) -> Span:
    return random.choice(spans) if spans else (0, 0)


def _two(random: Random, spans: Sequence[Span]) -> tuple[Span, Span]:
    return _one(random, spans), _one(random, spans)
