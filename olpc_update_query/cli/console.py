"""How a command speaks: quiet, in one line, telling the story, or as JSON."""

import contextlib
import gc
import json
import logging
import os
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import NoReturn

import click

from olpc_update_query import errors
from olpc_update_query.cli import render
from olpc_update_query.policy.pace import Pace
from olpc_update_query.ports import Clock
from olpc_update_query.report import Event, Outcome, failure
from olpc_update_query.system.files import refusal
from olpc_update_query.system.host import SystemClock

INTERRUPTED = 130
BAR_WIDTH = 30
REDRAW = 0.2  # seconds
BETWEEN_LINES = 60.0


class Level(IntEnum):
    """How much is told."""

    QUIET = -1
    LINE = 0
    STORY = 1
    DEBUG = 2


class Console:
    """Who listens to a run on the command line (``report.Audience``).

    Args:
        program: The command's name, which begins every error.
        level: How much is told.
        as_json: Tell nothing but one JSON object, at the end.
    """

    def __init__(
        self,
        program: str,
        level: Level = Level.LINE,
        *,
        as_json: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self.program, self.level, self.as_json = program, level, as_json
        self._clock = clock or SystemClock()
        self._bar = _Bar(sys.stdout.isatty())

    @property
    def tells_story(self) -> bool:
        """Whether every step is told."""
        return self.level >= Level.STORY and not self.as_json

    def say(self, text: str) -> None:
        """Print a line that was asked for."""
        self._bar.clear()
        _echo(text)

    def tell(self, event: Event) -> None:
        """Tell what has happened."""
        if self.tells_story:
            for line in render.story(event, self._clock.now()):
                self.say(line)

    def step(self, text: str) -> None:
        """Tell one step of the installation."""
        if self.tells_story:
            self.say(text)

    def transferred(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived."""
        if not self.as_json and self.level >= Level.LINE:
            now = self._clock.boottime()
            self._bar.show(done, total, now, lines=self.tells_story)

    def end(self, outcome: Outcome) -> None:
        """Tell what it came to."""
        self._bar.clear()
        if self.as_json:
            self.print_json(outcome.to_json())
            return
        if outcome.exit_code:
            self.complain(outcome.text, outcome.hint)
        elif self.level >= Level.LINE:
            self.say(render.closing(outcome, self._clock.now()))
        if outcome.exit_code and self.tells_story:
            due = render.next_query(outcome, self._clock.now())
            if due:
                self.say(due)

    def warn(self, text: str) -> None:
        """Say something that no option silences."""
        _echo(f"{self.program}: {text}", err=True)

    def print_json(self, value: object) -> None:
        """Print one value."""
        _echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))

    def complain(self, text: str, hint: str = "") -> None:
        """Print an error in one line, and what to do about it."""
        _echo(f"{self.program}: {one_line(text)}", err=True)
        if hint:
            _echo(f"  hint: {hint}", err=True)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Tell an expected failure, and leave with its exit code."""
        try:
            yield
        except (errors.UpdateError, OSError) as found:
            error = refusal(found) if isinstance(found, OSError) else found
            self.end(failure(error))
            sys.exit(error.exit_code)


def _echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print; if nobody reads it any more, the run goes on in silence."""
    try:
        click.echo(text, err=err, nl=nl)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
        os.close(nowhere)


def one_line(text: str) -> str:
    """Return a text without newlines and runs of spaces."""
    return " ".join(text.split())


class _Bar:
    """How far a download is: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, on_terminal: bool) -> None:
        self._on_terminal = on_terminal
        self._shown = False
        self._pace = Pace()
        self._tenth, self._drawn = 0, float("-inf")

    def show(self, done: int, total: int, now: float, *, lines: bool) -> None:
        """Show it, where and as often as that makes sense.

        Args:
            done: Bytes that have come.
            total: Bytes of all.
            now: Seconds of a clock that is not set.
            lines: Whether a log wants to know.
        """
        self._pace.note(done, now)
        share = min(done / total, 1.0) if total else 1.0
        since, tenth = now - self._drawn, int(share * 10)
        left = self._pace.remaining(total)
        text = render.progress(done, total, self._pace.rate, left)
        if self._on_terminal and (since >= REDRAW or share == 1.0):
            filled = "#" * int(share * BAR_WIDTH)
            _echo(f"\r[{filled:<{BAR_WIDTH}}] {text}\x1b[K", nl=False)
            self._shown, self._drawn = True, now
        elif lines and not self._on_terminal and self._is_news(tenth, since):
            self._tenth, self._drawn = tenth, now
            _echo(f"  {text}")

    def _is_news(self, tenth: int, since: float) -> bool:
        """Tell whether a log wants a line: each tenth, but at most one a minute."""
        return tenth != self._tenth and since >= BETWEEN_LINES

    def clear(self) -> None:
        if self._shown:
            _echo("\r\x1b[K", nl=False)
            self._shown = False


def set_up_logging(program: str, level: Level) -> None:
    """Send what the program logs to the standard error stream."""
    levels = {
        Level.QUIET: logging.ERROR,
        Level.LINE: logging.WARNING,
        Level.STORY: logging.INFO,
        Level.DEBUG: logging.DEBUG,
    }
    logging.basicConfig(
        format=f"{program}: %(message)s", level=levels[level], stream=sys.stderr
    )
    for library in ("urllib3", "requests", "apscheduler"):
        logging.getLogger(library).setLevel(logging.WARNING)


def run_command(command: click.Command, program: str) -> NoReturn:
    """Run a click command, and leave the process with its exit code."""
    try:
        code = command.main(prog_name=program, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{program}: interrupted", err=True)
        sys.exit(INTERRUPTED)
    finally:
        # Or Python looks for garbage in all that was imported: a tenth of a poll.
        gc.freeze()
    sys.exit(code if isinstance(code, int) else 0)
