"""Which laptops somebody wants to see: by a word, or by what is wrong with them."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.overview import Row, row_of
from olpc_update_query.server.records import Concern, State
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.site import Site

PAGE: Final = 100
"""How many laptops stand on a page."""


class Among(StrEnum):
    """Laptops that are found otherwise than by a concern.

    ``never``: listed, and has never asked. ``unlisted``: has asked, and is not listed.
    """

    NEVER = "never"
    UNLISTED = "unlisted"


class Listing(NamedTuple):
    """One page of a list of laptops.

    Attributes:
        rows: The laptops on it, those that asked last first.
        number: How many there are on all pages.
        page: Which page it is, from 1 on.
    """

    rows: list[Row]
    number: int
    page: int

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return max(1, -(-self.number // PAGE))


def parse_among(text: str) -> Concern | Among | None:
    """Return which laptops are meant, None for all of them."""
    known: dict[str, Concern | Among] = {str(one): one for one in (*Concern, *Among)}
    return known.get(text)


def list_laptops(
    site: Site,
    reports: Reports,
    now: int,
    *,
    word: str = "",
    among: Concern | Among | None = None,
    page: int = 1,
) -> Listing:
    """Return a page of a list of laptops, listed or not.

    Args:
        site: The site.
        reports: Its reports.
        now: The present.
        word: What their serial number, name or group must hold, in any case.
        among: Which of them; None for all.
        page: Which page; the nearest that there is.

    Raises:
        DamagedSite: A file of the site is malformed.
        DiskFailed: The reports cannot be read.
    """
    known = site.laptops()
    asked = _of(site, reports, known, among, now)
    found = [serial for serial in asked if _holds(serial, known.get(serial), word)]
    found.sort(key=lambda serial: (-asked[serial], serial))
    page = min(max(page, 1), max(1, -(-len(found) // PAGE)))
    shown = found[(page - 1) * PAGE : page * PAGE]
    states = reports.states(shown)
    rows = [row_of(states.get(one) or State.silent(one), known) for one in shown]
    return Listing(rows, len(found), page)


def _of(
    site: Site,
    reports: Reports,
    known: Mapping[str, Laptop],
    among: Concern | Among | None,
    now: int,
) -> dict[str, int]:
    """Return when each of the laptops that are meant asked last; 0 for never."""
    if isinstance(among, Concern):
        return reports.asked(among, now, site.settings().interval)
    asked = reports.asked()
    if among is Among.UNLISTED:
        return {serial: time for serial, time in asked.items() if serial not in known}
    silent = {serial: 0 for serial in known if serial not in asked}
    return silent if among is Among.NEVER else {**asked, **silent}


def _holds(serial: str, laptop: Laptop | None, word: str) -> bool:
    texts = [serial]
    if laptop is not None:
        texts += [laptop.name or "", laptop.group or ""]
    wanted = word.casefold()
    return not wanted or any(wanted in text.casefold() for text in texts)
