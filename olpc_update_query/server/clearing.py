"""Taking builds out of a site that nobody needs any more."""

import os
from contextlib import suppress

from olpc_update_query.errors import Busy, StillNeeded
from olpc_update_query.model.wire import BuildId
from olpc_update_query.server.above import from_above, latest
from olpc_update_query.server.publish import forget_attempts
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


def unused(site: Site, reports: Reports) -> list[BuildId]:
    """Return published builds that are of no use any more.

    They are not assigned, no laptop says that it runs them, and of those that `mirror`
    has brought there is a newer one: neither does it bring them again.

    Raises:
        DamagedSite: A file of the site is malformed.
        DiskFailed: The reports cannot be read.
    """
    reports.flush()
    running = {build for build, _, _ in reports.positions().values()}
    needed = site.rollout().builds() | running | latest(from_above(site))
    return [build for build in site.build_names() if build not in needed]


def drop_attempts(site: Site) -> None:
    """Delete what is left of publications that were cut short, unless one is going on.

    Raises:
        NotPermitted, DiskFailed: It cannot be deleted.
    """
    with suppress(Busy), disk_errors(site.builds), hold_builds(site.builds, "gc"):
        settle(site.builds)
        forget_attempts(site.builds)
