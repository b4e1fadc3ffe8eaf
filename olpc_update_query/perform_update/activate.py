"""The builds of a laptop, and the link that says which one boots.

Two layouts exist, both as the initramfs expects them; ``docs/disk-layout.md`` shows
them. A link's text is read and taken apart here, never followed: ``current`` is an
absolute path on the laptop, which below ``--root`` would lead into the host.
"""

import abc
import itertools
import os
import shutil
from pathlib import Path

from olpc_update_query.errors import (
    ActivationError,
    Malformed,
    NoAlternate,
    NotInstalled,
    NoVersions,
)
from olpc_update_query.model.manifest import MAX_HEADER, parse_header
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.builds import (
    OURS,
    SCRAP,
    TREES,
    Builds,
    InstalledTree,
)
from olpc_update_query.perform_update.copying import mend_copy
from olpc_update_query.perform_update.links import (
    build_of,
    builds_in,
    differing,
    is_copy,
    names_in,
    read_link,
    target_of,
)
from olpc_update_query.perform_update.trial import (
    Mark,
    State,
    erase_mark,
    read_mark,
    write_mark,
)
from olpc_update_query.perform_update.walk import remove_tree
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    replace_symlink,
    sync_filesystem,
)

__all__ = ["SCRAP", "InstalledTree", "Layout", "Partitioned", "Unpartitioned"]


