"""Taking builds out of a site that nobody needs any more."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from olpc_update_query.errors import Busy, NotPermitted, StillNeeded
from olpc_update_query.model.wire import BuildId
from olpc_update_query.server.above import from_above, latest
from olpc_update_query.server.publish import attempts, forget_attempts
from olpc_update_query.server.replacing import GONE, hold_builds, settle
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.site import Site
from olpc_update_query.server.steer import Actor
from olpc_update_query.system.files import disk_errors, fsync_directory


def unpublish(site: Site, actor: Actor, build: BuildId) -> None:
    """Delete a published build.

    It vanishes in one step. Laptops that run it keep it; whoever is fetching it just
    now has to be told another one.

    Args:
        site: The site.
        actor: Who says so.
        build: The build.

    Raises:
        UnknownBuild: It is not published.
        StillNeeded: It is assigned.
        NotPermitted: Only somebody else can delete it; no laptop sees it any more.
        Busy: Something is being published.
    """
    published = site.need_build(build)
    if build in site.rollout().builds():
        raise StillNeeded(f"build {build}", "is still assigned")
    gone = site.builds / f"{GONE}{build}"
    purpose = f"unpublish {build}"
    with site.change(actor.name, purpose), hold_builds(site.builds, purpose):
        settle(site.builds)
        with disk_errors(site.builds):
            os.rename(published.path, gone)
            fsync_directory(site.builds)
        settle(site.builds)
        _insist_gone([gone])


def unused(site: Site, reports: Reports) -> list[BuildId]:
    """Return published builds that are of no use any more.

    They are not assigned, no laptop says that it runs them, and there is a newer one,
    also among those that `mirror` has brought: it does not bring them again.

    Raises:
        DamagedSite: A file of the site is malformed.
        DiskFailed: The reports cannot be read.
    """
    reports.flush()
    running = {build for build, _, _ in reports.positions().values()}
    names = site.build_names()
    needed = site.rollout().builds() | running | latest(names)
    needed |= latest(from_above(site))
    return [build for build in names if build not in needed]


def drop_attempts(site: Site) -> int:
    """Delete what is left of publications that were cut short, unless one is going on.

    Returns:
        How many bytes.

    Raises:
        NotPermitted, DiskFailed: It cannot be deleted.
    """
    if not site.builds.is_dir():
        return 0
    with suppress(Busy), disk_errors(site.builds), hold_builds(site.builds, "gc"):
        settle(site.builds)
        size = forget_attempts(site.builds)
        _insist_gone([*attempts(site.builds), *site.builds.glob(f"{GONE}*")])
        return size
    return 0


def _insist_gone(paths: Iterable[Path]) -> None:
    """Say what could not be deleted, because its directory is somebody else's.

    Raises:
        NotPermitted: One is still there.
    """
    for path in paths:
        if path.exists():
            raise NotPermitted(str(path))
