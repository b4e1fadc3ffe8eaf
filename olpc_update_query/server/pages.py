"""The pages: what the administrator sees in a browser, and may change there.

Whoever ``status_page`` in site.toml admits may look. Only who knows the password that
`olpc-update-admin password` sets may change anything. The pages need no script.
"""

import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, TypeVar

from flask import Flask, Response, redirect, render_template, request
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    InternalServerError,
    NotFound,
    TooManyRequests,
)
from werkzeug.wrappers import Response as AnyResponse

from olpc_update_query.errors import Malformed, UpdateError
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.wire import parse_build_id
from olpc_update_query.ports import Clock
from olpc_update_query.server import steer
from olpc_update_query.server.exports import csv_lines, metrics
from olpc_update_query.server.forms import LeaseForm, value_of, wrong_timezone
from olpc_update_query.server.laptops import (
    Laptop,
    normal_serial,
    parse_group,
    parse_stream,
)
from olpc_update_query.server.login import Door, Login, TooManyTriesError, repeats
from olpc_update_query.server.outcomes import outcome_teller
from olpc_update_query.server.overview import (
    Overview,
    look,
    look_at,
    moment,
    row_of,
    rows,
)
from olpc_update_query.server.records import Concern
from olpc_update_query.server.refusals import (
    NO_BUILD,
    NO_LAPTOP,
    NO_PERCENTAGE,
    NO_SERIAL,
    NOBODY,
    NOT_OURS,
    NOT_SHOWN,
    Refused,
    why_failed,
    why_refused,
)
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Kind, Scope
from olpc_update_query.server.site import Audience, Site
from olpc_update_query.server.words import LANGUAGES, speaker

_T = TypeVar("_T")

Reply: TypeAlias = Response | AnyResponse | str

FRESH: Final = {"Cache-Control": "no-store, max-age=0", "Expires": "0"}
"""Headers that keep every cache on the way from answering in our place.

They are as short as they can be: RFC 9111 wants no more, and of the caches before it
all heed ``Expires``."""

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_COOKIE: Final = "olpc-update-admin"
_FOUND: Final = 200
_SPOKEN: Final = frozenset({"because", "leases", "leases_because", "last_lease"})
_FOR_PROGRAMS: Final = (
    "/builds/",
    "/keys.sig",
    "/status.json",
    "/metrics",
    "/laptops.csv",
)
_TROUBLES: Final = {
    Concern.FAILING: "Update failed",
    Concern.STUCK: "Told for days to update, and has not",
    Concern.ENDING: "Lease ends within a week",
    Concern.OVERDUE: "Has not asked for days",
}