class Layout(Builds, abc.ABC):
    """The builds below a root, and which of them boots."""

    @staticmethod
    def detect(root: Path) -> "Layout":
        """Return the layout of the laptop below ``root``.

        Raises:
            NoVersions: It does not keep builds side by side.
        """
        if not (root / "versions/pristine").is_dir():
            raise NoVersions(str(root / "versions/pristine"))
        if os.path.lexists(root / "bootpart/boot"):
            return Partitioned(root)
        if os.path.lexists(root / "versions/boot"):
            return Unpartitioned(root)
        raise NoVersions(str(root / "versions/boot"))

    # --- what is there ------------------------------------------------------------

    def running(self) -> BuildId | None:
        """Return the build that is running, as the initramfs noted it."""
        return build_of(self.versions / "running", *TREES)

    def boot_faults(self, build: BuildId) -> list[Path]:
        """Return what boots of a build and is not as in it, below the root."""
        return []

    def mend_boot(self, build: BuildId) -> int:
        """Put that right; return how many paths there were."""
        return 0

    @abc.abstractmethod
    def current(self) -> BuildId | None:
        """Return the build that boots next."""

    @abc.abstractmethod
    def alternate(self) -> BuildId | None:
        """Return the build to go back to."""

    def mark(self) -> Mark | None:
        """Return what became of a build that was made the next to boot."""
        return read_mark(self.versions)

    def on_trial(self) -> BuildId | None:
        """Return the build that is running and has not been confirmed."""
        mark = self.mark()
        if mark and mark.state is State.TRIAL and mark.build == self.running():
            return mark.build
        return None

    def installed(self) -> list[InstalledTree]:
        """Return the builds that have a manifest; the running one comes first."""
        return [
            InstalledTree(build, self.pristine(build), self.contents(build))
            for build in self._trees()
            if self.contents(build).is_file()
        ]

    def known(self) -> list[InstalledTree]:
        """Return those of them whose manifest is one of ours."""
        return [found for found in self.installed() if _has_header(found.contents)]

    def unknown(self) -> list[BuildId]:
        """Return the builds without a manifest of ours; the running one comes first."""
        return [
            build for build in self._trees() if not _has_header(self.contents(build))
        ]

    def _trees(self) -> list[BuildId]:
        """Return the builds whose tree is there; the running one comes first."""
        first = [self.running(), self.current(), self.alternate()]
        order = [*filter(None, first), *builds_in(self.versions / "pristine")]
        return [
            build for build in dict.fromkeys(order) if self.pristine(build).is_dir()
        ]

    # --- what may go --------------------------------------------------------------

    def set_sticky(self, build: BuildId, *, sticky: bool = True) -> None:
        """Mark a build to be kept for good, or take a person's mark away.

        The alternate stays marked in any case: the initramfs deletes what is not.

        Raises:
            NotInstalled: There is no such build.
        """
        with disk_errors(self._mark(build)):
            if sticky:
                self._require(build)
                self._write_mark(build, b"")
            elif build == self.alternate():
                self._write_mark(build, OURS)
            else:
                self._erase_mark(build)

    def purgeable(self) -> list[BuildId]:
        """Return the builds that may be deleted, the first to go first.

        First what nothing refers to, the oldest first, then the alternate. Never the
        running build, the one that boots next, or one that a person marked sticky.
        """
        kept = {self.running(), self.current()}
        alternate = self.alternate()
        free = [
            build
            for build in self._present()
            if build not in kept and (not self.is_sticky(build) or self._is_ours(build))
        ]
        return sorted(free, key=lambda build: build == alternate)

    def purge(self, build: BuildId) -> None:
        """Delete a build; the alternate is no longer the alternate afterwards.

        Raises:
            ActivationError: It is running, boots next, or is marked sticky.
            NotInstalled: There is no such build.
        """
        if build not in self._present():
            raise NotInstalled(build)
        if build == self.running():
            raise ActivationError(f"build {build} is running")
        if build == self.current():
            raise ActivationError(f"build {build} is the one that boots next")
        if self.is_sticky(build) and not self._is_ours(build):
            raise ActivationError(f"build {build} is marked sticky")
        current = self.current()
        if build == self.alternate() and current is not None:
            self.activate(current, None)
        with disk_errors(self.pristine(build)):
            self.set_aside(build)
            self._erase_mark(build)
            self.tidy()

    def tidy(self) -> None:
        """Delete what an interrupted installation, swing or purge left behind."""
        super().tidy()
        self._drop_marks()
        self._drop_stale_trial()

    # --- the swing ----------------------------------------------------------------

    def activate(
        self, new: BuildId, alternate: BuildId | None, *, on_trial: bool = False
    ) -> None:
        """Make ``new`` boot next, and ``alternate`` the build to go back to.

        Everything the link leads to is on the disk before it swings. The alternate
        is marked sticky before, and a mark that was only ours goes afterwards.

        Args:
            new: The build to boot.
            alternate: The build to go back to.
            on_trial: Whether ``new`` has to be confirmed when it has come up. Not if it
                is running already, or there is nothing to go back to.

        Raises:
            NotInstalled: One of them is not there as a whole.
            ActivationError: They are the same, or the layout cannot boot it.
        """
        if new == alternate:
            raise ActivationError(f"build {new} cannot be its own alternate")
        self._require(new)
        with disk_errors(self.versions):
            if alternate is not None:
                self._require(alternate)
                if not self.is_sticky(alternate):
                    self._write_mark(alternate, OURS)
            sync_filesystem(self.versions)
            if on_trial and alternate is not None and new != self.running():
                write_mark(self.versions, Mark(State.TRIAL, new))
            self._swing(new, alternate)
            self._drop_marks()
            self._drop_stale_trial()

    def _drop_marks(self) -> None:
        """Drop our marks of builds that are the alternate no longer."""
        alternate = self.alternate()
        for build in builds_in(self.versions / "sticky"):
            if build != alternate and self._is_ours(build):
                self._erase_mark(build)

    def _drop_stale_trial(self) -> None:
        """Drop the trial of a build that does not boot next, or does no longer."""
        mark = self.mark()
        if mark and mark.state is State.TRIAL and mark.build != self.current():
            erase_mark(self.versions)

    def rollback(self) -> BuildId:
        """Swap the current build and the alternate, and mark the one that was left.

        Returns:
            The build that boots next.

        Raises:
            NoAlternate: There is none.
        """
        alternate = self.alternate()
        if alternate is None:
            raise NoAlternate
        current = self.current()
        if current is not None and self.can_boot(alternate):
            write_mark(self.versions, Mark(State.LEFT, current))
        self.activate(alternate, current)
        self.tidy()
        return alternate

    @abc.abstractmethod
    def _swing(self, new: BuildId, alternate: BuildId | None) -> None:
        """Move the link, atomically."""


