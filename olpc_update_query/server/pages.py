"""The pages: what somebody sees in a browser.

``controls`` is what may be changed there, ``screen`` how a page is shown.
"""

import contextlib
from collections.abc import Mapping
from typing import Final

from flask import Flask, Response, redirect, request
from werkzeug.exceptions import BadRequest, Forbidden, NotFound, TooManyRequests

from olpc_update_query.errors import UpdateError
from olpc_update_query.ports import Clock
from olpc_update_query.server.changelog import latest_changes
from olpc_update_query.server.delegations import Ending, file_name
from olpc_update_query.server.exports import csv_table, metrics
from olpc_update_query.server.forms import AssignForm, LeaseForm, time_value, value_of
from olpc_update_query.server.keys import LoadedKey
from olpc_update_query.server.laptops import Laptop, normal_serial
from olpc_update_query.server.listing import (
    Among,
    list_laptops,
    parse_among,
)
from olpc_update_query.server.login import TooManyTriesError
from olpc_update_query.server.overview import (
    LATEST,
    Overview,
    for_people,
    look,
    look_at,
    row_of,
)
from olpc_update_query.server.records import Concern, State
from olpc_update_query.server.refusals import NO_LAPTOP, NO_SERIAL, Refused
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Kind, Scope
from olpc_update_query.server.screen import (
    COOKIE,
    FRESH,
    Reply,
    Screen,
    parsed,
    root_path,
    show_json,
    visitors_language,
)
from olpc_update_query.server.site import Site
from olpc_update_query.trust.keys import Role

_SHOWN: Final = 5
"""How many laptops of a kind are on the first page; a link leads to all of them."""
_CHANGES: Final = 200
_SPOKEN: Final = frozenset({"because", "leases", "leases_because", "last_lease"})
_KINDS: Final = {
    Kind.DEFAULT: "all",
    Kind.STREAM: "stream",
    Kind.GROUP: "group",
    Kind.SERIAL: "serial",
}
_TROUBLES: Final[Mapping[Concern | Among, str]] = {
    Concern.FAILING: "Update failed",
    Concern.STUCK: "Told for days to update, and has not",
    Concern.ENDING: "Lease ends within a week",
    Concern.OVERDUE: "Has not asked for days",
    Among.UNLISTED: "Not in laptops.csv",
    Among.NEVER: "Has never asked",
}


