"""Making a tree that proves to be right: plan, room, contents, stage, audit.

What is linked is believed only until the audit has read it. When that finds a linked
file damaged, it is not linked again: its content is taken from elsewhere or, when
nothing here has it, noted for the next fetch.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from olpc_update_query.errors import TreeError
from olpc_update_query.model.manifest import ROOT, encode_name
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.audit import audit
from olpc_update_query.perform_update.differences import Aspect, Difference
from olpc_update_query.perform_update.plan import Plan, make_plan
from olpc_update_query.perform_update.space import forecast, make_room
from olpc_update_query.perform_update.stage import Staged, stage
from olpc_update_query.perform_update.store import Downloads
from olpc_update_query.perform_update.supply import Supply
from olpc_update_query.perform_update.unknown import trees_to_use
from olpc_update_query.perform_update.vault import Vault
from olpc_update_query.perform_update.walk import remove_tree
from olpc_update_query.perform_update.work import Workbench
from olpc_update_query.ports import Progress

_ROUNDS: Final = 4  # of staging, when the audit finds fault with what was linked
_DAMAGED: Final = {Aspect.CONTENT, Aspect.SIZE, Aspect.KIND, Aspect.MISSING}
_MOST_FAULTS: Final = 10_000  # learnt from in one round
_TOLD: Final = 10
_PLAN: Final = "plan.db"


class Maker:
    """Makes one tree.

    Args:
        build: The build's name.
        layout: The laptop.
        downloads: What was fetched.
        work: Where to work; the manifest is there.
        progress: Who is told.

    Attributes:
        staged: What the tree was made of.
        supply: Where its new contents came from.
    """

    def __init__(
        self,
        build: BuildId,
        *,
        layout: Layout,
        downloads: Downloads,
        work: Workbench,
        progress: Progress,
    ) -> None:
        self._build, self._layout, self._work = build, layout, work
        self._downloads, self._progress = downloads, progress
        self.supply = Supply(build, downloads, work)
        self._distrust = set(self.supply.wanted)
        self._apart: set[bytes] = set()
        self.staged = Staged()

    def learn(self, faults: Iterable[Difference]) -> bool:
        """Take no more from what has proved to be damaged; say whether that is new."""
        before = len(self._distrust) + len(self._apart)
        for fault in faults:
            if fault.digest:
                spoiled = fault.aspect in _DAMAGED
                (self._distrust if spoiled else self._apart).add(fault.digest)
        return len(self._distrust) + len(self._apart) > before

    def make(self) -> Path:
        """Make the tree.

        Returns:
            Where it is; every byte of it has been audited.

        Raises:
            Incomplete: Contents are missing; they have been noted.
            NoSpace: It cannot fit.
            TreeError: It does not come out right.
        """
        tree = self._work.stage / self._build
        faults: list[Difference] = []
        with Vault(self._work.store) as vault, _removed_on_error(tree):
            for _ in range(_ROUNDS):
                faults = self._make_once(vault, tree)
                if not faults:
                    return tree
                for fault in faults[:_TOLD]:
                    self._progress.step(f"not as it should be: {fault}")
                if not self.learn(faults):
                    break
                remove_tree(tree)
            path, _, expected, found, _ = faults[0]
            raise TreeError(encode_name(path), expected, found)

    def _make_once(self, vault: Vault, tree: Path) -> list[Difference]:
        """Stage and audit; return what is wrong with the tree, or some of it."""
        with self._fitting_plan(vault) as plan:
            self._progress.step(
                f"making build {self._build}: {plan.linked} files are linked, "
                f"{plan.new_bytes / 1e6:.1f} MB are new"
            )
            self.supply.take_in(plan, vault)
            self.staged = stage(plan, vault, tree)
        if self.staged.lost:
            return [
                Difference(ROOT, Aspect.MISSING, digest.hex(), "nothing", digest)
                for digest in self.staged.lost
            ]
        self._progress.step("checking every byte of it")
        return list(itertools.islice(audit(self._work.contents, tree), _MOST_FAULTS))

    def _fitting_plan(self, vault: Vault) -> Plan:
        """Plan, and delete what may go until the plan fits."""
        while True:
            trees = trees_to_use(
                self._layout, self._work.contents, self._work.store, self._progress
            )
            plan = make_plan(
                self._work.contents,
                trees,
                self._work.store / _PLAN,
                distrust=self._distrust,
                apart=self._apart,
            )
            with contextlib.ExitStack() as on_error:
                on_error.callback(plan.close)
                at_hand = vault.recover(plan.missing_size)
                needs = forecast(self._layout, plan.totals, at_hand)
                unmet = [need for need in needs if not need.is_met()]
                if not unmet:
                    on_error.pop_all()
                    return plan
            if self._downloads.discard_others():
                continue
            make_room(self._layout, unmet[0], self._progress, keep=self._build)


@contextlib.contextmanager
def _removed_on_error(tree: Path) -> Iterator[None]:
    """Leave no half tree on a disk that may be full; contents are kept."""
    try:
        yield
    except Exception:
        with contextlib.suppress(OSError):
            remove_tree(tree)
        raise
