"""Laptops over years of use, by the product's own schedule, and a whole school."""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bench import schedule as bench
from bench.fleet import Laptop
from olpc_update_query.policy.schedule import DAY, HOUR, MINUTE, Trigger

BIRTH = 1_795_000_000
PROMPT = 10 * MINUTE
"""How long a laptop with a link may take that should ask."""


class YearsOfUse(RuleBasedStateMachine):
    """One laptop: sessions, links, suspends, clocks that jump, servers that fail.

    Time passes in ticks of a minute while it is on. The server signs the true time
    and gives leases of three weeks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.laptop = Laptop(random.Random(762))
        self.true, self.offset = BIRTH, 0
        self.is_on = self.has_link = False
        self.server_works = True
        self.in_vain = 0  # seconds that it could have asked and did not
        self.last_answer: int | None = None  # true time
        self.polls: list[int] = []  # true times of answers since the clock was right
        self.failures: list[int] = []
        self.disturbed = 0

    @property
    def clock(self) -> int:
        return self.true + self.offset

    @initialize(seed=st.integers(0, 2**32), interval=st.sampled_from([HOUR, DAY]))
    def birth(self, seed: int, interval: int) -> None:
        self.laptop = Laptop(random.Random(seed), interval=interval)

    # --- what happens to it ---------------------------------------------------------

    @rule(minutes=st.integers(1, 120), link_after=st.integers(0, 30))
    def use(self, minutes: int, link_after: int) -> None:
        """Boot, use, switch off."""
        self.is_on, self.has_link = True, False
        for minute in range(minutes):
            if minute == link_after:
                self.get_link()
            self.tick()
        self.is_on = self.has_link = False
        self.in_vain = 0

    @rule(hours=st.integers(1, 60))
    def leave_on(self, hours: int) -> None:
        self.use(hours * 60, 2)

    @rule(days=st.integers(1, 400))
    def leave_off(self, days: int) -> None:
        self.true += days * DAY

    @rule(seconds=st.integers(1, 5 * DAY))
    def suspend(self, seconds: int) -> None:
        """Sleep in the middle of a session, and wake up with a link."""
        self.is_on = self.has_link = True
        self.true += seconds
        self.get_link()
        for _ in range(15):
            self.tick()
        self.is_on = self.has_link = False
        self.in_vain = 0

    @rule(offset=st.sampled_from([0, -BIRTH, -DAY, -40, 40, DAY, 9 * 365 * DAY]))
    def set_clock(self, offset: int) -> None:
        if offset != self.offset:
            self.offset, self.in_vain = offset, 0
            self.disturbed += 1

    @rule(works=st.booleans())
    def server(self, works: bool) -> None:
        self.server_works, self.in_vain = works, 0

    # --- how it goes ------------------------------------------------------------------

    def get_link(self) -> None:
        self.has_link, self.in_vain = True, 0
        self.wake(Trigger.NETWORK)

    def tick(self) -> None:
        self.wake(Trigger.TIMER)
        self.true += MINUTE
        if self.should_ask():
            self.in_vain += MINUTE
        else:
            self.in_vain = 0

    def wake(self, trigger: Trigger) -> None:
        asks = self.laptop.wake(trigger, self.clock)
        if asks == self.clock and self.has_link:
            self.ask()

    def ask(self) -> None:
        if not self.server_works:
            self.failures.append(self.true)
            self.laptop.failed(self.clock)
            return
        behind = max(self.laptop.floor - self.clock, 0)
        self.laptop.lease = self.true + 21 * DAY - behind
        self.laptop.answered(self.clock, self.true)
        self.polls.append(self.true)
        self.last_answer, self.in_vain = self.true, 0

    def should_ask(self) -> bool:
        """Tell whether the last answer is so old that it must be asking by now."""
        if not (self.is_on and self.has_link and self.server_works):
            return False
        if self.last_answer is None:
            return True
        longest = max(self.laptop.interval * 1.25, 4 * HOUR)  # or it was backing off
        return self.true - self.last_answer > longest

    @invariant()
    def it_asks_in_time(self) -> None:
        assert self.in_vain <= PROMPT + MINUTE

    @invariant()
    def it_is_polite(self) -> None:
        """A jump of the clock may cost one query more, nothing else may."""
        least = self.laptop.interval * 0.75 - MINUTE
        pairs = zip(self.polls, self.polls[1:], strict=False)
        hasty = sum(later - earlier < least for earlier, later in pairs)
        assert hasty <= self.disturbed + len(self.failures)

    @invariant()
    def it_backs_off(self) -> None:
        pairs = zip(self.failures, self.failures[1:], strict=False)
        hasty = sum(later - earlier < 5 * MINUTE for earlier, later in pairs)
        assert hasty <= self.disturbed


YearsOfUse.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestYearsOfUse = YearsOfUse.TestCase


# --- a school -----------------------------------------------------------------------


@pytest.mark.parametrize("name", bench.OURS)
def test_short_sessions_are_enough(name: str) -> None:
    line = bench.ours(name, bench.OURS[name], 500, random.Random(762))
    assert line.in_ten >= 0.99
    assert bench.busiest(line.polls, 1) <= 5
    for polls in (line.apart, line.mixed):  # by chance, then
        assert polls
        most = 6 if "cron" in name else 5  # cron wakes them all in one second
        assert bench.busiest(polls, bench.WINDOW) <= most


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("rpm-ostree: 1 h after boot", 0.0),
        ("systemd-sysupdate: 15 min + 0..4 h", 0.021),
        ("dnf-automatic, fwupd: 0..1 h", 0.33),
        ("eos-updater: 3 min + 0..30 min", 0.57),
        ("Flatcar: 7 min +- 5 min", 1.0),
    ],
)
def test_the_peers_are_simulated_as_they_were_computed(name: str, share: float) -> None:
    line = bench.peer(name, bench.PEERS[name], 3000, random.Random(762))
    assert line.in_session == pytest.approx(share, abs=0.03)


def test_leases_that_end_together_are_no_storm() -> None:
    count = 400
    storm = bench.expiry(count, 3, random.Random(762))
    assert storm.hour <= 1.5 * count, "every 15 minutes would be 4"
    assert max(storm.days) <= 8
    assert storm.days[-2] >= 3, "but a lease is asked for before it ends"
