"""Which states a disk may be found in after a cut, bounded.

At a point of the journal some changes are pending: made, not synced. Any of them may
have reached the medium, in any order. There are too many subsets to try them all;
`orders` yields those that break things in practice, and random ones.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.crash.disk import Change, Disk, Write
from tests.crash.journal import Journal, Sync


class State(NamedTuple):
    """A state that a cut may leave.

    Attributes:
        point: After how many changes the cut came.
        order: What of the pending changes was kept, in a word.
        disk: The disk.
        is_kill: Whether only the process died: nothing is lost, nothing booted.
    """

    point: int
    order: str
    disk: Disk
    is_kill: bool


@dataclass
class Window:
    """The disk up to the first pending change, and everything since.

    Attributes:
        base: The disk before the window.
        changes: Changes since, each with whether it is kept for certain.
    """

    base: Disk
    changes: list[tuple[Change, bool]]

    def sync(self, sync: Sync) -> None:
        """Let a sync keep what it keeps, and move the base on."""
        self.changes = [
            (change, kept or sync.ino is None or change.kept_by == sync.ino)
            for change, kept in self.changes
        ]
        first = next(
            (at for at, (_, kept) in enumerate(self.changes) if not kept),
            len(self.changes),
        )
        for change, _ in self.changes[:first]:
            change.apply(self.base)
        del self.changes[:first]

    @property
    def pending(self) -> list[int]:
        return [at for at, (_, kept) in enumerate(self.changes) if not kept]

    def disk(self, chosen: "dict[int, Change]") -> Disk:
        """Return the disk with the kept changes and the chosen pending ones."""
        disk = self.base.copy()
        for at, (change, kept) in enumerate(self.changes):
            if kept:
                change.apply(disk)
            elif at in chosen:
                chosen[at].apply(disk)
        return disk


def states(
    journal: Journal, *, most: int, seed: int, synced: bool = True
) -> Iterator[State]:
    """Yield the states after each change, at most ``most`` of them at a point.

    Args:
        journal: What was recorded.
        most: States at one point.
        seed: Of the dice.
        synced: Whether syncs count; if not, it is as if none had been made.
    """
    dice = random.Random(seed)
    window = Window(journal.disk(), [])
    point = 0
    yield State(0, "all", window.disk({}), is_kill=True)
    for event in journal.events:
        if isinstance(event, Sync):
            if synced:
                window.sync(event)
            continue
        window.changes.append((event, False))
        point += 1
        yield State(point, "all", window.disk(_all(window)), is_kill=True)
        for name, chosen in _orders(window, most - 1, dice):
            yield State(point, name, window.disk(chosen), is_kill=False)


def _all(window: Window) -> dict[int, Change]:
    return {at: window.changes[at][0] for at in window.pending}


def _orders(
    window: Window, most: int, dice: random.Random
) -> Iterator[tuple[str, dict[int, Change]]]:
    everything = _all(window)
    pending = list(everything)
    writes = [at for at in pending if isinstance(everything[at], Write)]
    fixed: list[tuple[str, dict[int, Change]]] = [
        ("all", everything),
        ("nothing", {}),
        ("the latest only", _only(everything, pending[-1:])),
        ("all but the latest", _only(everything, pending[:-1])),
        ("names without bytes", _without(everything, writes)),
        ("names and zeros", _zeroed(everything, writes)),
        ("a torn write", _torn(everything, writes[-1:])),
    ]
    yield from fixed[:most]
    for number in range(most - len(fixed)):
        match number % 3:
            case 0:
                lost = dice.choice(pending)
                yield "one lost", _without(everything, [lost])
            case 1:
                end = dice.randrange(len(pending) + 1)
                yield "a beginning", _only(everything, pending[:end])
            case _:
                share = dice.choice((0.1, 0.3, 0.5, 0.7, 0.9))
                kept = [at for at in pending if dice.random() < share]
                yield "some", _only(everything, kept)


def _only(changes: dict[int, Change], kept: Sequence[int]) -> dict[int, Change]:
    return {at: changes[at] for at in kept}


def _without(changes: dict[int, Change], lost: Sequence[int]) -> dict[int, Change]:
    gone = set(lost)
    return {at: change for at, change in changes.items() if at not in gone}


def _zeroed(changes: dict[int, Change], writes: Sequence[int]) -> dict[int, Change]:
    """Lengths reached the medium, bytes did not."""
    zeroed = dict(changes)
    for at in writes:
        write = changes[at]
        if isinstance(write, Write):
            zeroed[at] = write._replace(data=bytes(len(write.data)))
    return zeroed


def _torn(changes: dict[int, Change], writes: Sequence[int]) -> dict[int, Change]:
    torn = dict(changes)
    for at in writes:
        write = changes[at]
        if isinstance(write, Write):
            half = len(write.data) // 2
            zeros = bytes(len(write.data) - half)
            torn[at] = write._replace(data=write.data[:half] + zeros)
    return torn
