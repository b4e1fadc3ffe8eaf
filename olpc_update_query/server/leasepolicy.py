"""How long leases last, and for whom.

A lease ends at six in the morning of a school day, in the school's own time zone, as
those of the original system did: a laptop that must be unlocked is then where somebody
can do it, and not at home on a Saturday.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from olpc_update_query.errors import Malformed
from olpc_update_query.server.laptops import Laptop, parse_group, parse_stream
from olpc_update_query.server.rollout import DEFAULT, Kind, Scope
from olpc_update_query.server.tables import Table

MORNING: Final = 6
"""The hour at which a lease ends."""

MAX_DAYS: Final = 3650
_SATURDAY: Final = 5
_NAMES: Final = {Kind.GROUP: parse_group, Kind.STREAM: parse_stream}


class LeasePolicy(NamedTuple):
    """What leases some laptops get.

    Attributes:
        days: How many days they last; 0: these laptops get none.
        shorten: Whether a laptop whose lease ends later gets a shorter one.
    """

    days: int = 21
    shorten: bool = False

    @property
    def text(self) -> str:
        """The policy in words."""
        if not self.days:
            return "no leases"
        length = "1 day" if self.days == 1 else f"{self.days} days"
        return f"leases of {length}" + (", longer ones shortened" * self.shorten)


Rules = Mapping[Scope, LeasePolicy]


def choose(
    laptop: Laptop, default: LeasePolicy, rules: Rules
) -> tuple[Scope, LeasePolicy]:
    """Return the policy for a laptop, and whose it is: its group's, else its stream's.

    Only laptops.csv says what belongs to a laptop: by naming a stream of its choice it
    could else have a longer lease.

    Args:
        laptop: The laptop.
        default: The policy of all that have none of their own.
        rules: The others.
    """
    for scope in (
        Scope(Kind.GROUP, laptop.group or ""),
        Scope(Kind.STREAM, laptop.stream or ""),
    ):
        if scope.name and scope in rules:
            return scope, rules[scope]
    return DEFAULT, default


def lease_end(made: int, days: int, timezone: str) -> int:
    """Return when a lease ends.

    It is six in the morning so many days later, on Monday if that is a Saturday or a
    Sunday.

    Args:
        made: When it is signed, Unix time.
        days: How many days it lasts, at least 1.
        timezone: The school's time zone.

    Returns:
        Unix time.

    Raises:
        Malformed: The time zone is unknown here.
    """
    zone = parse_zone(timezone)
    day = datetime.fromtimestamp(made, zone).date() + timedelta(days=days)
    if day.weekday() >= _SATURDAY:
        day += timedelta(days=7 - day.weekday())
    end = datetime(day.year, day.month, day.day, MORNING, tzinfo=zone)
    return int(end.timestamp())


@lru_cache(8)
def parse_zone(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA database.

    Raises:
        Malformed: This machine does not know it.
    """
    if name == "UTC":  # known everywhere
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        reason = f'"{name}" is no time zone that this machine knows (package tzdata)'
        raise Malformed("time zone", reason) from None


def parse_timezone(name: str) -> str:
    """Check the name of a time zone and return it.

    Raises:
        Malformed: This machine does not know it.
    """
    parse_zone(name)
    return name


def read_policy(table: Table, default: LeasePolicy) -> LeasePolicy:
    """Read a policy; what it does not say is as in the default.

    Raises:
        DamagedSite: It does not follow the format; the key is named.
    """
    days = table.integer("days", 0, MAX_DAYS)
    return LeasePolicy(
        days=default.days if days is None else days,
        shorten=table.flag("shorten", default.shorten),
    )


def read_rules(table: Table, default: LeasePolicy) -> dict[Scope, LeasePolicy]:
    """Read the policies of groups and streams.

    Raises:
        DamagedSite: They do not follow the format; the key is named.
    """
    found: dict[Scope, LeasePolicy] = {}
    for kind, parse in _NAMES.items():
        named = table.table(kind)
        for name, one in ({} if named is None else named.tables()).items():
            try:
                scope = Scope(kind, parse(name))
            except Malformed as error:
                raise table.fault(f"{kind}.{name}", error.reason) from error
            found[scope] = read_policy(one, default)
            one.end()
    return found
