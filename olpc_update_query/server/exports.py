"""What other programs read: numbers for Prometheus, a table for a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from olpc_update_query.server.overview import Overview, Row

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


def csv_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Write a table of laptops, line by line.

    What a spreadsheet would take for a formula is preceded by an apostrophe: laptops
    choose some of these texts.
    """
    yield _line(_COLUMNS)
    for row in rows:
        state = row.state
        yield _line(
            (
                state.serial,
                row.name,
                row.group,
                "yes" if row.laptop is not None else "no",
                row.asked,
                str(state.polls),
                state.address,
                state.build or "",
                state.ordered or "",
                row.lease,
                "yes" if state.stolen else "",
                state.result,
            )
        )


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    safe = (f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells)
    csv.writer(text).writerow(safe)
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
    gauge("laptops_running", "Listed laptops by build.", view.running, "build")
    concerns = {str(one.concern): one.number for one in view.troubles}
    gauge("laptops_of_concern", "To be looked at.", concerns, "concern")
    for name in ("whole", "running", "failed", "told"):
        values = {str(one.whom): getattr(one.progress, name) for one in view.shares}
        gauge(f"assignment_{name}", f"Laptops of an assignment: {name}.", values, "for")
    gauge("paused", "1 while all updates are paused.", {"": int(view.paused)}, "")
    return text.getvalue()


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
