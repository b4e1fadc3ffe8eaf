"""What a run under systemd writes into the journal: one record an event.

``docs/logging.md`` lists the kinds. A run that was not due writes nothing.
"""

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from olpc_update_query.cli import render
from olpc_update_query.cli.wire import Unit
from olpc_update_query.model.canonical import Json
from olpc_update_query.report import (
    ClockSet,
    Event,
    LeaseKept,
    LeaseRefused,
    Outcome,
    Result,
)
from olpc_update_query.system import journal

MESSAGE_IDS: Final = {
    str(Result.NOTHING): "cd75b2dcc2e447fab8a31d5df676be93",
    str(Result.WAITING): "0dfafb56f781430b9df7bb54e8f40e9b",
    str(Result.HANDED_OVER): "c540adc0405a41299af8748fd1106f2d",
    str(Result.INSTALLED): "275b6335e1bc4a8d9a6e5ff7412171be",
    str(Result.CONFIRMED): "a8f2a869aeb04ad4a8e6e71ee881aef4",
    str(Result.ROLLED_BACK): "0775ce062e7140a89024782c518aefae",
    str(Result.REPAIRED): "1912bf7f02864f3488cfd57120f14edf",
    str(Result.REFUSED): "59e9cc27cb2340669fe6d17ea5d4ebca",
    str(Result.STOLEN): "5007ae7a0acf4947a209f3f871e12826",
    str(Result.FAILED): "63ed551dcbbb4d91b5d8791e605ad8a7",
    "lease-installed": "4618e6db933b47faaacbbdb668622699",
    "lease-refused": "c3f4886b5676409697d68c0a42a1e9f6",
    "clock-set": "ae805288f9304552b2e70a9e33e8d300",
}
"""Kinds of events, and what `journalctl MESSAGE_ID=` finds them by."""


class Priority(IntEnum):
    """As syslog has them."""

    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5


class Logbook(Unit):
    """Whoever reads the journal, or the unit's status, is who listens to a run."""

    def tell(self, event: Event) -> None:
        """Write down what stays of an event; with `-v` the whole story as well."""
        super().tell(event)
        now = self._clock.now()
        match event:
            case LeaseKept(True, _):
                self._write("lease-installed", render.one_line(event, now))
            case LeaseRefused():
                text = render.one_line(event, now)
                self._write("lease-refused", text, Priority.WARNING)
            case ClockSet():
                self._write("clock-set", render.one_line(event, now))
            case _:
                pass

    def end(self, outcome: Outcome) -> None:
        """Write down what a run came to, unless nothing was due."""
        self.follow_step(outcome.text)
        if outcome.result is Result.NOT_DUE:
            return
        kind = str(outcome.result)
        if kind not in MESSAGE_IDS:
            super().end(outcome)
            return
        text = render.closing(outcome, self._clock.now())
        hint = f" ({outcome.hint})" if outcome.hint else ""
        self._write(kind, text + hint, _priority(outcome), outcome.to_json())

    def _write(
        self,
        kind: str,
        text: str,
        priority: Priority = Priority.NOTICE,
        facts: dict[str, Json] | None = None,
    ) -> None:
        fields: dict[str, str | int] = {
            "MESSAGE": text,
            "PRIORITY": int(priority),
            "MESSAGE_ID": MESSAGE_IDS[kind],
            "SYSLOG_IDENTIFIER": self.program,
            "OLPC_EVENT": kind,
            **dict(_own_fields(facts or {})),
        }
        if not journal.send(fields):
            self.warn(text)


def _priority(outcome: Outcome) -> Priority:
    if outcome.result is Result.STOLEN:
        return Priority.CRITICAL
    if not outcome.exit_code:
        return Priority.NOTICE
    return Priority.WARNING if outcome.facts.get("retry") else Priority.ERROR


def _own_fields(facts: dict[str, Json]) -> Iterator[tuple[str, str | int]]:
    for name, value in facts.items():
        match value:
            case bool():
                yield f"OLPC_{name.upper()}", "yes" if value else "no"
            case str() | int():
                yield f"OLPC_{name.upper()}", value
            case _:
                pass
