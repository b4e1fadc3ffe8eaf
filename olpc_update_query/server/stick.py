"""Sticks for schools without a link: builds, and leases for every laptop.

What is on the stick is signed, so nobody has to trust the stick.
"""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from olpc_update_query.errors import SiteError
from olpc_update_query.ports import Progress
from olpc_update_query.server import signing
from olpc_update_query.server.keys import load_site_key
from olpc_update_query.server.leases import sign_lease
from olpc_update_query.server.rotations import FILE
from olpc_update_query.server.site import PublishedBuild, Site
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    replace_file,
    sync_filesystem,
)
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.rotation import join_statements


def copy_builds(
    builds: Sequence[PublishedBuild], stick: Path, progress: Progress
) -> None:
    """Copy builds into ``builds/`` on a stick, each whole or not at all.

    A build that is there with the same manifest is left alone; the plain tree stays
    behind, because many sticks cannot hold one.

    Args:
        builds: The builds.
        stick: Where the stick is mounted.
        progress: Who is told.

    Raises:
        SiteError: A build has no signed order, without which no laptop takes it.
        NoSpace, NotPermitted, DiskFailed: The stick cannot be written.
    """
    for build in builds:
        if not (build.path / "order").is_file():
            raise SiteError(
                f"build {build.build}", "has no signed order: publish it again"
            )
    place = stick / "builds"
    with disk_errors(stick):
        os.makedirs(place, exist_ok=True)
        for build in builds:
            if _is_there(build, place / build.build):
                progress.step(f"build {build.build} is there already")
                continue
            progress.step(f"copying build {build.build}")
            _copy(build, place)
        sync_filesystem(place)


def _is_there(build: PublishedBuild, place: Path) -> bool:
    for name in ("contents", "order", "pack.index"):
        try:
            if (build.path / name).read_bytes() != (place / name).read_bytes():
                return False
        except FileNotFoundError:
            return False
    packs = {path.name for path in build.path.glob("delta/*.pack")}
    return packs <= {path.name for path in place.glob("delta/*.pack")}


def _copy(build: PublishedBuild, place: Path) -> None:
    stage = place / f".tmp-{build.build}"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    # contents and times only: sticks keep neither owners nor modes
    for path in sorted(build.path.iterdir()):
        if path.is_file():
            shutil.copyfile(path, stage / path.name)
    if (build.path / "delta").is_dir():
        (stage / "delta").mkdir()
        for path in sorted((build.path / "delta").iterdir()):
            shutil.copyfile(path, stage / "delta" / path.name)
    sync_filesystem(stage)
    shutil.rmtree(place / build.build, ignore_errors=True)
    stage.rename(place / build.build)
    fsync_directory(place)


def write_leases(site: Site, stick: Path, *, days: int | None, now: int) -> int:
    """Write ``lease.sig`` with a lease for every laptop that may have one.

    Args:
        site: The site.
        stick: Where the stick is mounted.
        days: How long the leases last; None: as site.toml says.
        now: The present.

    Returns:
        For how many laptops.

    Raises:
        MissingKey, UnsafeKey: Nothing can be signed.
        NoSpace, NotPermitted, DiskFailed: The stick cannot be written.
    """
    lines = all_leases(site, days=days, now=now)
    with disk_errors(stick):
        replace_file(stick / "lease.sig", signing.bulk_leases(lines))
    return len(lines)


def all_leases(
    site: Site, *, days: int | None, now: int, group: str | None = None
) -> dict[str, str]:
    """Sign a lease for every laptop that may have one.

    Args:
        site: The site.
        days: How long the leases last; None: as site.toml says.
        now: The present.
        group: Only for those of a group.

    Returns:
        The leases by serial number.

    Raises:
        MissingKey, UnsafeKey, DamagedSite: Nothing can be signed.
    """
    key, settings = load_site_key(site, Role.LEASE), site.settings()
    sign = partial(sign_lease, key=key, now=now, timezone=settings.timezone)
    return {
        laptop.serial: sign(laptop, laptop.uuid, days=length).line
        for laptop in site.laptops().values()
        if laptop.uuid is not None and not laptop.stolen
        if group is None or laptop.group == group
        if key.can_sign_for(laptop.serial, now)
        if (length := days or settings.lease_policy_for(laptop).days)
    }


def write_statements(site: Site, stick: Path) -> bool:
    """Write ``keys.sig`` with the site's statements about keys, if there are any.

    Returns:
        Whether there are.

    Raises:
        NoSpace, NotPermitted, DiskFailed: The stick cannot be written.
    """
    made = site.statements()
    if made:
        with disk_errors(stick):
            raw = join_statements(one.raw for one in made)
            replace_file(stick / FILE, raw)
    return bool(made)
