"""What links and directories of builds say, without following any of them."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query.errors import Malformed
from olpc_update_query.model.messages import BuildId, parse_build_id


def read_link(link: Path) -> str | None:
    """Return a link's text; None when there is no link."""
    try:
        return os.readlink(link)
    except OSError:
        return None


def target_of(link: Path, *parents: str) -> str | None:
    """Return the name a link's text ends in.

    Args:
        link: The link; it is not followed.
        parents: What the part before the name may end in.

    Returns:
        The name; None when there is no link or it leads elsewhere.
    """
    above, _, name = (read_link(link) or "").rpartition("/")
    if name in {"", ".", ".."} or above.rpartition("/")[2] not in parents:
        return None
    return name


def build_of(link: Path, *parents: str) -> BuildId | None:
    """Return the build a link names, as `target_of` reads it."""
    return _as_build(target_of(link, *parents) or "")


def _as_build(name: str) -> BuildId | None:
    try:
        return parse_build_id(name)
    except Malformed:
        return None


def names_in(directory: Path) -> list[str]:
    """Return the names in a directory, sorted; none when it is not there."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def builds_in(directory: Path) -> list[BuildId]:
    """Return the names in a directory that can be builds, sorted."""
    return [build for name in names_in(directory) if (build := _as_build(name))]


def changed_ns(path: Path) -> int:
    """Return when a path got its name; 0, the oldest, when it is not there."""
    try:
        return os.lstat(path).st_ctime_ns
    except OSError:
        return 0


def is_copy(source: Path, copy: Path, *, besides: str = "") -> bool:
    """Say whether a copy holds the same names, links and bytes as its source.

    Args:
        source: A file, link or directory.
        copy: What may be a copy of it.
        besides: A name in the directory that does not count.
    """
    return next(differing(source, copy, besides=besides), None) is None


def differing(
    source: Path, copy: Path, *, besides: str = "", below: Path = Path()
) -> Iterator[Path]:
    """Yield what is not in a copy as in its source: relative, no deeper than it must.

    The copy is read from the medium, not from the kernel's memory.
    """
    if _is_plain_directory(source) and _is_plain_directory(copy):
        for name in sorted({*os.listdir(source), *os.listdir(copy)} - {besides}):
            yield from differing(source / name, copy / name, below=below / name)
    elif not _is_same(source, copy):
        yield below


def _is_plain_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_same(source: Path, copy: Path) -> bool:
    """Say whether two links, or two files, are the same."""
    if source.is_symlink() or copy.is_symlink():
        return read_link(source) == read_link(copy)
    if source.is_file() and copy.is_file():
        return _digest(source) == _digest(copy)
    return False


def _digest(path: Path) -> bytes:
    with open(path, "rb") as content:
        os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hashlib.file_digest(content, "sha256").digest()
