"""Sticks for schools without a link: builds, orders, leases, statements about keys.

What is on the stick is signed, so nobody has to trust the stick. Each file on it is
whole or absent, and a build is seen by laptops only when its ``order`` is there, which
is written last.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import NoSpace, SiteError, UnfitStick
from olpc_update_query.model.stick import LEASES
from olpc_update_query.ports import Progress
from olpc_update_query.server import signing
from olpc_update_query.server.above import handed_on
from olpc_update_query.server.keys import load_site_key
from olpc_update_query.server.leases import sign_lease
from olpc_update_query.server.rotations import FILE
from olpc_update_query.server.site import PublishedBuild, Site
from olpc_update_query.system.files import disk_errors, free_bytes
from olpc_update_query.system.sticks import (
    FAT_LIMIT,
    Stick,
    directory_on,
    is_fat,
    leave_file,
    remove_leftovers,
    stick_errors,
    write_file,
)
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.rotation import join_statements

BUILDS: Final = "builds"
ORDER: Final = "order"
_PIECE: Final = 1 << 20
_SMALL: Final = 1 << 20
"""Bytes up to which a file on the stick is compared, not only measured."""


class Load(NamedTuple):
    """What is to be on a stick.

    Attributes:
        orders: The builds, each with its signed order.
        files: Other files, by their path on the stick.
    """

    orders: Mapping[PublishedBuild, bytes]
    files: Mapping[str, bytes]


class _Copy(NamedTuple):
    """A file that must be copied to the stick."""

    source: Path
    size: int
    place: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.source.name


def write_stick(load: Load, path: Path, progress: Progress) -> None:
    """Put everything on a stick; what is there already is left alone.

    The plain trees of builds stay behind, because many sticks cannot hold one.

    Args:
        load: What is to be on it.
        path: Where the stick is mounted.
        progress: Who is told, also how much room it takes before it is written.

    Raises:
        UnfitStick: It is FAT, and a file is too large for that.
        NoSpace: It cannot fit; nothing was written.
        NotPermitted: The stick cannot be written.
        StickFailed: It was pulled out, or fails; each file on it is whole or absent.
        DiskFailed: The site cannot be read.
    """
    stick = Stick.at(path)
    with stick_errors(path):
        _tidy(load, stick)
        copies = [copy for build in load.orders for copy in _missing(build, path)]
        _require_fit(copies, path)
        _require_room(copies, load, path, progress)
        total, done = sum(copy.size for copy in copies), 0
        for build, order in load.orders.items():
            mine = [copy for copy in copies if copy.place[1] == build.build]
            if not mine:
                progress.step(f"build {build.build} is there already")
            else:
                progress.step(f"copying build {build.build}")
                _hide(build, stick)
            for copy in mine:
                _write(copy, stick, progress, (done, total))
                done += copy.size
            leave_file(stick, f"{BUILDS}/{build.build}/{ORDER}", order)
    for name, data in load.files.items():
        leave_file(stick, name, data)


def _tidy(load: Load, stick: Stick) -> None:
    """Make room: remove what an earlier try has left of the same builds."""
    for build in load.orders:
        for where in ((BUILDS, str(build.build)), (BUILDS, str(build.build), "delta")):
            if stick.path.joinpath(*where).is_dir():
                with directory_on(stick, *where) as place:
                    remove_leftovers(place)


def _missing(build: PublishedBuild, stick: Path) -> Iterator[_Copy]:
    """Yield the files of a build that are not on the stick."""
    place = (BUILDS, str(build.build))
    has_index = _is_same(build.path / "pack.index", stick.joinpath(*place))
    paths = [*build.path.iterdir(), *build.path.glob("delta/*.pack")]
    for path in sorted(paths):
        if not path.is_file() or path.name == ORDER or path.name.startswith("."):
            continue
        where = (*place, *path.relative_to(build.path).parts[:-1])
        is_there = _is_same(path, stick.joinpath(*where))
        if not is_there or (path.name == "pack" and not has_index):
            yield _Copy(path, path.stat().st_size, where)


def _is_same(path: Path, place: Path) -> bool:
    there = place / path.name
    try:
        size = os.lstat(there).st_size
        if size != path.stat().st_size or there.is_symlink():
            return False
        return size > _SMALL or there.read_bytes() == path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False


def _require_fit(copies: Sequence[_Copy], stick: Path) -> None:
    largest = max(copies, key=lambda copy: copy.size, default=None)
    if largest is not None and largest.size > FAT_LIMIT and is_fat(stick):
        reason = (
            f"it is FAT, which holds no file of 4 GiB, and {largest.source} has "
            f"{largest.size:,} bytes"
        )
        raise UnfitStick(str(stick), reason)


def _require_room(
    copies: Sequence[_Copy], load: Load, stick: Path, progress: Progress
) -> None:
    room = os.statvfs(stick)
    cluster = max(room.f_frsize, 1)
    sizes = [copy.size for copy in copies]
    sizes += [len(data) for data in (*load.orders.values(), *load.files.values())]
    # a directory entry, or a new directory, besides each file
    needed = sum(-(-size // cluster) + 1 for size in sizes) * cluster
    if not room.f_blocks:  # some file systems do not tell
        progress.step(f"{stick}: {needed:,} bytes are needed")
        return
    free = free_bytes(stick)
    progress.step(f"{stick}: {needed:,} bytes are needed, {free:,} are free")
    if needed > free:
        raise NoSpace(str(stick), needed, free)


def _hide(build: PublishedBuild, stick: Stick) -> None:
    """Let no laptop take a build while it is being copied."""
    with directory_on(stick, BUILDS, str(build.build)) as place:
        if ORDER in os.listdir(place):
            os.unlink(ORDER, dir_fd=place)
            os.fsync(place)


def _write(
    copy: _Copy, stick: Stick, progress: Progress, so_far: tuple[int, int]
) -> None:
    def chunks() -> Iterator[bytes]:
        done, total = so_far
        with disk_errors(copy.source), copy.source.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
                done += len(piece)
                progress.transferred(done, total)

    with directory_on(stick, *copy.place) as place:
        write_file(place, copy.name, chunks())


# --- leases and keys -----------------------------------------------------------------


def lease_files(leases: Mapping[str, str]) -> dict[str, bytes]:
    """Return leases for many laptops as the files of a stick, by path.

    The initramfs and `olpc-update` read the first. The firmware, which reads the other,
    knows lines only, and passes over those for other laptops.

    Args:
        leases: ``act01:`` lines by serial number.
    """
    bulk, lines = LEASES
    return {
        bulk: signing.bulk_leases(leases),
        lines: "".join(leases[serial] for serial in sorted(leases)).encode(),
    }


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


def statement_files(site: Site) -> dict[str, bytes]:
    """Return the statements about keys for laptops as a file of a stick, by path."""
    made = handed_on(site)
    return {FILE: join_statements(one.raw for one in made)} if made else {}


def published_orders(
    builds: Sequence[PublishedBuild],
) -> dict[PublishedBuild, bytes]:
    """Return builds with the orders that were signed when they were published.

    Raises:
        SiteError: A build has none, without which no laptop takes it.
    """
    found = {}
    for build in builds:
        try:
            found[build] = (build.path / ORDER).read_bytes()
        except FileNotFoundError:
            where = f"build {build.build}"
            mend = "Publish it again where the key that signs orders is."
            raise SiteError(where, "has no signed order", mend) from None
    return found
