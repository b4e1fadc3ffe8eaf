"""``/security``: the lease that lets the laptop boot, and the mark of a stolen one."""

import contextlib
import os
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.system.files import (
    disk_errors,
    fsync_directory,
    read_bounded,
    replace_file,
)
from olpc_update_query.system.host import Identity
from olpc_update_query.trust.keys import KeyRing
from olpc_update_query.trust.lease import Lease, find_lease

LEASE = "security/lease.sig"
STOLEN = "security/.private/stolen"
LARGEST_LEASE_FILE = 64 * 1024


def installed_lease(
    root: Path, identity: Identity, ring: KeyRing, now: int
) -> Lease | None:
    """Return the lease that is on the disk, or None when none there is good."""
    try:
        data = read_bounded(root / LEASE, LARGEST_LEASE_FILE)
        return find_lease(
            data, serial=identity.serial, uuid=identity.uuid, ring=ring, now=now
        )
    except (OSError, ValueError, errors.TrustError):
        return None


def install_lease(root: Path, lease: Lease) -> bool:
    """Make the lease the only line of the lease file, and the laptop not stolen.

    Returns:
        Whether the file was another one before.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused; the old lease is still there.
    """
    path, line = root / LEASE, lease.line.encode()
    with disk_errors(path, needed=len(line)):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        changed = _content(path) != line
        if changed:
            replace_file(path, line)
        _remove(root / STOLEN)
    return changed


def mark_stolen(root: Path) -> bool:
    """Write the mark of a stolen laptop, then remove its lease.

    Power may fail in between: the next answer says the same again.

    Returns:
        Whether there was a lease.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    mark, lease = root / STOLEN, root / LEASE
    with disk_errors(mark):
        mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not mark.exists():
            replace_file(mark, b"", mode=0o600)
            fsync_directory(mark.parent.parent)
        return _remove(lease)


def is_marked_stolen(root: Path) -> bool:
    """Tell whether this laptop bears the mark."""
    return os.path.lexists(root / STOLEN)


def _content(path: Path) -> bytes | None:
    try:
        return read_bounded(path, LARGEST_LEASE_FILE)
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        fsync_directory(path.parent)
        return True
    return False
