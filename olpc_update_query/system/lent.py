"""Directories that are lent to the asker: it reaches them whatever lies above.

A desktop mounts sticks below a directory that only one user may enter. Root opens the
stick itself, and the process that has given up root goes on from there.
"""

import os
from pathlib import Path

_LENT: dict[Path, int] = {}


def lend(directory: Path) -> None:
    """Keep a directory open, for this process and for those that it forks.

    Args:
        directory: An absolute path without links.

    Raises:
        OSError: It cannot be opened.
    """
    if directory not in _LENT:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        _LENT[directory] = os.open(directory, flags)


def is_gone(directory: Path) -> bool:
    """Tell whether what was found in a lent directory is not there any more.

    Some file systems show nothing at all where they cannot read.

    Args:
        directory: It or one below it, which was not empty, as ``reach`` returns it.
    """
    lent = (Path(f"/proc/self/fd/{descriptor}") for descriptor in _LENT.values())
    if not any(directory.is_relative_to(one) for one in lent):
        return False
    try:
        return not os.listdir(directory)
    except OSError:
        return True


def reach(path: Path) -> Path:
    """Return by which path something is reached: through a lent directory, if any."""
    for directory, descriptor in _LENT.items():
        if path.is_relative_to(directory):
            here = Path(f"/proc/self/fd/{descriptor}")
            return here / path.relative_to(directory)
    return path
