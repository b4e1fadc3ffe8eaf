"""What is fuzzed: for each format one function of the octets that somebody sent.

A target returns ``"accepted"``, or the name of the error with which the octets were
refused. It raises when the parser raises anything but the errors named for it, or
when what came out breaks an invariant.
"""

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from io import BytesIO
from typing import Final

from olpc_update_query.errors import (
    CorruptContent,
    Malformed,
    UnsafePath,
    UntrustedAnswer,
    UntrustedLease,
    UntrustedStatement,
    UpdateError,
)
from olpc_update_query.model import canonical, entry
from olpc_update_query.model.delta import (
    MAX_HEADER,
    DeltaHeader,
    encode_delta_frame,
    read_delta_index,
)
from olpc_update_query.model.manifest import (
    Difference,
    ManifestReader,
    compare,
    encode_entry,
    encode_header,
)
from olpc_update_query.model.messages import MAX_ANSWER, MAX_QUERY, Query
from olpc_update_query.model.orders import OrderFile
from olpc_update_query.model.pack import (
    MAX_REQUESTS,
    Frame,
    coalesce,
    encode_pack_frame,
    encode_pack_header,
    read_pack_index,
    unpack_segment,
)
from olpc_update_query.model.wire import format_expiry
from olpc_update_query.trust import answer as trust
from olpc_update_query.trust import lease as leases
from olpc_update_query.trust import rotation
from tests.fuzz.facts import FRAME, MAX_SIZE, NONCE, NOW, SERIAL, UUID
from tests.fuzz.invariants import (
    Finding,
    check_answer,
    check_lease,
    check_order,
    check_signed,
    need,
    need_bounded,
    need_plain,
    trusted_ring,
)

ACCEPTED: Final = "accepted"

Target = Callable[[bytes], str]

TARGETS: Final[dict[str, Target]] = {}
"""The targets by name, which is also that of their part of the corpus."""


def target(*refusals: type[UpdateError]) -> Callable[[Callable[[bytes], None]], Target]:
    """Make a target of a function that raises these errors and no others."""

    def register(parse: Callable[[bytes], None]) -> Target:
        @wraps(parse)
        def run(data: bytes) -> str:
            try:
                parse(data)
            except refusals as error:
                need_plain(str(error))
                need_plain(error.hint())
                return type(error).__name__
            except UpdateError as error:
                raise Finding(f"it was refused with {error!r}") from error
            return ACCEPTED

        TARGETS[parse.__name__] = run
        return run

    return register


# --- what is signed ---------------------------------------------------------------


@target(Malformed, UntrustedAnswer)
def answer(data: bytes) -> None:
    """An answer, as a laptop judges it, and as one that ignores signatures does."""
    _read_canonical(data)
    _read_unsigned(data)
    opened = trust.open_answer(
        data, nonce=NONCE, ring=trusted_ring(), serial=SERIAL, now=NOW, floor=0
    )
    check_signed(data, "answer")
    need(opened.raw == data and opened.signed, "it is another answer")
    need(opened.floor == max(0, opened.answer.time), "the floor is not its time")
    check_answer(opened.answer)


@target(Malformed, UntrustedAnswer)
def order(data: bytes) -> None:
    """An order file."""
    _read_order_data(data)
    opened = trust.open_order(data, ring=trusted_ring(), serial=SERIAL, now=NOW)
    check_signed(data, "order")
    need(opened.raw == data, "it is another order")
    check_order(opened.order)


@target(UntrustedLease)
def lease(data: bytes) -> None:
    """A file of leases, plain or for many laptops, and each line of it by itself."""
    for line in data.decode("ascii", "replace").split("\n")[:20]:
        _read_lease_line(line)
    _find_in(data.decode(errors="surrogateescape"))  # as in an answer
    _find_in(data)


def _find_in(text: str | bytes) -> None:
    found = leases.find_lease(
        text, serial=SERIAL, uuid=UUID, ring=trusted_ring(), now=NOW
    )
    check_lease(found)


def _read_lease_line(line: str) -> None:
    try:
        parsed = leases.parse_line(line)
    except Malformed as error:
        need_plain(str(error))
        return
    expiry = format_expiry(parsed.expiry)
    again = f"act01: {parsed.serial} {parsed.disposition} {expiry} {parsed.signature}"
    need(again == line, "the fields of a lease do not make it up")


