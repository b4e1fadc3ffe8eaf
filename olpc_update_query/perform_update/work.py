"""The installer's own part of the work area: nobody else writes there.

``stage/`` holds the tree in work and ``store/`` what it is made from; both are closed
to everybody else. ``wanted`` is for the other side to read: the digests of contents
that it has to fetch in spite of what it believes to have.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from olpc_update_query.errors import Malformed, UntrustedContents
from olpc_update_query.model.messages import Sha256, parse_sha256
from olpc_update_query.perform_update.walk import remove_tree
from olpc_update_query.system.files import read_bounded, replace_file, write_all

WANTED: Final = "wanted"
_MOST_WANTED: Final = 32 << 20  # bytes
_CHUNK: Final = 256 << 10


class Workbench:
    """``WORK/installer``.

    Attributes:
        stage: Where trees are made.
        store: Where contents and the plan are kept.
        contents: The manifest that is being installed, verified.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stage, self.store = directory / "stage", directory / "store"
        self.contents = self.store / "contents"

    def prepare(self) -> None:
        """Make the directories, and remove trees that were never finished."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for private in (self.stage, self.store):
            if os.path.lexists(private) and not _is_ours(private):
                remove_tree(private)
            private.mkdir(mode=0o700, exist_ok=True)
            os.chmod(private, 0o700)
        for name in os.listdir(self.stage):
            remove_tree(self.stage / name)

    def clear(self) -> None:
        """Remove everything: the build is installed."""
        for path in (self.stage, self.store, self.directory / WANTED):
            remove_tree(path)

    def accept_manifest(self, source: int, digest: Sha256, size: int) -> None:
        """Copy a manifest here, if it is the right one.

        Args:
            source: A file that anybody may have written.
            digest: What the order says of it.
            size: Its length in bytes, as the order says.

        Raises:
            UntrustedContents: It is another one.
        """
        fresh = self.contents.with_suffix(".part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        target = os.open(fresh, flags, 0o644)
        try:
            found, done = hashlib.sha256(), 0
            while done <= size and (data := os.pread(source, _CHUNK, done)):
                found.update(data)
                write_all(target, data)
                done += len(data)
            if done != size or found.hexdigest() != digest:
                raise UntrustedContents("manifest", "it is not the one that was signed")
            os.fchmod(target, 0o644)
            os.fsync(target)
        finally:
            os.close(target)
        os.rename(fresh, self.contents)

    def read_wanted(self) -> set[bytes]:
        """Return the digests that were noted; none when there is no good note."""
        return read_wanted(self.directory)

    def write_wanted(self, digests: Collection[bytes]) -> None:
        """Note digests for the next fetch, in place of those noted before."""
        lines = "".join(f"{digest.hex()}\n" for digest in sorted(digests))
        replace_file(self.directory / WANTED, lines.encode())


def read_wanted(directory: Path) -> set[bytes]:
    """Return the digests that an installer noted for the next fetch.

    Args:
        directory: ``WORK/installer``.
    """
    with contextlib.suppress(OSError, ValueError, Malformed):
        lines = read_bounded(directory / WANTED, _MOST_WANTED).decode().split()
        return {bytes.fromhex(parse_sha256(line)) for line in lines}
    return set()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex; empty when there is no such file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ""


def _is_ours(path: Path) -> bool:
    facts = os.lstat(path)
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()
