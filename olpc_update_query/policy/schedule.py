"""When to ask. Pure: the clock and the dice come in as arguments.

The next due time is drawn once, when a query ends, and kept on disk. A trigger that
comes before it does nothing. A laptop that missed it (it was off, or had no link)
asks in its slot, within ten minutes of getting a link, so that a class that opens its
laptops together does not ask together; the slot's moment replaces the due time.

All times are seconds since the epoch by this laptop's own clock, right or wrong: they
are only ever compared with that clock. ``draw`` is a random number, 0 <= draw < 1.
"""

from enum import StrEnum
from typing import NamedTuple

from olpc_update_query.policy.due import LONGEST, Due

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR

DEFAULT_INTERVAL = DAY
MIN_INTERVAL = 15 * MINUTE
"""The shortest interval a server may ask for."""

LEASE_PULL = HOUR
"""How hard a lease pulls at most. A server that answers and renews nothing would be
asked over and over while the leases of all its laptops run out together."""

SPREAD = 269
"""Seconds in which an overdue laptop has its slot, for a trigger that comes every five
minutes or so: it asks within ten minutes of getting a link. Like the others it is a
prime, so that a day is no multiple: who is on for the same five minutes each day has
the slot in them before long."""

CRON_SPREAD = 293
"""The same for cron, which is never late, but wakes all laptops in one second."""

LINK_SPREAD = 523
"""The same where the trigger is the link itself, or a daemon, which looks every minute.
The wider, the flatter is the peak of a school that opens its laptops together."""

PORTAL_SPREAD = 13
"""The same after somebody logged in at a captive portal: people do not log in all
together, and whoever did waits for nothing else."""

_GOLDEN = 11_400_714_819_323_198_485  # 2**64 divided by the golden ratio
_DIGITS = 8

ON_TIME = 10 * MINUTE
"""How late a trigger may come and still count as the one that was waited for."""

FIRST_BACKOFF = 5 * MINUTE
LAST_BACKOFF = 4 * HOUR
LONGEST_RETRY_AFTER = DAY
"""Anybody on the path can send Retry-After; nobody may silence a laptop for longer."""

CLOCK_SLACK = DAY
"""How far before the time floor a stamp may lie: clocks are never quite right."""


class Trigger(StrEnum):
    """What woke this run."""

    MANUAL = "manual"
    CRON = "cron"
    TIMER = "timer"
    NETWORK = "network"
    BOOT = "boot"
    DBUS = "dbus"
    PORTAL = "portal"
    GATE = "gate"


_PEOPLE = frozenset({Trigger.MANUAL, Trigger.DBUS})
_HERDS = frozenset({Trigger.CRON, Trigger.NETWORK, Trigger.BOOT, Trigger.GATE})
"""Triggers that come to many laptops in one second."""

_SPREADS = {
    Trigger.CRON: CRON_SPREAD,
    Trigger.NETWORK: LINK_SPREAD,
    Trigger.BOOT: LINK_SPREAD,
    Trigger.GATE: LINK_SPREAD,
    Trigger.PORTAL: PORTAL_SPREAD,
}


class Ask(NamedTuple):
    """Ask at once."""

    reason: str


class AskSoon(NamedTuple):
    """Find the moment (``next_slot``), keep it as the due time, ask then.

    Attributes:
        reason: Why.
        spread: Within how many seconds.
    """

    reason: str
    spread: int = SPREAD


class NotDue(NamedTuple):
    """Do nothing before ``until``."""

    until: int
    reason: str


Verdict = Ask | AskSoon | NotDue


def judge(
    trigger: Trigger,
    due: Due | None,
    now: int,
    *,
    floor: int = 0,
    waits: bool = False,
    same_boot: bool = True,
) -> Verdict:
    """Decide whether a trigger leads to a query.

    A person who calls is never made to wait for a slot: whoever sits at the
    laptop wants to see the answer. Cron calls every laptop in the same second, so
    what it wakes always draws one.

    Args:
        trigger: What woke this run.
        due: The stamp on disk, if there is one.
        now: This laptop's clock.
        floor: The greatest signed time ever seen. A stamp from well before it was
            made by a clock that was wrong, unless the clock still is.
        waits: Whether a gate held a build back that was ordered.
        same_boot: Whether a server was asked in this boot. A clock that is behind the
            floor may begin anew at each boot, and then an older stamp says nothing.
    """
    behind = now < floor and not same_boot
    if due is None or behind or not _is_sound(due, now, floor):
        return _overdue(trigger, "no valid due time is known")
    if now < due[1]:
        return _too_early(trigger, due, waits=waits)
    if now >= due[1] + ON_TIME:
        return _overdue(trigger, "the query is overdue")
    if trigger in _HERDS:
        return _overdue(trigger, "the query is due, and maybe that of others too")
    return Ask("the query is due")


