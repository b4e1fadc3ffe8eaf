"""A poll by two processes that never meet: the asker's unit and the installer's.

The asker asks, verifies, hands the answer over, and fetches what it orders. The
installer takes the answer, verifies the same octets again, keeps the lease, and builds
the tree once all has arrived. Each ends when it has done its part; ``hand_over`` says
what they leave for each other. A run by hand as root (``poll``) does both.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from olpc_update_query import errors
from olpc_update_query.model.messages import Order
from olpc_update_query.policy.decide import Install, decide
from olpc_update_query.report import (
    Audience,
    Decided,
    Outcome,
    Report,
    Result,
    failure,
)
from olpc_update_query.run.ask import ask_again
from olpc_update_query.run.carry_out import CarryOut
from olpc_update_query.run.facts import Facts, look, situation
from olpc_update_query.run.hand_over import (
    ANSWER,
    FETCHED,
    LEASE,
    HandOver,
    Taken,
)
from olpc_update_query.run.machine import (
    NUMBERS_SIZE,
    AskerEndedError,
    Machine,
    Numbers,
    as_asker,
    as_prepared,
    with_room,
)
from olpc_update_query.run.poll import Poll, Wish
from olpc_update_query.system import host
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.work import prepare

FROM_ASKER: Final = "asker"
"""What the history names as the trigger of an installer's run."""


class AskerHalf(Poll):
    """The half of a poll that needs the network and no privilege.

    Args:
        machine: The laptop.
        audience: Who listens.
        wish: What the command line asks for.
    """

    def __init__(self, machine: Machine, audience: Audience, wish: Wish) -> None:
        super().__init__(machine, audience, wish)
        self._report = self._asker
        self._locks = (machine.work.asker_lock,)
        self._place = HandOver(machine.root, machine.clock)

    def _poll(self) -> Outcome:
        facts = look(self._machine)
        salt, nonce = self._place.draw_salt()
        self._ask(facts, nonce)
        trusted = self._verify(nonce)
        self._place.leave_answer(salt, trusted.raw)
        update = trusted.answer.update
        at = situation(self._machine, facts, update)
        decision = decide(update, at, trusted.present(facts.now))
        if isinstance(decision, Install) and not trusted.answer.stolen:
            self._report.tell(Decided(decision))
            return self._carry_out(decision.order, facts)
        return Outcome(Result.HANDED_OVER, "the installer has the answer")

    def _with_room(self) -> Machine:
        """Return the laptop with the work area that the installer has prepared."""
        return as_prepared(self._machine)

    def _leave_lease(self, octets: bytes) -> None:
        if octets:
            self._place.leave_lease(octets)

    def _carry_out(self, order: Order, facts: Facts) -> Outcome:
        reports = (self._report, self._report)
        job = CarryOut(self._machine, order, facts, reports, scheduled=True)
        try:
            numbers = job.fetch()
        except errors.UpdateError as error:
            outcome = failure(error)
            return replace(outcome, facts={**outcome.facts, "build": order.build})
        self._place.leave_fetched(numbers.pack())
        text = f"build {order.build} has arrived; the installer goes on with it"
        return Outcome(Result.HANDED_OVER, text, facts=numbers._asdict())


class InstallerHalf(Poll):
    """The half of a poll that needs root and no network.

    Args:
        machine: The laptop.
        audience: Who listens.
    """

    def __init__(self, machine: Machine, audience: Audience) -> None:
        super().__init__(machine, audience, Wish())
        told = (audience, machine.clock, FROM_ASKER)
        self._report = Report(machine.installer, *told)
        self._asker = Report(machine.asker, *told)
        self._place = HandOver(machine.root, machine.clock)
        self._taken = Taken("", b"")
        self._arrived: Numbers | None = None

    def run(self) -> int:
        """Take what the asker handed over, as soon as no other run is at work.

        Without anything handed over it only prepares what the asker needs.

        Returns:
            The exit code: of the first thing that failed.
        """
        machine = self._machine
        try:
            machine = with_room(machine)
            if machine is not self._machine:
                return self._again(machine).run()
            prepare(machine.work)
            self._place.prepare()
            if machine.identity.origin == str(machine.root / host.DMI):
                self._place.keep_identity(machine.identity)
            with hold_lock(machine.work.lock, "olpc-update-query install", wait=True):
                self._settle(look(machine))
                return (
                    self._take(LEASE, self._keep_lease_left)
                    or self._take(ANSWER, self._obey_answer)
                    or self._take(FETCHED, self._install_fetched)
                )
        except AskerEndedError as ended:
            return ended.exit_code
        except errors.UpdateError as error:
            return self._end_without_trace(error)

    def _again(self, machine: Machine) -> "InstallerHalf":
        return InstallerHalf(machine, self._audience)

    def _take(self, name: str, work: Callable[[], Outcome]) -> int:
        if not self._place.holds(name):
            return 0
        return self._report_on_it("taking what the asker left", lambda: self._do(work))

    def _do(self, work: Callable[[], Outcome]) -> Outcome:
        """Work, and have the asker ask again soon for what has become too old."""
        try:
            return work()
        except errors.StaleHandOver:
            as_asker(self._machine, lambda: ask_again(self._machine), self._asker)
            raise

    def _obey_answer(self) -> Outcome:
        self._taken = self._place.take_answer()
        self._parcel.put(self._taken.octets)
        return self._obey(self._taken.nonce, look(self._machine))

    def _keep_lease_left(self) -> Outcome:
        """Install a lease that came when nobody answered; it is as good as it says."""
        self._lease.put(self._place.take_lease())
        kept = self._keep_lease_of_port(look(self._machine))
        what = "is installed" if kept else "is of no use here"
        return Outcome(Result.NOTHING, f"a lease that came by port 191 {what}")

    def _install_fetched(self) -> Outcome:
        self._arrived = Numbers.unpack(self._place.take_fetched(NUMBERS_SIZE))
        kept = self._place.take_order()
        if kept is None:
            return Outcome(Result.NOTHING, "something arrived that nobody ordered")
        self._parcel.put(kept.octets)
        return self._follow(self._verify(kept.nonce), look(self._machine))

    def _has_arrived(self) -> bool:
        """Believe the asker, who could have fetched it all the same."""
        return self._arrived is not None or self._place.holds(FETCHED)

    def _carry_out(self, order: Order, facts: Facts) -> Outcome:
        """Wait until all has arrived; then install it."""
        if self._arrived is None:
            self._place.keep_order(self._taken)
            text = f"build {order.build} is ordered; the asker fetches it"
            return Outcome(Result.WAITING, text, facts={"build": order.build})
        reports = (self._report, self._asker)
        job = CarryOut(self._machine, order, facts, reports, scheduled=True)
        return job.install(self._arrived)
