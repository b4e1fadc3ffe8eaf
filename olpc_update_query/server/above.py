"""What a site has from the one above it: keys, statements about them, and builds.

Laptops of a school below a national site trust the national keys. When those change,
`mirror` takes the statements over, and the school hands them to its laptops, as the
national server does to those that ask it.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import TrustError
from olpc_update_query.model.wire import BuildId
from olpc_update_query.policy.decide import is_downgrade
from olpc_update_query.run.places import ORDER
from olpc_update_query.server.delegations import file_name, parse_delegations
from olpc_update_query.server.keys import above_path, own_keys
from olpc_update_query.server.rotations import ABOVE_FILE, Made
from olpc_update_query.server.site import Site
from olpc_update_query.server.watch import Signature, signature
from olpc_update_query.system.files import replace_file
from olpc_update_query.trust.answer import open_order
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role, load_public
from olpc_update_query.trust.rotation import (
    MAX_STATEMENTS,
    follow,
    join_statements,
    read_statement,
    split_statements,
)

NOBODY: Final = ""
"""The serial number in orders beside builds, which are for every laptop."""


def is_from_above(site: Site, build: Path) -> bool:
    """Tell whether the order beside a build is the higher site's, to be left as it is.

    Any of this site's own keys makes it its own, also one that is retired by now.

    Args:
        site: The site.
        build: The build's directory.
    """
    if not above_path(site, Role.OATS).exists():
        return False
    try:
        raw, ring = (build / ORDER).read_bytes(), KeyRing(own_keys(site, Role.OATS))
        open_order(raw, ring=ring, serial=NOBODY, now=0)
    except FileNotFoundError:
        return False
    except TrustError:
        return True
    return False


def from_above(site: Site) -> list[BuildId]:
    """Return the builds that `mirror` has brought."""
    names = site.build_names()
    return [name for name in names if is_from_above(site, site.builds / name)]


def latest(builds: Collection[BuildId]) -> set[BuildId]:
    """Return the builds that none of the others is newer than.

    Names that differ in more than their numbers, such as `763` and `763-xo4`, are for
    different laptops: of each kind there is one.
    """
    return {
        build
        for build in builds
        if not any(is_downgrade(build, other) for other in builds)
    }


# --- keys ----------------------------------------------------------------------------


def above_ring(site: Site) -> KeyRing:
    """Return the keys of the higher site that are trusted now, as far as any is known.

    Raises:
        DamagedSite: ``above-keys.sig`` is malformed.
        UntrustedKey: A key of it is no RSA-2048 key.
    """
    given = [
        PublicKey(role, load_public(path.read_bytes()), path.name)
        for role in Role
        if (path := above_path(site, role)).exists()
    ]
    return follow((one.raw for one in site.above_statements()), KeyRing(given)).ring


class News(NamedTuple):
    """What the higher site says about its keys that is new here.

    Attributes:
        made: The statements that follow from what is known, in order.
        refused: Why others do not.
    """

    made: tuple[Made, ...]
    refused: tuple[TrustError, ...]


def follow_above(site: Site, raw: bytes) -> News:
    """Follow those statements of the higher site that are new here.

    Those about a role of which no key of the higher site is known are passed over:
    nothing could prove them.

    Args:
        site: The site.
        raw: The higher site's ``keys.sig``.

    Raises:
        Malformed: It is no file of statements.
        DamagedSite: ``above-keys.sig`` is malformed.
    """
    ring = above_ring(site)
    known = {key.role for key in (*ring, *ring.retired)}
    found = [Made(read_statement(one), one) for one in split_statements(raw)]
    followed: list[Made] = []
    refused: list[TrustError] = []
    for made in sorted(found[:MAX_STATEMENTS], key=lambda one: one.statement.number):
        if made.statement.role in known:
            done = follow([made.raw], ring)
            ring = done.ring
            followed += [made] * len(done.statements)
            refused += done.refused
    return News(tuple(followed), tuple(refused))


def take_over(site: Site, made: Iterable[Made]) -> None:
    """Keep statements of the higher site that follow; only inside ``site.change``."""
    kept = (*site.above_statements(), *made)[-MAX_STATEMENTS:]
    replace_file(site.keys / ABOVE_FILE, join_statements(one.raw for one in kept))


def outlived(site: Site, role: Role) -> bool:
    """Tell whether this site signs by what a retired key of the higher site delegated.

    Laptops that follow the statements believe such signatures no longer.

    Raises:
        DamagedSite: The statements or the delegations are malformed.
    """
    path = site.keys / file_name(role)
    about = {one.statement.role for one in site.above_statements()}
    if role not in about or not path.exists():
        return False
    ring = above_ring(site)
    given = parse_delegations(path.read_bytes(), path.name).values()
    return not all(ring.find(role, name) for name in {one.root for one in given})


def published_statements(site: Site) -> tuple[Made, ...]:
    """Return all statements that this site knows, its own and the higher site's.

    Raises:
        DamagedSite: A file of them is malformed.
    """
    return (*site.above_statements(), *site.statements())[:MAX_STATEMENTS]


class HandedOn:
    """The statements that laptops are given, read again when something changes.

    While this site signs by what a retired key has delegated, a laptop that is told of
    that could believe nothing it is told here: its answers come from here as before,
    and the statement when there are new delegations.

    Args:
        site: The site.
    """

    def __init__(self, site: Site) -> None:
        self._site, self._looked = site, 0
        self._held: tuple[Signature | None, tuple[Made, ...]] | None = None

    def get(self, now: int) -> tuple[Made, ...]:
        """Return them.

        Args:
            now: The present; the directory is looked at when it changes.

        Raises:
            DamagedSite: A file of statements or delegations is malformed.
        """
        held = self._held
        if held is not None and now == self._looked:
            return held[1]
        seen = signature(self._site.keys)
        if held is None or held[0] != seen:
            self._held = held = seen, handed_on(self._site)
        self._looked = now
        return held[1]


def handed_on(site: Site) -> tuple[Made, ...]:
    """Return the statements that laptops are given; see ``HandedOn``."""
    waiting = {role for role in Role if outlived(site, role)}
    above = site.above_statements()
    passed = (one for one in above if one.statement.role not in waiting)
    return (*passed, *site.statements())[:MAX_STATEMENTS]
