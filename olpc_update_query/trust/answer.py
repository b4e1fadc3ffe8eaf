"""Answers and orders: from octets off the wire to a value that may be obeyed.

Both are envelopes whose first part is signed as it came, octet for octet::

    ["oatc-signed-resp",1,[["oatc-resp",1,{...}],["sig",1,["sig01: ..."]]]]
    ["olpc-update-signed-order",1,[["olpc-update-order",1,{...}],["sig",1,[...]]]]
"""

import hmac
from dataclasses import dataclass, field, replace

from olpc_update_query.errors import (
    OrderExpired,
    OrderForOthers,
    UntrustedAnswer,
)
from olpc_update_query.model.messages import Answer
from olpc_update_query.model.orders import Order, OrderFile
from olpc_update_query.model.wire import format_time
from olpc_update_query.trust.envelope import ANSWER, ORDER, Opened, open_envelope
from olpc_update_query.trust.keys import KeyRing, Role
from olpc_update_query.trust.moment import next_floor
from olpc_update_query.trust.rotation import Followed, follow
from olpc_update_query.trust.signature import signed_directly, verify_credential


@dataclass(frozen=True, slots=True)
class TrustedAnswer:
    """An answer to our query.

    Attributes:
        answer: What it says. Unless ``signed`` it never says ``stolen``.
        raw: The octets it came as, to be verified again by the installer.
        signers: Names of the keys that signed it, none unless ``signed``.
        signed: Whether its signature was checked.
        floor: The floor from now on, see `moment.next_floor`.
        keys: What became of the statements about keys that came with it.
    """

    answer: Answer
    raw: bytes
    signers: tuple[str, ...]
    signed: bool
    floor: int
    keys: Followed = field(
        default=Followed(KeyRing(), (), ()), compare=False, repr=False
    )

    def present(self, now: int) -> int:
        """Return what time it is: a signed answer knows better than the clock.

        Args:
            now: The present without it.
        """
        return self.floor if self.signed else max(now, self.floor)


@dataclass(frozen=True, slots=True)
class TrustedOrder:
    """An order from a file beside its build.

    Attributes:
        order: The order.
        raw: The octets it came as.
        signers: Names of the keys that signed it.
        time: When it was signed.
        expiry: Until when it is good, None for ever.
    """

    order: Order
    raw: bytes
    signers: tuple[str, ...]
    time: int
    expiry: int | None


def open_answer(  # noqa: PLR0913 - the facts it is judged by, all named
    raw: bytes,
    *,
    nonce: str,
    ring: KeyRing,
    serial: str,
    now: int,
    floor: int,
    check_signature: bool = True,
) -> TrustedAnswer:
    """Decide whether octets are the answer to our query.

    1. Length: at most 64 KiB; one newline is tolerated after the final bracket.
    2. Form: strictly canonical, and an envelope of the right type and version.
    3. Meaning: the data has a nonce and a time; other members may be faulty.
    4. Signature: by a trusted OATS key, over the octets as they came, and not made
       after its own end. Statements in it that add and retire keys prove themselves,
       so they are followed before: the server may have lost the key that this laptop
       still trusts.
    5. Nonce: ours, byte for byte. That proves that the answer is fresh, so its time
       may be anything, before the floor as well.

    Without ``check_signature`` step 4 is left out, bare data without an envelope is
    accepted too, and the answer cannot say that the laptop is stolen.

    Args:
        raw: The body of the reply.
        nonce: What the query sent.
        ring: The trusted keys.
        serial: The laptop's serial number.
        now: The present, as the clock has it.
        floor: The greatest signed time ever seen; expiries are compared with the
            later of the two.
        check_signature: False where ``/etc/oats-ignore-signature`` exists.

    Returns:
        The answer.

    Raises:
        Malformed: It is not an answer.
        UntrustedAnswer: It is one, but proves nothing, or is for another query.
    """
    opened = open_envelope(raw, ANSWER, bare=not check_signature)
    answer = Answer.from_json(opened.data)
    keys = follow(answer.keys, ring)
    signers: tuple[str, ...] = ()
    if check_signature:
        signers = _signers(opened, keys.ring, serial, max(now, floor, answer.time))
        direct = signed_directly(opened.lines, keys.ring, Role.OATS)
        floor = next_floor(floor, answer.time, direct=direct)
    else:
        answer = replace(answer, stolen=False)
    if not hmac.compare_digest(answer.nonce.encode(), nonce.encode()):
        raise UntrustedAnswer("answer", "its nonce is not that of our query")
    return TrustedAnswer(answer, raw, signers, check_signature, floor, keys)


def open_order(raw: bytes, *, ring: KeyRing, serial: str, now: int) -> TrustedOrder:
    """Decide whether octets are an order that may be obeyed.

    1. to 4. as for an answer. Made for many laptops, it is normally signed ``sig01``.
    5. Serial numbers: this laptop's is among them, when it names any.
    6. Expiry: not passed, when it has one.

    Args:
        raw: The file.
        ring: The trusted keys.
        serial: The laptop's serial number, for ``sig02`` lines.
        now: The present, or the greatest signed time when that is later.

    Returns:
        The order.

    Raises:
        Malformed: It is not an order.
        UntrustedAnswer: It is one, but proves nothing.
        OrderExpired: It is genuine, and good no longer.
        OrderForOthers: It is genuine, and names other laptops.
    """
    opened = open_envelope(raw, ORDER)
    file = OrderFile.from_json(opened.data)
    signers = _signers(opened, ring, serial, now)
    if file.serials is not None and serial not in file.serials:
        raise OrderForOthers("order", f"it is for {_told(file.serials)}, not {serial}")
    if file.expiry is not None and file.expiry <= now:
        ended, today = format_time(file.expiry), format_time(now)
        reason = f"it was good until {ended}, and here it is {today}"
        raise OrderExpired("order", reason)
    return TrustedOrder(file.order, raw, signers, file.time, file.expiry)


def _told(serials: frozenset[str]) -> str:
    count = len(serials)
    return f"laptop {min(serials)}" if count == 1 else f"{count} other laptops"


def _signers(opened: Opened, ring: KeyRing, serial: str, now: int) -> tuple[str, ...]:
    verified = verify_credential(
        opened.octets, opened.lines, ring, Role.OATS, serial=serial, now=now
    )
    return verified.key_ids
