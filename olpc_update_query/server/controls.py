"""The controls on the pages: what whoever knows the password may change there."""

from flask import Flask, redirect, request
from werkzeug.exceptions import BadRequest, Conflict, NotFound

from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.server import steer
from olpc_update_query.server.forms import (
    AssignForm,
    LeaseForm,
    parse_scope,
    wrong_timezone,
)
from olpc_update_query.server.laptops import normal_serial, parse_group
from olpc_update_query.server.pages import Pages
from olpc_update_query.server.refusals import (
    NO_BUILD,
    NO_LAPTOP,
    NO_SERIAL,
    NOBODY,
    Refused,
)
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import Kind, Scope
from olpc_update_query.server.screen import Reply, Screen, parsed, root_path
from olpc_update_query.server.site import Site


class Controls:
    """Changes a site as the forms of its pages say.

    Args:
        screen: Knows who is logged in.
        pages: Show a form again that says something wrong.
        site: The site.
        reports: Its reports.
    """

    def __init__(
        self, screen: Screen, pages: Pages, site: Site, reports: Reports
    ) -> None:
        self._screen, self._pages = screen, pages
        self._site, self._reports = site, reports

    def add_to(self, app: Flask) -> None:
        """Add them to the application."""
        for path, change in (
            ("/assign", self.assign),
            ("/unassign", self.unassign),
            ("/pause", self.pause),
            ("/stolen", self.stolen),
            ("/pin", self.pin),
            ("/approve", self.approve),
            ("/leases", self.leases),
            ("/timezone", self.timezone),
        ):
            app.post(path)(change)

    def assign(self) -> Reply:
        """Let laptops run a build."""
        actor = self._screen.administrator()
        builds, known = self._site.build_names(), self._pages.whom()
        form = AssignForm.read(request.form, builds, known)
        if form.wrong:
            return self._pages.show_index(assign=form, wrong=form.wrong)
        build, percent = parse_build_id(form.build), int(form.percent)
        steer.assign(self._site, actor, form.scope, build, percent, **form.window)
        return redirect(root_path(), 303)

    def unassign(self) -> Reply:
        """Take an assignment away."""
        actor, scope = self._screen.administrator(), _scope()
        if scope is None:
            raise Refused(BadRequest.code, NOBODY)
        steer.unassign(self._site, actor, scope)
        return redirect(root_path(), 303)

    def pause(self) -> Reply:
        """Pause or resume an assignment, or everything."""
        paused = _field("paused") == "yes"
        steer.pause(self._site, self._screen.administrator(), _scope(), paused=paused)
        return redirect(root_path(), 303)

    def stolen(self) -> Reply:
        """Mark a laptop as stolen, or as found again."""
        actor = self._screen.administrator()
        serial = parsed(normal_serial, _field("serial"), NO_SERIAL)
        is_stolen = _field("stolen") == "yes"
        steer.mark_stolen(self._site, actor, serial, stolen=is_stolen)
        return redirect(f"{root_path()}laptops/{serial}", 303)

    def pin(self) -> Reply:
        """Let a laptop keep the build that it runs, or follow the others again."""
        actor = self._screen.administrator()
        serial = parsed(normal_serial, _field("serial"), NO_SERIAL)
        if _field("pin") != "yes":
            steer.unassign(self._site, actor, Scope(Kind.SERIAL, serial))
        else:
            state = self._reports.states([serial]).get(serial)
            if state is None or state.build is None:
                raise Refused(Conflict.code, NO_BUILD)
            steer.pin(self._site, actor, serial, parse_build_id(state.build))
        return redirect(f"{root_path()}laptops/{serial}", 303)

    def approve(self) -> Reply:
        """List laptops that have asked."""
        actor, group = self._screen.administrator(), _field("group") or None
        if group is not None:
            parsed(parse_group, group, NOBODY)
        serials = [
            parsed(normal_serial, text.strip(), NO_SERIAL)
            for text in request.form.getlist("serial")
        ]
        asked = self._reports.states(serials)
        if not serials or any(serial not in asked for serial in serials):
            raise Refused(NotFound.code, NO_LAPTOP)
        steer.approve(self._site, actor, serials, group)
        return redirect(f"{root_path()}laptops?among=unlisted", 303)

    def leases(self) -> Reply:
        """Say how long the leases of some laptops last."""
        actor, rules = self._screen.administrator(), self._site.settings().lease_rules
        form = LeaseForm.read(request.form, self._pages.whom(), rules)
        if form.wrong:
            return self._pages.show_index(form, wrong=form.wrong)
        if form.clear:
            steer.clear_lease_policy(self._site, actor, form.whom)
        else:
            days, shorten = int(form.days), form.shorten
            steer.set_lease_policy(
                self._site, actor, form.whom, days=days, shorten=shorten
            )
        return redirect(f"{root_path()}#leases", 303)

    def timezone(self) -> Reply:
        """Say where the school is."""
        actor, name = self._screen.administrator(), _field("timezone")
        wrong = wrong_timezone(name)
        if wrong:
            return self._pages.show_index(timezone=name, wrong=wrong)
        steer.set_timezone(self._site, actor, name)
        return redirect(f"{root_path()}#leases", 303)


def _field(name: str) -> str:
    return request.form.get(name, "").strip()[:256]


def _scope() -> Scope | None:
    """Return which assignment a form names; None for everything.

    Raises:
        BadRequest: It says so in no way that we know.
    """
    kind = _field("kind")
    scope = parse_scope(kind, _field("name"))
    if kind and scope is None:
        raise Refused(BadRequest.code, NOBODY)
    return scope
