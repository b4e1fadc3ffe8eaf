"""`olpc-update --verify --repair`: a person wants a damaged build made whole.

What it has to be again is what its signed order says, fetched and verified twice as
when it was installed. Nobody is asked while nothing differs.
"""

from olpc_update_query import errors
from olpc_update_query.model.orders import Order
from olpc_update_query.perform_update import perform_update
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.differences import Difference
from olpc_update_query.perform_update.repair import Repaired, look, note_damage, repair
from olpc_update_query.report import Outcome, Result
from olpc_update_query.run import facts as known
from olpc_update_query.run.by_hand import ByHand
from olpc_update_query.run.carry_out import CarryOut

_TOLD = 20


class Mend(ByHand):
    """One installed build that somebody wants to be whole; made as `ByHand` is."""

    def _update(self) -> Outcome:
        facts = known.look(self._machine)
        layout = facts.require_layout()
        self._report.step(f"reading every byte of build {self._build} again")
        faults = self._look(layout)
        if faults is not None and not faults:
            known.tidy_up(self._machine, facts)
            text = f"build {self._build}: every file is as it should be"
            return Outcome(Result.NOTHING, text, facts={"build": self._build})
        contents = layout.contents(self._build)
        note_damage(self._machine.work.installer, faults or [], contents)
        return super()._update()

    def _look(self, layout: Layout) -> list[Difference] | None:
        """Return what differs; None when even the manifest is damaged."""
        try:
            faults = look(layout, self._build)
        except (errors.Malformed, errors.UnsafePath) as error:
            self._report.note(
                f"the manifest of build {self._build} is damaged: {error}"
            )
            return None
        for fault in faults[:_TOLD]:
            self._report.note(f"not as it should be: {fault}")
        if len(faults) > _TOLD:
            self._report.note(f"... and {len(faults) - _TOLD} more")
        return faults

    def _follow(self, order: Order, facts: known.Facts) -> Outcome:
        """Mend it; an installed build needs no decision."""
        reports = (self._report, self._asker)
        return _Mending(self._machine, order, facts, reports, scheduled=False).run()


class _Mending(CarryOut):
    """Contents are fetched as for an installation; nothing is activated."""

    def run(self) -> Outcome:
        layout = self._facts.require_layout()
        try:
            done = self._mend(layout)
        except errors.UpdateError as error:
            return self._failure(error)
        text = f"build {done.build} is whole again: {done.mended} paths were mended"
        if done.strays:
            text += f", {done.strays} removed"
        return Outcome(Result.REPAIRED, text, facts=dict(done._asdict()))

    def _mend(self, layout: Layout) -> Repaired:
        """Try with what is here first: a wrong mode takes no download."""
        try:
            return self._repair(layout)
        except errors.Incomplete:
            return perform_update(
                lambda: self._fetch(layout), lambda: self._repair(layout)
            )

    def _repair(self, layout: Layout) -> Repaired:
        machine = self._machine
        return repair(
            self._order,
            layout=layout,
            downloads=machine.work.downloads(self._order.contents),
            work=machine.work.installer,
            progress=self._installer,
        )
