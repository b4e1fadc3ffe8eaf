"""Where builds lie that somebody wants by hand: on servers, or on a stick.

Read by the asker. A place is the URL of one build's directory.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote

from olpc_update_query import errors
from olpc_update_query.model.messages import BuildId, parse_build_id
from olpc_update_query.model.stick import LEASES
from olpc_update_query.policy.decide import is_downgrade
from olpc_update_query.ports import Transport
from olpc_update_query.run.machine import Machine, network
from olpc_update_query.system.files import read_bounded
from olpc_update_query.system.keyring import STATEMENTS
from olpc_update_query.system.sticks import is_failing, refused, stick_errors

ORDER = "order"
LARGEST_ORDER = 64 * 1024 + 1
LARGEST_LIST = 1024 * 1024
MOST_NAMES = 10_000
MOUNT_PLACES = ("media/*/*", "run/media/*/*", "media/*", "mnt/*", "mnt")


# --- sticks ------------------------------------------------------------------------


def on_stick(path: Path) -> dict[BuildId, Path]:
    """Return the builds below a directory, or below its ``builds``.

    Raises:
        OSError: It is failing.
    """
    found: dict[BuildId, Path] = {}
    for place in (path, path / "builds"):
        for name in _names_in(place):
            with contextlib.suppress(errors.Malformed):
                if (place / name / ORDER).is_file():
                    found[parse_build_id(name)] = place / name
    return found


def has_leases(stick: Path) -> bool:
    """Tell whether a stick has leases."""
    return any((stick / name).is_file() for name in LEASES)


def has_statements(stick: Path) -> bool:
    """Tell whether a stick has statements about keys."""
    return (stick / STATEMENTS).is_file()


def sticks(root: Path) -> list[Path]:
    """Return the directories where sticks are mounted that have anything for laptops.

    Those that hold builds come first.

    Raises:
        StickFailed: There is none, and one that is mounted cannot be read.
    """
    builds, others, failures = list[Path](), list[Path](), list[errors.UpdateError]()
    for path in mount_places(root):
        try:
            with stick_errors(path):
                if on_stick(path):
                    builds.append(path)
                elif has_leases(path) or has_statements(path):
                    others.append(path)
        except (errors.StickFailed, errors.StickForbidden) as error:
            failures.append(error)
    if failures and not builds and not others:
        raise failures[0]
    return builds + others


def mount_places(root: Path) -> list[Path]:
    """Return the directories where sticks may be mounted."""
    found = (path for pattern in MOUNT_PLACES for path in sorted(root.glob(pattern)))
    return list(dict.fromkeys(found))


def is_bare_tree(path: Path) -> bool:
    """Tell whether the root of a stick is the tree of an old build."""
    return all((path / name).is_dir() for name in ("boot", "etc", "usr"))


def choose(found: dict[BuildId, Path], wanted: BuildId | None, where: str) -> Path:
    """Return the build that was asked for, else the newest.

    Raises:
        BuildNotFound: There is none.
    """
    if wanted is not None:
        if wanted not in found:
            raise errors.BuildNotFound(where, f"there is no signed build {wanted}")
        return found[wanted]
    if not found:
        raise errors.BuildNotFound(where, "there is no signed build")
    return found[newest(list(found))]


def newest(builds: Sequence[BuildId]) -> BuildId:
    """Return the build that none of the others is newer than."""
    best, *rest = sorted(builds)
    for build in rest:
        best = best if is_downgrade(build, best) else build
    return best


def _names_in(path: Path) -> list[str]:
    try:
        with os.scandir(path) as found:
            return sorted(entry.name for entry in islice(found, MOST_NAMES))
    except OSError as error:
        if is_failing(error):
            raise
        return []


def url_of(path: Path) -> str:
    """Return the URL of a build's directory on this machine."""
    return f"file://{quote(str(path.resolve()))}/"


def path_of(url: str) -> Path:
    """Return what a ``file:`` URL names; a path stays what it is."""
    return Path(unquote(url.removeprefix("file://")))


# --- orders ------------------------------------------------------------------------


def fetch_order(machine: Machine, places: Sequence[str]) -> tuple[int, bytes]:
    """Fetch a build's signed order from the first place that has one.

    Returns:
        The number of the place, and the octets, of which nothing is believed yet.

    Raises:
        NetworkError: No place has it.
    """
    problems: list[errors.NetworkError] = []
    with network(machine) as transport:
        for number, place in enumerate(places):
            try:
                return number, read_whole(transport, place + ORDER, LARGEST_ORDER)
            except errors.NetworkError as error:
                problems.append(error)
    missing = [error for error in problems if isinstance(error, errors.BuildNotFound)]
    raise (missing or problems)[0]


def list_builds(machine: Machine) -> Iterator[tuple[str, list[BuildId]]]:
    """Ask each server which builds it has.

    Yields:
        Each server that can tell, with its builds.

    Raises:
        NetworkError: None can.
    """
    problems: list[errors.UpdateError] = []
    with network(machine) as transport:
        for server in machine.settings.servers:
            url = f"{server}builds/"
            try:
                yield server, parse_list(url, read_whole(transport, url, LARGEST_LIST))
            except (errors.NetworkError, errors.Malformed) as error:
                problems.append(error)
    if len(problems) == len(machine.settings.servers):
        raise problems[0]


def parse_list(url: str, raw: bytes) -> list[BuildId]:
    """Read a server's list of its builds.

    Raises:
        NoAnswer: It is none.
        Malformed: It names what can be no build.
    """
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise errors.NoAnswer(url, "this server does not list its builds")
    return [parse_build_id(str(item)) for item in found]


def read_whole(transport: Transport, url: str, limit: int) -> bytes:
    """Read a small file.

    Raises:
        NoAnswer: It is longer than ``limit`` bytes.
        BuildNotFound: It is not there.
        NetworkError: It cannot be had.
        StickFailed: It is on a stick that cannot be read.
    """
    if url.startswith("file://"):
        return _read_file(path_of(url), limit)
    data = bytearray()
    for chunk in transport.get(url).chunks:
        data += chunk
        if len(data) > limit:
            raise errors.NoAnswer(url, f"it is longer than {limit} bytes")
    return bytes(data)


def _read_file(path: Path, limit: int) -> bytes:
    try:
        return read_bounded(path, limit)
    except OSError as error:
        if is_failing(error):
            raise refused(error, path) from None
        raise errors.BuildNotFound(str(path), error.strerror or str(error)) from None
    except ValueError:
        raise errors.NoAnswer(str(path), f"it is longer than {limit} bytes") from None
