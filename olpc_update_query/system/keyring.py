"""The keys this laptop trusts: built in, in its manufacturing data, and deployed.

Signed statements add to them and retire some; what they made of the keys is kept
beside the installer's other state, which both builds share.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from olpc_update_query import errors
from olpc_update_query.model.canonical import Json
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    hold_lock,
    read_bounded,
    replace_file,
)
from olpc_update_query.system.host import MFG_DATA
from olpc_update_query.system.state import StateStore
from olpc_update_query.system.work import prepare, work_area
from olpc_update_query.trust.builtin import BUILT_IN
from olpc_update_query.trust.keys import (
    KeyRing,
    PublicKey,
    Role,
    Standing,
    digest_of,
    load_public,
    merge_tags,
)
from olpc_update_query.trust.rotation import (
    Followed,
    follow,
    split_statements,
    standing_from_json,
    standing_to_json,
)

KEYS_DIRECTORY = "etc/olpc-update-query/keys.d"
STATEMENTS = "keys.sig"
"""The file of statements about keys on a stick, or beside a site's keys."""

LARGEST_KEY_FILE = 16 * 1024
LARGEST_STATEMENTS = 256 * 1024
SHORTEST_ID = 16

_STATE = "keys"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE = re.compile(f"({'|'.join(Role)})(?:-({_NAME.pattern}))?[.]public")
_log = logging.getLogger(__name__)


def load_keys(root: Path, *, threshold: int = 1) -> KeyRing:
    """Gather the trusted keys below ``root``.

    A key that cannot be used is left out with a warning: the others must go on
    working, and a missing key only ever makes the laptop trust less.

    Args:
        root: Everything is looked for below it.
        threshold: How many keys must sign the first statement about a role's keys.
    """
    merged = merge_tags(BUILT_IN, _manufacturing_data(root))
    for warning in merged.warnings:
        _log.warning("%s", warning)
    given = [*merged.keys, *_deployed(root / KEYS_DIRECTORY)]
    kept = _store(root).load(_STATE)
    return KeyRing(
        given, {role: _standing(kept.get(str(role)), threshold) for role in Role}
    )


def _store(root: Path) -> StateStore:
    return StateStore(work_area(root).installer)


def _standing(kept: Json, threshold: int) -> Standing:
    if kept is not None:
        try:
            return standing_from_json(kept)
        except errors.Malformed as error:
            _log.warning("what statements said about keys is lost: %s", error)
    return Standing(threshold=threshold)


def keep_keys(root: Path, ring: KeyRing) -> None:
    """Keep what statements have made of the keys; it must be the installer.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused; what was kept before is still there.
    """
    standings = {role: ring.standing(role) for role in Role}
    _store(root).save(
        _STATE,
        {
            str(role): standing_to_json(standing)
            for role, standing in standings.items()
            if standing.number
        },
    )


def follow_path(root: Path, path: Path, *, threshold: int = 1) -> Followed:
    """Follow the statements in a file, or in the ``keys.sig`` of a stick, as root.

    Args:
        root: Where the laptop's file system begins.
        path: The file, or the directory that holds ``keys.sig``.
        threshold: As for ``load_keys``.

    Returns:
        What was followed, and why others were not; it is kept already.

    Raises:
        ConfigError: The file cannot be read, or is larger than 256 KiB.
        Malformed, Busy, NotPermitted, TreeError: As ``follow_file`` does.
    """
    file = path / STATEMENTS if path.is_dir() else path.resolve()
    try:
        raw = read_bounded(file, LARGEST_STATEMENTS)
    except OSError as error:
        raise errors.ConfigError(str(file), error.strerror or str(error)) from None
    except ValueError:
        reason = f"it is larger than {LARGEST_STATEMENTS} bytes"
        raise errors.ConfigError(str(file), reason) from None
    return follow_file(root, raw, threshold=threshold)


def follow_file(root: Path, raw: bytes, *, threshold: int = 1) -> Followed:
    """Follow the statements of a file, from a stick or from anywhere, as root.

    Nothing about the file is believed but what the statements in it prove.

    Args:
        root: Where the laptop's file system begins.
        raw: The file, as ``keys.sig``: one statement, or a list of them.
        threshold: As for ``load_keys``.

    Returns:
        What was followed, and why others were not; it is kept already.

    Raises:
        Malformed: It is no file of statements.
        Busy: A run is at work.
        NotPermitted: The user may not write there.
        TreeError: The disk refused; nothing was followed.
    """
    statements = split_statements(raw)
    foreseen = follow(statements, load_keys(root, threshold=threshold))
    if not foreseen.statements:
        return foreseen
    work = work_area(root)
    prepare(work)
    with hold_lock(work.lock, "statements about keys"):
        followed = follow(statements, load_keys(root, threshold=threshold))
        if followed.statements:
            keep_keys(root, followed.ring)
    return followed


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


