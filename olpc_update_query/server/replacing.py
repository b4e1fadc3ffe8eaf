"""A build put in the place of another of the same name, and what a cut leaves of that.

Where the file system can exchange two directories, laptops find one build or the other
at every moment, and so does whoever starts after a power cut. Where it cannot, the old
one is out of its place for an instant; ``settle`` puts it back after a cut just then.
"""

import contextlib
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from olpc_update_query.errors import Busy
from olpc_update_query.system.files import (
    disk_errors,
    exchange,
    fsync_directory,
    hold_lock,
)

GONE: Final = ".gone-"
"""What the directory of a build is called that is being deleted."""

OLD: Final = ".old-"
"""What the directory of a build is called that was replaced."""


def hold_builds(builds: Path, purpose: str) -> AbstractContextManager[None]:
    """Let nobody else publish, replace or delete builds until the block ends.

    Args:
        builds: The directory of the published builds.
        purpose: What for, for whoever has to wait.

    Raises:
        Busy: Somebody is at it.
    """
    return hold_lock(builds / ".lock", purpose, mode=0o644)


def replace_build(stage: Path, target: Path) -> None:
    """Put a build that is complete and synced into its place.

    Args:
        stage: Where it is, beside its place.
        target: Its place, where another may be.

    Raises:
        OSError: It cannot be renamed.
    """
    old = target.with_name(f"{OLD}{target.name}")
    shutil.rmtree(old, ignore_errors=True)
    if not target.exists():
        stage.rename(target)
    elif exchange(stage, target):
        stage.rename(old)
    else:
        target.rename(old)
        stage.rename(target)
    fsync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def settle(builds: Path) -> None:
    """Finish or undo what was cut short; only under the lock of the builds.

    A build that was replaced goes, or comes back where the other has not come. What
    was being deleted goes.

    Raises:
        DiskFailed, NotPermitted: It cannot be renamed.
    """
    with disk_errors(builds):
        for old in builds.glob(f"{OLD}*"):
            target = builds / old.name.removeprefix(OLD)
            if not target.exists():
                old.rename(target)
                fsync_directory(builds)
        for kind in (OLD, GONE):
            for path in builds.glob(f"{kind}*"):
                shutil.rmtree(path, ignore_errors=True)


def settle_at_start(builds: Path) -> None:
    """Do so for a program that starts, unless another is at it or nothing is left."""
    if any(builds.glob(f"{OLD}*")) or any(builds.glob(f"{GONE}*")):
        with contextlib.suppress(Busy), hold_builds(builds, "tidying up"):
            settle(builds)


def missing(builds: Path) -> list[str]:
    """Return the builds that are out of their place since replacing was cut short."""
    names = (old.name.removeprefix(OLD) for old in builds.glob(f"{OLD}*"))
    return sorted(name for name in names if not (builds / name).exists())
