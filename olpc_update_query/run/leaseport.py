"""A lease from port 191, when no server has answered: better late than locked."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from olpc_update_query import errors
from olpc_update_query.policy.schedule import DAY
from olpc_update_query.report import Report
from olpc_update_query.run.facts import Facts
from olpc_update_query.run.leases import better_lease
from olpc_update_query.run.machine import Machine

SOON = 7 * DAY
"""A lease that ends within this time is worth asking around for."""


def is_wanted(machine: Machine, facts: Facts) -> bool:
    """Tell whether the laptop needs a lease from anywhere.

    Not when it is marked stolen: what port 191 says is not fresh, so it might be a
    lease from before. Only a signed answer takes the mark away.
    """
    if facts.stolen or not machine.settings.lease_port:
        return False
    if facts.lease is None:
        return True
    return facts.lease.expiry is not None and facts.lease.expiry - facts.now < SOON


def ask_for_lease(machine: Machine, facts: Facts, report: Report) -> bytes:
    """Ask every server's port 191, as the asker.

    Args:
        machine: The laptop.
        facts: What is known of it.
        report: The asker's.

    Returns:
        The first lease that is good here, to be verified again; empty if there is
        none.
    """
    if not is_wanted(machine, facts):
        return b""
    from olpc_update_query.system.leaseport import STOLEN, fetch_lease

    port = machine.settings.lease_port
    for host in dict.fromkeys(_hosts(machine)):
        try:
            raw = fetch_lease(host, port, machine.identity.serial)
            if raw.strip() == STOLEN:
                report.note(f"{host}, port {port}: STOLEN, which nobody has signed")
                continue
            lease = better_lease(machine, facts, raw)
        except (errors.NetworkError, errors.TrustError) as error:
            report.note(f"no lease by port {port}: {error}")
            continue
        if lease is not None:
            report.note(f"{host}, port {port}: a lease")
            return lease.line.encode()
    return b""


def _hosts(machine: Machine) -> Iterator[str]:
    for server in machine.settings.servers:
        host = urlsplit(server).hostname
        if host:
            yield host
