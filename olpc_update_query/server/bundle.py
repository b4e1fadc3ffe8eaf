"""The four files in which a school server of the original system got a build.

::

    XYZ_jffs2-tree.tar.bz2      the tree, or .lzma, .xz
    XYZ_jffs2-tree.tar.bz2.md5  its MD5, as md5sum prints it
    XYZ_jffs2.contents          the old manifest, which only the old client reads
    XYZ_jffs2.name              the build's name, as laptops see it
"""

import hashlib
import re
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed, UnfitTree
from olpc_update_query.model.wire import BuildId, parse_build_id
from olpc_update_query.system.files import read_bounded

_TREE: Final = re.compile(r"(.+)[-.]tree\.tar(?:\.[a-z0-9]+)?")
_MD5: Final = re.compile(rb"\\?([0-9a-fA-F]{32})(?:\s.*)?", re.DOTALL)
_SMALL: Final = 4096


class Bundle(NamedTuple):
    """What lies beside an archive.

    Attributes:
        name: The build's name; None where nothing tells it.
        md5: The archive's MD5 in hex; None where nothing tells it.
    """

    name: BuildId | None = None
    md5: str | None = None


def find_bundle(archive: Path) -> Bundle:
    """Look for what belongs to an archive.

    Args:
        archive: Its tree; nothing is found unless its name is that of a bundle's.

    Raises:
        UnfitTree: A file is there and does not say what it should.
    """
    found = _TREE.fullmatch(archive.name)
    if found is None:
        return Bundle()
    stem = archive.with_name(found[1])
    name, md5 = _small(Path(f"{stem}.name")), None
    for path in (Path(f"{archive}.md5"), Path(f"{stem}-tree.tar.md5")):
        if (raw := _small(path)) is not None:
            match = _MD5.fullmatch(raw.strip())
            if match is None:
                raise UnfitTree(path.name, "it holds no MD5")
            md5 = match[1].decode().lower()
            break
    return Bundle(None if name is None else _name(f"{stem.name}.name", name), md5)


def _name(where: str, raw: bytes) -> BuildId:
    try:
        return parse_build_id(raw.decode("ascii", "replace").strip())
    except Malformed as error:
        raise UnfitTree(
            where, f"it holds no name of a build: {error.reason}"
        ) from error


def _small(path: Path) -> bytes | None:
    try:
        return read_bounded(path, _SMALL)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UnfitTree(path.name, f"it is longer than {_SMALL} bytes") from error


def prove_archive(archive: Path, bundle: Bundle) -> None:
    """Compare an archive with its MD5, which finds what a bad disk or link did to it.

    Raises:
        UnfitTree: It is another one.
    """
    if bundle.md5 is None:
        return
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, _md5).hexdigest()
    if found != bundle.md5:
        reason = f"its MD5 is {found}, and should be {bundle.md5}"
        raise UnfitTree(archive.name, reason)


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)
