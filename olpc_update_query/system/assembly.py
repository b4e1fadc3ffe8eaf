"""Puts contents together that were taken apart; see `olpc_update_query.model.inside`.

Nothing of what comes out is proven: the caller compares the digest of the whole.
"""

from collections.abc import Callable, Iterator, Sequence

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model.inside import MAX_INNER, Inside, Member, interleave
from olpc_update_query.system.compressors import Chunk, Pieces, expand, make


def put_together(
    inside: Inside,
    segments: Iterator[Chunk],
    length: int,
    copied: Callable[[bytes], Iterator[Chunk]],
) -> Iterator[Chunk]:
    """Yield a content.

    Args:
        inside: How it is put together.
        segments: What its segments make.
        length: How many bytes that is.
        copied: Yields another content of the build.

    Raises:
        CorruptContent: It cannot be made of that, or not on this machine.
    """
    inner = Pieces(_mixed(inside, Pieces(segments), length, copied))
    for part in inside.parts:
        yield from make(part, inner.take(part.size))
    if inner.read(1):
        raise CorruptContent("inside", "no more", "more")


def _mixed(
    inside: Inside,
    segments: Pieces,
    length: int,
    copied: Callable[[bytes], Iterator[Chunk]],
) -> Iterator[Chunk]:
    for count, digest in interleave(inside.copies, length):
        yield from segments.take(count)
        if digest is not None:
            yield from copied(digest)


def expand_base(members: Sequence[Member], read: Callable[[int, int], bytes]) -> bytes:
    """Return the inside of a base, of a size that its description bounds.

    Args:
        members: What of it is compressed.
        read: Reads from it: an offset, and how many bytes.

    Raises:
        CorruptContent: It is something else.
    """
    inner, place = bytearray(), 0
    for member in members:
        inner += read(place, member.skip)
        place += member.skip
        inner += expand(member, read(place, member.packed))
        place += member.packed
    inner += read(place, MAX_INNER - min(len(inner), MAX_INNER))
    return bytes(inner)