class Unpartitioned(Layout):
    """XO-1: ``/versions/boot -> configs/NAME``, with ``current`` and ``alt`` in it."""

    def current(self) -> BuildId | None:
        """Return the build that boots next."""
        return self._read("current")

    def alternate(self) -> BuildId | None:
        """Return the build to go back to."""
        return self._read("alt")

    def _read(self, name: str) -> BuildId | None:
        config = self._config()
        return build_of(config / name, *TREES) if config else None

    def _config(self) -> Path | None:
        name = target_of(self.versions / "boot", "configs")
        return self.versions / "configs" / name if name else None

    def tidy(self) -> None:
        """Delete what an interrupted installation, swing or purge left behind."""
        super().tidy()
        self._remove_unused()

    def _swing(self, new: BuildId, alternate: BuildId | None) -> None:
        configs = self.versions / "configs"
        configs.mkdir(exist_ok=True)
        self._remove_unused()
        names = (f"{new}.{number}" if number else new for number in itertools.count())
        name = next(name for name in names if not os.path.lexists(configs / name))
        os.mkdir(configs / name)
        os.chmod(configs / name, 0o755)  # noqa: S103 - whoever reports reads it too
        os.symlink(f"/versions/pristine/{new}", configs / name / "current")
        if alternate is not None:
            os.symlink(f"/versions/pristine/{alternate}", configs / name / "alt")
        fsync_directory(configs / name)
        fsync_directory(configs)
        replace_symlink(self.versions / "boot", f"configs/{name}")
        self._remove_unused()

    def _remove_unused(self) -> None:
        """Remove every configuration but the one that boots, as the initramfs does."""
        used = self._config()
        if used is not None:
            for name in names_in(used.parent):
                if name != used.name:
                    remove_tree(used.parent / name)


class Partitioned(Layout):
    """Later models: ``/bootpart/boot -> boot-versions/BUILD``, a copy of its /boot."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.bootpart = root / "bootpart"
        self._boots = self.bootpart / "boot-versions"

    def current(self) -> BuildId | None:
        """Return the build that boots next."""
        return build_of(self.bootpart / "boot", "boot-versions")

    def alternate(self) -> BuildId | None:
        """Return the build to go back to."""
        current = self.current()
        return current and build_of(self._boots / current / "alt", "..")

    def _places(self) -> list[Path]:
        return [*super()._places(), self._boots]

    def _replaced_in(self) -> list[Path]:
        copies = [self._boots / build for build in builds_in(self._boots)]
        return [*super()._replaced_in(), self.bootpart, *copies]

    def _swing(self, new: BuildId, alternate: BuildId | None) -> None:
        with disk_errors(self.bootpart):
            for build in filter(None, (new, alternate)):
                if build != self.current():
                    self._fill(build)
            self._point_back(self._boots / new / "alt", alternate)
            sync_filesystem(self.bootpart)
            if read_link(self.bootpart / "boot-alt") != "boot/alt":
                replace_symlink(self.bootpart / "boot-alt", "boot/alt")
            replace_symlink(self.bootpart / "boot", f"boot-versions/{new}")

    def _fill(self, build: BuildId) -> None:
        """See to it that the boot partition has a whole copy of a build's /boot."""
        source = self.pristine(build) / "boot"
        if not source.is_dir() or source.is_symlink():
            raise ActivationError(f"build {build} has no /boot to boot from")
        if not is_copy(source, self._boots / build, besides="alt"):
            self._copy(source, build)

    def _copy(self, source: Path, new: BuildId) -> None:
        """Put a whole copy of a build's /boot in place of whatever is there."""
        self._boots.mkdir(exist_ok=True)
        fresh, aside = (self._boots / f"{SCRAP}{what}.{new}" for what in ("new", "old"))
        remove_tree(fresh)
        remove_tree(aside)
        shutil.copytree(source, fresh, symlinks=True)
        sync_filesystem(self.bootpart)
        if os.path.lexists(self._boots / new):
            os.rename(self._boots / new, aside)
        os.rename(fresh, self._boots / new)
        fsync_directory(self._boots)
        remove_tree(aside)

    def boot_faults(self, build: BuildId) -> list[Path]:
        """Return what of the copy of a build's /boot is not as in the build."""
        copy = self._boots / build
        needed = build in {self.current(), self.alternate()}
        if not needed and not copy.is_dir():
            return []
        with disk_errors(copy):
            found = differing(self.pristine(build) / "boot", copy, besides="alt")
            return [copy.relative_to(self.root) / path for path in found]

    def mend_boot(self, build: BuildId) -> int:
        """Put that right, each path by one rename; return how many there were."""
        faults = self.boot_faults(build)
        with disk_errors(self.bootpart):
            for path in faults:
                copy = self.root / path
                source = self.pristine(build) / "boot"
                mend_copy(source / copy.relative_to(self._boots / build), copy, SCRAP)
            if faults:
                sync_filesystem(self.bootpart)
        return len(faults)

    @staticmethod
    def _point_back(link: Path, alternate: BuildId | None) -> None:
        if alternate is not None:
            replace_symlink(link, f"../{alternate}")
        elif os.path.lexists(link):
            os.unlink(link)
            fsync_directory(link.parent)


def _has_header(manifest: Path) -> bool:
    try:
        with open(manifest, "rb") as file:
            parse_header(file.readline(MAX_HEADER + 1))
    except (OSError, Malformed):
        return False
    return True
