"""One scene, cut short after every change, in every order that `orders` tries."""

import contextlib
import gc
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import cast

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
    "olpc_update_query.run.go_back",
    "olpc_update_query.run.mend",
    "olpc_update_query.run.poll",
    "olpc_update_query.run.stick",
    "olpc_update_query.run.two_units",
    "olpc_update_query.system.http",
    "olpc_update_query.system.throttle",
    "sqlite3",
    "zstandard",
    "cryptography.hazmat.primitives.asymmetric.padding",
    "cryptography.hazmat.backends.openssl.backend",
    "ctypes",
    "dbus",
    "tomllib",
)


def require_tools() -> None:
    """End with a plain line where nothing of all this can work.

    From then on SIGTERM ends the process as Ctrl-C does: memory and mounts are freed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if os.geteuid() != 0 or not shutil.which("strace"):
        sys.exit("tests.crash: needs root, and strace (Debian package strace)")


def load() -> None:
    """Load once what the runs would have to load each for themselves."""
    for name in LOADED:
        with contextlib.suppress(ImportError):  # dbus need not be there
            importlib.import_module(name)
    gc.freeze()  # what a collection touches, each fork would have to copy


def sweep(scene: Scene, bounds: Bounds) -> Swept:
    """Record a scene's job, then try the states that cuts may leave."""
    found = Swept()
    with _crew(scene, bounds.workers) as crew:
        journal = record_scene(scene)
        found.points = sum(not isinstance(one, Sync) for one in journal.events)
        for state, wrong in crew.try_all(_distinct(journal, bounds)):
            found.states += 1
            found.orders[state.order] += 1
            if wrong:
                how = "killed" if state.is_kill else f"power cut, {state.order}"
                found.failures.append(
                    f"{scene.name}, change {state.point}, {how}: {wrong[0]}"
                )
                if len(found.failures) >= bounds.stop:
                    break
    return found


def _distinct(journal: Journal, bounds: Bounds) -> Iterator[State]:
    """Yield each state once, or one of ``share`` of them."""
    seen: set[tuple[bool, int]] = set()
    for state in states(journal, most=bounds.most, seed=1, synced=bounds.synced):
        mark = (state.is_kill, state.disk.fingerprint())
        if mark not in seen:
            seen.add(mark)
            if len(seen) % bounds.share == 0:
                yield state


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


class _Crew:
    """Processes that try states, one each at a time.

    They are begun before a journal is there, for what a process has in memory is what
    a fork of it costs, and each state costs some.
    """

    def __init__(self, lines: "list[Connection]") -> None:
        self._idle, self._busy = lines, dict[Connection, State]()

    def try_all(self, found: Iterable[State]) -> Iterator[tuple[State, list[str]]]:
        for state in found:
            if not self._idle:
                yield from self._answers()
            line = self._idle.pop()
            line.send(state)
            self._busy[line] = state
        while self._busy:
            yield from self._answers()

    def _answers(self) -> Iterator[tuple[State, list[str]]]:
        for line in cast("list[Connection]", wait(list(self._busy))):
            wrong = line.recv()
            self._idle.append(line)
            yield self._busy.pop(line), wrong


@contextlib.contextmanager
def _crew(scene: Scene, size: int) -> Iterator[_Crew]:
    context = get_context("fork")
    with contextlib.ExitStack() as held:
        lines: list[Connection] = []
        done = held.enter_context(scratch())
        for _ in range(size):
            here, there = context.Pipe()
            place = held.enter_context(scratch())
            lines.append(here)
            given = ([*lines], there, scene, place, done)
            process = context.Process(target=_work, args=given)
            process.start()
            held.callback(process.join)
            held.callback(here.close)
            there.close()
        yield _Crew(lines)


def _work(
    others: list[Connection], line: Connection, scene: Scene, place: Path, done: Path
) -> None:
    """Try what comes, until nobody is at the other end of the line any more."""
    for other in others:
        other.close()
    load()
    trial = _Trial(scene, place, done)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            line.send(trial.of(line.recv()))


class _Trial:
    """Makes states and judges them.

    Many states are one once the initramfs has deleted what it deletes. A run that
    got through from a disk does not have to show again that it gets through from the
    same one: names, bytes, owners, modes, attributes, hard links and the times that
    were set are compared.

    Args:
        scene: Whose states.
        place: A scratch directory.
        done: Where all processes note from which disks a next run got through.
    """

    def __init__(self, scene: Scene, place: Path, done: Path) -> None:
        self._scene, self._place, self._done = scene, place, done
        self._root = place / "laptop"
        self._judge = Judge(scene, self._root)
        self._new_ns = scene.root.stat().st_mtime_ns

    def of(self, state: State) -> list[str]:
        """Make a state, judge it, let the next run finish, judge again.

        In a directory that is closed to the asker's user, asker and installer are one
        process: three of four next runs are, for that is twice as fast.
        """
        os.chmod(self._place, 0o700 if state.point % 4 else 0o755)
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir()
        state.disk.write_to(self._root, self._new_ns)
        wrong = self._judge.after_cut(is_kill=state.is_kill)
        mark = self._done / read_disk(self._root).digest(self._new_ns)
        if wrong or mark.exists():
            return wrong
        ended = run(lambda: self._scene.next_run(self._root), self._place / "log")
        wrong = self._judge.after_next_run(*ended)
        if not wrong:
            mark.touch()
        return wrong