class Pages:
    """The pages of a site.

    Args:
        site: The site.
        reports: Its reports.
        clock: The present.
    """

    def __init__(self, site: Site, reports: Reports, clock: Clock) -> None:
        self._site, self._reports, self._clock = site, reports, clock
        self._door = Door(site.keys, clock.now)

    def add_to(self, app: Flask) -> None:
        """Add the pages to the application."""
        for path, show in (
            ("/", self.index),
            ("/status.json", self.status),
            ("/metrics", self.metrics),
            ("/laptops", self.laptops),
            ("/laptops.csv", self.export),
            ("/laptops/<serial>", self.laptop),
            ("/login", self.login_form),
        ):
            app.get(path)(show)
        for path, change in (
            ("/login", self.log_in),
            ("/logout", self.log_out),
            ("/assign", self.assign),
            ("/pause", self.pause),
            ("/stolen", self.stolen),
            ("/approve", self.approve),
            ("/leases", self.leases),
            ("/timezone", self.timezone),
        ):
            app.post(path)(change)
        app.register_error_handler(HTTPException, self._explain)
        app.register_error_handler(UpdateError, self._fail)

    # --- what went wrong ----------------------------------------------------------

    def _explain(self, error: HTTPException) -> Reply:
        """Tell what was wrong with a request: to a person as a page."""
        return self._tell(error.code or 500, f"{error.name}\n", why_refused(error))

    def _fail(self, error: UpdateError) -> Reply:
        """Tell a failure of the site's files, or of what somebody asked for."""
        status, text = why_failed(error)
        detail = str(error) if status == InternalServerError.code else ""
        return self._tell(status, f"{error}\n{error.hint()}\n", text, detail)

    def _tell(self, status: int, plain: str, text: str, detail: str = "") -> Reply:
        if not request.path.startswith(_FOR_PROGRAMS):
            with contextlib.suppress(UpdateError):  # site.toml itself is damaged
                login = self._door.look(request.cookies.get(_COOKIE))
                said = {"text": text, "detail": detail}
                return self._page("error.html", login, status, **said)
        return Response(plain, status, FRESH, mimetype="text/plain")

    # --- looking ------------------------------------------------------------------

    def index(self) -> Reply:
        """Show who runs what, and whom somebody should look at."""
        return self._index(self._visitor())

    def _index(
        self,
        login: Login | None,
        form: LeaseForm | None = None,
        timezone: str = "",
        wrong: Mapping[str, str] | None = None,
    ) -> Reply:
        """Show the first page, with what is wrong beside the fields of a form."""
        view = self._look()
        return self._page(
            "index.html",
            login,
            BadRequest.code if wrong else None,
            view=view,
            total=sum(view.running.values()),
            troubles=_TROUBLES,
            whom=self._whom(),
            value_of=value_of,
            form=form,
            timezone=timezone or view.timezone,
            wrong=wrong or {},
        )

    def status(self) -> Reply:
        """Tell the same to programs."""
        self._visitor()
        return show_json(self._look().to_json())

    def metrics(self) -> Reply:
        """Tell the numbers, as Prometheus reads them."""
        self._visitor()
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(metrics(self._look()), 200, FRESH, content_type=kind)

    def laptops(self) -> Reply:
        """List the laptops whose serial number holds what somebody searches for."""
        login, wanted = self._visitor(), request.args.get("q", "")[:64].strip()
        self._reports.flush()
        found = rows(self._reports.search(wanted, _FOUND), self._site.laptops())
        return self._page("laptops.html", login, found=found, wanted=wanted)

    def laptop(self, serial: str) -> Reply:
        """Show everything about one laptop."""
        login = self._visitor()
        self._reports.flush()
        known, named = self._site.laptops(), _parsed(normal_serial, serial, NO_SERIAL)
        state = self._reports.state(named)
        if named not in known and state is None:
            raise Refused(NotFound.code, NO_LAPTOP)
        laptop = known.get(named, Laptop(named))
        facts = look_at(self._site, self._reports, laptop, self._clock.now())
        events = facts.pop("events")
        return self._page(
            "laptop.html",
            login,
            laptop=laptop,
            state=state,
            spoken=_SPOKEN,
            is_listed=named in known,
            facts=facts,
            events=events,
        )

    def export(self) -> Reply:
        """Hand out the list of laptops as a table for a spreadsheet."""
        self._visitor()
        self._reports.flush()
        known = self._site.laptops()
        found = (row_of(state, known) for state in self._reports.every())
        headers = {**FRESH, "Content-Disposition": "attachment; filename=laptops.csv"}
        return Response(csv_lines(found), 200, headers, mimetype="text/csv")

    def _visitor(self) -> Login | None:
        """Return who looks, None for somebody who may look and not change.

        Raises:
            Forbidden: This address may not even look.
        """
        login = self._door.look(request.cookies.get(_COOKIE))
        audience = self._site.settings().status_page
        if login is None and not may_look(audience, request.remote_addr or ""):
            raise Refused(Forbidden.code, NOT_SHOWN)
        return login

    def _look(self) -> Overview:
        return look(self._site, self._reports, self._clock.now())

    # --- the login ----------------------------------------------------------------

    def login_form(self) -> Reply:
        """Ask for the password."""
        return self._page("login.html", None, wrong="")

    def log_in(self) -> Reply:
        """Let somebody in who knows the password."""
        address = request.remote_addr or ""
        try:
            token = self._door.open(request.form.get("password", ""), address)
        except TooManyTriesError:
            wrong = "Too many wrong passwords; try again in a few minutes."
            return self._page("login.html", None, TooManyRequests.code, wrong=wrong)
        if token is None:
            wrong = "That was not the password."
            return self._page("login.html", None, Forbidden.code, wrong=wrong)
        reply = redirect(_root(), 303)
        reply.set_cookie(
            _COOKIE,
            token,
            path=_root(),
            httponly=True,
            secure=request.is_secure,
            samesite="Strict",
        )
        return reply

    def log_out(self) -> Reply:
        """Forget the login in this browser."""
        self._administrator()
        reply = redirect(_root(), 303)
        reply.delete_cookie(_COOKIE, path=_root())
        return reply

    # --- changing -----------------------------------------------------------------

    def assign(self) -> Reply:
        """Let laptops run a build."""
        actor = self._administrator()
        scope = _scope() or DEFAULT
        build = _parsed(parse_build_id, _field("build"), NO_BUILD)
        percent = _field("percent")
        if not percent.isdecimal() or int(percent) > 100:
            raise Refused(BadRequest.code, NO_PERCENTAGE)
        steer.assign(self._site, actor, scope, build, int(percent))
        return redirect(_root(), 303)

    def pause(self) -> Reply:
        """Pause or resume an assignment, or everything."""
        paused = _field("paused") == "yes"
        steer.pause(self._site, self._administrator(), _scope(), paused=paused)
        return redirect(_root(), 303)

    def stolen(self) -> Reply:
        """Mark a laptop as stolen, or as found again."""
        actor = self._administrator()
        serial = _parsed(normal_serial, _field("serial"), NO_SERIAL)
        is_stolen = _field("stolen") == "yes"
        steer.mark_stolen(self._site, actor, serial, stolen=is_stolen)
        return redirect(f"{_root()}laptops/{serial}", 303)

    def approve(self) -> Reply:
        """List a laptop that has asked."""
        actor = self._administrator()
        serial = _parsed(normal_serial, _field("serial"), NO_SERIAL)
        if self._reports.state(serial) is None:
            raise Refused(NotFound.code, NO_LAPTOP)
        steer.approve(self._site, actor, [serial])
        return redirect(_root(), 303)

    def leases(self) -> Reply:
        """Say how long the leases of some laptops last."""
        actor, rules = self._administrator(), self._site.settings().lease_rules
        form = LeaseForm.read(request.form, self._whom(), rules)
        if form.wrong:
            return self._index(self._visitor(), form, wrong=form.wrong)
        if form.clear:
            steer.clear_lease_policy(self._site, actor, form.whom)
        else:
            days, shorten = int(form.days), form.shorten
            steer.set_lease_policy(
                self._site, actor, form.whom, days=days, shorten=shorten
            )
        return redirect(f"{_root()}#leases", 303)

    def timezone(self) -> Reply:
        """Say where the school is."""
        actor, name = self._administrator(), _field("timezone")
        wrong = wrong_timezone(name)
        if wrong:
            return self._index(self._visitor(), timezone=name, wrong=wrong)
        steer.set_timezone(self._site, actor, name)
        return redirect(f"{_root()}#leases", 303)

    def _whom(self) -> list[Scope]:
        """Return for whom there can be leases of another length."""
        laptops = self._site.laptops().values()
        groups = {Scope(Kind.GROUP, one.group) for one in laptops if one.group}
        streams = {Scope(Kind.STREAM, one.stream) for one in laptops if one.stream}
        rules = self._site.settings().lease_rules
        return [DEFAULT, *sorted({*groups, *streams, *rules})]

    def _administrator(self) -> steer.Actor:
        """Return who changes something.

        Raises:
            Forbidden: Nobody is logged in, or the form is not one of ours.
        """
        login = self._door.look(request.cookies.get(_COOKIE))
        if login is None or not repeats(login, request.form.get("secret", "")):
            raise Refused(Forbidden.code, NOT_OURS)
        name = f"web_{request.remote_addr or 'unknown'}"
        return steer.Actor(name, self._clock.now())

    # --- showing ------------------------------------------------------------------

    def _page(
        self,
        template: str,
        login: Login | None,
        status: int | None = None,
        **values: object,
    ) -> Reply:
        language = request.accept_languages.best_match(LANGUAGES) or LANGUAGES[0]
        page = render_template(
            template,
            _=speaker(language),
            ended=outcome_teller(language),
            language=language,
            site=self._site.settings().name,
            root=_root(),
            login=login,
            can_log_in=self._door.has_password,
            moment=moment,
            **values,
        )
        reply = Response(page, status or 200, FRESH)
        reply.headers["Content-Security-Policy"] = _POLICY
        reply.headers["X-Content-Type-Options"] = "nosniff"
        reply.headers["Referrer-Policy"] = "same-origin"
        return reply


