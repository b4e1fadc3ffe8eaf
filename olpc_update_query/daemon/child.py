"""A run as a child process: started, listened to, ended.

It tells what it does in lines of words (``cli.wire`` writes them). Nothing it says is
believed: numbers and a text, to be shown.
"""

import logging
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import NamedTuple

from olpc_update_query.policy.schedule import Trigger

PATIENCE = 10.0
"""Seconds a run has to end when it is told to."""

LONGEST_LINE = 1000
_log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """Bytes that have arrived, and that will."""

    done: int
    total: int


class Step(NamedTuple):
    """What the run is doing."""

    text: str


class Ended(NamedTuple):
    """What the run came to."""

    text: str


Told = Progress | Step | Ended


def parse(line: bytes) -> Told | None:
    """Read a line of a run; what is no such line is nothing."""
    text = line.decode("utf-8", "replace").rstrip("\n")
    kind, _, rest = text.partition(" ")
    match kind:
        case "step":
            return Step(printable(rest))
        case "end":
            return Ended(printable(rest))
        case "bytes":
            numbers = rest.split()
            good = len(numbers) == 2 and all(_is_number(word) for word in numbers)
            return Progress(int(numbers[0]), int(numbers[1])) if good else None
        case _:
            return None


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 18


def printable(text: str) -> str:
    """Return a text without what moves a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


class ChildRuns:
    """Starts runs as child processes (``daemon.keeper.Runs``).

    Args:
        command: How a run is started; the trigger is added to it.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def begin(
        self,
        trigger: Trigger,
        hear: Callable[[Told], object],
        end: Callable[[int], object],
        *,
        now: bool,
    ) -> "Child":
        """Start a run.

        Raises:
            OSError: It cannot be started.
        """
        words = ["--trigger", str(trigger), *(["--now"] if now else [])]
        return Child([*self._command, *words], hear, end)


class Child:
    """A run that is under way.

    Args:
        command: How it is started.
        hear: Called with each thing it tells, in a thread.
        end: Called with its exit code when it has ended, in a thread.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self,
        command: list[str],
        hear: Callable[[Told], object],
        end: Callable[[int], object],
    ) -> None:
        self._hear, self._end = hear, end
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with self._process as process:
            output = process.stdout
            while output is not None and (line := output.readline(LONGEST_LINE)):
                if (told := parse(line)) is not None:
                    self._hear(told)
        self._end(process.returncode)

    def stop(self) -> None:
        """Interrupt it, as ^C does, so that it ends where it may; else kill it."""
        self._process.send_signal(signal.SIGINT)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            _log.warning("the run did not end in %d s: it is killed", PATIENCE)
            self._process.kill()
            self._thread.join(PATIENCE)
