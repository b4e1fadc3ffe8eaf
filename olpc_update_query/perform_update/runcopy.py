"""The copy of a build that is booted, made as the initramfs would make it.

The rules are those of its ``cprl``: directories are made anew with mode, owner and
time in whole seconds, symbolic links are made anew with their owner, and everything
else, devices included, is linked.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from olpc_update_query.perform_update.copying import Copier
from olpc_update_query.perform_update.walk import Descent, open_file

CONFIGURED: Final = ".olpc-configured"  # its absence tells the build it is new
_SECOND: Final = 1_000_000_000
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def make_run_copy(source: Path, target: Path) -> None:
    """Make a hard-link copy of a tree.

    Args:
        source: The untouched tree.
        target: Where to make the copy; nothing may be there.

    Raises:
        OSError: The disk is full or failing.
    """
    os.mkdir(target, 0o700)
    copier = Copier()
    with Descent(source) as old, Descent(target) as new:
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            there, here = old.enter(path), new.enter(path)
            below = path + b"/" if path else b""
            names = _copy_directory(there, here, copier, skip=not path)
            waiting.extend(below + os.fsencode(name) for name in names)


def _copy_directory(
    source: int, target: int, copier: Copier, *, skip: bool
) -> list[str]:
    """Copy one directory's entries; return the directories among them, still empty.

    The directory gets its metadata at once: what is made below those does not
    change it any more.
    """
    directories: list[str] = []
    with os.scandir(source) as found:
        for item in found:
            name = item.name
            if item.is_dir(follow_symlinks=False):
                os.mkdir(name, 0o700, dir_fd=target)
                directories.append(name)
            elif item.is_symlink():
                _copy_symlink(name, source, target)
            elif not (skip and name == CONFIGURED):
                _link(name, source, target, copier)
    facts = os.fstat(source)
    os.fchown(target, facts.st_uid, facts.st_gid)
    os.fchmod(target, stat.S_IMODE(facts.st_mode))
    seconds = facts.st_mtime_ns // _SECOND * _SECOND
    os.utime(target, ns=(seconds, seconds))
    return directories


def _copy_symlink(name: str, source: int, target: int) -> None:
    facts = os.stat(name, dir_fd=source, follow_symlinks=False)
    os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    owner = (facts.st_uid, facts.st_gid)
    os.chown(name, *owner, dir_fd=target, follow_symlinks=False)


def _link(name: str, source: int, target: int, copier: Copier) -> None:
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        _copy_file(name, source, target, copier)


def _copy_file(name: str, source: int, target: int, copier: Copier) -> None:
    """Copy a file that has as many names already as the file system can count."""
    there = open_file(os.fsencode(name), source)
    try:
        here = os.open(name, _NEW_FILE, 0o600, dir_fd=target)
        try:
            copier.copy(there, here)
            facts = os.fstat(there)
            os.fchown(here, facts.st_uid, facts.st_gid)
            for attribute in os.listxattr(there):
                os.setxattr(here, attribute, os.getxattr(there, attribute))
            os.fchmod(here, stat.S_IMODE(facts.st_mode))
            os.utime(here, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
        finally:
            os.close(here)
    finally:
        os.close(there)
