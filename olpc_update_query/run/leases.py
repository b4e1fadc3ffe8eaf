"""Leases that did not come in an answer to our query: nobody knows how old they are."""

from dataclasses import replace

from olpc_update_query import errors
from olpc_update_query.report import Outcome
from olpc_update_query.run.facts import Facts
from olpc_update_query.run.machine import Machine
from olpc_update_query.trust.lease import Lease, find_lease


def better_lease(machine: Machine, facts: Facts, raw: bytes) -> Lease | None:
    """Return the lease in what came, if it ends later than that of the laptop.

    Raises:
        UntrustedLease: There is none that is good.
    """
    lease = find_lease(
        raw,
        serial=machine.identity.serial,
        uuid=machine.identity.uuid,
        ring=machine.ring,
        now=facts.now,
    )
    if facts.lease is None or lease.expiry is None:
        return lease
    old = facts.lease.expiry
    return lease if old is not None and lease.expiry > old else None


def with_refused_lease(outcome: Outcome, error: errors.UntrustedLease) -> Outcome:
    """Let the run fail for its lease, unless it failed for something else already."""
    text = f"{outcome.text}; {error}"
    if outcome.exit_code:
        return replace(outcome, text=text)
    return replace(outcome, text=text, exit_code=error.exit_code, hint=error.hint())