def _too_early(trigger: Trigger, due: Due, *, waits: bool) -> Verdict:
    """Decide about a trigger before its time; two kinds change what time it is.

    What was drawn for the next few minutes was drawn for a link that led to a portal.
    """
    if trigger is Trigger.PORTAL and due[1] - due[0] <= LINK_SPREAD:
        return _overdue(trigger, "a query is due and the portal lets us through")
    if trigger is Trigger.GATE and waits:
        return _overdue(trigger, "a build waits and nothing holds it back any more")
    return NotDue(due[1], "the next query is not due yet")


def _is_sound(due: Due, now: int, floor: int) -> bool:
    drawn, until = due
    stale = drawn < floor - CLOCK_SLACK and now >= floor
    longest = until - drawn <= LONGEST
    return drawn <= now and longest and not stale


def _overdue(trigger: Trigger, reason: str) -> Verdict:
    if trigger in _PEOPLE:
        return Ask(reason)
    return AskSoon(reason, _SPREADS.get(trigger, SPREAD))


def for_daemon(spread: int) -> int:
    """Return the spread for a daemon, whose ticks find a link a minute late at most."""
    return LINK_SPREAD if spread == SPREAD else spread


def place_of(serial: str) -> float:
    """Return a laptop's place among all, 0 <= place < 1, by its serial number.

    The laptops of a school were mostly made one after the other. Multiples of the
    golden ratio put such numbers as far apart as they can be (Fibonacci hashing), and
    so no second gets many more of them than another, as it would by chance.
    """
    try:
        number = int(serial[-_DIGITS:], 16)  # as OLPC counts
    except ValueError:
        number = int.from_bytes(serial.encode(), "big")
    return number * _GOLDEN % 2**64 / 2**64


def next_slot(now: int, place: float, spread: int = SPREAD) -> Due:
    """Return when an overdue laptop asks: within the next ``spread`` seconds.

    Time is cut into spans of ``spread`` seconds, and a laptop asks at its place in
    one, whenever it was woken. Clocks that differ mix the places up, no worse than
    dice would.
    """
    slot = int(place * spread)
    return now, now + 1 + (slot - now - 1) % spread


def draw_next(
    interval: int, now: int, draw: float, *, lease_expiry: int | None = None
) -> Due:
    """Draw the next due time after a query that was answered.

    It is `interval` on average, between three and five quarters of it. A lease pulls
    it to at most half-way to the lease's end, so that a server must be out of reach
    for half a lease to hurt; an expired one pulls no more.

    Args:
        interval: How often to ask, in seconds.
        now: This laptop's clock.
        draw: The dice.
        lease_expiry: When the lease ends, by this laptop's clock.
    """
    wait = int(interval * (0.75 + draw / 2))
    if lease_expiry is not None and lease_expiry > now:
        wait = min(wait, _half_way(lease_expiry - now, draw))
    return now, now + min(wait, LONGEST)


def _half_way(left: int, draw: float) -> int:
    """Return at most half of what is left, spread, but no hammering near the end."""
    return int(max(left / 2, LEASE_PULL) * (0.75 + draw / 4))


def draw_retry(
    failures: int,
    now: int,
    draw: float,
    *,
    retry_after: int | None = None,
    lease_expiry: int | None = None,
) -> Due:
    """Draw the next due time after a server failed.

    The wait doubles with each failure, from five minutes to four hours, and lies in
    the upper half of its bound. The server's own wish is obeyed, up to a day.

    Args:
        failures: How many queries failed in a row, this one included.
        now: This laptop's clock.
        draw: The dice.
        retry_after: Seconds the server asked us to wait.
        lease_expiry: When the lease ends; half-way to it is the latest, but the first
            backoff is the least.
    """
    bound = min(FIRST_BACKOFF << min(max(failures, 1), 16), LAST_BACKOFF)
    wait = int(bound * (1 + draw) / 2)
    if lease_expiry is not None and lease_expiry > now:
        wait = max(
            min(wait, _half_way(lease_expiry - now, draw)),
            int(FIRST_BACKOFF * (1 + draw)),
        )
    if retry_after is not None:
        asked = min(max(retry_after, 0), LONGEST_RETRY_AFTER)
        wait = max(wait, asked + int(draw * max(MINUTE, asked // 4)))
    return now, now + wait
