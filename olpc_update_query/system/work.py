"""Where the program keeps what it must not forget."""

import contextlib
import os
import pwd
from pathlib import Path
from typing import NamedTuple

from olpc_update_query.system.files import disk_errors, replace_file

SHARED = "versions/updates"
OWN = "var/lib"
NAME = "olpc-update-query"
IN_MEMORY = f"run/{NAME}"
"""Where what asker and installer leave for each other lies: in memory."""
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

    @property
    def asker_lock(self) -> Path:
        """The file that whoever asks and fetches holds locked.

        Apart from ``lock``, so that an asker at work keeps nobody from going back.
        """
        return self.top / "asker.lock"

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


def area_in_memory(root: Path) -> WorkArea:
    """Return the work area that does while there is no room on the disk."""
    top = root / IN_MEMORY
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
        give_to_asker(work.asker)
        lend_lock(work.asker_lock)


def lend_lock(path: Path) -> None:
    """Make a lock that the asker's user can read, and so hold, and nobody else.

    Raises:
        OSError: See ``disk_errors``.
    """
    if os.geteuid() == 0 and not path.exists():
        replace_file(path, b"", mode=0o640)
        give_to_asker(path, to_read=True)


def give_to_asker(path: Path, *, to_read: bool = False) -> None:
    """Give something to the asker's user, where root runs the program.

    Args:
        path: A file or a directory; not what a link at its place points to.
        to_read: Only to the user's group: root stays its owner.

    Raises:
        OSError: See ``disk_errors``.
    """
    if os.geteuid() != 0:
        return
    for name in ASKER_USERS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            owner = 0 if to_read else user.pw_uid
            os.chown(path, owner, user.pw_gid, follow_symlinks=False)
            return
