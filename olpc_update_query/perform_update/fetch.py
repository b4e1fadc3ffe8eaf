"""Fetch what a build needs and the laptop lacks, from wherever it can be had.

Runs without privileges. Sources are asked in the order's order, but what costs nothing
comes first and what made trouble lately comes last. Neighbours of one kind are asked
together: web servers and directories first for a delta pack from an installed build,
then for ranges of the full pack; an rsync daemon for the files that differ. A source
that is dead, lies or stalls is left for the next; what it gave is kept.
"""

from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.orders import Order
from olpc_update_query.perform_update.activate import InstalledTree, Layout
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.delta import PART, begun_from, fetch_delta
from olpc_update_query.perform_update.sources.full import (
    check_wanted,
    fetch_manifest,
    fetch_ranges,
)
from olpc_update_query.perform_update.sources.health import Health, Trouble
from olpc_update_query.perform_update.sources.http import WebFiles
from olpc_update_query.perform_update.sources.intake import Intake
from olpc_update_query.perform_update.sources.local import (
    LocalFiles,
    Unreadable,
    directory_of,
)
from olpc_update_query.perform_update.sources.rsync import RsyncSource
from olpc_update_query.perform_update.sources.rsync_program import Program, RsyncOptions
from olpc_update_query.perform_update.sources.salvage import (
    finish_begun,
    salvage_delta,
    salvage_pack,
)
from olpc_update_query.perform_update.sources.spool import Files
from olpc_update_query.perform_update.store import DELTA, HAVE
from olpc_update_query.ports import Clock, Progress, Transport

_DELTAS = 3  # installed builds for which a delta pack is asked for
_SMALL = 256 * 1024  # bytes to fetch for which ranges are enough
_KINDS = (
    errors.BuildNotFound,
    errors.NoAnswer,
    errors.ProxyRefused,
    errors.ServerFull,
    errors.NoRsync,
)
_FAILURES = (
    errors.NetworkError,
    errors.CorruptContent,
    errors.Malformed,
    errors.UntrustedContents,
)


class FetchReport(NamedTuple):
    """What a fetch has cost.

    Attributes:
        received: Bytes received over the network.
        sent: Bytes sent.
        requests: Requests made, and runs of rsync.
        source: What gave something, by name: ``delta``, ``manifest`` (or the index of
            a full pack), ``pack``, ``file`` (of the plain tree), ``rsync``, joined
            by ``+``.
        gave: How many bytes each of them gave. Files of a stick count only here.
    """

    received: int = 0
    sent: int = 0
    requests: int = 0
    source: str = ""
    gave: tuple[tuple[str, int], ...] = ()


def fetch(  # noqa: PLR0913 - all that a download depends on
    order: Order,
    *,
    layout: Layout,
    downloads: Path,
    transport: Transport,
    progress: Progress,
    clock: Clock,
    rsync: RsyncOptions | None = None,
    wanted: Collection[bytes] = (),
    state: Path | None = None,
) -> FetchReport:
    """Fetch until everything that the order's build needs is there.

    Without anything to fetch it makes no request.

    Args:
        order: A verified order.
        layout: The laptop's builds.
        downloads: ``downloads/<order.contents>`` in the asker's work area.
        transport: HTTP.
        progress: Who is told.
        clock: For pauses.
        rsync: How rsync is run.
        wanted: Digests that proved to be damaged where they should be.
        state: Where the health of sources is kept; None to forget it.

    Returns:
        What it has cost.

    Raises:
        SourceFailed: Every source failed; what has come is kept.
        StickFailed: The same, and one of them was a stick that was pulled out.
        BuildNotFound: No source has the build.
        NoAnswer: Every source is behind a portal.
        ProxyRefused: The proxy lets nothing through.
        ServerFull: Every source takes no more clients.
        NoRsync: There are only rsync sources, and no rsync.
        NoSpace: It cannot fit.
        TreeError: The disk is failing.
    """
    intake = Intake(order, layout, downloads, wanted, progress, clock)
    with intake:
        health = Health(state, clock)
        fetcher = _Fetcher(intake, transport, rsync or RsyncOptions(), health)
        try:
            fetcher.run()
        finally:
            health.save()
        return fetcher.report()


