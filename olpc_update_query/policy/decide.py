"""What a trusted answer means for this laptop: install, wait, refuse, or nothing.

Pure: the caller gathers the facts in a ``Situation`` and acts on the ``Decision``.
Every decision carries its reason in plain words, because it is what a person reads.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from olpc_update_query.model.messages import BareOrder, BuildId, Order, Sha256
from olpc_update_query.policy.gates import HeldBack

NO_UPDATES = "none"
"""The stream of a laptop that takes no automatic updates."""

_NUMBER = re.compile("([0-9]+)")


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of this laptop when an order arrives.

    Attributes:
        current: The build that boots next.
        installed: Every installed build, with its manifest's digest where known.
        failed: Manifest digests of builds that were given up here.
        on_trial: The build whose first boot has not been confirmed yet.
        stream: The configured stream.
        held: Whether updates are held.
        held_until: When the hold ends; None while it lasts until released.
        gate: What else holds builds back just now.
    """

    current: BuildId | None = None
    installed: Mapping[BuildId, Sha256 | None] = field(default_factory=dict)
    failed: frozenset[Sha256] = frozenset()
    on_trial: BuildId | None = None
    stream: str | None = None
    held: bool = False
    held_until: int | None = None
    gate: HeldBack | None = None


class Install(NamedTuple):
    """Carry the order out."""

    order: Order
    reason: str


class Nothing(NamedTuple):
    """There is nothing to do, and that is well."""

    reason: str


class Refuse(NamedTuple):
    """The order is genuine, but must not be followed.

    Attributes:
        reason: Why.
        is_older: Whether that is because the build is an older one.
    """

    reason: str
    is_older: bool = False


class Wait(NamedTuple):
    """The order is to be followed later.

    Attributes:
        until: When, or None while only a person can tell.
        gate: The gate that holds it back, if it is one.
    """

    until: int | None
    reason: str
    gate: HeldBack | None = None


Decision = Install | Nothing | Refuse | Wait


def decide(order: Order | BareOrder | None, at: Situation, now: int) -> Decision:
    """Decide what to do about the ``update`` field of a trusted answer.

    The first rule that applies wins: there is no order, the laptop takes none, it
    is done already, it must not be done, it must wait.

    Args:
        order: The field, parsed.
        at: The facts about this laptop.
        now: The time, never before the greatest signed time seen.
    """
    if order is None:
        return Nothing("the server orders no update")
    if at.stream == NO_UPDATES:
        return Nothing("the stream of this laptop is `none`: it takes no updates")
    if isinstance(order, BareOrder):
        return _decide_bare(order, at)
    return (
        _done(order, at)
        or _forbidden(order, at)
        or _must_wait(order, at, now)
        or Install(order, _why(order.build, at))
    )


def is_downgrade(new: str, old: str) -> bool:
    """Tell whether ``new`` is an earlier build than ``old``.

    Names are compared only where that means something: both consist of the same
    text around their numbers, and the numbers, taken in turn, are less. `860` is
    a downgrade from `883`; `spring` and `13.2.11-fix` are none.
    """
    old_text, old_numbers = _anatomy(old)
    new_text, new_numbers = _anatomy(new)
    return new_text == old_text and new_numbers < old_numbers


def _anatomy(build: str) -> tuple[list[str], list[int]]:
    parts = _NUMBER.split(build)
    return parts[::2], [int(number) for number in parts[1::2]]


def _decide_bare(order: BareOrder, at: Situation) -> Decision:
    if order.build == at.current:
        return Nothing(f"build {order.build} is the current build already")
    return Refuse(
        f"the order names build {order.build} but does not sign its contents; "
        f"`olpc-update {order.build}` installs it by hand"
    )


def _done(order: Order, at: Situation) -> Decision | None:
    found = at.installed.get(order.build)
    if found is not None and found != order.contents:
        return Refuse(
            f"build {order.build} is installed with other contents; "
            "a changed build needs a new name"
        )
    if order.build != at.current:
        return None
    return Nothing(f"build {order.build} is the current build already")


def _forbidden(order: Order, at: Situation) -> Decision | None:
    if order.contents in at.failed:
        return Refuse(
            f"build {order.build} was given up on this laptop: it did not come up, or "
            "somebody went back from it; `olpc-update -f` installs it all the same"
        )
    if at.current is None or order.allow_downgrade:
        return None
    if not is_downgrade(order.build, at.current):
        return None
    return Refuse(
        f"build {order.build} is older than the current build {at.current}, "
        "and the order does not allow that",
        is_older=True,
    )


def _must_wait(order: Order, at: Situation, now: int) -> Decision | None:
    if at.held and (at.held_until is None or now < at.held_until):
        return Wait(at.held_until, f"updates are held; build {order.build} must wait")
    if order.not_before is not None and now < order.not_before:
        return Wait(order.not_before, f"build {order.build} is not wanted before then")
    if at.on_trial is not None:
        return Wait(
            None,
            f"build {at.on_trial} is on trial; until it is confirmed, the build to "
            "fall back on must stay",
        )
    if at.gate is not None:
        reason = f"build {order.build} must wait: {at.gate.reason}"
        return Wait(at.gate.until, reason, at.gate)
    return None


def _why(build: BuildId, at: Situation) -> str:
    if at.current is None:
        return f"the server orders build {build}"
    return f"the server orders build {build}, the current build is {at.current}"
