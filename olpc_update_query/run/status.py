"""What `status` and `history` tell.

Half of it was written by the asker, so it is read as the asker: root reads nothing
that somebody else may have made up.
"""

import os
from collections.abc import Callable
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.trial import State
from olpc_update_query.report import Status, read_status
from olpc_update_query.run.facts import GIVEN_UP, Facts
from olpc_update_query.run.machine import Machine, is_separate
from olpc_update_query.run.memory import recall
from olpc_update_query.run.waiting import current_hold, held_back
from olpc_update_query.system.files import free_bytes
from olpc_update_query.system.privilege import run_as
from olpc_update_query.system.security import is_marked_stolen
from olpc_update_query.system.work import ASKER_USERS, work_area
from olpc_update_query.trust.keys import Role


def show_as_asker(machine: Machine, show: Callable[[], None]) -> int:
    """Run a function that reads and shows state, as the asker where that is another.

    Returns:
        The exit code.
    """
    if not is_separate(machine):
        show()
        return 0

    def shown() -> int:
        show()
        return 0

    return run_as(ASKER_USERS, shown)


def gather(machine: Machine, facts: Facts) -> dict[str, Json]:
    """Gather everything worth knowing, in the order in which it is told."""
    memory = recall(machine.asker)
    due = machine.asker.read_due()
    keys = {role: sum(key.role is role for key in machine.ring) for role in Role}
    return {
        "serial": _serial(machine),
        "stream": machine.settings.stream or None,
        **_builds(facts.layout),
        "on_trial": _trial(facts.layout),
        "given_up": _given_up(machine),
        "lease": _lease(facts),
        "stolen": is_marked_stolen(machine.root),
        "held": _hold(machine, facts),
        "held_back": held_back(machine),
        "work": _work(machine),
        "last_run": _last_run(machine),
        "last_answer": {"time": memory.answered, "from": memory.server}
        if memory.answered
        else None,
        "message": memory.message or None,
        "next_query": None if due is None else due[1],
        "servers": list(machine.settings.servers),
        "keys": {f"{role} keys": count for role, count in keys.items()},
        "signatures": "IGNORED" if machine.settings.ignore_signature else "checked",
        "free_space": free_bytes(work_area(machine.root).top),
        "unfinished": _bytes_below(machine.work.asker / "downloads"),
    }


def _serial(machine: Machine) -> str:
    if isinstance(machine.who, errors.NoIdentity):
        return f"unknown: {machine.who}"
    return machine.who.serial


def _builds(layout: Layout | None) -> dict[str, Json]:
    if layout is None:
        return {"running": None, "boots_next": None, "alternate": None, "builds": []}
    return {
        "running": layout.running(),
        "boots_next": layout.current(),
        "alternate": layout.alternate(),
        "builds": [found.build for found in layout.installed()],
    }


def _trial(layout: Layout | None) -> Json:
    mark = layout.mark() if layout is not None else None
    if mark is None or mark.state is not State.TRIAL:
        return None
    return {"build": mark.build, "tries": mark.tries}


def _given_up(machine: Machine) -> list[Json]:
    found = machine.installer.load(GIVEN_UP).values()
    return [fact["build"] for fact in found if isinstance(fact, dict)]


def _lease(facts: Facts) -> Json:
    if facts.lease is None:
        return None
    return {"until": facts.lease.expiry}


def _hold(machine: Machine, facts: Facts) -> Json:
    hold = current_hold(machine, facts.now)
    return None if hold is None else {**hold._asdict()}


def _work(machine: Machine) -> Json:
    """Tell what is at work now, or what was interrupted."""
    statuses = [read_status(store) for store in (machine.asker, machine.installer)]
    at_work = [status for status in statuses if status.run]
    alive = [status for status in at_work if status.alive]
    if not at_work:
        return {"state": "idle"}
    return _at_work(alive[0]) if alive else _at_work(at_work[0])


def _at_work(status: Status) -> dict[str, Json]:
    run = status.run
    state = "running" if status.alive else "interrupted"
    told = ["step", "done", "total", "trigger", "since", "pid"]
    if status.alive:
        told[3:3] = ["rate", "remaining"]
    return {"state": state, **{name: run[name] for name in told if name in run}}


def _last_run(machine: Machine) -> Json:
    last = max(
        (read_status(store).last for store in (machine.asker, machine.installer)),
        key=lambda event: str(event.get("time", "")),
    )
    if not last:
        return None
    told = ("time", "trigger", "text", "exit_code")
    return {name: last[name] for name in told if name in last}


def _bytes_below(directory: Path) -> int:
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            try:
                # a spool has holes
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except OSError:
                continue
    return total


def events(machine: Machine, limit: int) -> list[dict[str, Json]]:
    """Return the last events of both sides, oldest first."""
    found = [*machine.asker.history(limit), *machine.installer.history(limit)]
    found.sort(key=lambda event: str(event.get("time", "")))
    return found[-limit:] if limit > 0 else []
