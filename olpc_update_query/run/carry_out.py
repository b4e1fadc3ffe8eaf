"""An order is carried out: the asker fetches, the installer installs."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Order
from olpc_update_query.perform_update import perform_update
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.fetch import FetchReport, fetch
from olpc_update_query.perform_update.install import Installed, install
from olpc_update_query.perform_update.sources.rsync_program import RsyncOptions
from olpc_update_query.policy.schedule import draw_retry
from olpc_update_query.ports import Progress, Transport
from olpc_update_query.report import Outcome, Report, Result, failure
from olpc_update_query.run.ask import by_our_clock, draw_after
from olpc_update_query.run.facts import Facts, forgive
from olpc_update_query.run.machine import (
    Machine,
    Numbers,
    Slip,
    as_asker,
    network,
)
from olpc_update_query.run.memory import recall, remember
from olpc_update_query.run.restart import restart_if_wanted
from olpc_update_query.run.waiting import GatedProgress
from olpc_update_query.system.files import no_space, read_bounded
from olpc_update_query.system.network import proxies_for
from olpc_update_query.system.work import work_area

HOOKS = "etc/olpc-update-query/hooks.d"
WANTED = "wanted"
LARGEST_WANTED = 64 * 1024 * 1024
PROGRESS = 64 * 1024
"""A download that brought at least so many bytes moves, and is not backed off."""


class CarryOut:
    """One order on one laptop.

    Args:
        machine: The laptop.
        order: The order, verified by the installer.
        facts: What is known of the laptop.
        reports: Of the installer and of the asker.
        scheduled: Whether a poll brought the order: then the next poll is drawn so
            that it goes on with what this one leaves undone.
    """

    def __init__(
        self,
        machine: Machine,
        order: Order,
        facts: Facts,
        reports: tuple[Report, Report],
        *,
        scheduled: bool,
    ) -> None:
        self._machine, self._order, self._facts = machine, order, facts
        self._installer, self._asker = reports
        self._scheduled = scheduled
        self._slip = Slip()
        self._named: dict[str, Json] = {"build": order.build}

    def run(self) -> Outcome:
        """Fetch and install, in as many rounds as it takes.

        Returns:
            What it came to; failures of the installer included.

        Raises:
            AskerEndedError: Nothing more could be fetched; the asker has said why.
        """
        layout = self._require_layout()
        return self._concluded(
            lambda: perform_update(
                lambda: self._fetch(layout), lambda: self._install(layout)
            )
        )

    def _require_layout(self) -> Layout:
        """Return the laptop's builds, if there may be room for one more.

        Raises:
            NoVersions: It does not keep builds side by side.
            NoSpace: There is no room for a work area.
        """
        machine = self._machine
        if not machine.has_disk:
            raise no_space(work_area(machine.root).top, 1)
        return self._facts.require_layout()

    def fetch(self) -> Numbers:
        """Fetch only, in a process that is the asker's own.

        Returns:
            What it has cost.

        Raises:
            UpdateError: Nothing more could be fetched.
        """
        self._download(self._require_layout())
        return self._slip.read()

    def install(self, cost: Numbers) -> Outcome:
        """Install only: another process, the asker's, has fetched.

        Args:
            cost: What that has cost.

        Returns:
            What it came to; failures of the installer included.
        """
        layout = self._facts.require_layout()
        self._slip.write(cost)
        return self._concluded(lambda: self._install(layout))

    def _concluded(self, work: Callable[[], Installed]) -> Outcome:
        try:
            installed = work()
        except errors.UpdateError as error:
            return self._failure(error)
        self._as_asker(lambda: self._plan_next(None))
        forgive(self._machine, self._order.contents)
        restart_if_wanted(self._machine, self._order, self._facts)
        return self._success(installed)

    def _failure(self, error: errors.UpdateError) -> Outcome:
        def note_it() -> None:
            self._count_setback(moved=False)
            self._plan_next(error)

        self._as_asker(note_it)
        outcome = failure(error)
        return replace(outcome, facts={**outcome.facts, **self._named})

    def _success(self, installed: Installed) -> Outcome:
        build, other = installed.build, self._facts.require_layout().alternate()
        then = f"; build {other} stays to go back to" if other else ""
        text = f"build {build} is installed and boots next{then}"
        facts: dict[str, Json] = {**self._named, **self._slip.read()._asdict()}
        facts |= {
            name: value
            for name, value in installed._asdict().items()
            if isinstance(value, int)
        }
        return Outcome(Result.INSTALLED, text, facts=facts)

    # --- the installer ---------------------------------------------------------------

    def _install(self, layout: Layout) -> Installed:
        machine = self._machine
        return install(
            self._order,
            layout=layout,
            downloads=machine.work.downloads(self._order.contents),
            work=machine.work.installer,
            hooks=machine.root / HOOKS,
            progress=self._installer,
        )

    # --- the asker -------------------------------------------------------------------

    def _as_asker(self, function: Callable[[], None]) -> None:
        as_asker(self._machine, function, self._asker, self._named)

    def _fetch(self, layout: Layout) -> FetchReport:
        self._as_asker(lambda: self._download(layout))
        numbers = self._slip.read()
        return FetchReport(numbers.received, numbers.sent, numbers.requests)

    def _download(self, layout: Layout) -> None:
        """Fetch what is missing; whatever has arrived when it fails is kept.

        The due time is drawn before, as if it had failed already: a laptop that is
        switched off in the middle goes on minutes after it gets a link again.
        """
        self._plan_next(errors.SourceFailed(self._order.build, "not fetched yet"))
        self._asker.begin(f"fetching build {self._order.build}")
        with network(self._machine) as transport:
            try:
                found = self._fetch_through(transport, layout)
            except errors.UpdateError as error:
                self._count_setback(moved=transport.received >= PROGRESS)
                self._plan_next(error)
                raise
        self._count_setback(moved=True)
        before = self._slip.read()
        self._slip.write(
            Numbers(
                sent=before.sent + found.sent,
                received=before.received + found.received,
                requests=before.requests + found.requests,
            )
        )
        self._asker.rest()

    def _fetch_through(self, transport: Transport, layout: Layout) -> FetchReport:
        machine = self._machine
        return fetch(
            self._order,
            layout=layout,
            downloads=machine.work.downloads(self._order.contents),
            transport=transport,
            progress=self._gated(),
            clock=machine.clock,
            rsync=rsync_options(machine),
            wanted=_damaged(machine.work.installer / WANTED),
            state=machine.work.asker,
        )

    def _gated(self) -> Progress:
        """Return who is told, and stops the download when a gate closes."""
        if not self._scheduled:
            return self._asker
        return GatedProgress(self._machine, self._order, self._asker)

    def _count_setback(self, *, moved: bool) -> None:
        memory = recall(self._machine.asker)
        setbacks = 0 if moved else memory.setbacks + 1
        remember(self._machine.asker, replace(memory, setbacks=setbacks))

    def _plan_next(self, error: errors.UpdateError | None) -> None:
        """Draw the next due time: soon after a failure that may pass by itself."""
        if not self._scheduled:
            return
        machine, memory = self._machine, recall(self._machine.asker)
        expiry = self._facts.lease_expiry
        if error is None or not error.retry:
            machine.asker.write_due(draw_after(machine, memory, expiry))
            return
        now = machine.clock.now()
        due = draw_retry(
            max(memory.setbacks, 1),
            now,
            machine.draw(),
            lease_expiry=by_our_clock(expiry, now, memory),
        )
        machine.asker.write_due(due)


def rsync_options(machine: Machine) -> RsyncOptions:
    """Return how rsync is run on this laptop.

    Raises:
        ConfigError: A proxy's address in the environment cannot be used.
    """
    return RsyncOptions(
        proxies=proxies_for(machine.settings.proxy, os.environ),
        bandwidth=machine.settings.bandwidth_limit,
    )


def _damaged(path: Path) -> frozenset[bytes]:
    """Return the digests that the installer found damaged or missing."""
    try:
        lines = read_bounded(path, LARGEST_WANTED).split()
        return frozenset(bytes.fromhex(line.decode("ascii")) for line in lines)
    except (OSError, ValueError):
        return frozenset()
