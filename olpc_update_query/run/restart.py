"""Restarting into a build, where its order says so."""

from olpc_update_query.model.messages import BareOrder, Order, Reboot
from olpc_update_query.perform_update.trial import Mark, State
from olpc_update_query.run.facts import Facts
from olpc_update_query.run.machine import Machine
from olpc_update_query.system import power


def restart_if_wanted(
    machine: Machine, order: Order | BareOrder | None, facts: Facts
) -> None:
    """Restart into the ordered build, if the order says so and it was never tried.

    Only then: a laptop whose initramfs boots something else would restart for ever.
    """
    if not isinstance(order, Order) or not machine.is_real():
        return
    if facts.layout is None or facts.layout.mark() != Mark(State.TRIAL, order.build):
        return
    if order.reboot is Reboot.NOW or (order.reboot is Reboot.IDLE and power.is_idle()):
        power.restart()
