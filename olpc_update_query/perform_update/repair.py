"""Making an installed build whole again, path by path.

Bits rot on the disk, and whoever writes into a file of the run copy changes the
untouched tree with it. The tree cannot be swapped for a fresh one while it runs: so
only what is wrong is replaced, each path by one rename, and nothing is ever written
into an installed file. ADR 0021 tells why the run copy is treated as it is.

1. The tree is read again, from the medium, against the signed manifest.
2. New files are made in the work area and synced, before any of them is put in place.
3. Strays go, what is missing comes, damaged paths are replaced, directories dressed.
4. It is read again. What differs then, is another round's.

Power may fail anywhere: a path is the damaged one or the good one, and the next
repair finds what is left to do.
"""

import itertools
import os
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import NotInstalled, Unrepaired
from olpc_update_query.model.manifest import TreePath
from olpc_update_query.model.messages import BuildId
from olpc_update_query.model.orders import Order
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.audit import audit
from olpc_update_query.perform_update.differences import Aspect, Difference
from olpc_update_query.perform_update.manifests import accept_manifest, ensure_contents
from olpc_update_query.perform_update.mending import Bench, Faults, mend
from olpc_update_query.perform_update.plan import make_plan
from olpc_update_query.perform_update.space import Need
from olpc_update_query.perform_update.store import Downloads
from olpc_update_query.perform_update.supply import Supply
from olpc_update_query.perform_update.vault import Vault
from olpc_update_query.perform_update.work import Workbench
from olpc_update_query.ports import Progress
from olpc_update_query.system.files import disk_errors, sync_filesystem

_ROUNDS: Final = 20
_MOST_FAULTS: Final = 10_000  # mended in one round
_PLAN: Final = "plan.db"


class Repaired(NamedTuple):
    """What a repair has come to.

    Attributes:
        build: The build.
        mended: Paths that were put right.
        strays: Paths that were removed.
        fetched: Contents that were downloaded.
    """

    build: BuildId
    mended: int = 0
    strays: int = 0
    fetched: int = 0


def look(layout: Layout, build: BuildId) -> list[Difference]:
    """Read an installed build again, from the medium; return what differs, or some.

    That is the tree, and the copy of its /boot on a boot partition.

    Raises:
        NotInstalled: There is no such build, or it has no manifest.
        Malformed: Its manifest is not one.
        TreeError: The disk is failing.
    """
    tree, contents = layout.pristine(build), layout.contents(build)
    if not (tree.is_dir() and contents.is_file()):
        raise NotInstalled(build)
    with disk_errors(tree):
        sync_filesystem(tree)
        found = list(itertools.islice(audit(contents, tree, cold=True), _MOST_FAULTS))
    if any(fault.path.startswith(b"boot") for fault in found):
        return found  # there is nothing to compare a copy with
    return found + [
        Difference(
            TreePath(b"/" + os.fsencode(path)),
            Aspect.CONTENT,
            "a copy of the build's own",
            "something else",
        )
        for path in layout.boot_faults(build)
    ]


def note_damage(work: Path, faults: list[Difference], contents: Path) -> None:
    """Note for the next fetch which contents are damaged.

    Args:
        work: ``WORK/installer``.
        faults: What `look` has found.
        contents: The build's manifest.
    """
    with disk_errors(work):
        bench = Workbench(work)
        bench.prepare()
        bench.write_wanted(Faults(faults, contents).spoiled)


def repair(
    order: Order, *, layout: Layout, downloads: Path, work: Path, progress: Progress
) -> Repaired:
    """Put right whatever of an installed build is not what its order signs.

    Args:
        order: The order; its signature has been verified.
        layout: The laptop.
        downloads: ``WORK/asker/downloads/<sha256 of the manifest>``, untrusted.
        work: ``WORK/installer``.
        progress: Who is told.

    Returns:
        What it came to.

    Raises:
        Incomplete: Contents are to be fetched; they have been noted.
        NoSpace: There is no room for them.
        Unrepaired: It does not come out right.
        TreeError: The disk is failing.
    """
    with disk_errors(work), Downloads(downloads) as fetched:
        return _Repair(order, layout, fetched, Workbench(work), progress).run()


class _Repair:
    def __init__(
        self,
        order: Order,
        layout: Layout,
        downloads: Downloads,
        work: Workbench,
        progress: Progress,
    ) -> None:
        self._order, self._layout, self._downloads = order, layout, downloads
        self._work, self._progress = work, progress
        self._tree = layout.pristine(order.build)

    def run(self) -> Repaired:
        """Look and mend, until nothing differs any more."""
        if not self._tree.is_dir():
            raise NotInstalled(self._order.build)
        self._layout.tidy()
        self._work.prepare()
        accept_manifest(self._order, self._layout, self._downloads, self._work)
        done = Repaired(self._order.build)
        faults: list[Difference] = []
        for _ in range(_ROUNDS):
            faults = self._look()
            if not faults:
                return self._finish(done)
            mended = self._mend(Faults(faults, self._work.contents))
            done = done._replace(
                mended=done.mended + mended.mended,
                strays=done.strays + mended.strays,
                fetched=done.fetched + mended.fetched,
            )
        raise Unrepaired(self._order.build, len(faults), str(faults[0]))

    def _look(self) -> list[Difference]:
        self._progress.step(f"reading every byte of build {self._order.build} again")
        found = audit(self._work.contents, self._tree, cold=True)
        return list(itertools.islice(found, _MOST_FAULTS))

    def _mend(self, faults: Faults) -> Repaired:
        """Mend what one look has found."""
        self._progress.step(f"mending {len(faults.paths)} paths")
        supply = Supply(self._order.build, self._downloads, self._work)
        with Vault(self._work.store) as vault:
            plan = make_plan(
                self._work.contents,
                self._layout.known(),
                self._work.store / _PLAN,
                distrust=faults.spoiled | supply.wanted,
            )
            with plan:
                at_hand = vault.recover(plan.missing_size)
                self._require_room(faults, at_hand)
                supply.take_in(plan, vault, only=faults.spoiled | faults.lost)
                run = self._layout.run(self._order.build)
                bench = Bench(self._work.stage, vault, run, plan)
                removed = mend(self._work.contents, self._tree, faults, bench)
        return Repaired(
            self._order.build, len(faults.paths) - removed, removed, supply.fetched
        )

    def _require_room(self, faults: Faults, at_hand: int) -> None:
        size = faults.bytes_of(self._work.contents)
        need = Need(self._work.stage, max(0, size - at_hand), len(faults.paths))
        if not need.is_met():
            raise need.refusal()

    def _finish(self, done: Repaired) -> Repaired:
        ensure_contents(self._order, self._layout, self._work)
        sync_filesystem(self._tree)
        copies = self._layout.mend_boot(self._order.build)
        done = done._replace(mended=done.mended + copies)
        self._work.clear()
        self._downloads.discard()
        return done
