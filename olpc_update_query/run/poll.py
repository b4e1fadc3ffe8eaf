"""One poll from top to bottom.

trigger -> schedule -> query -> verify -> lease -> decide -> fetch -> stage -> audit ->
activate -> report
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import MAX_ANSWER, BareOrder, Order
from olpc_update_query.policy.decide import (
    Decision,
    Install,
    Nothing,
    Refuse,
    Wait,
    decide,
)
from olpc_update_query.policy.schedule import (
    DEFAULT_INTERVAL,
    Trigger,
)
from olpc_update_query.report import (
    Audience,
    Decided,
    KeysChanged,
    LeaseKept,
    LeaseRefused,
    Outcome,
    Report,
    Result,
    failure,
    never_in_the_way,
)
from olpc_update_query.run.ask import (
    ask,
    keep_answer,
    keep_failure,
    look_again,
)
from olpc_update_query.run.clock import keep_signed_time, set_clock_by
from olpc_update_query.run.facts import (
    Facts,
    floor,
    look,
    make_query,
    situation,
    tidy_up,
    with_report,
)
from olpc_update_query.run.hand_over import HandOver
from olpc_update_query.run.leaseport import ask_for_lease, is_wanted
from olpc_update_query.run.leases import better_lease, with_refused_lease
from olpc_update_query.run.machine import (
    AskerEndedError,
    Machine,
    Parcel,
    as_asker,
    with_next_due,
    with_room,
)
from olpc_update_query.run.moment import Wish, wait_until_due
from olpc_update_query.run.restart import restart_if_wanted
from olpc_update_query.run.trial import confirm_if_up, settle
from olpc_update_query.run.waiting import (
    forget_gates,
    note_gate,
)
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.host import draw_nonce
from olpc_update_query.system.keyring import keep_keys
from olpc_update_query.system.security import install_lease, mark_stolen
from olpc_update_query.system.work import prepare
from olpc_update_query.trust.answer import TrustedAnswer, open_answer
from olpc_update_query.trust.lease import MAX_LEASE_LINE, find_lease

__all__ = ["Poll", "Wish"]


class Poll:
    """One poll of one laptop.

    Args:
        machine: The laptop.
        audience: Who listens.
        wish: What the command line asks for.
    """

    def __init__(self, machine: Machine, audience: Audience, wish: Wish) -> None:
        self._machine, self._audience, self._wish = machine, audience, wish
        told = (audience, machine.clock, str(wish.trigger))
        keeps = not wish.dry_run
        self._report = Report(machine.installer, *told, keeps=keeps)
        self._asker = Report(machine.asker, *told, keeps=keeps)
        self._parcel, self._lease = Parcel(MAX_ANSWER), Parcel(MAX_LEASE_LINE)
        self._locks: tuple[Path, ...] = (machine.work.lock, machine.work.asker_lock)

    def run(self) -> int:
        """Poll once.

        1. Schedule: is a query due? An overdue laptop waits for its slot.
        2. Lock: one run at a time.
        3. Query, and 4. verify, as the asker; if nobody answers, a lease by port 191.
        5. Verify the same octets again, as the installer, and keep what they say about
           keys.
        6. Clock and lease: before any update, and whatever becomes of one.
        7. Decide what the order means here.
        8. Fetch as the asker; stage, audit and activate as the installer.
        9. Report.

        Returns:
            The exit code. Everything has been told to the audience.
        """
        try:
            machine = self._with_room()
            if machine is not self._machine:
                return self._again(machine).run()
            early = wait_until_due(self._machine, self._wish, self._asker)  # 1
            if early is not None:
                self._audience.end(early)
                return early.exit_code
            if self._wish.dry_run:
                return self._rehearse()
            prepare(self._machine.work)
            purpose = f"olpc-update-query, trigger {self._wish.trigger}"
            with contextlib.ExitStack() as held:  # 2
                for lock in self._locks:
                    held.enter_context(hold_lock(lock, purpose))
                return self._report_on_it("asking the servers", self._poll)
        except AskerEndedError as ended:
            return ended.exit_code
        except errors.UpdateError as error:
            return self._end_without_trace(error)

    def _with_room(self) -> Machine:
        """Return the laptop with a work area that is there.

        A rehearsal needs none, and where a due time is kept there is one.
        """
        machine = self._machine
        if self._wish.dry_run or machine.asker.read_due() is not None:
            return machine
        return with_room(machine)

    def _again(self, machine: Machine) -> "Poll":
        """Return the same for a laptop with another work area."""
        return type(self)(machine, self._audience, self._wish)

    def _end_without_trace(self, error: errors.UpdateError) -> int:
        """End before anything was begun: neither status nor history are this run's."""
        outcome = failure(error)
        if isinstance(error, errors.Busy) and self._wish.trigger != Trigger.MANUAL:
            outcome = Outcome(Result.NOT_DUE, str(error))
        self._audience.end(outcome)
        return outcome.exit_code

    def _report_on_it(self, step: str, work: Callable[[], Outcome]) -> int:
        self._report.begin(step)
        try:
            outcome = work()
        except AskerEndedError:
            self._report.rest()
            raise
        except errors.UpdateError as error:
            outcome = failure(error)
        outcome = with_next_due(outcome, self._machine)
        self._report.end(outcome)  # 9
        return outcome.exit_code

    def _poll(self) -> Outcome:
        facts = look(self._machine)
        self._settle(facts)
        nonce = draw_nonce()
        try:  # 3, 4
            as_asker(self._machine, lambda: self._ask(facts, nonce), self._asker)
        except AskerEndedError:
            self._keep_lease_of_port(facts)
            raise
        return self._obey(nonce, facts)

    def _settle(self, facts: Facts) -> None:
        """Write down what became of a build that was on trial."""
        settle(self._machine, facts.layout, self._report)
        confirm_if_up(self._machine, facts.layout, self._report)

    def _obey(self, nonce: str, facts: Facts) -> Outcome:
        """Obey the answer in the parcel, if it is the one to the query."""
        trusted = self._verify(nonce)  # 5
        interval = trusted.answer.interval or DEFAULT_INTERVAL
        HandOver(self._machine.root, self._machine.clock).supersede(interval)
        self._report.note("the installer has verified the same octets again")
        if trusted.signed:
            keep_signed_time(self._machine, trusted.floor, self._report)
        self._keep_keys(trusted)
        if trusted.answer.stolen:
            return self._obey_stolen()
        facts, refused = self._keep_lease(trusted, facts)  # 6
        set_clock_by(self._machine, trusted, facts, (self._report, self._asker))
        outcome = self._follow(trusted, facts)  # 7, 8
        return outcome if refused is None else with_refused_lease(outcome, refused)

    # --- 3, 4: the asker -----------------------------------------------------------

    def _ask(self, facts: Facts, nonce: str) -> None:
        machine = self._machine
        expiry = facts.lease_expiry
        query = with_report(machine, make_query(machine, facts, nonce))
        try:
            replied = ask(machine, query, self._asker)
        except errors.UpdateError as error:
            keep_failure(machine, error, expiry)
            self._leave_lease(ask_for_lease(machine, facts, self._asker))
            raise
        self._parcel.put(replied.trusted.raw)
        keep_answer(machine, replied, expiry)
        self._asker.rest()

    def _leave_lease(self, octets: bytes) -> None:
        """Leave what came by port 191 for the installer; nothing, perhaps."""
        self._lease.put(octets)

    def _rehearse(self) -> int:
        """Do all that the asker may do, and nothing that stays on the disk."""
        facts = look(self._machine)
        as_asker(self._machine, lambda: self._pretend(facts), self._asker)
        return 0

    def _pretend(self, facts: Facts) -> None:
        machine = self._machine
        replied = ask(machine, make_query(machine, facts, draw_nonce()), self._asker)
        update = replied.trusted.answer.update
        at = situation(machine, facts, update)
        decision = decide(update, at, replied.trusted.present(facts.now))
        self._audience.tell(Decided(decision))
        text = f"{decision.reason}; nothing was changed"
        self._audience.end(Outcome(Result.DRY_RUN, text))

    # --- 5: the installer verifies for itself ----------------------------------------

    def _verify(self, nonce: str) -> TrustedAnswer:
        machine = self._machine
        return open_answer(
            self._parcel.take(),
            nonce=nonce,
            ring=machine.ring,
            serial=machine.identity.serial,
            now=machine.clock.now(),
            floor=floor(machine),
            check_signature=not machine.settings.ignore_signature,
        )

    def _keep_keys(self, trusted: TrustedAnswer) -> None:
        """Trust other keys from now on, where the answer proved that it is to be so.

        A disk that refuses is only a warning: the next answer brings them again.
        """
        keys = trusted.keys
        for error in keys.refused:
            self._report.note(str(error))
        if keys.statements:
            with never_in_the_way("statements about keys"):
                keep_keys(self._machine.root, keys.ring)
            self._report.tell(KeysChanged(keys.statements))
        self._machine = replace(self._machine, ring=keys.ring)

    # --- 6: clock and lease ----------------------------------------------------------

    def _obey_stolen(self) -> Outcome:
        had_lease = mark_stolen(self._machine.root)
        lease = "its lease was removed" if had_lease else "it has no lease"
        text = f"the server says that this laptop is stolen; {lease}"
        return Outcome(Result.STOLEN, text, facts={"stolen": True})

    def _keep_lease(
        self, trusted: TrustedAnswer, facts: Facts
    ) -> tuple[Facts, errors.UntrustedLease | None]:
        """Install the answer's lease; a bad one leaves the old one where it is."""
        machine = self._machine
        if trusted.answer.lease is None:
            return facts, None
        try:
            lease = find_lease(
                trusted.answer.lease,
                serial=machine.identity.serial,
                uuid=machine.identity.uuid,
                ring=machine.ring,
                now=trusted.present(facts.now),
            )
        except errors.UntrustedLease as error:
            self._report.tell(LeaseRefused(error))
            return facts, error
        changed = install_lease(machine.root, lease)
        self._report.tell(LeaseKept(changed, lease.expiry))
        return replace(facts, lease=lease), None

    def _keep_lease_of_port(self, facts: Facts) -> bool:
        """Install what came by port 191, if the installer finds it good as well.

        Returns:
            Whether it did.
        """
        raw = self._lease.take()
        if not raw or not is_wanted(self._machine, facts):
            return False
        try:
            lease = better_lease(self._machine, facts, raw)
        except errors.UntrustedLease as error:
            self._report.tell(LeaseRefused(error))
            return False
        if lease is None:
            return False
        with never_in_the_way("lease by port 191"):
            changed = install_lease(self._machine.root, lease)
            self._report.tell(LeaseKept(changed, lease.expiry))
        return True

    # --- 7, 8: the order -------------------------------------------------------------

    def _follow(self, trusted: TrustedAnswer, facts: Facts) -> Outcome:
        machine, update = self._machine, trusted.answer.update
        at = situation(machine, facts, update, has_arrived=self._has_arrived())
        decision = decide(update, at, trusted.present(facts.now))
        self._report.tell(Decided(decision))
        named: dict[str, Json] = {} if update is None else {"build": update.build}
        with never_in_the_way("gates' record"):
            self._note_gate(decision, update)
        match decision:
            case Nothing(reason):
                tidy_up(machine, facts)
                restart_if_wanted(machine, update, facts)
                return Outcome(Result.NOTHING, f"nothing to do: {reason}")
            case Wait(_, reason, _):
                return Outcome(Result.WAITING, reason, facts=named)
            case Refuse(reason):
                return replace(failure(errors.OrderRefused(reason)), facts=named)
            case Install(order):
                return self._carry_out(order, facts)

    def _has_arrived(self) -> bool:
        """Tell whether all that is ordered is here already; who fetches cannot know."""
        return False

    def _note_gate(self, decision: Decision, update: Order | BareOrder | None) -> None:
        """Keep what holds a build back, and look again soon whether it still does."""
        machine = self._machine
        match decision:
            case Wait(_, _, gate) if isinstance(update, Order):
                note_gate(machine, update, gate)
                if gate is not None:
                    as_asker(machine, lambda: look_again(machine, gate), self._asker)
            case Install(order):
                note_gate(machine, order, None)
            case _:
                forget_gates(machine)

    def _carry_out(self, order: Order, facts: Facts) -> Outcome:
        from olpc_update_query.run.carry_out import CarryOut

        reports = (self._report, self._asker)
        return CarryOut(self._machine, order, facts, reports, scheduled=True).run()
