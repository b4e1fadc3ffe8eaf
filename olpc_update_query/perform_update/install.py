"""From a verified order and what was downloaded to a build that boots next.

Every step can be interrupted and done again; nothing that boots is touched before
the last one, and that is one rename.

1. What an interrupted run left is removed; proven contents are kept.
2. The manifest is copied to where only root writes, and must be what the order signs.
3. A tree that has the build's name already is audited, and used if it is whole.
4. Otherwise it is made (`making`): planned, given room, linked, filled, audited.
5. Everything is synced, and the tree gets its name; what was fetched is deleted.
6. The run copy is made, the site's hooks run on it, and it gets its name.
7. The boot link swings.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import OrderRefused
from olpc_update_query.model.manifest import TreePath
from olpc_update_query.model.messages import BuildId
from olpc_update_query.model.orders import Order
from olpc_update_query.perform_update.activate import SCRAP, Layout
from olpc_update_query.perform_update.audit import audit
from olpc_update_query.perform_update.differences import Aspect, Difference
from olpc_update_query.perform_update.hooks import run_hooks
from olpc_update_query.perform_update.making import Maker
from olpc_update_query.perform_update.manifests import (
    accept_manifest,
    ensure_contents,
    has_contents,
)
from olpc_update_query.perform_update.runcopy import make_run_copy
from olpc_update_query.perform_update.store import Downloads
from olpc_update_query.perform_update.walk import remove_tree
from olpc_update_query.perform_update.work import Workbench
from olpc_update_query.ports import Progress
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    sync_filesystem,
)

_MOST_FAULTS: Final = 10_000


class Installed(NamedTuple):
    """What an installation has come to.

    Attributes:
        build: The build that boots next.
        linked: Paths that are links of installed files.
        copied: Files copied from installed ones, with other metadata.
        patched: Contents made by patches.
        fetched: Contents that were downloaded whole.
        new_bytes: Bytes of files that were written.
        already: Whether it was installed and active before.
    """

    build: BuildId
    linked: int = 0
    copied: int = 0
    patched: int = 0
    fetched: int = 0
    new_bytes: int = 0
    already: bool = False


def install(  # noqa: PLR0913 - an order, three places, and whom to tell
    order: Order,
    *,
    layout: Layout,
    downloads: Path,
    work: Path,
    hooks: Path,
    progress: Progress,
    alternate: BuildId | None = None,
) -> Installed:
    """Install a build and make it the one that boots next.

    Args:
        order: The order; its signature has been verified.
        layout: The laptop.
        downloads: ``WORK/asker/downloads/<sha256 of the manifest>``, untrusted.
        work: ``WORK/installer``.
        hooks: The site's hooks.
        progress: Who is told.
        alternate: The build to go back to; None for the running one.

    Returns:
        What it came to.

    Raises:
        Incomplete: Contents are missing or damaged; they are noted for a fetch.
        UntrustedContents: The manifest is not the one that the order signs.
        NoSpace: It cannot fit, whatever may be deleted.
        OrderRefused: It would replace the running build.
        NotPermitted: It takes root.
        HookFailed: A hook failed; the build is there but does not boot.
        TreeError: The disk is failing.
    """
    with disk_errors(work), Downloads(downloads) as fetched:
        installation = _Installation(order, layout, fetched, Workbench(work), progress)
        return installation.run(hooks, alternate)


class _Installation:
    def __init__(
        self,
        order: Order,
        layout: Layout,
        downloads: Downloads,
        work: Workbench,
        progress: Progress,
    ) -> None:
        self._order, self._build = order, order.build
        self._layout, self._downloads = layout, downloads
        self._work, self._progress = work, progress

    def run(self, hooks: Path, alternate: BuildId | None) -> Installed:
        """Do what is still to be done, step by step."""
        self._layout.tidy()
        self._work.prepare()
        if self._is_active():
            installed = Installed(self._build, already=True)
        else:
            accept_manifest(self._order, self._layout, self._downloads, self._work)
            installed = self._ensure_tree()
            ensure_contents(self._order, self._layout, self._work)
            self._downloads.discard_packs()
            self._ensure_run_copy(hooks)
            self._activate(alternate)
        if self._order.sticky:
            self._layout.set_sticky(self._build)
        self._work.clear()
        self._downloads.discard()
        self._layout.tidy()
        return installed

    def _is_active(self) -> bool:
        return (
            self._layout.current() == self._build
            and self._layout.run(self._build).is_dir()
            and has_contents(self._order, self._layout)
        )

    # --- the tree -------------------------------------------------------------------

    def _ensure_tree(self) -> Installed:
        maker = Maker(
            self._build,
            layout=self._layout,
            downloads=self._downloads,
            work=self._work,
            progress=self._progress,
        )
        faults = self._look_at_old_tree()
        if faults is not None:
            if not faults:
                return Installed(self._build)
            self._refuse_if_running(faults[0])
            maker.learn(faults)
        tree = maker.make()
        self._give_name(tree)
        return Installed(
            self._build,
            linked=maker.staged.linked,
            copied=maker.staged.copied,
            patched=maker.supply.patched,
            fetched=maker.supply.fetched,
            new_bytes=maker.staged.written,
        )

    def _look_at_old_tree(self) -> list[Difference] | None:
        """Audit what has the build's name already; None when nothing has."""
        tree = self._layout.pristine(self._build)
        if not os.path.lexists(tree) and self._layout.running() != self._build:
            return None
        self._progress.step(f"build {self._build} is there; checking every byte of it")
        try:
            faults = audit(self._work.contents, tree)
            return list(itertools.islice(faults, _MOST_FAULTS))
        except OSError as error:
            reason = error.strerror or str(error)
            return [Difference(TreePath(b""), Aspect.MISSING, "a whole tree", reason)]

    def _refuse_if_running(self, fault: Difference) -> None:
        if self._layout.running() == self._build:
            raise OrderRefused(
                f"build {self._build} is running and not what the order names "
                f"({fault}); it cannot be replaced while it runs"
            )

    def _give_name(self, tree: Path) -> None:
        """Put the audited tree where builds lie, in place of a broken one."""
        sync_filesystem(tree)
        self._unhook()
        self._layout.set_aside(self._build)
        pristine = self._layout.pristine(self._build)
        os.rename(tree, pristine)
        fsync_directory(pristine.parent)
        fsync_directory(self._work.stage)

    def _unhook(self) -> None:
        """Let nothing boot the broken tree that is about to be replaced."""
        current, running = self._layout.current(), self._layout.running()
        if current == self._build:
            if running is None:
                reason = f"build {current} is broken, and nothing else is known to boot"
                raise OrderRefused(reason)
            self._layout.activate(running, None)
        elif current is not None and self._layout.alternate() == self._build:
            self._layout.activate(current, None)

    # --- what boots -----------------------------------------------------------------

    def _ensure_run_copy(self, hooks: Path) -> None:
        run = self._layout.run(self._build)
        if run.is_dir():
            return
        fresh = run.with_name(f"{SCRAP}new.{self._build}")
        remove_tree(fresh)
        run.parent.mkdir(exist_ok=True)
        with _removed_on_error(fresh):
            make_run_copy(self._layout.pristine(self._build), fresh)
            run_hooks(hooks, fresh, self._progress)
            sync_filesystem(fresh)
            os.rename(fresh, run)
        fsync_directory(run.parent)

    def _activate(self, wanted: BuildId | None) -> None:
        alternate = self._choose_alternate(wanted)
        now = (self._layout.current(), self._layout.alternate())
        if now != (self._build, alternate):
            self._progress.step(f"build {self._build} boots next")
            self._layout.activate(self._build, alternate, on_trial=True)

    def _choose_alternate(self, wanted: BuildId | None) -> BuildId | None:
        """Return the build to go back to: best the one that is known to run."""
        layout = self._layout
        choices = (wanted, layout.running(), layout.current(), layout.alternate())
        for build in choices:
            if build is not None and build != self._build and layout.can_boot(build):
                return build
        return None


@contextlib.contextmanager
def _removed_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        remove_tree(path)
        raise
