"""What makes an ordered build wait: a hold that a person set, or a gate.

Both are kept by the installer. Of a gate it is kept when it first held the build back,
because its deadline counts from then, over reboots and over other gates.
"""

from typing import NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import BareOrder, Order
from olpc_update_query.policy.gates import HeldBack, closed_gate, hold_end
from olpc_update_query.ports import Progress
from olpc_update_query.run.machine import Machine
from olpc_update_query.system.surroundings import look_around
from olpc_update_query.system.work import prepare

HOLD = "hold"
GATE = "gate"
LOOK_SECONDS = 30.0
"""How often a download looks whether it may still go on."""


# --- a hold ----------------------------------------------------------------------


class Hold(NamedTuple):
    """Updates are held.

    Attributes:
        since: When somebody set it.
        until: When it ends.
    """

    since: int
    until: int


def current_hold(machine: Machine, now: int) -> Hold | None:
    """Return the hold, unless it is over.

    Raises:
        NotPermitted: The user may not read it.
        TreeError: The disk refused.
    """
    found = machine.installer.require(HOLD)
    since, until = found.get("since"), found.get("until")
    if not isinstance(since, int):
        return None
    ends = hold_end(since, until if isinstance(until, int) else None, now)
    return None if ends is None else Hold(since, ends)


def set_hold(machine: Machine, *, since: int, until: int | None) -> Hold:
    """Hold updates until a time, or for as long as a hold can last.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    prepare(machine.work)
    machine.installer.save(HOLD, {"since": since, "until": until})
    return Hold(since, hold_end(since, until, since) or since)


def release_hold(machine: Machine) -> bool:
    """Let updates go on.

    Returns:
        Whether they were held.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    was_held = bool(machine.installer.load(HOLD))
    if was_held:
        machine.installer.save(HOLD, {})
    return was_held


# --- a gate ----------------------------------------------------------------------


def gate_before(
    machine: Machine,
    order: Order | BareOrder | None,
    now: int,
    *,
    has_arrived: bool = False,
) -> HeldBack | None:
    """Return the gate that holds an order back just now, if one does.

    Args:
        machine: The laptop.
        order: The order.
        now: The time.
        has_arrived: Whether all of the build is here: then no link is needed for it.
    """
    if not isinstance(order, Order):
        return None
    found = machine.installer.load(GATE)
    since = found.get("since") if found.get("contents") == order.contents else None
    around = look_around(machine.root, now)
    return closed_gate(
        machine.settings.gates,
        around._replace(metered=False) if has_arrived else around,
        now,
        since if isinstance(since, int) else None,
    )


def note_gate(machine: Machine, order: Order, held: HeldBack | None) -> None:
    """Keep which gate holds an order back, or that it is open again.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    before = machine.installer.load(GATE)
    if held is None and not before:
        return
    kept: dict[str, Json] = {"contents": order.contents, "build": order.build}
    if held is not None:
        kept |= {"gate": str(held.gate), "since": held.since, "until": held.until}
    elif before.get("contents") == order.contents:
        kept["since"] = before.get("since")
    if kept != before:
        machine.installer.save(GATE, kept)


def forget_gates(machine: Machine) -> None:
    """No order waits any more."""
    if machine.installer.load(GATE):
        machine.installer.save(GATE, {})


def gate_is_open_again(machine: Machine, now: int) -> bool:
    """Tell whether a gate held a build back that nothing holds back any more."""
    found = machine.installer.load(GATE)
    since = found.get("since")
    if "gate" not in found or not isinstance(since, int):
        return False
    around = look_around(machine.root, now)
    return closed_gate(machine.settings.gates, around, now, since) is None


def held_back(machine: Machine) -> dict[str, Json] | None:
    """Return what `status` tells of the gate that held a build back last."""
    found = machine.installer.load(GATE)
    if "gate" not in found:
        return None
    told = ("gate", "build", "since", "until")
    return {name: found[name] for name in told if name in found}


class GatedProgress:
    """Passes progress on, and stops a download in the middle when a gate closes.

    Args:
        machine: The laptop.
        order: What is being fetched.
        told: Who else is told.
    """

    def __init__(self, machine: Machine, order: Order, told: Progress) -> None:
        self._machine, self._order, self._told = machine, order, told
        self._looked = machine.clock.boottime()

    def step(self, text: str) -> None:
        """Tell one step of the story."""
        self._told.step(text)

    def transferred(self, done: int, total: int) -> None:
        """Tell how many bytes of how many have arrived.

        Raises:
            HeldBack: A gate has closed; what has arrived is kept.
        """
        self._told.transferred(done, total)
        boottime = self._machine.clock.boottime()
        if boottime - self._looked < LOOK_SECONDS:
            return
        self._looked = boottime
        held = gate_before(self._machine, self._order, self._machine.clock.now())
        if held is not None:
            raise errors.HeldBack(self._order.build, held.reason)
