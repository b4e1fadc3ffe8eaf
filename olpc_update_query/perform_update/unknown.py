"""The files of a build that nobody has described.

A laptop that comes with a build of the original system has no manifest of ours for
it. Then a list is made of those of its files that could serve: the ones whose size
occurs among the contents of the build that is wanted, each with its digest. The list
has the form of a manifest, and is used like that of any installed build; like that,
it is believed only until the finished tree is audited.

The list is written in path order, a line for each file that was read, so a run that
was cut short goes on behind the last line.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from olpc_update_query.errors import Malformed, UnsafePath
from olpc_update_query.model.manifest import (
    Entry,
    Header,
    Kind,
    ManifestReader,
    encode_entry,
    encode_header,
    parse_entry,
    parse_path,
)
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update.activate import InstalledTree, Layout
from olpc_update_query.perform_update.differences import read_xattrs
from olpc_update_query.perform_update.walk import Descent, open_file
from olpc_update_query.perform_update.work import digest_of
from olpc_update_query.ports import Progress
from olpc_update_query.system.files import disk_errors

_BEGUN: Final = ".begun"
_SHORT: Final = 16  # digits of a digest that tell one manifest from the next
_CHUNK: Final = 64 << 10


def trees_to_use(
    layout: Layout, wanted: Path, area: Path, progress: Progress
) -> list[InstalledTree]:
    """Return the trees that a build can take files from, the best first.

    Args:
        layout: The laptop's builds.
        wanted: The build's manifest, verified.
        area: Where to keep a list of files, if there has to be one.
        progress: Who is told.

    Raises:
        Malformed, UnsafePath: The manifest is not one.
        TreeError: The disk is full or failing.
    """
    known, unknown = layout.known(), layout.unknown()
    if known or not unknown:
        return known
    build = unknown[0]
    target = area / f"found-{digest_of(wanted)[:_SHORT]}-{build}"
    if not target.exists():
        progress.step(
            f"reading the files of build {build} that could serve: "
            f"{layout.contents(build)} is not the manifest that "
            "`olpc-update-admin publish` makes"
        )
        with disk_errors(target):
            _find(layout.pristine(build), _sizes(wanted), target, build)
    return [InstalledTree(build, layout.pristine(build), target)]


def _sizes(wanted: Path) -> set[int]:
    with open(wanted, "rb") as file:
        return {entry.size for entry in ManifestReader(file)} - {0}


def _find(tree: Path, sizes: set[int], target: Path, build: BuildId) -> None:
    """Write the list, from where an earlier run has left it."""
    begun = target.with_name(f"{target.name}{_BEGUN}")
    with open(begun, "a+b") as lines:
        latest, _ = _resume(lines, build)
        with Descent(tree) as descent:
            found = _entries(descent, sizes, latest)
            lines.writelines(encode_entry(entry) for entry in found)
    seal(begun, target, build)
    begun.unlink()


def _resume(lines: BinaryIO, build: BuildId) -> tuple[bytes | None, Header]:
    """Go behind the last whole line; return its path, and what there is so far.

    A power cut may have left anything behind what had reached the disk.
    """
    latest, end, entries, files, size = None, 0, 0, 0, 0
    lines.seek(0)
    try:
        for line in lines:
            entry = parse_entry(line)
            latest, end = entry.path, end + len(line)
            entries += 1
            if entry.kind is Kind.FILE:
                files, size = files + 1, size + entry.size
    except (Malformed, UnsafePath):
        lines.truncate(end)
    return latest, Header(build, entries, files, size)


def seal(lines: Path, target: Path, build: BuildId) -> None:
    """Make a manifest of its lines, on the disk before it has its name."""
    fresh = target.with_name(f"{target.name}.new")
    with open(lines, "r+b") as source, open(fresh, "wb") as file:
        _, header = _resume(source, build)
        file.write(encode_header(header))
        source.seek(0)
        while chunk := source.read(_CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, target)


# --- the tree -------------------------------------------------------------------


def _entries(tree: Descent, sizes: set[int], latest: bytes | None) -> Iterator[Entry]:
    """Yield directories, and files that could serve, that come behind ``latest``."""
    for path in _paths(tree):
        if latest is None or path > latest:
            try:
                entry = _entry(tree, path, sizes)
            except (OSError, UnsafePath):
                continue  # not for this user, rotten, or gone
            if entry is not None:
                yield entry


def _paths(tree: Descent) -> Iterator[bytes]:
    """Yield every path, in path order; a level's rest waits on a list."""
    yield b""
    levels = [_listing(tree, b"")]
    while levels:
        if not levels[-1]:
            levels.pop()
            continue
        path = levels[-1].pop()
        if path.endswith(b"/"):
            levels.append(_listing(tree, path))
        else:
            yield path


def _listing(tree: Descent, inside: bytes) -> list[bytes]:
    """Return what is in a directory, each directory again with a ``/``, last first."""
    found: list[bytes] = []
    try:
        with os.scandir(tree.enter(inside[:-1])) as items:
            for item in items:
                path = inside + os.fsencode(item.name)
                found.append(path)
                if item.is_dir(follow_symlinks=False):
                    found.append(path + b"/")
    except OSError:
        return []  # not for this user
    return sorted(found, reverse=True)


def _entry(tree: Descent, path: bytes, sizes: set[int]) -> Entry | None:
    """Describe a directory, or a file that could serve; None for anything else."""
    parent, _, name = path.rpartition(b"/")
    directory = tree.enter(parent)
    facts = os.stat(name or b".", dir_fd=directory, follow_symlinks=False)
    entry = Entry(
        parse_path(path),
        Kind.DIRECTORY,
        stat.S_IMODE(facts.st_mode),
        facts.st_uid,
        facts.st_gid,
        facts.st_mtime_ns,
    )
    if stat.S_ISDIR(facts.st_mode):
        return entry
    if not stat.S_ISREG(facts.st_mode) or facts.st_size not in sizes:
        return None
    with open(open_file(name, directory), "rb", buffering=0) as file:
        return entry._replace(
            kind=Kind.FILE,
            size=facts.st_size,
            digest=hashlib.file_digest(file, "sha256").digest(),
            xattrs=read_xattrs(file.fileno()),
        )
