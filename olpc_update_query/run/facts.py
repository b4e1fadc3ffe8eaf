"""What is known of the laptop before anybody is asked."""

import hashlib
import os
from dataclasses import dataclass, replace

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import (
    NEVER_EXPIRES,
    BareOrder,
    BuildId,
    Order,
    Query,
    Sha256,
)
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.trial import State
from olpc_update_query.policy.decide import Situation
from olpc_update_query.report import never_in_the_way, read_status
from olpc_update_query.run.machine import Machine
from olpc_update_query.run.waiting import current_hold, gate_before
from olpc_update_query.system.files import disk_errors, free_bytes
from olpc_update_query.system.security import installed_lease, is_marked_stolen
from olpc_update_query.trust.lease import Lease

FLOOR = "floor"
GIVEN_UP = "given-up"
MIB = 1024 * 1024
LONGEST_RESULT = 200


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the laptop.

    Attributes:
        layout: Where its builds lie; None where it cannot hold two.
        lease: The lease on its disk, if that is good.
        now: The time, never before the greatest signed time seen.
        stolen: Whether it bears the mark of a stolen laptop.
        lacks: What must be there to hold two builds, and is not.
    """

    layout: Layout | None
    lease: Lease | None
    now: int
    stolen: bool = False
    lacks: str = ""

    @property
    def lease_expiry(self) -> int | None:
        """When the lease ends; None for never, and without one."""
        return None if self.lease is None else self.lease.expiry

    def require_layout(self) -> Layout:
        """Return the layout.

        Raises:
            NoVersions: There is none.
        """
        if self.layout is None:
            raise errors.NoVersions(self.lacks)
        return self.layout


def look(machine: Machine) -> Facts:
    """Find out what is known of the laptop; it must be the installer who looks."""
    layout, lacks = None, ""
    try:
        layout = Layout.detect(machine.root)
    except errors.NoVersions as error:
        lacks = error.path
    now = max(machine.clock.now(), floor(machine))
    stolen = is_marked_stolen(machine.root)
    return Facts(layout, _lease(machine, now), now, stolen, lacks)


def _lease(machine: Machine, now: int) -> Lease | None:
    if isinstance(machine.who, errors.NoIdentity):
        return None
    return installed_lease(machine.root, machine.who, machine.ring, now)


def floor(machine: Machine) -> int:
    """Return the greatest signed time that counts for the installer."""
    found = machine.installer.load(FLOOR).get("time")
    return found if isinstance(found, int) else 0


def keep_floor(machine: Machine, time: int) -> None:
    """Keep the floor that an answer leaves."""
    if time != floor(machine):
        machine.installer.save(FLOOR, {"time": time})


def give_up(machine: Machine, layout: Layout, build: BuildId) -> None:
    """Do not install a build again by itself: it failed, or somebody left it.

    Nothing can be remembered of a build without a manifest.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    contents = _contents_of(layout, build)
    if contents is None:
        return
    found = machine.installer.require(GIVEN_UP)
    found[contents] = {"build": build, "time": machine.clock.now()}
    machine.installer.save(GIVEN_UP, found)


def forgive(machine: Machine, contents: Sha256) -> bool:
    """Forget that a build was given up: somebody wants it again, or it has come up.

    Returns:
        Whether it had been given up.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    found = machine.installer.require(GIVEN_UP)
    if found.pop(contents, None) is None:
        return False
    machine.installer.save(GIVEN_UP, found)
    return True


def make_query(machine: Machine, facts: Facts, nonce: str) -> Query:
    """Make the query; what there is nothing to say about is left out."""
    query = Query(
        machine.identity.serial,
        nonce,
        machine.settings.stream or None,
        keys=machine.ring.fingerprints(),
    )
    if facts.layout is not None:
        query = replace(query, build=facts.layout.running())
    if facts.lease is not None:
        expiry = NEVER_EXPIRES if facts.lease.expiry is None else facts.lease.expiry
        query = replace(query, lease=facts.lease.line, lease_expiry=expiry)
    return query


def with_report(machine: Machine, query: Query) -> Query:
    """Add what became of the last attempt to install something, if there was one.

    It reads the state of both sides, so it must be the asker who does this.
    """
    report = last_report(machine)
    return replace(query, report=report) if "build" in report else query


def last_report(machine: Machine) -> dict[str, Json]:
    """Return how the last run ended, and what room is left.

    It reads the state of both sides, so it must be the asker who does this.
    """
    both = (read_status(store).last for store in (machine.asker, machine.installer))
    last = max(both, key=lambda event: str(event.get("time", "")))
    report: dict[str, Json] = {
        "code": last.get("exit_code", 0),
        "free": free_bytes(machine.work.top) // MIB,
        "result": str(last.get("text", ""))[:LONGEST_RESULT],
    }
    return report | ({"build": last["build"]} if "build" in last else {})


def situation(
    machine: Machine,
    facts: Facts,
    order: Order | BareOrder | None,
    *,
    has_arrived: bool = False,
) -> Situation:
    """Gather what the decision about an order depends on.

    Args:
        machine: The laptop.
        facts: What is known of it.
        order: The order.
        has_arrived: Whether all that it needs is here.

    Raises:
        NotPermitted: The user may not read it.
        TreeError: The disk refused.
    """
    hold = current_hold(machine, facts.now)
    situation = Situation(
        stream=machine.settings.stream or None,
        held=hold is not None,
        held_until=None if hold is None else hold.until,
        gate=gate_before(machine, order, facts.now, has_arrived=has_arrived),
        failed=frozenset() if order is None else _given_up(machine, facts.layout),
    )
    if facts.layout is None:
        return situation
    return replace(
        situation,
        current=facts.layout.current(),
        on_trial=facts.layout.on_trial(),
        installed=_installed(facts.layout, order),
    )


def _given_up(machine: Machine, layout: Layout | None) -> frozenset[Sha256]:
    """Return what was given up, a build included of which that is still to be noted."""
    found = {Sha256(digest) for digest in machine.installer.require(GIVEN_UP)}
    mark = layout.mark() if layout is not None else None
    if layout and mark and mark.state is not State.TRIAL:
        left = _contents_of(layout, mark.build)
        if left is not None and mark.build != layout.current():
            found.add(left)
    return frozenset(found)


def _contents_of(layout: Layout, build: BuildId) -> Sha256 | None:
    """Return the digest of a build's manifest; None when it has none."""
    if os.path.lexists(layout.contents(build)):
        return manifest_digest(layout, build)
    return None


def _installed(
    layout: Layout, order: Order | BareOrder | None
) -> dict[BuildId, Sha256 | None]:
    """Return the builds that are described, with the digest of the ordered one."""
    wanted = None if order is None else order.build
    return {
        found.build: manifest_digest(layout, found.build)
        if found.build == wanted
        else None
        for found in layout.known()
    }


def manifest_digest(layout: Layout, build: BuildId) -> Sha256:
    """Return the digest of an installed build's manifest.

    Raises:
        TreeError: It cannot be read.
    """
    path = layout.contents(build)
    with disk_errors(path), path.open("rb") as file:
        return Sha256(hashlib.file_digest(file, "sha256").hexdigest())


def tidy_up(machine: Machine, facts: Facts) -> None:
    """Clean up after a run that was ended when all its work was done."""
    if facts.layout is not None and os.path.isdir(machine.work.installer):
        from olpc_update_query.perform_update.leftovers import clear_leftovers

        work = machine.work
        with never_in_the_way("tidying up"):
            clear_leftovers(facts.layout, work.installer, work.asker / "downloads")
