"""One scene, cut short after every change, in every order that `orders` tries."""

import contextlib
import gc
import importlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from tests.crash.disk import differences, read_disk
from tests.crash.journal import Journal, Sync
from tests.crash.judge import Judge
from tests.crash.orders import State, states
from tests.crash.record import record, run
from tests.crash.scenes import Scene


@dataclass
class Swept:
    """What a sweep has found.

    Attributes:
        points: Changes the job makes.
        states: Different states that were tried.
        orders: How many of each kind.
        failures: What went wrong, a line each.
    """

    points: int = 0
    states: int = 0
    orders: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Swept") -> None:
        self.states += other.states
        self.orders += other.orders
        self.failures += other.failures


@dataclass(frozen=True)
class Bounds:
    """How much of a sweep is done.

    Attributes:
        most: States at one point.
        share: One of so many states is tried.
        synced: Whether syncs count.
        workers: Processes.
        stop: Failures after which a worker stops.
    """

    most: int = 12
    share: int = 1
    synced: bool = True
    workers: int = 2
    stop: int = 5


LOADED = (
    "olpc_update_query.cli.query",
    "olpc_update_query.cli.update",
    "olpc_update_query.perform_update.leftovers",
    "olpc_update_query.perform_update.sources.rsync",
    "olpc_update_query.run.by_hand",
    "olpc_update_query.run.carry_out",
    "olpc_update_query.run.mend",
    "olpc_update_query.run.poll",
    "olpc_update_query.system.http",
    "olpc_update_query.system.throttle",
    "sqlite3",
    "zstandard",
    "cryptography.hazmat.primitives.asymmetric.padding",
    "cryptography.hazmat.backends.openssl.backend",
    "ctypes",
)


def load() -> None:
    """Load once what the runs would have to load each for themselves."""
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # what a collection touches, each fork would have to copy


def sweep(scene: Scene, bounds: Bounds) -> Swept:
    """Record a scene's job, then try the states that cuts may leave."""
    journal = record_scene(scene)
    found = Swept(points=sum(not isinstance(one, Sync) for one in journal.events))
    context = get_context("fork")
    at_work = []
    for number in range(bounds.workers):
        here, there = context.Pipe(duplex=False)
        process = context.Process(
            target=_work, args=(there, scene, journal, bounds, number)
        )
        process.start()
        there.close()
        at_work.append((here, process))
    for here, process in at_work:
        found.add(here.recv())
        process.join()
    return found


def record_scene(scene: Scene) -> Journal:
    """Run a scene's job once, on a copy of its laptop, and record it.

    Raises:
        RuntimeError: It fails, or what was recorded is not what it has done.
    """
    with scratch() as place:
        root = place / "laptop"
        subprocess.run(["cp", "-a", scene.root, root], check=True)
        ended, journal = record(lambda: scene.job(root), root, place / "log")
        if ended.code:
            raise RuntimeError(f"{scene.name}: ended with {ended.code}: {ended.said}")
        if wrong := differences(journal.end(), read_disk(root)):
            raise RuntimeError(f"{scene.name}: not replayed: {wrong[:5]}")
    return journal


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Lend a directory, in memory where users may use that."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="olpc-crash-", dir=memory) as place:
        os.chmod(place, 0o755)
        yield Path(place)


def _work(
    told: Connection, scene: Scene, journal: Journal, bounds: Bounds, number: int
) -> None:
    with scratch() as place:
        load()
        told.send(_try_all(place, scene, journal, bounds, number))


def _try_all(
    place: Path, scene: Scene, journal: Journal, bounds: Bounds, number: int
) -> Swept:
    """Try one worker's share of the states."""
    found, seen = Swept(), set()
    judge = Judge(scene, place / "laptop")
    for state in states(journal, most=bounds.most, seed=1, synced=bounds.synced):
        mark = (state.is_kill, state.disk.fingerprint())
        if mark in seen:
            continue
        seen.add(mark)
        if len(seen) % (bounds.workers * bounds.share) != number * bounds.share:
            continue
        found.states += 1
        found.orders[state.order] += 1
        wrong = _try(place, scene, judge, state)
        if wrong:
            how = "killed" if state.is_kill else f"power cut, {state.order}"
            found.failures.append(
                f"{scene.name}, change {state.point}, {how}: {wrong[0]}"
            )
            if len(found.failures) >= bounds.stop:
                break
    return found


def _try(place: Path, scene: Scene, judge: Judge, state: State) -> list[str]:
    """Make a state, judge it, let the next run finish, judge again.

    In a directory that is closed to the asker's user, asker and installer are one
    process: three of four next runs are, for that is twice as fast.
    """
    root = place / "laptop"
    os.chmod(place, 0o700 if state.point % 4 else 0o755)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    state.disk.write_to(root)
    wrong = judge.after_cut(is_kill=state.is_kill)
    if wrong:
        return wrong
    ended = run(lambda: scene.next_run(root), place / "log")
    return judge.after_next_run(*ended)
