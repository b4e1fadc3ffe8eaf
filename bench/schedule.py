"""How a fleet asks, beside the timers that others ship.

Prints three tables: who asks within ten minutes of a link, and how hard a school that
opens its laptops together hits its server (laptops made one after the other, with
clocks that agree; with clocks that do not; and with serial numbers of all kinds); what
4,000 laptops do to it whose leases end together; and what a signed answer costs, which
makes load of it.

The timers are those of the peers' unit files, as of 2026: each line says how. A laptop
boots, gets a link half a minute later, is used for twenty minutes and switched off.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bench.fleet import Laptop
from olpc_update_query.model.messages import Answer
from olpc_update_query.policy.schedule import DAY, HOUR, MINUTE, Trigger
from olpc_update_query.server.signing import generate, make_answer

SESSION = 20 * MINUTE
LINK = 30
"""Seconds from the start of a laptop to its link."""
SCHOOL = 1000
SKEW = 30
OPENING = 5 * MINUTE
MORNING = 8 * HOUR
BEGIN = 1_795_046_400
"""A midnight, UTC."""
LEASES = 4000
WINDOW = 10

Wakes = Callable[[int, random.Random], Iterator[tuple[int, Trigger]]]
Timer = Callable[[random.Random], float]


class Line(NamedTuple):
    """A line of the first table.

    Attributes:
        name: What wakes the laptop.
        in_ten: Share of sessions that ask within ten minutes of the link, if due.
        in_session: Share that ask before the laptop is switched off.
        polls: When 1,000 laptops asked that started within five minutes.
        apart: The same of laptops whose clocks are half a minute wrong.
        mixed: The same of laptops whose serial numbers have nothing in common.
    """

    name: str
    in_ten: float
    in_session: float
    polls: list[int]
    apart: list[int] | None = None
    mixed: list[int] | None = None


# --- what wakes a laptop: seconds since it started ---------------------------------


def by_daemon(start: int, dice: random.Random) -> Iterator[tuple[int, Trigger]]:
    """Wake at the link, two seconds later than it came, and once a minute."""
    yield from _merge(LINK + 2, MINUTE, dice.randrange(MINUTE))


def by_hooks(start: int, dice: random.Random) -> Iterator[tuple[int, Trigger]]:
    """Wake by NetworkManager's dispatcher, and by the timer."""
    yield from _merge(LINK, 5 * MINUTE + 30, MINUTE + dice.randrange(30))


def by_timer(start: int, dice: random.Random) -> Iterator[tuple[int, Trigger]]:
    """Wake a minute after the start and every five minutes, at worst half late."""
    for at in range(MINUTE + dice.randrange(30), SESSION, 5 * MINUTE + 30):
        yield at, Trigger.TIMER


def by_cron(start: int, dice: random.Random) -> Iterator[tuple[int, Trigger]]:
    """Wake at each fifth minute of the clock, all laptops in the same second."""
    for at in range(-start % (5 * MINUTE), SESSION, 5 * MINUTE):
        yield at, Trigger.CRON


def _merge(link: int, period: int, first: int) -> Iterator[tuple[int, Trigger]]:
    ticks = [(at, Trigger.TIMER) for at in range(first, SESSION, period)]
    yield from sorted([*ticks, (link, Trigger.NETWORK)])


OURS: dict[str, Wakes] = {
    "ours, the daemon": by_daemon,
    "ours, dispatcher and timer": by_hooks,
    "ours, the timer alone": by_timer,
    "ours, cron alone": by_cron,
}
PEERS: dict[str, Timer] = {
    "rpm-ostree: 1 h after boot": lambda dice: HOUR,
    "systemd-sysupdate: 15 min + 0..4 h": lambda dice: (
        15 * MINUTE + dice.uniform(0, 4 * HOUR)
    ),
    "apt-daily: 0..12 h": lambda dice: dice.uniform(0, 12 * HOUR),
    "dnf-automatic, fwupd: 0..1 h": lambda dice: dice.uniform(0, HOUR),
    "eos-updater: 3 min + 0..30 min": lambda dice: (
        3 * MINUTE + dice.uniform(0, 30 * MINUTE)
    ),
    "Flatcar: 7 min +- 5 min": lambda dice: 7 * MINUTE + dice.uniform(-300, 300),
}


