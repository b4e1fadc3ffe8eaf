"""What becomes of a freshly activated build: confirmed, failed, or left.

The initramfs counts the tries and goes back by itself; here that is written down, so
that the build is not installed again unasked and everybody who looks is told.
"""

import contextlib

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.hooks import run_hooks
from olpc_update_query.perform_update.trial import (
    Mark,
    State,
    erase_mark,
    require_mark,
)
from olpc_update_query.policy.schedule import MINUTE, Trigger
from olpc_update_query.report import Audience, Outcome, Report, Result, failure
from olpc_update_query.run.facts import forgive, give_up, manifest_digest
from olpc_update_query.run.machine import Machine
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.work import prepare

CHECKS = "etc/olpc-update-query/checks.d"
NOT_ON_TRIAL = "nothing to do: the running build is not on trial"
UP_FOR_SURE = 5 * MINUTE
"""A machine that polls after so many seconds is up, whatever starts its services."""


def settle(machine: Machine, layout: Layout | None, report: Report) -> None:
    """Write down that the laptop went back from a build, if that is not done yet.

    Where the disk refuses, the mark stays, for the next run to do it: no lease waits
    for that, and until then the mark keeps the build from being installed again.
    """
    mark = layout.mark() if layout is not None else None
    if layout is None or mark is None or mark.state is State.TRIAL:
        return
    if mark.build == layout.current():
        return
    try:
        report.record(went_back(machine, layout, mark))
        erase_mark(layout.versions)
    except errors.UpdateError as error:
        report.note(f"build {mark.build} is to be given up by the next run: {error}")


def confirm_if_up(machine: Machine, layout: Layout | None, report: Report) -> None:
    """End the trial of the running build where no service of the system does it.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    if layout is None or not machine.is_real():
        return
    if _is_tried(layout, layout.mark()) and machine.clock.boottime() >= UP_FOR_SURE:
        with contextlib.suppress(errors.NotUp):
            report.record(_confirm(machine, layout, report))


def went_back(machine: Machine, layout: Layout, mark: Mark) -> Outcome:
    """Give a build up from which the laptop went back.

    Returns:
        What is told of it. The mark stays, until that has been written down.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    now = str(layout.current())
    give_up(machine, layout, mark.build)
    named: dict[str, Json] = {"boots_next": now, "build": mark.build}
    if mark.state is State.FAILED:
        outcome = failure(errors.TrialFailed(mark.build, mark.tries, now))
        return Outcome(
            outcome.result,
            outcome.text,
            outcome.exit_code,
            hint=outcome.hint,
            facts={**outcome.facts, **named},
        )
    text = f"build {now} boots next; somebody went back from build {mark.build}"
    return Outcome(Result.ROLLED_BACK, text, facts=named)


def confirm(machine: Machine, audience: Audience) -> int:
    """End the trial of the running build: the machine is up.

    Returns:
        The exit code. Everything has been told to the audience.
    """
    report = Report(machine.installer, audience, machine.clock, str(Trigger.BOOT))
    try:
        prepare(machine.work)
        with hold_lock(machine.work.lock, "olpc-update --confirm"):
            layout = Layout.detect(machine.root)
            settle(machine, layout, report)
            if not _is_tried(layout, require_mark(layout.versions)):
                audience.end(Outcome(Result.NOTHING, NOT_ON_TRIAL))
                return 0
            outcome = _confirm(machine, layout, report)
            report.end(outcome)
    except errors.UpdateError as error:
        outcome = failure(error)
        audience.end(outcome)
    return outcome.exit_code


def _is_tried(layout: Layout, mark: Mark | None) -> bool:
    return mark is not None and mark.build == layout.running() == layout.current()


def _confirm(machine: Machine, layout: Layout, report: Report) -> Outcome:
    build = layout.running()
    try:
        run_hooks(machine.root / CHECKS, machine.root, report)
    except errors.HookFailed as error:
        raise errors.NotUp(f"build {build} is not confirmed: {error}") from error
    if build is not None:
        with contextlib.suppress(errors.UpdateError):  # its manifest may be damaged
            forgive(machine, manifest_digest(layout, build))
    erase_mark(layout.versions)
    text = f"build {build} is up, and confirmed"
    return Outcome(Result.CONFIRMED, text, facts={"build": build})
