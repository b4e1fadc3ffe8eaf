"""What holds an ordered build back, and for how long at most.

A gate keeps a laptop from downloading a build at a bad moment. No gate delays a query
or a lease, and each has a deadline that counts from when the build was first held
back, so that none can starve a laptop. A hold is set by a person and ends by itself.

All times are seconds since the epoch, never before the greatest signed time seen.
"""

from enum import StrEnum
from typing import NamedTuple

from olpc_update_query.policy.due import Due

HOUR = 3600
DAY = 24 * HOUR
DAY_MINUTES = 24 * 60

LONGEST_HOLD = 90 * DAY
"""After that a hold is over. Who wants no updates at all says `stream = "none"`."""

CLOCK_SLACK = DAY
"""How far in the future a stamp may lie: clocks are never quite right."""


class Gate(StrEnum):
    """What can hold a build back."""

    METERED = "metered"
    BATTERY = "battery"
    QUIET = "quiet-hours"


class Gates(NamedTuple):
    """The ``[gates]`` table of the configuration.

    Attributes:
        quiet: Minutes since midnight, local time, when quiet hours begin and when
            they end, maybe on the next day; None for none.
        metered: Whether a metered connection holds builds back.
        battery: Percent of charge below which they wait for mains power; 0 for never.
        days: After how many days a build is held back no more.
    """

    quiet: tuple[int, int] | None = None
    metered: bool = True
    battery: int = 30
    days: int = 7


class Surroundings(NamedTuple):
    """How things are; what is not known holds nothing back.

    Attributes:
        minute: Minutes since midnight, local time.
        metered: Whether the connection is metered.
        charge: Percent of charge while running on battery, None on mains power.
    """

    minute: int
    metered: bool = False
    charge: int | None = None


class HeldBack(NamedTuple):
    """A gate that is closed.

    Attributes:
        gate: Which.
        since: When the build was first held back.
        until: When it is held back no more, at the latest.
    """

    gate: Gate
    since: int
    until: int

    @property
    def reason(self) -> str:
        """Say it in a few words."""
        match self.gate:
            case Gate.METERED:
                return "the connection is metered"
            case Gate.BATTERY:
                return "the battery is low"
            case Gate.QUIET:
                return "these are quiet hours"


def closed_gate(
    gates: Gates, around: Surroundings, now: int, since: int | None = None
) -> HeldBack | None:
    """Return the gate that holds a build back, if one does.

    Args:
        gates: The configuration.
        around: How things are.
        now: The time.
        since: When the build was first held back, None when it never was. A stamp
            in the future was made by a wrong clock and counts as none.
    """
    first = now if since is None or since > now else since
    deadline = first + gates.days * DAY
    if now >= deadline:
        return None
    if left := _quiet_minutes_left(gates.quiet, around.minute):
        return HeldBack(Gate.QUIET, first, min(now + left * 60, deadline))
    if gates.metered and around.metered:
        return HeldBack(Gate.METERED, first, deadline)
    if around.charge is not None and around.charge < gates.battery:
        return HeldBack(Gate.BATTERY, first, deadline)
    return None


def _quiet_minutes_left(quiet: tuple[int, int] | None, minute: int) -> int:
    """Return how long quiet hours still last, 0 outside of them."""
    if quiet is None:
        return 0
    begin, end = quiet
    begun, lasts = (minute - begin) % DAY_MINUTES, (end - begin) % DAY_MINUTES
    return max(lasts - begun, 0)


def draw_reopening(held: HeldBack, now: int, draw: float) -> Due:
    """Draw when to look again whether the gate is open.

    Quiet hours end for a whole school at once, so the hour after them is spread;
    whether a link is metered or a battery low is looked at about once an hour.
    """
    spread = int(HOUR * (0.5 + draw / 2))
    if held.gate is Gate.QUIET:
        return now, held.until + int(draw * HOUR)
    return now, min(now + spread, held.until + int(draw * HOUR))


def hold_end(since: int, until: int | None, now: int) -> int | None:
    """Return when a hold ends, or None when it does not hold any more.

    Args:
        since: When it was set. A hold from the future was set by a wrong clock, and
            counts as none, or it might last for years.
        until: When it was said to end, None for as late as possible.
        now: The time.
    """
    if since > now + CLOCK_SLACK:
        return None
    latest = since + LONGEST_HOLD
    end = latest if until is None else min(until, latest)
    return end if now < end else None
