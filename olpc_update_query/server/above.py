"""What a site has from the one above it: keys to prove its builds, and the builds."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from olpc_update_query.errors import TrustError
from olpc_update_query.model.wire import BuildId
from olpc_update_query.policy.decide import is_downgrade
from olpc_update_query.run.places import ORDER
from olpc_update_query.server.keys import above_path, own_keys
from olpc_update_query.server.site import Site
from olpc_update_query.trust.answer import open_order
from olpc_update_query.trust.keys import KeyRing, Role

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
