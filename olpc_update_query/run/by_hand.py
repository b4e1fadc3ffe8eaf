"""`olpc-update BUILD`: a person wants a build, from a server or from a stick.

What is obeyed is the signed order that lies beside the build. Asker and installer
share the work as in a poll: the asker fetches the order and verifies it, the installer
verifies the same octets again.
"""

from collections.abc import Sequence
from dataclasses import replace

from olpc_update_query import errors
from olpc_update_query.model.messages import BuildId, Order
from olpc_update_query.policy.decide import Install, Nothing, Refuse, Wait, decide
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.report import Audience, Decided, Outcome, Report, Result, failure
from olpc_update_query.run.carry_out import CarryOut
from olpc_update_query.run.facts import Facts, floor, look, situation, tidy_up
from olpc_update_query.run.machine import (
    AskerEndedError,
    Machine,
    Numbers,
    Parcel,
    Slip,
    as_asker,
)
from olpc_update_query.run.memory import recall
from olpc_update_query.run.places import LARGEST_ORDER, fetch_order
from olpc_update_query.run.trial import settle
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.work import prepare
from olpc_update_query.trust.answer import TrustedOrder, open_order

SHORT_ID = 16  # the rest of a key's name is the same for every key


class ByHand:
    """One build that somebody wants.

    Args:
        machine: The laptop.
        audience: Who listens.
        build: The build.
        places: Directories where it may lie, as URLs, in the order to try them.
        force: Install it even if it failed here, or its time has not come.
    """

    def __init__(
        self,
        machine: Machine,
        audience: Audience,
        build: BuildId,
        places: Sequence[str],
        *,
        force: bool = False,
    ) -> None:
        self._machine, self._audience = machine, audience
        self._build, self._places, self._force = build, places, force
        self._purpose = f"olpc-update {build}"
        self._first = f"looking for build {build}"
        told = (audience, machine.clock, str(Trigger.MANUAL))
        self._report = Report(machine.installer, *told)
        self._asker = Report(machine.asker, *told)

    def run(self) -> int:
        """Fetch the order, verify it twice, carry it out.

        Returns:
            The exit code. Everything has been told to the audience.
        """
        work = self._machine.work
        try:
            prepare(work)
            with (
                hold_lock(work.lock, self._purpose),
                hold_lock(work.asker_lock, self._purpose),
            ):
                return self._report_on_it()
        except AskerEndedError as ended:
            return ended.exit_code
        except errors.UpdateError as error:
            self._audience.end(failure(error))
            return error.exit_code

    def _report_on_it(self) -> int:
        self._report.begin(self._first)
        try:
            outcome = self._update()
        except AskerEndedError:
            self._report.rest()
            raise
        except errors.UpdateError as error:
            outcome = failure(error)
        self._report.end(outcome)
        return outcome.exit_code

    def _update(self) -> Outcome:
        facts = look(self._machine)
        facts.require_layout()
        settle(self._machine, facts.layout, self._report)
        return self._follow_order(facts)

    def _follow_order(self, facts: Facts) -> Outcome:
        """Have the asker find the order; verify it again, and follow it."""
        machine, slip, parcel = self._machine, Slip(), Parcel(LARGEST_ORDER)
        self._report.note(f"looking in {', '.join(self._places)}")
        as_asker(machine, lambda: self._fetch_order(slip, parcel), self._asker)
        place = self._places[min(slip.read().server, len(self._places) - 1)]
        trusted = self._open(parcel.take(), max(facts.now, floor(machine)), place)
        urls = tuple(dict.fromkeys((place, *trusted.order.urls)))
        facts = replace(facts, now=max(facts.now, trusted.time))
        return self._follow(replace(trusted.order, urls=urls), facts)

    def _fetch_order(self, slip: Slip, parcel: Parcel) -> None:
        machine = self._machine
        number, raw = fetch_order(machine, self._places)
        now = max(machine.clock.now(), recall(machine.asker).floor)
        trusted = self._open(raw, now, self._places[number])
        signers = ", ".join(name[:SHORT_ID] for name in trusted.signers)
        self._asker.note(f"{self._places[number]}: its order is signed by {signers}")
        slip.write(Numbers(server=number))
        parcel.put(raw)

    def _open(self, raw: bytes, now: int, place: str) -> TrustedOrder:
        """Verify the order that lies at a place."""
        machine = self._machine
        serial = machine.identity.serial
        trusted = open_order(raw, ring=machine.ring, serial=serial, now=now)
        found = trusted.order.build
        if found != self._build:
            raise errors.UntrustedAnswer("order", f"it is for build {found}")
        return trusted

    def _follow(self, order: Order, facts: Facts) -> Outcome:
        """Decide as a poll does, but a person may do what an unattended run may not."""
        at = situation(self._machine, facts, order)
        at = replace(at, stream=None, held=False, on_trial=None)
        if self._force:
            at = replace(at, failed=frozenset())
            order = replace(order, not_before=None)
        decision = decide(self._as_wanted(order), at, facts.now)
        if isinstance(decision, Install):
            decision = decision._replace(reason="somebody asks for it")
        self._report.tell(Decided(decision))
        match decision:
            case Nothing(reason):
                tidy_up(self._machine, facts)
                return Outcome(Result.NOTHING, f"nothing to do: {reason}")
            case Wait(_, reason):
                raise errors.OrderRefused(f"{reason}; -f installs it now")
            case Refuse():
                raise errors.OrderRefused(self._refusal(order, decision))
            case Install():
                reports = (self._report, self._asker)
                job = CarryOut(self._machine, order, facts, reports, scheduled=False)
                return job.run()

    def _refusal(self, order: Order, decision: Refuse) -> str:
        """Return why an order is refused, and what a person can do about it."""
        return decision.reason

    def _as_wanted(self, order: Order) -> Order:
        """Return an order as a person means it, who has named the build."""
        return replace(order, allow_downgrade=True)
