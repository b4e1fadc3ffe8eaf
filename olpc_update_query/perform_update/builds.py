"""The directories of builds on a laptop, whichever way it boots."""

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import NotInstalled
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.links import builds_in, changed_ns, names_in
from olpc_update_query.perform_update.walk import remove_tree
from olpc_update_query.system.files import (
    fsync_directory,
    remove_leftovers,
    replace_file,
)

SCRAP: Final = ".olpc-update."  # no build can be called that; `Builds.tidy` removes it
OURS: Final = b"kept by olpc-update-query, to go back to\n"  # a person's mark is empty
TREES: Final = ("pristine", "run")


class InstalledTree(NamedTuple):
    """A build that is on the laptop with its manifest.

    Attributes:
        build: Its name.
        tree: The untouched tree, ``/versions/pristine/BUILD``.
        contents: The manifest, ``/versions/contents/BUILD``; perhaps of another
            format, when somebody else installed it.
    """

    build: BuildId
    tree: Path
    contents: Path


class Builds:
    """Where the parts of builds lie, and the marks that keep them.

    Attributes:
        root: The laptop's root directory; links are resolved below it.
        versions: ``ROOT/versions``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.versions = root / "versions"

    def pristine(self, build: BuildId) -> Path:
        """Return where a build's untouched tree lies."""
        return self.versions / "pristine" / build

    def run(self, build: BuildId) -> Path:
        """Return where the copy of a build lies that is booted."""
        return self.versions / "run" / build

    def contents(self, build: BuildId) -> Path:
        """Return where a build's manifest lies."""
        return self.versions / "contents" / build

    def can_boot(self, build: BuildId) -> bool:
        """Say whether the initramfs could boot a build: it needs both trees."""
        return self.pristine(build).is_dir() and self.run(build).is_dir()

    def _require(self, build: BuildId) -> None:
        if not self.can_boot(build):
            raise NotInstalled(build)

    def _present(self) -> list[BuildId]:
        """Return every build of which anything is there, in order of age."""
        names = {name for place in self._places() for name in builds_in(place)}
        return sorted(names, key=lambda name: (changed_ns(self.pristine(name)), name))

    # --- marks ------------------------------------------------------------------

    def is_sticky(self, build: BuildId) -> bool:
        """Say whether a build is marked to be kept, by whomever."""
        return os.path.lexists(self._mark(build))

    def _mark(self, build: BuildId) -> Path:
        return self.versions / "sticky" / build

    def _write_mark(self, build: BuildId, content: bytes) -> None:
        self._mark(build).parent.mkdir(exist_ok=True)
        replace_file(self._mark(build), content)

    def _erase_mark(self, build: BuildId) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._mark(build))
            fsync_directory(self._mark(build).parent)

    def _is_ours(self, build: BuildId) -> bool:
        try:
            return self._mark(build).read_bytes() == OURS
        except OSError:
            return False

    # --- removing ---------------------------------------------------------------

    def set_aside(self, build: BuildId) -> None:
        """Take a build's name away from whatever is there; `tidy` deletes it."""
        for place in self._places():
            if os.path.lexists(place / build):
                aside = place / f"{SCRAP}old.{build}"
                remove_tree(aside)
                os.rename(place / build, aside)
                fsync_directory(place)

    def tidy(self) -> None:
        """Delete what an interrupted installation, swing or purge left behind."""
        for place in self._places():
            for name in names_in(place):
                if name.startswith(SCRAP):
                    remove_tree(place / name)
        for place in self._replaced_in():
            if place.is_dir():
                remove_leftovers(place)

    def _places(self) -> list[Path]:
        """Return the directories whose entries are named by builds."""
        return [self.versions / name for name in (*TREES, "contents")]

    def _replaced_in(self) -> list[Path]:
        """Return the directories in which links and marks are replaced."""
        return [self.versions, self.versions / "sticky"]
