"""The keys this laptop trusts: built in, in its manufacturing data, and deployed."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    read_bounded,
    replace_file,
)
from olpc_update_query.system.host import MFG_DATA
from olpc_update_query.trust.builtin import BUILT_IN
from olpc_update_query.trust.keys import (
    KeyRing,
    PublicKey,
    Role,
    load_public,
    merge_tags,
)

KEYS_DIRECTORY = "etc/olpc-update-query/keys.d"
LARGEST_KEY_FILE = 16 * 1024
SHORTEST_ID = 16

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_log = logging.getLogger(__name__)


def load_keys(root: Path) -> KeyRing:
    """Gather the trusted keys below ``root``.

    A key that cannot be used is left out with a warning: the others must go on
    working, and a missing key only ever makes the laptop trust less.

    Args:
        root: Everything is looked for below it.
    """
    merged = merge_tags(BUILT_IN, _manufacturing_data(root))
    for warning in merged.warnings:
        _log.warning("%s", warning)
    return KeyRing([*merged.keys, *_deployed(root / KEYS_DIRECTORY)])


def _manufacturing_data(root: Path) -> dict[str, bytes]:
    names = [f"{role.tag}{digit}" for role in Role for digit in range(10)]
    for place in MFG_DATA:
        if (root / place).is_dir():
            found = ((name, _tag(root / place / name)) for name in names)
            return {name: data for name, data in found if data is not None}
    return {}


def _tag(path: Path) -> bytes | None:
    try:
        return read_bounded(path, LARGEST_KEY_FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("%s is left out: %s", path, error)
        return None


def _deployed(directory: Path) -> Iterator[PublicKey]:
    for role in Role:
        for path in _key_files(directory, role):
            try:
                data = read_bounded(path.resolve(), LARGEST_KEY_FILE)
                yield PublicKey(role, load_public(data), str(path))
            except (errors.UntrustedKey, OSError, ValueError) as error:
                _log.warning("%s is left out: %s", path, error)


def _key_files(directory: Path, role: Role) -> list[Path]:
    """Return the role's files: as a site's `keygen` names them, or one per school."""
    patterns = (f"{role}.public", f"{role}-*.public")
    return sorted(path for pattern in patterns for path in directory.glob(pattern))


def add_key(root: Path, file: Path, *, role: Role, name: str) -> Path:
    """Trust one more public key.

    Args:
        root: Where the laptop's file system begins.
        file: The key, PKCS#1 DER or PEM.
        role: What it may sign.
        name: Part of the file's name; letters, digits and ``._-``.

    Returns:
        Where it is kept.

    Raises:
        UntrustedKey: It is no usable key.
        ConfigError: The file cannot be read, or the name is none.
        NotPermitted: The user may not write there.
    """
    if not _NAME.fullmatch(name):
        raise errors.ConfigError("--name", f"{name!r} cannot be part of a file name")
    try:
        der = load_public(read_bounded(file.resolve(), LARGEST_KEY_FILE))
    except (OSError, ValueError) as error:
        raise errors.ConfigError(str(file), str(error)) from None
    path = root / KEYS_DIRECTORY / f"{role}-{name}.public"
    with disk_errors(path):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, der)
    return path


def remove_keys(root: Path, key_id: str) -> list[Path]:
    """Trust deployed keys no longer.

    Args:
        root: Where the laptop's file system begins.
        key_id: Their id, or at least the first 16 digits of it.

    Returns:
        The files that were removed.

    Raises:
        ConfigError: The id is too short.
        NotPermitted: The user may not write there.
    """
    if len(key_id) < SHORTEST_ID:
        raise errors.ConfigError(key_id, f"give {SHORTEST_ID} digits of the id or more")
    directory = root / KEYS_DIRECTORY
    found = [key for key in _deployed(directory) if key.key_id.startswith(key_id)]
    for key in found:
        with disk_errors(Path(key.origin)):
            Path(key.origin).unlink()
            fsync_directory(directory)
    return [Path(key.origin) for key in found]