# --- sessions ------------------------------------------------------------------------


def session(
    laptop: Laptop, start: int, wakes: Iterable[tuple[int, Trigger]]
) -> int | None:
    """Let a laptop be used once; every query is answered once there is a link.

    Returns:
        Seconds from the start to its query, or None when it made none.
    """
    moment, link = start + SESSION, start + LINK
    for at, trigger in wakes:
        if link <= moment <= start + at:
            break
        asks = laptop.wake(trigger, start + at)
        moment = moment if asks is None else asks  # before the link, it asks in vain
    if not link <= moment < start + SESSION:
        return None
    laptop.answered(moment)
    return moment - start


def ours(name: str, wakes: Wakes, count: int, dice: random.Random) -> Line:
    """Use overdue laptops, and then the whole school on one morning, three times."""

    def use(serial: str, start: int, skew: float = 0.0) -> int | None:
        wrong = int(dice.gauss(0, skew))
        laptop = _overdue(serial, start + wrong, dice)
        laptop.has_daemon, laptop.ahead = wakes is by_daemon, wrong
        return session(laptop, start, wakes(start, dice))

    def morning(serials: Iterator[str], skew: float = 0.0) -> list[int]:
        asked = [(start, use(next(serials), start, skew)) for start in _openings(dice)]
        return [start + found for start, found in asked if found is not None]

    asked = [use(_any_serial(dice), BEGIN + dice.randrange(DAY)) for _ in range(count)]
    line = _line(name, asked, morning(_delivery(dice)))
    return line._replace(
        apart=morning(_delivery(dice), SKEW),
        mixed=morning(iter(lambda: _any_serial(dice), "")),
    )


def _overdue(serial: str, start: int, dice: random.Random) -> Laptop:
    last = start - dice.randrange(2 * DAY, 60 * DAY)
    return Laptop(dice, serial, due=(last, last + DAY), floor=last)


def _delivery(dice: random.Random) -> Iterator[str]:
    """Number laptops as they were made, and open them in any order."""
    first = dice.randrange(16**5 - SCHOOL)
    yield from (f"CSN748{first + at:05X}" for at in dice.sample(range(SCHOOL), SCHOOL))


def _any_serial(dice: random.Random) -> str:
    return f"CSN{dice.randrange(600, 1000)}{dice.randrange(16**5):05X}"


def peer(name: str, timer: Timer, count: int, dice: random.Random) -> Line:
    """Start a peer's timer with the laptop."""

    def once() -> int | None:
        at = timer(dice)
        return None if at >= SESSION else int(at)

    polls = [
        start + found
        for start in _openings(dice)
        if (found := once()) is not None and found >= LINK
    ]
    return _line(name, [once() for _ in range(count)], polls)


def _openings(dice: random.Random) -> list[int]:
    return [BEGIN + MORNING + dice.randrange(OPENING) for _ in range(SCHOOL)]


def _line(name: str, asked: list[int | None], polls: list[int]) -> Line:
    in_ten = sum(at is not None and at <= LINK + 10 * MINUTE for at in asked)
    in_session = sum(at is not None for at in asked)
    return Line(name, in_ten / len(asked), in_session / len(asked), polls)


def busiest(polls: list[int], window: int) -> float:
    """Return the most polls a second, in any window of so many seconds."""
    counts = Counter(polls)
    seconds = range(min(polls, default=0), max(polls, default=0) + 1)
    return (
        max(
            (sum(counts[at + more] for more in range(window)) for at in seconds),
            default=0,
        )
        / window
    )


# --- leases that end together ------------------------------------------------------