class _Fetcher:
    """One fetch: the sources in turn, and what each was good for."""

    def __init__(
        self,
        intake: Intake,
        transport: Transport,
        options: RsyncOptions,
        health: Health,
    ) -> None:
        self._intake, self._transport, self._options = intake, transport, options
        self._health = health
        self._failures: list[errors.UpdateError] = []
        self._before = transport.received, transport.sent, transport.requests
        self._rsync: list[Program] = []

    def run(self) -> None:
        """Try one group of sources after the other until nothing is needed."""
        if self._is_done():
            return
        groups = self._groups()
        hurry = len(groups) > 1
        for number in range(self._options.patience):
            later = []
            for kind, urls in groups:
                error = self._attempt(kind, urls, hurry=hurry)
                if self._is_done():
                    return
                is_full = isinstance(error, errors.ServerFull)
                if is_full or (hurry and type(error) is errors.NetworkError):
                    later += [(kind, urls)] if kind == "rsync" else []
            if not later or number + 1 == self._options.patience:
                break
            if isinstance(self._failures[-1], errors.ServerFull):
                self._wait(number)
            groups, hurry = later, False
        raise self._summary()

    def _wait(self, number: int) -> None:
        """Wait for a server that is full, after everybody else was asked."""
        intake, pause = self._intake, self._options.draw_pause(number)
        intake.progress.step(f"{self._failures[-1]}; trying again in {pause:.0f} s")
        intake.clock.sleep(pause)

    def _groups(self) -> list[tuple[str, list[str]]]:
        """Return the sources, neighbours that can be asked together in one group."""
        urls = self._health.order(self._intake.order.urls)
        urls.sort(key=lambda url: _kind(url) != "file")
        return [
            (kind, [url] if kind == "rsync" else list(group))
            for (kind, url), group in groupby(
                urls, lambda url: (_kind(url), url if _kind(url) == "rsync" else "")
            )
        ]

    def _attempt(
        self, kind: str, urls: list[str], *, hurry: bool
    ) -> errors.UpdateError | None:
        """Fetch from a group of sources; return why it failed, if it did."""
        before, failure = len(self._failures), None
        try:
            if kind == "rsync":
                options = self._options.in_a_hurry() if hurry else self._options
                self._from_rsync(RsyncSource(urls[0], self._intake, options))
            else:
                self._from_files(urls)
        except _FAILURES as error:
            failure = error
        if self._is_done():
            return None
        where = ", ".join(urls)
        failure = failure or errors.SourceFailed(where, "it lacks a part")
        if failure not in self._failures[before:]:
            self._failures.append(failure)
        self._intake.progress.step(f"left for the next source: {failure}")
        if isinstance(failure, errors.UntrustedContents | errors.CorruptContent):
            for url in urls if kind == "rsync" else ():
                self._health.note(url, Trouble.LIED)
        return failure

    def report(self) -> FetchReport:
        """Add up what it has cost."""
        received, sent, requests = self._before
        gave = sorted(item for item in self._intake.gave.items() if item[1])
        transport = self._transport
        return FetchReport(
            transport.received - received + sum(one.received for one in self._rsync),
            transport.sent - sent + sum(one.sent for one in self._rsync),
            transport.requests - requests + sum(one.requests for one in self._rsync),
            "+".join(kind for kind, _ in gave),
            tuple(gave),
        )

    def _is_done(self) -> bool:
        return self._intake.has_manifest and not self._intake.needs()

    # --- packs ------------------------------------------------------------------

    def _from_files(self, urls: list[str]) -> None:
        places = [self._files(url) for url in urls]
        intake = self._intake
        crew = Crew(places, self._health, intake.clock, intake.progress)
        intake.progress.step(f"asking {crew}")
        try:
            self._fetch_packs(crew)
        finally:
            if not self._is_done():
                self._failures += crew.troubles()

    def _files(self, url: str) -> Files:
        directory = directory_of(url)
        if directory is None:
            return WebFiles(url, self._transport)
        return LocalFiles(url, directory)

    def _fetch_packs(self, crew: Crew) -> None:
        intake = self._intake
        if self._wants_delta() and self._from_delta(crew):
            return
        if not intake.has_manifest:
            fetch_manifest(intake, crew)
        check_wanted(intake, crew)
        salvage_delta(intake, intake.directory / PART)
        if intake.needs():
            finish_begun(intake, crew)
        while intake.needs() and fetch_ranges(intake, crew):
            check_wanted(intake, crew)

    def _wants_delta(self) -> bool:
        """Tell whether a delta pack is the way to go on."""
        intake = self._intake
        if intake.wanted or (intake.directory / DELTA).exists():
            return False
        if not intake.has_manifest:
            return True
        begun = (intake.directory / HAVE).exists()
        return not begun and intake.needs().size > _SMALL

    def _from_delta(self, crew: Crew) -> bool:
        """Fetch a delta pack; say whether it brought all that is needed."""
        for tree in self._bases():
            if fetch_delta(self._intake, crew, tree):
                return self._is_done()
        return False

    def _bases(self) -> list[InstalledTree]:
        """Return the builds to start from; the one that was begun with comes first."""
        intake = self._intake
        begun = begun_from(intake)
        trees = [tree for tree in intake.installed if intake.manifest_digest(tree)]
        first = [tree for tree in trees if intake.manifest_digest(tree) == begun]
        return (first + [tree for tree in trees if tree not in first])[:_DELTAS]

    # --- rsync ------------------------------------------------------------------

    def _from_rsync(self, source: RsyncSource) -> None:
        self._rsync.append(source.program)
        if not self._intake.has_manifest:
            source.fetch_manifest()
        salvage_delta(self._intake, self._intake.directory / PART)
        salvage_pack(self._intake)
        source.fetch_files()

    # --- the end ------------------------------------------------------------------

    def _summary(self) -> errors.UpdateError:
        """Say in one line what became of each source."""
        build = f"build {self._intake.order.build}"
        if not self._failures:
            return errors.BuildNotFound(build, "the order names no source that has it")
        reasons = "; ".join(dict.fromkeys(str(error) for error in self._failures))
        if any(isinstance(error, Unreadable) for error in self._failures):
            return errors.StickFailed(build, reasons)
        for kind in _KINDS:
            if all(isinstance(error, kind) for error in self._failures):
                return kind(build, reasons)
        return errors.SourceFailed(build, reasons)


def _kind(url: str) -> str:
    """Return what kind of source an address names."""
    if url.startswith("rsync:"):
        return "rsync"
    return "web" if directory_of(url) is None else "file"
