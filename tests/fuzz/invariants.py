"""What must hold of everything that a parser lets through."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Final

from olpc_update_query.model.inside import MAX_COPIES, MAX_INNER, MAX_PARTS
from olpc_update_query.model.messages import MAX_INTERVAL, MIN_INTERVAL, Answer
from olpc_update_query.model.orders import MAX_MANIFEST, Order
from olpc_update_query.model.pack import Frame
from olpc_update_query.model.wire import format_time
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role
from olpc_update_query.trust.lease import MAX_LEASE_LINE, Lease, lease_text, parse_line
from tests.fuzz.corpus import good, seeds
from tests.fuzz.facts import NOW, SERIAL, UUID
from tests.keys import line_holds

_MAX_MESSAGE: Final = 1000
_CONTROL: Final = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LINE: Final = re.compile(rb"sig0[12]: [ 0-9a-zTZ]+")
_HEADS: Final = {
    "answer": b'["oatc-signed-resp",1,[',
    "order": b'["olpc-update-signed-order",1,[',
    "statement": b'["olpc-update-signed-keys",1,[',
}
_CREDENTIAL: Final = b',["sig",1,['


class Finding(AssertionError):
    """A parser did what it must not do."""


def need(holds: bool, otherwise: str) -> None:
    """Raise a `Finding` unless something holds."""
    if not holds:
        raise Finding(otherwise)


def need_plain(text: str) -> None:
    """Check that foreign text in a message cannot disturb a terminal or a log."""
    need(len(text) <= _MAX_MESSAGE, f"a message has {len(text)} characters")
    need(not _CONTROL.search(text), f"a message is not one plain line: {text!r}")


@cache
def trusted_ring() -> KeyRing:
    """Return the keys that the laptop trusts."""
    return KeyRing(PublicKey(role, _public(role.value), "the corpus") for role in Role)


def _public(name: str) -> bytes:
    return seeds("keys")[f"{name}.public"]


# --- signatures, judged by the verifier of the tests ------------------------------


def check_signed(data: bytes, target: str) -> None:
    """Check that what was accepted says what a good seed says, and is signed as it was.

    What no signature covers may differ: a newline at the end, a line that is passed
    over, the spelling of a key's name.
    """
    head = _HEADS[target]
    octets = next(
        (known for known in _known(target) if data.startswith(head + known)), None
    )
    if octets is None:
        raise Finding("it was accepted, but nobody signed these octets")
    rest = data[len(head) + len(octets) :]
    need(rest.startswith(_CREDENTIAL), "it was accepted without a credential")
    lines = (line.decode() for line in _LINE.findall(rest))
    holds = any(_holds(line, octets, _public("oats")) for line in lines)
    need(holds, "it was accepted, but its signature does not hold")


@cache
def _known(target: str) -> tuple[bytes, ...]:
    """Return the signed octets of the good seeds."""
    return tuple(_signed_part(seed, target) for seed in good(target).values())


def _signed_part(seed: bytes, target: str) -> bytes:
    before, _, _ = seed.rpartition(_CREDENTIAL)
    return before.removeprefix(_HEADS[target])


def _holds(line: str, octets: bytes, key: bytes) -> bool:
    try:
        return line_holds(
            line + "\n", octets, trusted=[key], serial=SERIAL, now=format_time(NOW)
        )
    except (ValueError, IndexError):  # the verifier takes no care of malformed lines
        return False


def check_lease(lease: Lease) -> None:
    """Check that a lease which was found is one that the corpus's key signed."""
    need(lease.line.endswith("\n"), "a lease has no end")
    need(lease.line.count("\n") == 1, "a lease is not one line")
    need(len(lease.line) <= MAX_LEASE_LINE, "a lease is longer than the firmware reads")
    need(lease.line.isascii(), "a lease is not ASCII")
    parsed = parse_line(lease.line)
    signed = lease_text(SERIAL, UUID, parsed.disposition, parsed.expiry)
    fields = (parsed.serial, parsed.disposition, parsed.expiry)
    need(fields in _known_leases(), "it was accepted, but nobody signed this lease")
    holds = _holds(parsed.signature, signed, _public("lease"))
    need(holds, "a lease was accepted, but its signature does not hold")
    need(parsed.expiry == lease.expiry, "a lease has another expiry than its line")
    need(lease.expiry is None or lease.expiry > NOW, "a lease has expired")


@cache
def _known_leases() -> frozenset[tuple[str, str, int | None]]:
    return frozenset(
        parse_line(line)[:3]
        for name in ("good-plain", "good-for-ever", "good-delegated")
        for line in [good("lease")[name].decode()]
    )


# --- values -----------------------------------------------------------------------


def check_answer(answer: Answer) -> None:
    """Check that an answer is within its bounds and is written as it was read."""
    again = Answer.from_json(answer.to_json())
    need(again == replace(answer, faults=()), "it reads back as another answer")
    interval = answer.interval
    within = interval is None or MIN_INTERVAL <= interval <= MAX_INTERVAL
    need(within, "the interval is not clamped")
    message = (answer.message or "").replace("\n", "")
    need(not message or message.isprintable(), "the message holds control characters")
    need(len(answer.message or "") <= 1024, "the message is too long")
    for fault in answer.faults:
        need_plain(fault)
    if isinstance(answer.update, Order):
        check_order(answer.update)


def check_order(order: Order) -> None:
    """Check that an order is within its bounds and is written as it was read."""
    need(Order.from_json(order.to_json()) == order, "it reads back as another order")
    need(1 <= order.size <= MAX_MANIFEST, "the size is out of bounds")
    need(len(order.urls) <= 16, "there are too many URLs")
    for name in _names(order):
        need(name not in {".", ".."} and "/" not in name, "a name is no file name")


def _names(order: Order) -> Iterator[str]:
    yield order.build
    yield order.contents


def need_bounded(frame: Frame) -> None:
    """Insist that what is to be held in memory is little."""
    if frame.inside is not None:
        held = sum(member.skip + member.size for member in frame.inside.members)
        need(held <= MAX_INNER, "the inside of a base is too large")
        need(len(frame.inside.copies) <= MAX_COPIES, "there are too many copies")
        need(len(frame.inside.parts) <= MAX_PARTS, "there are too many parts")
