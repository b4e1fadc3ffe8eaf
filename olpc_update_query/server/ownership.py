"""What root makes in a site belongs to the user who owns the site."""

import os
import pwd
from collections.abc import Iterable
from pathlib import Path


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one who has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def hand_over(site: Path, paths: Iterable[Path]) -> None:
    """Give what root has made in a site to the user who owns it.

    Nothing happens unless root does this in a site of somebody else.

    Args:
        site: The site.
        paths: Files in it.
    """
    owner = os.stat(site)
    if os.geteuid() == 0 and owner.st_uid != 0:
        for path in paths:
            if os.lstat(path).st_uid == 0:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
