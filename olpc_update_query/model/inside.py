"""Contents with compressed data in them, taken apart.

What a compressor has packed looks new from the first changed byte on, however little
has changed inside. So such a content can be described by what is inside and by the
settings with which a known compressor makes the same bytes of it again
(``docs/pack.md``, "Contents taken apart"). Whether it does is proven by the digest of
the whole, as for every content.

This module holds the description, and what a reader of a hostile one need not fear.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.fields import read_count, read_digest

MAX_COPIES: Final = 8192
MAX_PARTS: Final = 256
MAX_INNER: Final = 8 << 20
"""The most bytes of the inside of a base: it is held in memory whole."""

MAX_MEMORY: Final = 40 << 20
"""The most bytes that making a part again may take."""

_MAX_SETTING: Final = (1 << 32) - 1


class Kind(StrEnum):
    """What a part of a content is made with."""

    RAW = "raw"
    DEFLATE = "deflate"
    XZ = "xz"
    ZSTD = "zstd"


SETTINGS: Final = {Kind.RAW: 0, Kind.DEFLATE: 2, Kind.XZ: 4, Kind.ZSTD: 3}
"""How many settings each kind has; `olpc_update_query.system.compressors` uses them.

``deflate``: level, memory level (zlib's). ``xz``: preset, check, dictionary size,
whether the x86 filter comes first (liblzma's). ``zstd``: level, whether the size was
known beforehand, version of the library.
"""


class Part(NamedTuple):
    """A stretch of a content.

    Attributes:
        kind: How it is made.
        size: How many bytes of the inside it takes.
        settings: As many as `SETTINGS` says.
    """

    kind: Kind
    size: int
    settings: tuple[int, ...] = ()


class Member(NamedTuple):
    """A compressed stretch of a base.

    Attributes:
        kind: How to expand it; never ``raw``.
        skip: How many bytes lie before it that are taken as they are.
        packed: Its length.
        size: Length of what is in it.
    """

    kind: Kind
    skip: int
    packed: int
    size: int


class Copy(NamedTuple):
    """A content of the same build that lies inside, as it is.

    Attributes:
        skip: How many bytes of the segments come before it.
        digest: Its SHA-256, 32 raw bytes.
    """

    skip: int
    digest: bytes


class Inside(NamedTuple):
    """How a content is put together.

    Attributes:
        parts: What it is made of, in order.
        members: What the base is taken apart into; none when it is taken as it is.
        copies: What comes between the bytes of the segments.
    """

    parts: tuple[Part, ...]
    members: tuple[Member, ...] = ()
    copies: tuple[Copy, ...] = ()

    def encode(self) -> str:
        """Return it as it stands in an index, in canonical JSON."""
        parts = ",".join(
            f'["{part.kind}",{",".join(map(str, (part.size, *part.settings)))}]'
            for part in self.parts
        )
        members = ",".join(
            f'["{kind}",{skip},{packed},{size}]'
            for kind, skip, packed, size in self.members
        )
        copies = ",".join(
            f'[{copy.skip},"{copy.digest.hex()}"]' for copy in self.copies
        )
        return f"[[{parts}],[{members}],[{copies}]]"

    @staticmethod
    def parse(value: Json) -> "Inside":
        """Read what `encode` wrote, leniently; the caller compares it with its twin.

        Raises:
            Malformed: It is not that, or takes more than a reader has to give.
        """
        match value:
            case [list(parts), list(members), list(copies)]:
                pass
            case _:
                raise _malformed("it is not of three lists")
        if len(parts) > MAX_PARTS or len(members) > MAX_PARTS:
            raise _malformed("it has too many parts")
        if len(copies) > MAX_COPIES:
            raise _malformed("it has too many copies")
        return Inside(
            tuple(map(_read_part, parts)),
            _bounded(tuple(map(_read_member, members))),
            tuple(map(_read_copy, copies)),
        )


def _malformed(reason: str) -> Malformed:
    return Malformed("content taken apart", reason)


def _bounded(members: tuple[Member, ...]) -> tuple[Member, ...]:
    if sum(member.skip + member.size for member in members) > MAX_INNER:
        raise _malformed("its base needs more memory than a reader has to give")
    return members


def _read_part(value: Json) -> Part:
    match value:
        case [str(kind), *numbers] if kind in SETTINGS:
            size, *settings = _read_numbers(numbers)
            part = Part(Kind(kind), size, tuple(settings))
        case _:
            raise _malformed("a part is of no known kind")
    if len(settings) != SETTINGS[part.kind] or max(settings, default=0) > _MAX_SETTING:
        raise _malformed("a part has other settings than its kind")
    return part


def _read_member(value: Json) -> Member:
    match value:
        case [str(kind), *numbers] if kind in SETTINGS and kind != Kind.RAW:
            counts = _read_numbers(numbers)
        case _:
            raise _malformed("a member is of no known kind")
    if len(counts) != 3:
        raise _malformed("a member is not of three numbers")
    return Member(Kind(kind), *counts)


def _read_copy(value: Json) -> Copy:
    match value:
        case [skip, digest]:
            return Copy(read_count(skip), read_digest(digest))
        case _:
            raise _malformed("a copy is not of two fields")


def _read_numbers(values: Sequence[Json]) -> list[int]:
    if not values:
        raise _malformed("a number is lacking")
    return [read_count(value) for value in values]


def interleave(
    copies: Sequence[Copy], length: int
) -> Iterator[tuple[int, bytes | None]]:
    """Return the order in which segments and copies make up the inside.

    Args:
        copies: The copies.
        length: Bytes of the segments in all.

    Yields:
        How many bytes of the segments to take, and the copy that follows them, if any.

    Raises:
        Malformed: The copies skip more than there is.
    """
    for copy in copies:
        length -= copy.skip
        if length < 0:
            raise _malformed("its copies skip more than there is")
        yield copy.skip, copy.digest
    yield length, None