class Storm(NamedTuple):
    """What a fleet did while its leases ran out.

    Attributes:
        days: Polls of a laptop on each day, the last one last.
        peak: The busiest second.
        hour: Polls in the busiest hour.
    """

    days: list[float]
    peak: float
    hour: int


def expiry(count: int, days: int, dice: random.Random) -> Storm:
    """Let all leases end at one time, and let the server renew none of them.

    The laptops are on all the time; a daemon wakes each of them once a minute.
    """
    end = BEGIN + days * DAY
    polls: list[int] = []
    for _ in range(count):
        laptop = Laptop(dice, lease=end)
        now = BEGIN - dice.randrange(DAY)
        laptop.answered(now)
        phase = dice.randrange(MINUTE)
        while now < end + DAY:
            asks = laptop.wake(Trigger.TIMER, now)
            if asks is not None:
                polls += [asks] if asks >= BEGIN else []
                laptop.answered(asks)
            until = now if laptop.due is None else laptop.due[1]
            now += max(MINUTE, (until - now - phase) // MINUTE * MINUTE)
    by_day = Counter((at - BEGIN) // DAY for at in polls)
    by_hour = Counter(at // HOUR for at in polls)
    return Storm(
        [by_day[day] / count for day in range(days + 1)],
        busiest(polls, 1),
        max(by_hour.values()),
    )


def cost_of_an_answer() -> float:
    """Return the seconds of one core that signing an answer takes."""
    key = generate()
    answer, count = Answer(nonce="1", time=BEGIN, interval=DAY), 50
    begin = time.process_time()
    for _ in range(count):
        make_answer(answer, key.sig01)
    return (time.process_time() - begin) / count


# --- the tables ----------------------------------------------------------------------


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="bench.schedule", description=__doc__)
    parser.add_argument("-n", "--sessions", type=int, default=5000, help="of each")
    parser.add_argument("--seed", type=int, default=762)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    lines = [peer(name, how, given.sessions, dice) for name, how in PEERS.items()]
    lines += [ours(name, how, given.sessions, dice) for name, how in OURS.items()]
    _print_lines(lines)
    _print_storm(expiry(LEASES, 4, dice), cost_of_an_answer())


def _print_lines(lines: list[Line]) -> None:
    print("overdue laptops, each used for 20 minutes; 1,000 that start in 5 minutes")
    print(f"{'':36}{'asks in':>9}{'in the':>9}{'busiest':>9}{'busiest 10 s,':>15}")
    print(f"{'':36}{'10 min':>9}{'session':>9}{'second':>9}{'a second':>15}")
    for line in lines:
        shares = f"{line.in_ten:9.1%}{line.in_session:9.1%}"
        print(f"{line.name:36}{shares}{_peaks(line.polls)}")
    print(f"the same, with clocks that are wrong by {SKEW} seconds or so")
    for line in lines:
        if line.apart is not None:
            print(f"{line.name:54}{_peaks(line.apart)}")
    print("the same, of laptops that were not made one after the other")
    for line in lines:
        if line.mixed is not None:
            print(f"{line.name:54}{_peaks(line.mixed)}")


def _peaks(polls: list[int]) -> str:
    return f"{busiest(polls, 1):9.0f}{busiest(polls, WINDOW):15.1f}"


def _print_storm(storm: Storm, seconds: float) -> None:
    days = ", ".join(f"{count:.1f}" for count in storm.days)
    load = storm.hour / HOUR * seconds
    print()
    print("4,000 laptops, always on, whose leases end together and are not renewed")
    print(f"polls of a laptop, day by day, the last after the end: {days}")
    print(f"busiest second: {storm.peak:.0f} polls")
    print(f"busiest hour: {storm.hour} polls; every 15 minutes would be {LEASES * 4}")
    print(f"that hour's load: {load:.2%} of a core ({seconds * 1000:.2f} ms an answer)")


if __name__ == "__main__":
    main()
