"""The brake: the server itself pauses an assignment that goes wrong.

Laptops report with their next query how their last attempt ended. When too large a
share of those that tried a build could not install it, or could not boot it, every
assignment of that build is paused and says why; `resume` lets it go on, and the count
begins anew. Reports are not signed, so an enemy on the network can stop a rollout;
that is the safe side to be wrong on.
"""

import logging
from dataclasses import replace
from typing import Final

from olpc_update_query.errors import UpdateError
from olpc_update_query.model.wire import BuildId
from olpc_update_query.ports import Clock
from olpc_update_query.server.records import Attempt
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import Assignment, Scope
from olpc_update_query.server.rollout_text import with_assignment
from olpc_update_query.server.site import Site

BY: Final = "the server"
LEAST: Final = 5
"""Laptops that must have tried a build before any share of them means something."""

_log = logging.getLogger(__name__)


class Brake:
    """Watches what laptops report.

    Args:
        site: The site.
        reports: Its reports.
        clock: The present.
    """

    def __init__(self, site: Site, reports: Reports, clock: Clock) -> None:
        self._site, self._reports, self._clock = site, reports, clock

    def consider(self, attempt: Attempt) -> None:
        """Look at the shares of a build again, if an attempt at it has failed.

        The report must be on the disk. Whatever goes wrong here is logged: the laptop
        gets its answer.

        Args:
            attempt: What a laptop has just reported.
        """
        if not attempt.failed:
            return
        try:
            for scope, assignment in self._site.rollout().assignments.items():
                if assignment.build == attempt.build and not assignment.paused:
                    self._consider(scope, assignment)
        except UpdateError as error:
            _log.warning("a rollout that fails cannot be paused: %s", error)

    def _consider(self, scope: Scope, assignment: Assignment) -> None:
        since = assignment.changed or 0
        tried, failed = self._reports.attempts(assignment.build, since)
        if tried < LEAST or failed * 100 <= assignment.halt * tried:
            return
        self._halt(scope, assignment.build, f"{failed} of {tried} laptops failed")

    def _halt(self, scope: Scope, build: BuildId, reason: str) -> None:
        with self._site.change(BY, f"halt build {build} for {scope}: {reason}"):
            found = self._site.rollout().assignments.get(scope)
            if found is None or found.build != build or found.paused:
                return  # somebody was quicker
            now = self._clock.now()
            halted = replace(found, paused=True, halted=reason, changed=now, by=BY)
            text = with_assignment(self._site.rollout_text(), scope, halted)
            self._site.save_rollout(text)
        _log.warning("build %s for %s is halted: %s", build, scope, reason)
