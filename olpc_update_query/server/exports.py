"""What other programs read: numbers for Prometheus, a table for a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Final

from olpc_update_query.server.outcomes import outcome_teller
from olpc_update_query.server.overview import Overview, Row
from olpc_update_query.server.words import speaker

_COLUMNS: Final = (
    "serial",
    "name",
    "group",
    "listed",
    "asked (UTC)",
    "polls",
    "address",
    "runs",
    "told to run",
    "lease until (UTC)",
    "stolen",
    "last result",
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def csv_table(rows: Iterable[Row], language: str = "en") -> str:
    """Write a table of laptops.

    What a spreadsheet would take for a formula is preceded by an apostrophe: laptops
    choose some of these texts. Where people speak Spanish, they want semicolons.

    Args:
        rows: The laptops.
        language: Of whoever reads it.
    """
    say, ended = speaker(language), outcome_teller(language)
    yes, no = say("yes"), say("no")
    text = io.StringIO(newline="")
    sheet = csv.writer(text, delimiter=";" if language == "es" else ",")
    sheet.writerow([say(column) for column in _COLUMNS])
    for row in rows:
        state = row.state
        cells = (
            state.serial,
            row.name,
            row.group,
            yes if row.laptop is not None else no,
            row.asked,
            str(state.polls),
            state.address,
            state.build or "",
            state.ordered or "",
            say(row.lease) if row.lease[:1].isalpha() else row.lease,
            yes if row.is_stolen else "",
            ended(state),
        )
        sheet.writerow(
            [f"'{one}" if one.startswith(_FORMULA) else one for one in cells]
        )
    return text.getvalue()


def metrics(view: Overview) -> str:
    """Write the numbers of a site in Prometheus' text format, version 0.0.4."""
    text = io.StringIO()

    def gauge(name: str, told: str, values: Mapping[str, int], label: str) -> None:
        text.write(f"# HELP olpc_update_{name} {told}\n")
        text.write(f"# TYPE olpc_update_{name} gauge\n")
        for value, count in values.items():
            named = f'{{{label}="{_escaped(value)}"}}' if label else ""
            text.write(f"olpc_update_{name}{named} {count}\n")

    gauge("laptops", "Listed laptops.", {"": view.listed}, "")
    asked = {"day": view.today, "week": view.week}
    gauge("laptops_asked", "Listed laptops that asked lately.", asked, "within")
    gauge("laptops_never_asked", "Never heard of.", {"": view.silent}, "")
    gauge("laptops_stolen", "Marked as stolen.", {"": view.stolen}, "")
    gauge("laptops_unlisted", "Asked, not listed.", {"": view.strangers}, "")
    gauge("laptops_running", "Listed laptops by build.", view.running, "build")
    concerns = {str(one.concern): one.number for one in view.troubles}
    gauge("laptops_of_concern", "To be looked at.", concerns, "concern")
    for name in ("whole", "running", "failed", "told"):
        values = {str(one.whom): getattr(one.progress, name) for one in view.shares}
        gauge(f"assignment_{name}", f"Laptops of an assignment: {name}.", values, "for")
    percent = {str(one.whom): one.assignment.percent for one in view.shares}
    gauge("assignment_percent", "How many of 100 it is for.", percent, "for")
    paused = {str(one.whom): int(one.assignment.paused) for one in view.shares}
    gauge("assignment_paused", "1 while it is paused.", paused, "for")
    halted = {str(one.whom): int(bool(one.assignment.halted)) for one in view.shares}
    gauge("assignment_halted", "1 if too many failed.", halted, "for")
    gauge("paused", "1 while all updates are paused.", {"": int(view.paused)}, "")
    return text.getvalue()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
