"""Copies builds from another site, over whatever link there is.

A school's server so pays its link once for what a whole class then fetches from it. The
bytes come by the laptops' own downloader: what has come before a cut, or before the run
is killed, is kept. Nothing is believed that the other site's key has not signed:
the order names the manifest, the manifest every content. A build gets its name when all
of it is here and proven, so laptops never see half of one.

Contents that a build of this site has, packed in the same way, are taken from there.
"""

import contextlib
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.wire import BuildId
from olpc_update_query.perform_update.sources.crew import Crew
from olpc_update_query.perform_update.sources.health import Health
from olpc_update_query.perform_update.sources.http import WebFiles
from olpc_update_query.perform_update.sources.local import LocalFiles, directory_of
from olpc_update_query.ports import Clock, Progress, Transport
from olpc_update_query.run.places import (
    LARGEST_LIST,
    LARGEST_ORDER,
    ORDER,
    newest,
    on_stick,
    parse_list,
    read_whole,
    url_of,
)
from olpc_update_query.server.above import NOBODY, from_above, latest
from olpc_update_query.server.packtree import make_root
from olpc_update_query.server.pulling import Pull
from olpc_update_query.server.replacing import (
    hold_builds,
    replace_build,
    settle_at_start,
)
from olpc_update_query.server.site import Site
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    hold_lock,
    replace_file,
    sync_filesystem,
)
from olpc_update_query.system.keyring import LARGEST_STATEMENTS, STATEMENTS
from olpc_update_query.trust.answer import TrustedOrder, open_order
from olpc_update_query.trust.keys import KeyRing

_STAGE: Final = ".mirror-"
_MOST_BASES: Final = 24


class Pulled(NamedTuple):
    """A build that was fetched.

    Attributes:
        build: Its name.
        received: Bytes that came over the network for it.
        reused: Bytes of its pack that were here already.
        deltas: The builds from which there is a delta.
    """

    build: BuildId
    received: int
    reused: int
    deltas: tuple[str, ...]


class Upstream:
    """Another site's builds.

    Args:
        url: Its server, ``http://HOST/``, or a directory or stick.
        transport: HTTP.
        ring: The keys that its orders may be signed with.
    """

    def __init__(self, url: str, transport: Transport, ring: KeyRing) -> None:
        self._directory = directory_of(url)
        self._builds = url if url.endswith("/builds/") else f"{url.rstrip('/')}/builds/"
        self.url, self.transport, self.ring = url, transport, ring

    def list(self) -> list[BuildId]:
        """Return which builds it has.

        Raises:
            NetworkError: It cannot be reached, or does not tell.
            Malformed: It names what can be no build.
        """
        if self._directory is not None:
            return sorted(on_stick(self._directory))
        try:
            raw = read_whole(self.transport, self._builds, LARGEST_LIST)
        except errors.BuildNotFound as error:
            reason = (
                "it tells no list of its builds, as plain web servers: --build NAME"
            )
            raise errors.BuildNotFound(self._builds, reason) from error
        return parse_list(self._builds, raw)

    def statements(self) -> bytes | None:
        """Return its statements about keys, of which nothing is believed yet.

        Returns:
            The file; None where it has none.

        Raises:
            NetworkError: It cannot be reached.
        """
        if self._directory is not None:
            place = url_of(self._directory)
        else:
            place = self._builds.removesuffix("builds/")
        try:
            return read_whole(self.transport, place + STATEMENTS, LARGEST_STATEMENTS)
        except errors.BuildNotFound:
            return None

    def order(self, build: BuildId, now: int) -> TrustedOrder:
        """Return the signed order beside a build.

        Raises:
            NetworkError: It cannot be had.
            TrustError: It is not for this build, or not signed by a key we know.
        """
        raw = read_whole(self.transport, self._place(build) + ORDER, LARGEST_ORDER)
        found = open_order(raw, ring=self.ring, serial=NOBODY, now=now)
        if found.order.build != build:
            reason = f"it is for build {found.order.build}, not {build}"
            raise errors.UntrustedAnswer("order", reason)
        return found

    def files(self, build: BuildId) -> WebFiles | LocalFiles:
        """Return the files of a build."""
        if self._directory is None:
            return WebFiles(self._place(build), self.transport)
        return LocalFiles(self._place(build), self._where(build))

    def _place(self, build: BuildId) -> str:
        if self._directory is None:
            return f"{self._builds}{build}/"
        return url_of(self._where(build))

    def _where(self, build: BuildId) -> Path:
        where = on_stick(self._directory or Path()).get(build)
        if where is None:
            raise errors.BuildNotFound(self.url, f"there is no signed build {build}")
        return where