def _root() -> str:
    return f"{request.environ.get('SCRIPT_NAME', '')}/"


def show_json(value: Json) -> Response:
    """Return a reply that is JSON."""
    data = canonical.encode(value) + b"\n"
    return Response(data, 200, FRESH, mimetype="application/json")


def _field(name: str) -> str:
    return request.form.get(name, "").strip()[:256]


def _scope() -> Scope | None:
    """Return for whom a form is; None for everybody.

    Raises:
        BadRequest: It says so in no way that we know.
    """
    kind, name = _field("kind"), _field("name")
    parse = {
        str(Kind.SERIAL): normal_serial,
        str(Kind.GROUP): parse_group,
        str(Kind.STREAM): parse_stream,
    }.get(kind)
    if parse is not None:
        return Scope(Kind(kind), _parsed(parse, name, NOBODY))
    if kind == Kind.DEFAULT:
        return DEFAULT
    if kind:
        raise Refused(BadRequest.code, NOBODY)
    return None


def _parsed(parse: Callable[[str], _T], text: str, wrong: str) -> _T:
    try:
        return parse(text)
    except Malformed as error:
        raise Refused(BadRequest.code, wrong) from error


def may_look(audience: Audience, address: str) -> bool:
    """Tell whether somebody may see the pages.

    Args:
        audience: Who may.
        address: Where the request comes from.
    """
    if audience is not Audience.PRIVATE:
        return audience is Audience.EVERYONE
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_private)
