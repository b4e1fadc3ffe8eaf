"""How a page is shown: to whom, in which language, and what when it cannot be.

Whoever ``status_page`` in site.toml admits may look. Only who knows the password that
`olpc-update-admin password` sets may change anything. The pages need no script.
"""

import contextlib
import ipaddress
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

from flask import Flask, Response, render_template, request
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    InternalServerError,
)
from werkzeug.wrappers import Response as AnyResponse

from olpc_update_query.errors import Malformed, UpdateError
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.ports import Clock
from olpc_update_query.server import steer
from olpc_update_query.server.login import Door, Login, repeats
from olpc_update_query.server.outcomes import outcome_teller
from olpc_update_query.server.overview import moment
from olpc_update_query.server.refusals import (
    NOT_OURS,
    NOT_SHOWN,
    Refused,
    why_failed,
    why_refused,
)
from olpc_update_query.server.site import Audience, Site
from olpc_update_query.server.words import LANGUAGES, speaker

_T = TypeVar("_T")

Reply: TypeAlias = Response | AnyResponse | str

COOKIE: Final = "olpc-update-admin"
"""The cookie of a login."""

FRESH: Final = {"Cache-Control": "no-store, max-age=0", "Expires": "0"}
"""Headers that keep every cache on the way from answering in our place.

They are as short as they can be: RFC 9111 wants no more, and of the caches before it
all heed ``Expires``."""

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_FOR_PROGRAMS: Final = (
    "/builds/",
    "/keys.sig",
    "/status.json",
    "/metrics",
    "/laptops.csv",
)


class Screen:
    """Shows the pages of a site.

    Args:
        site: The site.
        clock: The present.

    Attributes:
        door: Lets somebody in who knows the password.
    """

    def __init__(self, site: Site, clock: Clock) -> None:
        self._site, self._clock = site, clock
        self.door = Door(site.keys, clock.now)

    def add_to(self, app: Flask) -> None:
        """Tell what goes wrong in the application as a page."""
        app.register_error_handler(HTTPException, self._explain)
        app.register_error_handler(UpdateError, self._fail)

    def visitor(self) -> Login | None:
        """Return who looks, None for somebody who may look and not change.

        Raises:
            Forbidden: This address may not even look.
        """
        login = self.door.look(request.cookies.get(COOKIE))
        audience = self._site.settings().status_page
        if login is None and not may_look(audience, request.remote_addr or ""):
            raise Refused(Forbidden.code, NOT_SHOWN)
        return login

    def administrator(self) -> steer.Actor:
        """Return who changes something.

        Raises:
            Forbidden: Nobody is logged in, or the form is not one of ours.
        """
        login = self.door.look(request.cookies.get(COOKIE))
        if login is None or not repeats(login, request.form.get("secret", "")):
            raise Refused(Forbidden.code, NOT_OURS)
        name = f"web_{request.remote_addr or 'unknown'}"
        return steer.Actor(name, self._clock.now())

    def show(
        self,
        template: str,
        login: Login | None,
        status: int | None = None,
        **values: object,
    ) -> Reply:
        """Show a page.

        Args:
            template: Its template.
            login: Who looks at it.
            status: The HTTP status, 200 unless given.
            **values: What the template shows.
        """
        language = visitors_language()
        page = render_template(
            template,
            _=speaker(language),
            ended=outcome_teller(language),
            language=language,
            site=self._site.settings().name,
            root=root_path(),
            login=login,
            can_log_in=self.door.has_password,
            moment=moment,
            **values,
        )
        reply = Response(page, status or 200, FRESH)
        reply.headers["Content-Security-Policy"] = _POLICY
        reply.headers["X-Content-Type-Options"] = "nosniff"
        reply.headers["Referrer-Policy"] = "same-origin"
        return reply

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
                login = self.door.look(request.cookies.get(COOKIE))
                said = {"text": text, "detail": detail}
                return self.show("error.html", login, status, **said)
        return Response(plain, status, FRESH, mimetype="text/plain")


def visitors_language() -> str:
    """Return in which of our languages the visitor reads."""
    return request.accept_languages.best_match(LANGUAGES) or LANGUAGES[0]


def root_path() -> str:
    """Return where the pages begin, with a final slash."""
    return f"{request.environ.get('SCRIPT_NAME', '')}/"


def show_json(value: Json) -> Response:
    """Return a reply that is JSON."""
    data = canonical.encode(value) + b"\n"
    return Response(data, 200, FRESH, mimetype="application/json")


def parsed(parse: Callable[[str], _T], text: str, wrong: str) -> _T:
    """Return what a text means.

    Args:
        parse: Reads it.
        text: What was sent.
        wrong: What is told if it means nothing, of the catalog of words.

    Raises:
        BadRequest: It means nothing.
    """
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
