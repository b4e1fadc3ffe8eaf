"""Which laptops a stick tells to run what, and until when.

A stick says what the server would say if the laptops could ask it: each build's order
names the laptops to which rollout.toml gives it now, and is good for some weeks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from olpc_update_query.errors import Malformed, NoAssignment, SiteError
from olpc_update_query.model.messages import BuildId, Order
from olpc_update_query.model.orders import OrderFile, Reboot
from olpc_update_query.server import signing
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.rollout import DEFAULT, Assignment, Choice, Rollout
from olpc_update_query.server.signing import Signer
from olpc_update_query.server.site import DAY, PublishedBuild, Settings, Site, Unknown

VALID_DAYS: Final = 90
"""How long the orders on a stick are good, unless somebody says otherwise."""


@dataclass(slots=True)
class Share:
    """What a stick says about one build.

    Attributes:
        assignments: Those of which it comes.
        serials: The laptops it is for, None for every laptop.
    """

    assignments: list[Assignment] = field(default_factory=list)
    serials: set[str] | None = field(default_factory=set)

    def add(self, choice: Choice, serial: str) -> None:
        """Add a laptop."""
        if choice.assignment is not None and choice.assignment not in self.assignments:
            self.assignments.append(choice.assignment)
        if self.serials is not None:
            self.serials.add(serial)


def shares(
    site: Site, names: Sequence[BuildId], group: str | None, now: int
) -> dict[BuildId, Share]:
    """Decide which builds a stick is to hold, and for whom each is.

    Args:
        site: The site.
        names: The builds that somebody names; none: as rollout.toml says now. What is
            named is for every laptop, or for all of the group.
        group: Only for laptops of this group.
        now: The present.

    Raises:
        NoAssignment: No laptop is told to run anything now.
        SiteError: Nobody is in the group.
    """
    laptops = _of_group(site, group)
    if names:
        serials = None if group is None else {laptop.serial for laptop in laptops}
        return {name: Share(_of(site.rollout(), name), serials) for name in names}
    rollout, found = site.rollout(), dict[BuildId, Share]()
    general = rollout.choose("", None, None, now)
    if group is None and _is_for_all(rollout, site.settings()):
        if general.build is not None:
            found[general.build] = Share(_of(rollout, general.build), None)
    else:
        for one in laptops:
            choice = rollout.choose(one.serial, one.group, one.stream, now)
            if choice.build is not None:
                found.setdefault(choice.build, Share()).add(choice, one.serial)
    if not found:
        reason = f"no laptop is told to run a build now ({general.reason})"
        raise NoAssignment("rollout.toml", f"{reason}; name one by --build")
    return found


def _of_group(site: Site, group: str | None) -> list[Laptop]:
    """Return the laptops that are not stolen, or those of a group."""
    laptops = [one for one in site.laptops().values() if not one.stolen]
    if group is None:
        return laptops
    found = [one for one in laptops if one.group == group]
    if not found:
        mend = "`olpc-update-admin laptops list SITE` shows the groups."
        raise SiteError(f"group {group}", "no laptop in laptops.csv is in it", mend)
    return found


def _is_for_all(rollout: Rollout, settings: Settings) -> bool:
    """Tell whether all laptops are told the same, those outside laptops.csv too."""
    default = rollout.assignments.get(DEFAULT)
    return (
        settings.unknown is Unknown.ANSWER
        and rollout.assignments.keys() <= {DEFAULT}
        and (default is None or default.percent == 100)
    )


def _of(rollout: Rollout, build: BuildId) -> list[Assignment]:
    return [one for one in rollout.assignments.values() if one.build == build]


def sign_orders(
    builds: Mapping[PublishedBuild, Share], signer: Signer, now: int, days: int
) -> dict[PublishedBuild, bytes]:
    """Sign the orders of a stick.

    Args:
        builds: The builds, and for whom each is.
        signer: The site's key for answers and orders, which laptops trust.
        now: The present.
        days: How long they are good; never beyond the end of an assignment.

    Raises:
        SiteError: More laptops than an order can name are told to run one build.
    """
    signed = {}
    for build, share in builds.items():
        closes = [one.closes for one in share.assignments if one.closes is not None]
        serials = None if share.serials is None else frozenset(share.serials)
        end = min([now + days * DAY, *closes])
        file = OrderFile(_order(build, share.assignments), now, end, serials)
        try:
            signed[build] = signing.make_order(file, signer.sig01)
        except (ValueError, Malformed) as error:
            count = len(serials or ())
            raise SiteError(
                f"build {build.build}",
                f"one order cannot name {count} laptops",
                "Make a stick for each --group.",
            ) from error
    return signed


def _order(build: PublishedBuild, assignments: Sequence[Assignment]) -> Order:
    """Return the order of several assignments; what one forbids is forbidden."""
    waits = [one.not_before for one in assignments if one.not_before is not None]
    return Order(
        build.build,
        build.contents,
        build.size,
        urls=(),
        allow_downgrade=bool(assignments)
        and all(one.allow_downgrade for one in assignments),
        not_before=max(waits, default=None),
        reboot=assignments[0].reboot if len(assignments) == 1 else Reboot.NEVER,
        sticky=any(one.sticky for one in assignments),
    )
