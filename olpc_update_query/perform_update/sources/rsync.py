"""A build on an rsync daemon, by the real ``rsync`` program.

Which files to ask for is known from the manifests, so the server need not walk its
tree, and a file of the same size and time as ours is not taken for the same file.
Installed files are the basis. What comes is believed when its digest is right.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from olpc_update_query import errors
from olpc_update_query.model.manifest import Kind, ManifestReader, TreePath
from olpc_update_query.perform_update.sources.intake import Intake
from olpc_update_query.perform_update.sources.rsync_program import (
    INTERRUPTED,
    Program,
    RsyncOptions,
    Run,
)
from olpc_update_query.perform_update.sources.spool import need_room
from olpc_update_query.system.files import disk_errors
from olpc_update_query.system.host import draw_fraction

AREA: Final = "rsync"
_LIST: Final = "wanted"
_TREE: Final = "tree"
_CONTENTS: Final = "contents"
_BASES: Final = 3  # trees that rsync looks into; it takes at most 20
_PARTIAL: Final = (23, 24)  # some files could not be sent
_READABLE: Final = ("--perms", "--chmod=D755,F644")  # even a file of mode 0


class RsyncSource:
    """A build that an rsync daemon serves as ``contents`` and ``root/``.

    Args:
        url: ``rsync://host[:port]/module[/path]``.
        intake: What takes in what comes.
        options: How rsync is run.

    Attributes:
        program: What is run, which counts what it costs.
    """

    def __init__(self, url: str, intake: Intake, options: RsyncOptions) -> None:
        self.url = url.rstrip("/")
        self.program = Program(self.url, options)
        self._awaited = 0  # bytes of the files that are asked for
        self._intake, self._options = intake, options
        self._area = intake.directory / AREA
        parts = urlsplit(self.url)
        module, _, path = parts.path.lstrip("/").partition("/")
        self._module = f"rsync://{parts.netloc}/{module}/"
        self._below = os.fsencode(f"{path}/root/./".lstrip("/"))

    def fetch_manifest(self) -> None:
        """Fetch the build's manifest, on the basis of an installed one.

        Raises:
            NetworkError: The link or the server failed.
            UntrustedContents: It is not the one that the order signs.
            NoSpace: It cannot fit.
        """
        target = self._area / _CONTENTS
        need_room(self._intake.directory, 2 * self._intake.order.size)
        self._make(self._area)
        largest = self._intake.order.size
        if not target.exists() and self._intake.installed:
            with contextlib.suppress(OSError):
                shutil.copyfile(self._intake.installed[0].contents, target)
                largest = max(largest, target.stat().st_size)
        self._intake.progress.step(f"fetching the manifest from {self.url}")
        run = self._persist([f"{self.url}/contents", str(target)], largest)
        if run.code:
            raise self.program.meaning(run, self._area)
        with disk_errors(target), open(target, "rb") as file:
            self._intake.accept_manifest(iter(lambda: file.read(65536), b""))
        target.unlink()

    def fetch_files(self) -> None:
        """Fetch the files whose contents are needed, on the basis of installed ones.

        Raises:
            NetworkError: The link or the server failed; what has come is kept.
            NoSpace: It cannot fit.
        """
        tree, names = self._area / _TREE, self._area / _LIST
        self._make(tree)
        self._harvest()  # what an earlier run was killed over
        needs = self._intake.needs()
        if not needs:
            return
        need_room(self._intake.directory, needs.size)
        self._write_list(names)
        self._awaited = needs.size
        self._intake.progress.step(
            f"fetching {needs.count} files from {self.url}, "
            f"{needs.size / 1e6:.1f} MB unpacked"
        )
        trees = self._intake.plan.installed[:_BASES]
        bases = [f"--copy-dest={one.tree}" for one in trees]
        words = [*bases, "--from0", f"--files-from={names}", "--no-implied-dirs"]
        try:
            self._persist([*words, self._module, f"{tree}/"], needs.largest())
        finally:
            self._harvest()
        if self._intake.needs():
            count = self._intake.needs().count
            raise errors.NetworkError(
                self.url, f"{count} files did not come, or with other contents"
            )
        shutil.rmtree(self._area, ignore_errors=True)

    def _make(self, directory: Path) -> None:
        with disk_errors(directory):
            os.makedirs(directory, exist_ok=True)

    # --- which files ------------------------------------------------------------

    def _wanted(self) -> Iterator[tuple[TreePath, bytes, int]]:
        """Yield path, digest and size of one file for each content that is needed."""
        needs = self._intake.needs()
        named = bytearray(len(needs))
        contents = self._intake.contents
        with disk_errors(contents), open(contents, "rb") as file:
            for entry in ManifestReader(file):
                if entry.kind is Kind.FILE:
                    place = needs.place(entry.digest)
                    if place is not None and not named[place]:
                        named[place] = 1
                        yield entry.path, entry.digest, entry.size

    def _write_list(self, names: Path) -> None:
        with disk_errors(names), open(names, "wb") as file:
            # Named below the module itself: the daemon of rsync 3.5, when it does not
            # chroot, finds nothing that is named below a directory of a module.
            file.writelines(self._below + path + b"\0" for path, _, _ in self._wanted())

    def _harvest(self) -> None:
        """Take in the files that have come whole; drop those that came wrong."""
        top = os.fsencode(self._area / _TREE)
        for path, digest, size in self._wanted():
            source = Path(os.fsdecode(os.path.join(top, path)))
            with contextlib.suppress(OSError):
                came = source.lstat().st_size
                if self._intake.take_file(digest, source):
                    self._intake.credit("rsync", size)
                elif came >= size:
                    source.unlink()

    def _progress(self) -> int:
        """Return how many bytes have come, whole files or not."""
        return sum(facts.st_size for _, facts in self._files())

    def _files(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield the files that rsync has made, whole or not."""
        for directory, _, files in os.walk(os.fsencode(self._area / _TREE)):
            for name in files:
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    yield path, os.lstat(path)

    # --- running rsync ------------------------------------------------------------

    def _persist(self, words: Sequence[str], largest: int) -> Run:
        """Run rsync until it is done, or fails often enough without getting on."""
        failures, reached = 0, self._progress()
        while True:
            run = self.program.run(
                [*_READABLE, *words], largest=largest, look=self._look
            )
            if run.code == 0 or run.code in _PARTIAL:
                return run
            error = self.program.meaning(run, self._area)
            got_on = self._progress() > reached
            failures = 1 if got_on else failures + 1
            reached = max(reached, self._progress())
            if run.code not in INTERRUPTED or "HTTP/1" in run.message:
                raise error
            if isinstance(error, errors.ServerFull) or failures >= self._options.tries:
                raise error
            pause = self._options.pause * (1 + 2 * draw_fraction())
            self._intake.progress.step(f"{error}; trying again in {pause:.0f} s")
            self._intake.clock.sleep(pause)

    def _look(self) -> None:
        """Have the file that is just coming on the disk, and tell how far it is."""
        come, latest = 0, (0, b"")
        for path, facts in self._files():
            come += facts.st_size
            latest = max(latest, (facts.st_mtime_ns, path))
        with contextlib.suppress(OSError):
            descriptor = os.open(latest[1], os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        if self._awaited:
            self._intake.progress.transferred(min(come, self._awaited), self._awaited)
