"""The mark of a trial: one line that the initramfs reads and writes as well.

``/versions/trial`` holds ``STATE BUILD TRIES``. The initramfs counts the tries of a
build that is on trial, and goes back when it did not come up; ``docs/boot.md`` shows
the states. An initramfs that does not know the mark leaves it alone.
"""

import contextlib
import os
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed, UpdateError
from olpc_update_query.model.messages import BuildId, parse_build_id
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    read_bounded,
    replace_file,
)

MOST_TRIES: Final = 2
"""After so many tries that were not confirmed the initramfs goes back."""
_NAME: Final = "trial"
_LONGEST: Final = 256  # bytes


class State(StrEnum):
    """What became of a build that was made the next to boot."""

    TRIAL = "trial"
    FAILED = "failed"
    LEFT = "left"


class Mark(NamedTuple):
    """What the mark says.

    Attributes:
        state: ``TRIAL``: it has not been confirmed; ``FAILED``: it did not come up;
            ``LEFT``: somebody goes back from it. The last two are written before the
            boot link swings, so a build of that state that still boots next is one
            that is still to be gone back from.
        build: Which build.
        tries: How often it was booted without being confirmed.
    """

    state: State
    build: BuildId
    tries: int = 0


def read_mark(versions: Path) -> Mark | None:
    """Return the mark below ``/versions``; what cannot be read counts as none."""
    with contextlib.suppress(UpdateError):
        return require_mark(versions)
    return None


def require_mark(versions: Path) -> Mark | None:
    """Return the mark below ``/versions``; what is damaged counts as none.

    Raises:
        NotPermitted: The user may not read it.
        TreeError: The disk refused.
    """
    try:
        with disk_errors(versions / _NAME), contextlib.suppress(FileNotFoundError):
            raw = read_bounded(versions / _NAME, _LONGEST)
            state, build, tries = raw.decode("ascii").split()
            return Mark(State(state), parse_build_id(build), int(tries))
    except (ValueError, Malformed):
        return None
    return None


def write_mark(versions: Path, mark: Mark) -> None:
    """Put a mark in place of whichever is there.

    Raises:
        TreeError: The disk refused.
    """
    text = f"{mark.state} {mark.build} {mark.tries}\n"
    with disk_errors(versions / _NAME):
        replace_file(versions / _NAME, text.encode())


def erase_mark(versions: Path) -> None:
    """Take the mark away, if there is one.

    Raises:
        TreeError: The disk refused.
    """
    with disk_errors(versions / _NAME), contextlib.suppress(FileNotFoundError):
        os.unlink(versions / _NAME)
        fsync_directory(versions)