def _read_canonical(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except Malformed as error:
        need_plain(str(error))
        return
    need(canonical.encode(value) == data, "a value has two spellings")


def _read_unsigned(data: bytes) -> None:
    try:
        opened = trust.open_answer(
            data,
            nonce=NONCE,
            ring=trusted_ring(),
            serial=SERIAL,
            now=NOW,
            floor=NOW,
            check_signature=False,
        )
    except (Malformed, UntrustedAnswer) as error:
        need_plain(str(error))
        return
    need(not opened.answer.stolen, "nobody signed that it is stolen")
    need(opened.signers == () and not opened.signed, "nobody signed it")
    need(opened.floor == NOW, "what nobody signed moved the floor")
    need(len(data) <= MAX_ANSWER, "it is too large")
    check_answer(opened.answer)


def _read_order_data(data: bytes) -> None:
    """Read what an order says, whoever signed it."""
    try:
        match canonical.decode(data):
            case [_, _, [[_, _, content], *_]]:
                file = OrderFile.from_json(content)
            case _:
                return
    except Malformed as error:
        need_plain(str(error))
        return
    need(OrderFile.from_json(file.to_json()) == file, "it reads back as another")
    check_order(file.order)


@target(Malformed, UntrustedStatement)
def statement(data: bytes) -> None:
    """A statement about keys, by itself and in a file of several."""
    _follow_file(data)
    opened = rotation.open_statement(data, trusted_ring())
    check_signed(data, "statement")
    again = rotation.Statement.from_json(opened.to_json())
    need(again == opened, "it reads back as another statement")
    ring = rotation.apply(opened, trusted_ring())
    left = sum(key.role is opened.role for key in ring)
    need(left >= opened.threshold, "nobody is left to sign the next one")
    need(ring.standing(opened.role).number == opened.number, "it could come again")


def _follow_file(data: bytes) -> None:
    try:
        parts = rotation.split_statements(data)
    except Malformed as error:
        need_plain(str(error))
        return
    followed = rotation.follow(parts, trusted_ring())
    for refusal in followed.refused:
        need_plain(str(refusal))
    numbers = [one.number for one in followed.statements]
    need(numbers == sorted(set(numbers)), "statements are not followed in order")


# --- what a server is asked -------------------------------------------------------


@target(Malformed)
def query(data: bytes) -> None:
    """A laptop's query, as the server reads it."""
    asked = Query.decode(data)
    need(len(data) <= MAX_QUERY, "it is too large")
    again = asked.encode()
    if len(again) <= MAX_QUERY:
        # of lease and expiry only one is sent
        sent = replace(asked, lease_expiry=None) if asked.lease is not None else asked
        need(Query.decode(again) == sent, "it reads back as another query")


# --- what a digest vouches for ----------------------------------------------------


@target(Malformed, UnsafePath)
def manifest(data: bytes) -> None:
    """A manifest: its header, each line by itself, all of it, and against itself."""
    for line in BytesIO(data):
        _read_both_ways(line)
    reader = ManifestReader(BytesIO(data))
    entries = list(reader)
    again = b"".join([encode_header(reader.header), *map(encode_entry, entries)])
    need(again == data, "a manifest has two spellings")
    for found in entries:
        parts = found.path.split(b"/") if found.path else []
        need(not {b"", b".", b".."} & set(parts), "a path leads out of the tree")
        need(found.path.find(b"\0") < 0, "a path holds NUL")
    changes = list(compare(*(ManifestReader(BytesIO(data)) for _ in range(2))))
    same = all(change.kind is Difference.UNCHANGED for change in changes)
    need(same and len(changes) == len(entries), "it differs from itself")


def _read_both_ways(line: bytes) -> None:
    """Compare the fast way to read a plain file's line with the general one."""
    try:
        quick = entry.parse_entry(line)
    except (Malformed, UnsafePath) as error:
        need_plain(str(error))
        return
    general = entry._build_entry(json.loads(line.decode()))
    need(quick == general, "the two ways to read a line differ")
    for _, value in quick.xattrs:
        need(base64.b64encode(value) in line, "an attribute was read wrongly")


@target(Malformed)
def pack(data: bytes) -> None:
    """The index of a full pack, and what would be asked for."""
    header, frames = read_pack_index(BytesIO(data))
    found = list(frames)
    again = b"".join([encode_pack_header(header), *map(encode_pack_frame, found)])
    need(again == data, "an index has two spellings")
    _check_frames(found, 0, header.length)
    ranges = coalesce(frame.range for frame in found)
    need(len(ranges) <= MAX_REQUESTS, "it needs too many requests")
    spans = [range(start, start + length) for start, length in ranges]
    for frame in found:
        end = frame.offset + frame.packed
        held = any(span.start <= frame.offset and end <= span.stop for span in spans)
        need(held, "a frame is not asked for")


@target(Malformed)
def delta(data: bytes) -> None:
    """The header of a delta pack and, right after it, the index."""
    stream = BytesIO(data)
    header = DeltaHeader.parse(stream.readline(MAX_HEADER + 1))
    found = list(read_delta_index(stream, header.frames_offset, header.length))
    again = b"".join([header.encode(), *map(encode_delta_frame, found)])
    need(again == data, "an index has two spellings")
    _check_frames(found, header.frames_offset, header.length)


def _check_frames(frames: Iterable[Frame], offset: int, end: int) -> None:
    for frame in frames:
        need(frame.offset == offset, "frames do not follow one another")
        need(len(frame.digest) == 32, "a digest has 32 bytes")
        numbers = [number for segment in frame.segments for number in segment]
        need(min(numbers, default=0) >= 0, "a length is negative")
        total = sum(segment.size for segment in frame.segments)
        same = frame.inside is not None or total == frame.size
        need(same, "a content has another size than its segments")
        need_bounded(frame)
        offset += frame.packed
    need(offset == end, "frames do not fill the file")


@target(CorruptContent)
def frame(data: bytes) -> None:
    """A packed segment, laid out as `FRAME` says."""
    if len(data) < FRAME.size:
        return
    size, length = FRAME.unpack_from(data)
    size %= MAX_SIZE
    base = data[FRAME.size :][:length]
    packed = data[FRAME.size + length :]
    _check_stream(unpack_segment(packed, base, size), size)
    _check_stream(unpack_segment(BytesIO(packed), base, size), size)


def _check_stream(chunks: Iterable[bytes], size: int) -> None:
    came = 0
    try:
        for chunk in chunks:
            need(0 < len(chunk) <= 128 << 10, "a chunk is empty or too large")
            came += len(chunk)
    finally:
        need(came <= size, "more came out than was expected")
    need(came == size, "less came out than was expected")
