"""The first step of a poll: is a query due, and when is this laptop's moment?"""

from typing import NamedTuple

from olpc_update_query.policy.due import EARLIEST
from olpc_update_query.policy.schedule import (
    Ask,
    AskSoon,
    NotDue,
    Trigger,
    for_daemon,
    judge,
    next_slot,
    place_of,
)
from olpc_update_query.report import Outcome, Report, Result, Sleeps, Woken
from olpc_update_query.run.facts import floor
from olpc_update_query.run.machine import Machine, as_asker
from olpc_update_query.run.memory import recall
from olpc_update_query.run.waiting import gate_is_open_again
from olpc_update_query.system.host import boot_id
from olpc_update_query.system.work import prepare


class Wish(NamedTuple):
    """What the command line asks for.

    Attributes:
        trigger: What woke the run.
        now: Ask even if it is not due.
        dry_run: Ask and verify, but change nothing.
        waits: Whether an overdue laptop sleeps until its slot. The daemon
            does not want that: it ticks anyway, and then starts another run.
    """

    trigger: Trigger = Trigger.MANUAL
    now: bool = False
    dry_run: bool = False
    waits: bool = True


def wait_until_due(machine: Machine, wish: Wish, report: Report) -> Outcome | None:
    """Return at once if a query is due; an overdue laptop waits for its slot.

    Args:
        machine: The laptop.
        wish: What the command line asks for.
        report: The asker's.

    Returns:
        What the run came to, if nobody is to be asked now.

    Raises:
        NotPermitted: The user may not keep the moment.
        TreeError: The disk refused it.
        AskerEndedError: The asker could not keep it, and has said so.
    """
    now, due = machine.clock.now(), machine.asker.read_due()
    trigger, least = wish.trigger, floor(machine)
    waits = trigger is Trigger.GATE and gate_is_open_again(machine, max(now, least))
    same = recall(machine.asker).boot == boot_id(machine.root)
    verdict = judge(trigger, due, now, floor=least, waits=waits, same_boot=same)
    forced = wish.now or wish.dry_run
    report.tell(Woken(trigger, now, due, verdict, forced))
    if forced:
        return None
    match verdict:
        case Ask():
            return None
        case NotDue(until, _):
            return _not_due(until)
        case AskSoon(_, spread):
            spread = spread if wish.waits else for_daemon(spread)
            place = _place(machine, is_wrong=now < max(least, EARLIEST))
            moment = next_slot(now, place, spread)
            return _wait(machine, moment, report, sleeps=wish.waits)


def _place(machine: Machine, *, is_wrong: bool) -> float:
    """Return the laptop's place in a span of time.

    A clock that is surely wrong may show the same at each start, and then the slot
    would come after the same time each day, maybe after the lesson: so it is drawn.
    """
    return machine.draw() if is_wrong else place_of(machine.identity.serial)


def _wait(
    machine: Machine, moment: tuple[int, int], report: Report, *, sleeps: bool
) -> Outcome | None:
    """Keep the moment, sleep; somebody else may have asked meanwhile."""
    now, until = moment
    prepare(machine.work)
    as_asker(machine, lambda: machine.asker.write_due(moment), report)
    report.tell(Sleeps(until))
    if not sleeps:
        return _not_due(until)
    machine.clock.sleep(until - now)
    found = machine.asker.read_due()
    if found is None or found == moment or found[1] <= machine.clock.now():
        return None
    return _not_due(found[1])


def _not_due(until: int) -> Outcome:
    text = "the next query is not due yet"
    return Outcome(Result.NOT_DUE, text, facts={"next_due": until})