def mirror(  # noqa: PLR0913 - what an administrator chooses, and whom it is told
    site: Site,
    upstream: Upstream,
    names: Sequence[BuildId],
    *,
    who: str,
    clock: Clock,
    progress: Progress,
    with_root: bool = False,
) -> Iterator[Pulled]:
    """Fetch builds from another site, one after the other.

    A build that is not what was signed does not keep the others from coming.

    Args:
        site: Where they go.
        upstream: Where they are.
        names: Which; empty for those that are here, those that are assigned, and the
            newest.
        who: Who fetches them, for the log of changes.
        clock: For pauses, and for expiries.
        progress: Who is told.
        with_root: Whether to make the plain tree of each build as well; that of a
            build that has one here is made again when the build is replaced.

    Yields:
        Each build that was fetched, when it is in its place.

    Raises:
        Busy: Another command is at it.
        NetworkError: The link failed; what has come is kept.
        TrustError: A build is not what was signed, or nobody has signed it.
        UnfitTree: Only root can make the plain tree.
        NoSpace, NotPermitted, DiskFailed: It cannot be written.
    """
    with disk_errors(site.builds):
        site.builds.mkdir(parents=True, exist_ok=True)
    with hold_lock(site.builds / ".mirror.lock", "mirror"):
        settle_at_start(site.builds)
        here, wanted = site.build_names(), list(names)
        listed = wanted or upstream.list()
        bases = sorted({*listed, *here})[-_MOST_BASES:]
        if not names:
            wanted = _of_use(site, here, listed)
            _drop_stages(site.builds, wanted)
        job = _Mirror(site, upstream, who, clock, progress, with_root=with_root)
        wrong: list[errors.TrustError] = []
        for build in wanted:
            try:
                pulled = job.pull(build, bases)
            except errors.TrustError as error:
                progress.step(f"build {build} is left out: {error}")
                wrong.append(error)
            else:
                if pulled is not None:
                    yield pulled
        if wrong:
            raise wrong[0]


def _of_use(
    site: Site, here: Sequence[BuildId], listed: Sequence[BuildId]
) -> list[BuildId]:
    """Return which of the other site's builds this one wants; `gc` deletes no such."""
    needed = {*here, *site.rollout().builds()}
    needed |= latest({*from_above(site), *listed})
    return [build for build in listed if build in needed]


def _drop_stages(builds: Path, wanted: Collection[BuildId]) -> None:
    """Forget what was begun of builds that are no longer there or of use."""
    for stage in builds.glob(f"{_STAGE}*"):
        if stage.name.removeprefix(_STAGE) not in wanted:
            shutil.rmtree(stage, ignore_errors=True)


