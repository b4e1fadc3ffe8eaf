"""What a signed time does: to the floor that all comparisons begin at, to the clock."""

from olpc_update_query.model.messages import format_time
from olpc_update_query.report import ClockSet, Report, never_in_the_way
from olpc_update_query.run.ask import draw_after
from olpc_update_query.run.facts import Facts, floor, keep_floor
from olpc_update_query.run.machine import Machine, as_asker, set_clock
from olpc_update_query.run.memory import recall
from olpc_update_query.trust.answer import TrustedAnswer

CLOCK_TOLERANCE = 60
"""Seconds by which the clock may be wrong before `set_clock` sets it."""


def keep_signed_time(machine: Machine, time: int, report: Report) -> None:
    """Keep the time floor that a fresh answer leaves."""
    before = floor(machine)
    if time < before:
        report.note(
            f"{format_time(before)} was the greatest signed time so far; a fresh "
            f"answer says that it is {format_time(time)}, and that counts from now"
        )
    with never_in_the_way("time floor"):
        keep_floor(machine, time)


def set_clock_by(
    machine: Machine,
    trusted: TrustedAnswer,
    facts: Facts,
    reports: tuple[Report, Report],
) -> None:
    """Set the system clock from a signed time, where that is wanted.

    The due time was drawn by the wrong clock, so it is drawn again.

    Args:
        machine: The laptop.
        trusted: The answer with the time.
        facts: What is known of the laptop.
        reports: Of the installer and of the asker.

    Raises:
        AskerEndedError: The asker could not draw, and has said so.
    """
    time, before = trusted.answer.time, machine.clock.now()
    wanted = machine.settings.set_clock and trusted.signed and machine.is_real()
    if not wanted or abs(time - before) <= CLOCK_TOLERANCE:
        return
    set_clock(time)
    installer, asker = reports
    installer.tell(ClockSet(before, time))
    expiry = facts.lease_expiry

    def draw_again() -> None:
        machine.asker.write_due(draw_after(machine, recall(machine.asker), expiry))

    as_asker(machine, draw_again, asker)
