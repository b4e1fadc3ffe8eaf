"""Where the program keeps what it must not forget."""

import contextlib
import os
import pwd
from pathlib import Path
from typing import NamedTuple

from olpc_update_query.system.files import disk_errors

SHARED = "versions/updates"
OWN = "var/lib"
NAME = "olpc-update-query"
ASKER_USERS = ("olpc-update", "nobody")
"""Who asks and downloads when root runs the program: the first that exists."""


class WorkArea(NamedTuple):
    """The work area of one laptop.

    Attributes:
        top: The directory of it all.
        asker: What the unprivileged side writes; the installer trusts none of it.
        installer: What the side that installs writes.
    """

    top: Path
    asker: Path
    installer: Path

    @property
    def lock(self) -> Path:
        """The file that a run holds locked."""
        return self.top / "lock"

    def downloads(self, contents: str) -> Path:
        """What has arrived of the build with this manifest."""
        return self.asker / "downloads" / contents


def work_area(root: Path) -> WorkArea:
    """Return where the work area below ``root`` is or would be.

    It is on the file system of the builds where there is one: that is the only place
    that both builds share and that the initramfs leaves alone.
    """
    shared = root / SHARED
    top = (shared if shared.is_dir() else root / OWN) / NAME
    return WorkArea(top, top / "asker", top / "installer")


def prepare(work: WorkArea) -> None:
    """Make the work area; as root, give the asker's part to the asker's user.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    with disk_errors(work.top):
        for directory in work:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            _give_away(work.asker)


def _give_away(directory: Path) -> None:
    for name in ASKER_USERS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chown(directory, user.pw_uid, user.pw_gid, follow_symlinks=False)
            return