class _Mirror:
    """Fetches builds into a site.

    Args:
        site: The site.
        upstream: Where they are.
        who: Who fetches them.
        clock: For pauses, and for expiries.
        progress: Who is told.
        with_root: Whether every build gets its plain tree.
    """

    def __init__(
        self,
        site: Site,
        upstream: Upstream,
        who: str,
        clock: Clock,
        progress: Progress,
        *,
        with_root: bool,
    ) -> None:
        self._site, self._upstream, self._who = site, upstream, who
        self._clock, self._progress = clock, progress
        self._with_root = with_root

    def pull(self, build: BuildId, bases: list[BuildId]) -> Pulled | None:
        """Fetch one build, unless it is here.

        Args:
            build: The build.
            bases: Builds from which a delta is worth having.

        Returns:
            What it cost; None when nothing had to be fetched.

        Raises:
            NetworkError: The link failed; what has come is kept.
            TrustError: The other site's build is not what was signed.
            NoSpace: It cannot fit.
        """
        trusted = self._upstream.order(build, self._clock.now())
        builds = self._site.builds
        here, stage = self._site.find_build(build), builds / f"{_STAGE}{build}"
        if here is not None and here.contents == trusted.order.contents:
            self._renew_order(here.path / ORDER, trusted)
            shutil.rmtree(stage, ignore_errors=True)  # a cut after it was exchanged
            if self._with_root and not here.has_root:
                self._add_root(here.path, stage)
            return None
        if here is not None:
            self._refuse_older(here.path / ORDER, trusted)
        with disk_errors(builds):
            _prepare(stage, trusted)
            crew = Crew(
                [self._upstream.files(build)],
                Health(None, self._clock),
                self._clock,
                self._progress,
            )
            before = self._upstream.transport.received
            job = Pull(stage, builds, trusted.order, crew, self._progress)
            deltas = job.run(bases)
            received = self._upstream.transport.received - before
            has_root = self._with_root or (here is not None and here.has_root)
            self._install(stage, builds / build, with_root=has_root)
        return Pulled(build, received, job.reused, deltas)

    def _renew_order(self, path: Path, trusted: TrustedOrder) -> None:
        """Take an order that was signed anew, with a new key or another end."""
        if not path.is_file() or path.read_bytes() != trusted.raw:
            self._refuse_older(path, trusted)
            with disk_errors(path), self._change(f"the order of {path.parent.name}"):
                replace_file(path, trusted.raw)

    def _refuse_older(self, path: Path, trusted: TrustedOrder) -> None:
        """Refuse an order that was replaced by the one that is here."""
        try:
            ours = open_order(
                path.read_bytes(), ring=self._upstream.ring, serial=NOBODY, now=0
            )
        except (FileNotFoundError, errors.TrustError):
            return
        if ours.time > trusted.time:
            raise errors.UntrustedAnswer("order", "it is older than the one here")

    def _install(self, stage: Path, target: Path, *, with_root: bool) -> None:
        root = stage / "root"
        shutil.rmtree(root, ignore_errors=True)  # of a run that was killed
        for path in (stage, *stage.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if with_root:
            make_root(stage, root, self._other_root(target), self._progress)
        sync_filesystem(stage)
        with self._change(f"build {target.name}"):
            replace_build(stage, target)

    def _add_root(self, build: Path, stage: Path) -> None:
        """Make the plain tree of a build that is here."""
        with disk_errors(build):
            stage.mkdir()
            other = self._other_root(build)
            make_root(build, stage / "root", other, self._progress)
            sync_filesystem(stage)
            with self._change(f"the plain tree of {build.name}"):
                (stage / "root").rename(build / "root")
                fsync_directory(build)
            stage.rmdir()

    @contextlib.contextmanager
    def _change(self, what: str) -> Iterator[None]:
        """Let nobody else change builds while the block does, and record it first."""
        what = f"mirror {what} from {self._upstream.url}"
        with hold_builds(self._site.builds, what), self._site.recorded(self._who, what):
            yield

    def _other_root(self, build: Path) -> Path | None:
        """Return the newest build with a plain tree; that of the same name, if any."""
        names = [one for one in self._site.build_names() if self._has_root(one)]
        if build.name in names:
            return build
        return self._site.builds / newest(names) if names else None

    def _has_root(self, build: BuildId) -> bool:
        return (self._site.builds / build / "root").is_dir()


def _prepare(stage: Path, trusted: TrustedOrder) -> None:
    """Begin a stage, or go on with it if it is of the same build."""
    try:
        known = (stage / ORDER).read_bytes()
    except FileNotFoundError:
        known = b""
    if known != trusted.raw:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        replace_file(stage / ORDER, trusted.raw)
