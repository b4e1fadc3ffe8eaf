"""`olpc-update --rollback`: somebody wants the build before."""

import contextlib

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.report import Audience, Outcome, Report, Result, failure
from olpc_update_query.run.facts import forgive, give_up, manifest_digest
from olpc_update_query.run.machine import Machine
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.work import prepare


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
            outcome = _swap(machine)
            report.end(outcome)
    except errors.UpdateError as error:
        outcome = failure(error)
        audience.end(outcome)
    return outcome.exit_code


def _swap(machine: Machine) -> Outcome:
    layout = Layout.detect(machine.root)
    left = layout.current()
    build = layout.rollback()
    text = f"build {build} boots next"
    facts: dict[str, Json] = {"boots_next": build}
    with contextlib.suppress(errors.UpdateError):  # a manifest may be damaged
        forgive(machine, manifest_digest(layout, build))
    if left is None:
        return Outcome(Result.ROLLED_BACK, text, facts=facts)
    with contextlib.suppress(errors.UpdateError):
        give_up(machine, layout, left)
    text = f"{text}; somebody went back from build {left}"
    return Outcome(Result.ROLLED_BACK, text, facts=facts | {"build": left})