class Pages:
    """The pages of a site.

    Args:
        screen: Shows them.
        site: The site.
        reports: Its reports.
        clock: The present.
    """

    def __init__(
        self, screen: Screen, site: Site, reports: Reports, clock: Clock
    ) -> None:
        self._screen, self._site = screen, site
        self._reports, self._clock = reports, clock
        self._keys = {role: LoadedKey(site, role) for role in Role}

    def add_to(self, app: Flask) -> None:
        """Add the pages to the application."""
        for path, show in (
            ("/", self.index),
            ("/status.json", self.status),
            ("/metrics", self.metrics),
            ("/laptops", self.laptops),
            ("/laptops.csv", self.export),
            ("/laptops/<serial>", self.laptop),
            ("/changes", self.changes),
            ("/login", self.login_form),
        ):
            app.get(path)(show)
        for path, change in (("/login", self.log_in), ("/logout", self.log_out)):
            app.post(path)(change)

    def index(self) -> Reply:
        """Show who runs what, and whom somebody should look at."""
        return self.show_index()

    def show_index(
        self,
        form: LeaseForm | None = None,
        timezone: str = "",
        assign: AssignForm | None = None,
        wrong: Mapping[str, str] | None = None,
    ) -> Reply:
        """Show the first page.

        Args:
            form: What a form says about leases.
            timezone: What a form says about the time zone.
            assign: What a form says about a build for laptops.
            wrong: What is wrong with one of them, to be told beside the fields.
        """
        login, view = self._screen.visitor(), self._look(_SHOWN)
        sums = {str(one.concern): one.number for one in view.troubles}
        sums |= {str(Among.UNLISTED): view.strangers, str(Among.NEVER): view.silent}
        return self._screen.show(
            "index.html",
            login,
            BadRequest.code if wrong else None,
            view=view,
            total=sum(view.running.values()),
            troubles=_TROUBLES,
            sums=sums,
            whom=self.whom(),
            value_of=value_of,
            time_value=time_value,
            form=form,
            timezone=timezone or view.timezone,
            assign=assign or AssignForm(),
            kinds=_KINDS,
            wrong=wrong or {},
            ending=self._ending(view.time),
        )

    def status(self) -> Reply:
        """Tell the same to programs."""
        self._screen.visitor()
        return show_json(self._look().to_json())

    def metrics(self) -> Reply:
        """Tell the numbers, as Prometheus reads them."""
        self._screen.visitor()
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(metrics(self._look()), 200, FRESH, content_type=kind)

    def laptops(self) -> Reply:
        """List laptops: all, those that hold a word, or those to be looked at."""
        login, wanted = self._screen.visitor(), request.args.get("q", "")[:64].strip()
        among = parse_among(request.args.get("among", ""))
        self._reports.flush()
        found = list_laptops(
            self._site,
            self._reports,
            self._clock.now(),
            word=wanted,
            among=among,
            page=request.args.get("page", 1, type=_page),
        )
        title = "Laptops" if among is None else _TROUBLES[among]
        return self._screen.show(
            "laptops.html",
            login,
            found=found,
            wanted=wanted,
            among=among,
            heading=title,
            is_unlisted=among is Among.UNLISTED,
        )

    def changes(self) -> Reply:
        """List what was changed last, by whom."""
        login = self._screen.visitor()
        changes = latest_changes(self._site.path, _CHANGES)
        return self._screen.show("changes.html", login, changes=changes)

    def laptop(self, serial: str) -> Reply:
        """Show everything about one laptop."""
        login = self._screen.visitor()
        self._reports.flush()
        known, named = self._site.laptops(), parsed(normal_serial, serial, NO_SERIAL)
        state = self._reports.state(named)
        if named not in known and state is None:
            raise Refused(NotFound.code, NO_LAPTOP)
        laptop = known.get(named, Laptop(named))
        found = look_at(self._site, self._reports, laptop, self._clock.now())
        facts = for_people(found)
        events = facts.pop("events")
        return self._screen.show(
            "laptop.html",
            login,
            laptop=laptop,
            state=state,
            spoken=_SPOKEN,
            is_listed=named in known,
            is_single=Scope(Kind.SERIAL, named) in self._site.rollout().assignments,
            facts=facts,
            events=events,
        )

    def export(self) -> Reply:
        """Hand out the list of laptops as a table for a spreadsheet."""
        self._screen.visitor()
        self._reports.flush()
        known, language = self._site.laptops(), visitors_language()
        found = [row_of(state, known) for state in self._reports.every()]
        silent = sorted(known.keys() - {row.state.serial for row in found})
        found += [row_of(State.silent(serial), known) for serial in silent]
        headers = {**FRESH, "Content-Disposition": "attachment; filename=laptops.csv"}
        # by this mark spreadsheets know UTF-8; programs name no language
        mark = "\ufeff" if request.accept_languages else ""
        text = mark + csv_table(found, language)
        return Response(text, 200, headers, mimetype="text/csv")

    def _look(self, shown: int = LATEST) -> Overview:
        return look(self._site, self._reports, self._clock.now(), shown)

    def _ending(self, now: int) -> dict[str, Ending]:
        """Return which delegations end soon, by the name of their file."""
        found: dict[str, Ending] = {}
        for role, key in self._keys.items():
            with contextlib.suppress(UpdateError):  # of which `check` tells
                if soon := key.get(now).ending(now):
                    found[file_name(role)] = soon
        return found

    def whom(self) -> list[Scope]:
        """Return for whom something can be said: groups and streams, and all others."""
        laptops = self._site.laptops().values()
        groups = {Scope(Kind.GROUP, one.group) for one in laptops if one.group}
        streams = {Scope(Kind.STREAM, one.stream) for one in laptops if one.stream}
        rules = self._site.settings().lease_rules
        return [DEFAULT, *sorted({*groups, *streams, *rules})]

    # --- the login ----------------------------------------------------------------

    def login_form(self) -> Reply:
        """Ask for the password."""
        return self._screen.show("login.html", None, wrong="")

    def log_in(self) -> Reply:
        """Let somebody in who knows the password."""
        address = request.remote_addr or ""
        try:
            token = self._screen.door.open(request.form.get("password", ""), address)
        except TooManyTriesError:
            wrong = "Too many wrong passwords; try again in a few minutes."
            return self._ask_again(TooManyRequests.code, wrong)
        if token is None:
            wrong = "That was not the password."
            return self._ask_again(Forbidden.code, wrong)
        reply = redirect(root_path(), 303)
        reply.set_cookie(
            COOKIE,
            token,
            path=root_path(),
            httponly=True,
            secure=request.is_secure,
            samesite="Strict",
        )
        return reply

    def _ask_again(self, status: int, wrong: str) -> Reply:
        return self._screen.show("login.html", None, status, wrong=wrong)

    def log_out(self) -> Reply:
        """Forget the login in this browser."""
        self._screen.administrator()
        reply = redirect(root_path(), 303)
        reply.delete_cookie(COOKIE, path=root_path())
        return reply


def _page(text: str) -> int:
    """Read the number of a page.

    Raises:
        ValueError: It is none.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise ValueError("no page")
    return int(text)
