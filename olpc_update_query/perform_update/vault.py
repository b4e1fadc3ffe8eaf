"""Where proven contents wait for their place in a tree."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from olpc_update_query.errors import CorruptContent
from olpc_update_query.perform_update.copying import write_sparse
from olpc_update_query.perform_update.walk import STEP, open_file
from olpc_update_query.system.closing import Closing


class Vault(Closing):
    """Proven contents, one file each, named by digest; nobody else can write there.

    Args:
        directory: Made if need be, with mode 0700.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)
        os.chmod(directory, 0o700)
        self.top = os.open(directory, STEP)

    def close(self) -> None:
        """Close the directory."""
        os.close(self.top)

    def recover(self, wanted_size: Callable[[bytes], int | None]) -> int:
        """Keep what an earlier run has left that is wanted and still right.

        A power cut may have left a file short or full of zeros, so each is read. One
        that is also in a tree already is not touched: it belongs to that tree.

        Args:
            wanted_size: The size of a content that is wanted, None for any other.

        Returns:
            The bytes that those take on the disk that were kept.
        """
        kept = 0
        for name in os.listdir(self.top):
            digest = _as_digest(name)
            size = wanted_size(digest) if digest else None
            if digest and size is not None and self._is_good(name, digest, size):
                facts = os.stat(name, dir_fd=self.top, follow_symlinks=False)
                kept += facts.st_blocks * 512
            elif digest or name.endswith(".part"):
                os.unlink(name, dir_fd=self.top)
        return kept

    def _is_good(self, name: str, digest: bytes, size: int) -> bool:
        try:
            descriptor = open_file(os.fsencode(name), self.top)
        except OSError:
            return False
        with open(descriptor, "rb", buffering=0) as file:
            facts = os.fstat(descriptor)
            if facts.st_nlink != 1 or facts.st_size != size:
                return False
            if hashlib.file_digest(file, "sha256").digest() != digest:
                return False
            for attribute in os.listxattr(descriptor):
                if not attribute.startswith("security.selinux"):
                    os.removexattr(descriptor, attribute)
        return True

    def has(self, digest: bytes) -> bool:
        """Say whether a content is here."""
        try:
            os.stat(digest.hex(), dir_fd=self.top, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open(self, digest: bytes) -> int | None:
        """Open a content to be copied, or to become a file; None if it is not here."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(digest.hex(), flags, dir_fd=self.top)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def receive(self, digest: bytes, size: int) -> Iterator["Receiver"]:
        """Take in a content, piece by piece; it stays only if it proves right.

        Raises:
            CorruptContent: On leaving: the bytes are not those of the digest.
            OSError: The disk is full or failing.
        """
        name = digest.hex()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self.top)
        try:
            receiver = Receiver(descriptor, size)
            yield receiver
            receiver.finish(digest)
        except BaseException:
            os.unlink(name, dir_fd=self.top)
            raise
        finally:
            os.close(descriptor)


class Receiver:
    """Writes the bytes of one content and hashes them while it does."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        self._hash = hashlib.sha256()
        self._done = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            CorruptContent: They are more than there should be.
        """
        if self._done + len(data) > self._size:
            raise CorruptContent("content", f"{self._size} bytes", "more")
        self._hash.update(data)
        write_sparse(self._descriptor, data, self._done)
        self._done += len(data)

    def finish(self, digest: bytes) -> None:
        """Give the file its size, if the bytes are right.

        Raises:
            CorruptContent: They are not.
        """
        found = self._hash.digest()
        if self._done != self._size or found != digest:
            raise CorruptContent("content", digest.hex(), found.hex())
        os.ftruncate(self._descriptor, self._size)


def _as_digest(name: str) -> bytes | None:
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if len(digest) == 32 and digest.hex() == name else None
