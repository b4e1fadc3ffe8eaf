"""How a run tells the daemon what it does.

A child of the daemon prints lines of words: ``step TEXT``, ``bytes DONE TOTAL``, ``end
TEXT``. A unit tells systemd, which keeps its last words as the unit's status: TEXT, or
``DONE of TOTAL bytes``. ``daemon.child`` and ``daemon.units`` read them.
"""

import abc

from olpc_update_query.cli.console import Console, one_line
from olpc_update_query.report import Answered, Asking, Event, Outcome, Result
from olpc_update_query.system.notify import notify

BETWEEN = 1.0
"""Seconds between two words about a download."""


class Followed(Console, abc.ABC):
    """Tells whoever follows the run besides (``report.Audience``)."""

    _followed = float("-inf")

    @abc.abstractmethod
    def follow_step(self, text: str) -> None:
        """Tell the step that the run takes."""

    @abc.abstractmethod
    def follow_bytes(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived."""

    def tell(self, event: Event) -> None:
        """Tell what has happened, where that takes a while."""
        super().tell(event)
        match event:
            case Asking(server, _):
                self.follow_step(f"asking {server}")
            case Answered(server, _, _):
                self.follow_step(f"{server} has answered")
            case _:
                pass

    def step(self, text: str) -> None:
        """Tell one step of the installation."""
        super().step(text)
        self.follow_step(text)

    def transferred(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived, not too often."""
        super().transferred(done, total)
        now = self._clock.boottime()
        if now - self._followed >= BETWEEN or done == total:
            self._followed = now
            self.follow_bytes(done, total)


class Wire(Followed):
    """Tells the daemon that started the run, and errors to the log as well."""

    def follow_step(self, text: str) -> None:
        """Print a line."""
        self.say(f"step {one_line(text)}")

    def follow_bytes(self, done: int, total: int) -> None:
        """Print a line."""
        self.say(f"bytes {done} {total}")

    def end(self, outcome: Outcome) -> None:
        """Tell what it came to; the daemon logs that, unless there was nothing."""
        was_due = outcome.result is not Result.NOT_DUE
        self.say(f"{'end' if was_due else 'step'} {one_line(outcome.text)}")
        if outcome.exit_code:
            self.complain(outcome.text, outcome.hint)


class Unit(Followed):
    """Tells systemd, whose unit the run is: ``systemctl status`` shows it."""

    def follow_step(self, text: str) -> None:
        """Set the unit's status."""
        notify(f"STATUS={one_line(text)}")

    def follow_bytes(self, done: int, total: int) -> None:
        """Set the unit's status."""
        notify(f"STATUS={done} of {total} bytes")
