"""How a run tells the daemon that started it what it does: lines of words.

``step TEXT``, ``bytes DONE TOTAL``, ``end TEXT``; ``daemon.child`` reads them.
"""

from olpc_update_query.cli.console import Console, one_line
from olpc_update_query.report import Answered, Asking, Event, Outcome, Result


class Wire(Console):
    """Tells the daemon (``report.Audience``), and errors to the log as well."""

    def tell(self, event: Event) -> None:
        """Tell what has happened, where that takes a while."""
        match event:
            case Asking(server, _):
                self._line("step", f"asking {server}")
            case Answered(server, _, _):
                self._line("step", f"{server} has answered")
            case _:
                pass

    def step(self, text: str) -> None:
        """Tell one step of the installation."""
        self._line("step", text)

    def transferred(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived, not too often."""
        now = self._clock.boottime()
        if now - self._told >= 1.0 or done == total:
            self._told = now
            self._line("bytes", f"{done} {total}")

    def end(self, outcome: Outcome) -> None:
        """Tell what it came to; the daemon logs that, unless there was nothing."""
        was_due = outcome.result is not Result.NOT_DUE
        self._line("end" if was_due else "step", outcome.text)
        if outcome.exit_code:
            self.complain(outcome.text, outcome.hint)

    _told = 0.0

    def _line(self, kind: str, text: str) -> None:
        self.say(f"{kind} {one_line(text)}")
