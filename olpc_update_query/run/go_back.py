"""`olpc-update --rollback`: somebody wants the build before."""

import contextlib

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.trial import Mark, State, erase_mark, write_mark
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.report import (
    Audience,
    Outcome,
    Report,
    Result,
    failure,
    never_in_the_way,
)
from olpc_update_query.run.facts import forgive, manifest_digest
from olpc_update_query.run.machine import Machine
from olpc_update_query.run.trial import settle, went_back
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.work import prepare

UNWRITTEN = "unwritten"
"""The fact of an outcome that says why not all could be written down."""


def go_back(machine: Machine, audience: Audience) -> int:
    """Let the alternate boot next, and remember that the current build was left.

    Args:
        machine: The laptop.
        audience: Who listens.

    Returns:
        The exit code. Everything has been told to the audience, and is in the history.
    """
    report = Report(machine.installer, audience, machine.clock, str(Trigger.MANUAL))
    try:
        prepare(machine.work)
        with hold_lock(machine.work.lock, "olpc-update --rollback"):
            layout = Layout.detect(machine.root)
            settle(machine, layout, report)
            outcome = _swap(machine, layout)
            report.end(outcome)
            if UNWRITTEN not in outcome.facts:
                with never_in_the_way("mark of the trial"):
                    _start_over(machine, layout)
    except errors.UpdateError as error:
        outcome = failure(error)
        audience.end(outcome)
    return outcome.exit_code


def _swap(machine: Machine, layout: Layout) -> Outcome:
    """Let the alternate boot next, and give the other build up.

    Once the link has swung it is done, whatever the disk says after that: whoever
    takes it for a failure and asks again would swing it back.
    """
    target = layout.alternate()
    try:
        build = layout.rollback()
        mark = layout.mark()
        if mark is None:
            return Outcome(Result.ROLLED_BACK, f"build {build} boots next")
        return went_back(machine, layout, mark)
    except errors.UpdateError as error:
        if target is None or layout.current() != target:
            raise
        text = (
            f"build {target} boots next; that is done, but could not all be written "
            f"down, and the next run does the rest: {error}"
        )
        named: dict[str, Json] = {"boots_next": target, UNWRITTEN: str(error)}
        return Outcome(Result.ROLLED_BACK, text, facts=named)


def _start_over(machine: Machine, layout: Layout) -> None:
    """Forget the mark; a build that was given up before is on trial once more."""
    build = layout.current()
    if build is None or build == layout.running() or not _again(machine, layout, build):
        erase_mark(layout.versions)
    else:
        write_mark(layout.versions, Mark(State.TRIAL, build))


def _again(machine: Machine, layout: Layout, build: BuildId) -> bool:
    """Say whether a build had been given up; it is not any more."""
    with contextlib.suppress(errors.UpdateError):  # its manifest may be damaged
        return forgive(machine, manifest_digest(layout, build))
    return False
