"""What NetworkManager's properties mean to somebody who wants to ask a server.

Pure, and for any order of changes: NetworkManager says 70 ("connected") again each
time it looks, and 60 before it knows whether there is a portal.
"""

from collections.abc import Mapping
from typing import NamedTuple

from olpc_update_query.policy.schedule import Trigger

CONNECTED = 50  # NM_STATE_CONNECTED_LOCAL: a school server needs no more
PORTAL, FULL = 2, 4  # NMConnectivityState
METERED = (1, 3)  # NMMetered: yes, and guessed yes


class Link(NamedTuple):
    """The properties of NetworkManager that matter.

    Attributes:
        state: ``State``.
        connectivity: ``Connectivity``; 0 where it is never checked.
        primary: ``PrimaryConnection``, an object path; ``/`` for none.
        metered: ``Metered``.
    """

    state: int = 0
    connectivity: int = 0
    primary: str = "/"
    metered: int = 0

    def merged(self, changed: Mapping[str, object]) -> "Link":
        """Return it with properties that have changed, by their names on the bus."""
        return Link(
            state=int(str(changed.get("State", self.state))),
            connectivity=int(str(changed.get("Connectivity", self.connectivity))),
            primary=str(changed.get("PrimaryConnection", self.primary)),
            metered=int(str(changed.get("Metered", self.metered))),
        )

    @property
    def is_usable(self) -> bool:
        """Whether a server may be in reach, if only the school's."""
        return self.state >= CONNECTED and self.connectivity != PORTAL


class LinkWatch:
    """Tells which changes of the link are a trigger."""

    def __init__(self) -> None:
        self.link: Link | None = None
        self._portal, self._was_metered = "", False

    def see(self, link: Link) -> Trigger | None:
        """Take note of the link as it is now.

        Returns:
            PORTAL when a captive portal has begun to let us through, GATE when the
            link is metered no more, or is another one that is not, NETWORK when there
            is another link or a better one, None for everything else.
        """
        before, self.link = self.link or Link(), link
        if link.connectivity == PORTAL and link.state >= CONNECTED:
            self._portal = link.primary
        elif link.state < CONNECTED or link.primary != self._portal:
            self._portal = ""
        if not link.is_usable:
            return None
        if self._portal:
            return self._leave_portal(link)
        was_metered, self._was_metered = self._was_metered, link.metered in METERED
        if was_metered and not self._was_metered:
            return Trigger.GATE
        return Trigger.NETWORK if _is_better(link, before) else None

    def _leave_portal(self, link: Link) -> Trigger | None:
        """Believe that a portal lets us through when NetworkManager has seen it."""
        if link.connectivity != FULL:
            return None
        self._portal = ""
        return Trigger.PORTAL

    def forget(self) -> None:
        """Know nothing about the link: NetworkManager is gone."""
        self.link, self._portal, self._was_metered = None, "", False


def _is_better(link: Link, before: Link) -> bool:
    if not before.is_usable or link.primary != before.primary:
        return True
    return link.connectivity == FULL != before.connectivity
