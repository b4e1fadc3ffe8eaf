"""Tables on a terminal."""

from collections.abc import Iterable, Mapping, Sequence

from olpc_update_query.cli.admin_console import plain, say
from olpc_update_query.model.canonical import Json
from olpc_update_query.server.overview import LeaseShare, Overview, Row, moment
from olpc_update_query.server.records import Concern
from olpc_update_query.server.words import ENGLISH

_SHOWN = 30
_CHANGES = 5
_TROUBLES = {
    Concern.FAILING: "FAILING: {} could not update when they last tried:",
    Concern.STUCK: "STUCK: {} have been told for three days to update, and have not:",
    Concern.ENDING: "LEASES ENDING: {} within a week, or already:",
    Concern.OVERDUE: "SILENT: {} have not asked for days:",
}


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns that are as wide as they need to be."""
    cells = [list(header), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(padded).rstrip())


def show_overview(view: Overview) -> None:
    """Print what ``status`` tells."""
    say(plain(f"{view.site}, {moment(view.time)} UTC"))
    say(
        f"Laptops: {view.listed} listed, {view.today} asked in the last day, "
        f"{view.week} in the last week, {view.stolen} marked stolen."
    )
    for problem in view.problems:
        say(plain(f"PROBLEM: {problem}"))
    if view.paused:
        say("All updates are PAUSED.")
    say()
    _show_shares(view)
    _show_running(view)
    say()
    show_leases(view.timezone, view.leases)
    for trouble in view.troubles:
        told = _TROUBLES[trouble.concern].format(trouble.number)
        _show_rows(told, trouble.rows)
    if view.silent:
        say()
        say(f"{view.silent} of the listed laptops have never asked.")
    _show_rows("Who asked last:", view.latest)
    _show_rows(f"Not in laptops.csv: {view.strangers}", view.unlisted)
    if view.changes:
        say()
        say("Last changes:")
        shown = view.changes[:_CHANGES]
        when = ("" if one.time is None else moment(one.time) for one in shown)
        rows = [(at, one.who, one.what) for at, one in zip(when, shown, strict=True)]
        show_table(("WHEN (UTC)", "WHO", "WHAT"), rows)


def _show_shares(view: Overview) -> None:
    if not view.shares:
        say("Nothing is assigned.")
    for share in view.shares:
        changed, by = share.assignment.changed, share.assignment.by
        when = f"  [{moment(changed)} {by or ''}".rstrip() + "]" if changed else ""
        say(plain(f"{share.whom}: {share.told(ENGLISH)}{when}"))
        whole, running, failed, told = share.progress
        say(f"  {running} of {whole} run it, {told} are told to, {failed} failed")
        if share.assignment.halted:
            words = f"resume SITE{share.whom.option}"
            say(plain(f"  HALTED: look at those that failed; `{words}` lets it go on."))


def show_leases(timezone: str, leases: Iterable[LeaseShare]) -> None:
    """Print how long leases last."""
    say(plain(f"Leases end at six in the morning of a school day, {timezone}."))
    for share in leases:
        laptops = "1 laptop" if share.laptops == 1 else f"{share.laptops} laptops"
        say(plain(f"{share.whom}: {share.policy.text} ({laptops})"))


def _show_running(view: Overview) -> None:
    if view.running:
        say()
        rows = [(name or "?", str(count)) for name, count in view.running.items()]
        show_table(("RUNS", "LAPTOPS"), sorted(rows))


def _show_rows(title: str, rows: Sequence[Row]) -> None:
    if not rows:
        return
    say()
    say(title)
    header = ("SERIAL", "ASKED", "FROM", "RUNS", "TOLD", "LEASE UNTIL", "LAST RESULT")
    show_table(header, [_cells(row) for row in rows[:_SHOWN]])
    if len(rows) > _SHOWN:
        say(f"... and {len(rows) - _SHOWN} more: --json lists them")


def _cells(row: Row) -> tuple[str, ...]:
    state = row.state
    return (
        state.serial,
        row.asked,
        state.address,
        state.build or "",
        "stolen" if state.stolen else state.ordered or "",
        row.lease,
        state.result,
    )


def show_facts(facts: Mapping[str, Json]) -> None:
    """Print what ``laptops show`` tells."""
    events = facts.get("events")
    for name, value in facts.items():
        if name != "events" and value not in {None, ""}:
            say(plain(f"{name.replace('_', ' ')}: {value}"))
    if isinstance(events, list) and events:
        say()
        say("What changed, newest first:")
        rows = [
            [str(event.get(key)) for key in ("time", "kind", "detail")]
            for event in events
            if isinstance(event, dict)
        ]
        show_table(("TIME", "WHAT", "NOW"), rows)
