"""Simulated laptops that are woken as real ones are and ask the product's schedule.

Nothing here decides when to ask: ``Laptop`` only does what ``run.poll`` does with the
decisions of ``policy.schedule``, without a disk and without a network.
"""

import random
from dataclasses import dataclass, field

from olpc_update_query.policy.due import Due, format_due, may_skip
from olpc_update_query.policy.schedule import (
    DEFAULT_INTERVAL,
    Ask,
    AskSoon,
    NotDue,
    Trigger,
    draw_next,
    draw_retry,
    for_daemon,
    judge,
    next_slot,
    place_of,
)

LOOKED_AT_FIRST = frozenset(
    {Trigger.CRON, Trigger.TIMER, Trigger.NETWORK, Trigger.BOOT}
)
"""Triggers for which the program reads the due time before it loads anything."""


@dataclass
class Laptop:
    """One laptop's schedule.

    Attributes:
        dice: Its chance.
        serial: Its serial number.
        has_daemon: Whether a daemon wakes it.
        ahead: By how many seconds its clock is wrong. All times here are the true ones,
            but those on its disk.
        due: The stamp on its disk.
        floor: The greatest signed time that it has seen.
        interval: How often the server wants it to ask.
        lease: When its lease ends, None for never.
        failures: How many queries in a row met a server that failed.
    """

    dice: random.Random
    serial: str = "CSN74805A62"
    has_daemon: bool = False
    ahead: int = 0
    due: Due | None = None
    floor: int = 0
    interval: int = DEFAULT_INTERVAL
    lease: int | None = None
    failures: int = field(default=0, init=False)

    def wake(self, trigger: Trigger, now: int) -> int | None:
        """Return when this trigger leads to a query: now, at a moment, or never."""
        asks = self._wake(trigger, now + self.ahead)
        return None if asks is None else asks - self.ahead

    def _wake(self, trigger: Trigger, now: int) -> int | None:
        text = "" if self.due is None else format_due(self.due)
        if trigger in LOOKED_AT_FIRST and may_skip(text, now):
            return None
        verdict = judge(trigger, self.due, now, floor=self.floor)
        match verdict:
            case Ask():
                return now
            case AskSoon(_, spread):
                spread = for_daemon(spread) if self.has_daemon else spread
                self.due = next_slot(now, place_of(self.serial), spread)
                return self.due[1]
            case NotDue():
                return None

    def answered(self, now: int, signed_time: int | None = None) -> None:
        """Note that a server answered."""
        now += self.ahead
        self.floor = max(self.floor, now if signed_time is None else signed_time)
        self.failures = 0
        self.due = draw_next(
            self.interval, now, self.dice.random(), lease_expiry=self.lease
        )

    def failed(self, now: int, retry_after: int | None = None) -> None:
        """Note that a server failed."""
        now += self.ahead
        self.failures += 1
        self.due = draw_retry(
            self.failures,
            now,
            self.dice.random(),
            retry_after=retry_after,
            lease_expiry=self.lease,
        )