class KeyFile(NamedTuple):
    """A file that somebody wants to be trusted.

    Attributes:
        role: What its name says that it may sign, None when it does not say.
        name: The rest of its name, None likewise.
        der: The key.
    """

    role: Role | None
    name: str | None
    der: bytes


def read_key(file: Path) -> KeyFile:
    """Read a public key whose file may be named as in ``keys.d``.

    Raises:
        UntrustedKey: It is no usable public key.
        ConfigError: The file cannot be read.
    """
    named = _FILE.fullmatch(file.name)
    try:
        der = load_public(read_bounded(file.resolve(), LARGEST_KEY_FILE))
    except (OSError, ValueError) as error:
        raise errors.ConfigError(str(file), str(error)) from None
    if named is None:
        return KeyFile(None, None, der)
    return KeyFile(Role(named[1]), named[2], der)


def add_key(
    root: Path, file: Path, *, role: Role | None = None, name: str | None = None
) -> Path:
    """Trust one more public key.

    Args:
        root: Where the laptop's file system begins.
        file: The key, PKCS#1 DER or PEM; a name such as ``oats-north.public`` tells
            its role and its name.
        role: What it may sign, where the file's name does not tell.
        name: Part of the name it gets; letters, digits and ``._-``.

    Returns:
        Where it is kept.

    Raises:
        UntrustedKey: It is no usable key, or a statement has retired it.
        ConfigError: The file cannot be read, the name is none or another key's, or
            its role is not known or contradicted by the file's name.
        NotPermitted: The user may not write there.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise errors.ConfigError("--name", f"{name!r} cannot be part of a file name")
    found = read_key(file)
    role = _agreed(file, found.role, role)
    name = name or found.name or "site"
    number = load_keys(root).standing(role).retired.get(digest_of(found.der))
    if number is not None:
        raise errors.UntrustedKey("key", f"statement {number} has retired it")
    path = root / KEYS_DIRECTORY / f"{role}-{name}.public"
    _refuse_to_overwrite(path, found.der)
    with disk_errors(path):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, found.der)
    return path


def _agreed(file: Path, named: Role | None, wanted: Role | None) -> Role:
    role = wanted or named
    if role is None:
        raise errors.ConfigError(
            str(file), "its name does not begin with oats or lease: give --role"
        )
    if named not in {None, role}:
        raise errors.ConfigError(str(file), f"its name says {named}, --role {role}")
    return role


def _refuse_to_overwrite(path: Path, der: bytes) -> None:
    try:
        there = read_key(path).der
    except (errors.ConfigError, errors.UntrustedKey):
        return
    if there != der:
        raise errors.ConfigError(str(path), "holds another key: give another --name")


def remove_keys(root: Path, key_id: str) -> list[Path]:
    """Trust deployed keys no longer.

    Args:
        root: Where the laptop's file system begins.
        key_id: Their id, or at least the first 16 digits of it.

    Returns:
        The files that were removed.

    Raises:
        ConfigError: The id is too short, or no file in ``keys.d`` has it.
        NotPermitted: The user may not write there.
    """
    if len(key_id) < SHORTEST_ID:
        raise errors.ConfigError(key_id, f"give {SHORTEST_ID} digits of the id or more")
    directory = root / KEYS_DIRECTORY
    found = [key for key in _deployed(directory) if key.key_id.startswith(key_id)]
    if not found:
        _explain_absence(load_keys(root), key_id)
    for key in found:
        with disk_errors(Path(key.origin)):
            Path(key.origin).unlink()
            fsync_directory(directory)
    return [Path(key.origin) for key in found]


def _explain_absence(ring: Iterable[PublicKey], key_id: str) -> NoReturn:
    other = [key.origin for key in ring if key.key_id.startswith(key_id)]
    reason = "no key in keys.d has this id"
    if other:
        reason += f": it is from {other[0]}, which only a statement can retire"
    raise errors.ConfigError(key_id, reason)
