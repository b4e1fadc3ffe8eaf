"""The server: answers queries, serves builds, shows how far a rollout has come.

``create_app(site)`` is a WSGI application; ``olpc-update-admin serve`` runs it under
waitress, and any number of copies may run under gunicorn behind nginx::

    gunicorn 'olpc_update_query.server.app:create_app("/srv/site")'
"""

import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Map
from werkzeug.wrappers import Response as AnyResponse

from olpc_update_query.errors import Malformed, UpdateError
from olpc_update_query.model.messages import MAX_QUERY
from olpc_update_query.ports import Clock
from olpc_update_query.server.above import published_statements
from olpc_update_query.server.answers import Answerer
from olpc_update_query.server.controls import Controls
from olpc_update_query.server.downloads import open_published, reply
from olpc_update_query.server.hashcash import Gate
from olpc_update_query.server.keys import LoadedKey
from olpc_update_query.server.pages import Pages
from olpc_update_query.server.replacing import settle_at_start
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.screen import FRESH, Screen, show_json
from olpc_update_query.server.site import Site
from olpc_update_query.server.turnstile import Turnstile
from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.keyring import STATEMENTS
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.rotation import join_statements

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)

Reply: TypeAlias = Response | tuple[str, int]

QUERY_PATH: Final = "/antitheft/1/"
_FRESH: Final = list(FRESH.items())
_TEXT: Final = "text/plain; charset=utf-8"

_HOST: Final = re.compile(
    r"([A-Za-z0-9]([A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?"
)
_LENGTH: Final = re.compile(r"[0-9]{1,9}")


class _Routes(Map):
    """Routes that never redirect: that would name whatever host was asked for."""

    def __init__(self, *, host_matching: bool = False) -> None:
        super().__init__(
            merge_slashes=False, strict_slashes=False, host_matching=host_matching
        )


class _Flask(Flask):
    url_map_class: type[Map] = _Routes


def create_app(site_path: Path | str, clock: Clock | None = None) -> Flask:
    """Make the WSGI application of a site.

    Args:
        site_path: The site's directory.
        clock: The present; the machine's clock unless given.

    Returns:
        The application; ``app.extensions["reports"]`` are its reports, to be closed,
        ``app.extensions["answerer"]`` answers on port 191 as well.

    Raises:
        NoSite: There is no site.
        DamagedSite: A file of it is malformed.
        NotPermitted: The reports belong to somebody else.
    """
    clock = clock or SystemClock()
    site = Site(Path(site_path), clock)
    settings = site.settings()
    site.laptops()
    site.rollout()
    try:
        settle_at_start(site.builds)
    except UpdateError as error:  # `check` says what it means
        _log.warning("what was cut short stays as it is: %s", error)
    reports = Reports(site.reports, patient=True)
    app = _Flask("olpc_update_query.server")
    app.extensions["reports"] = reports
    count = settings.behind_proxies
    answerer = Answerer(site, reports, clock)
    answerer.warm_up()
    app.extensions["answerer"] = answerer
    queries = Queries(Turnstile(app.wsgi_app), site, answerer, clock)
    outer = ProxyFix(queries, x_for=count, x_proto=count, x_host=count)
    # as Flask documents it
    app.wsgi_app = outer if count else queries  # type: ignore[method-assign]
    _add_builds(app, site)
    screen = Screen(site, clock)
    pages = Pages(screen, site, reports, clock)
    for part in (screen, pages, Controls(screen, pages, site, reports)):
        part.add_to(app)
    return app


def _text(text: str, status: int) -> Response:
    return Response(text, status, FRESH, mimetype="text/plain")


class _Said(NamedTuple):
    """What is said to a query."""

    status: str
    body: bytes
    kind: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()


class Queries:
    """Answers queries before Flask sees them, in half the time.

    Args:
        inner: The application for everything else.
        site: The site.
        answerer: Who answers.
        clock: The present.
    """

    def __init__(
        self, inner: "WSGIApplication", site: Site, answerer: Answerer, clock: Clock
    ) -> None:
        self._inner, self._answerer, self._clock = inner, answerer, clock
        self._site, self._gate = site, Gate(LoadedKey(site, Role.OATS))

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Serve a request."""
        if environ.get("PATH_INFO") != QUERY_PATH:
            return self._inner(environ, start_response)
        if environ["REQUEST_METHOD"] != "POST":
            said = _Said("405 Method Not Allowed", b"POST a query here\n")
        else:
            said = self._serve(environ)
        headers = [*_FRESH, *said.headers, ("Content-Type", said.kind)]
        headers.append(("Content-Length", str(len(said.body))))
        start_response(said.status, headers)
        return [said.body]

    def _serve(self, environ: "WSGIEnvironment") -> _Said:
        length = environ.get("CONTENT_LENGTH") or ""
        if not _LENGTH.fullmatch(length) or int(length) > MAX_QUERY:
            text = f"a query has at most {MAX_QUERY} bytes\n"
            return _Said("413 Content Too Large", text.encode())
        scheme, host = environ["wsgi.url_scheme"], environ.get("HTTP_HOST", "")
        base = base_url(scheme, host, environ.get("SCRIPT_NAME", ""))
        if base is None:
            return _Said("400 Bad Request", b"the Host header is no host name\n")
        body = environ["wsgi.input"].read(int(length))
        try:
            return self._ask_for_work(environ, body) or self._answer(
                body, base, environ.get("REMOTE_ADDR", "")
            )
        except Malformed as error:
            return _Said("400 Bad Request", f"{error}\n".encode())
        except UpdateError as error:
            _log.warning("%s; %s", error, error.hint())
            return _Said("503 Service Unavailable", b"this server cannot sign now\n")

    def _ask_for_work(self, environ: "WSGIEnvironment", body: bytes) -> _Said | None:
        """Say what has to be done first, None when it was done or need not be."""
        now = self._clock.now()
        bits = self._site.view(now).settings.hashcash_bits
        shown = environ.get("HTTP_AUTHORIZATION", "")
        if not bits or self._gate.admits(bits, body, shown, now):
            return None
        challenge = self._gate.challenge(bits, body, now).header()
        named = (("WWW-Authenticate", challenge),)
        return _Said("401 Hashcash required.", b"hashcash required\n", headers=named)

    def _answer(self, body: bytes, base: str, address: str) -> _Said:
        signed = self._answerer.answer(body, base=base, address=address)
        if signed is None:
            return _Said("404 Not Found", b"this laptop is not known here\n")
        return _Said("200 OK", signed, "application/json")


@lru_cache(256)
def base_url(scheme: str, host: str, prefix: str) -> str | None:
    """Return the URL by which this server was called, with a final slash.

    Args:
        scheme: ``http`` or ``https``.
        host: The Host header, with the port if there is one.
        prefix: Where the application is mounted.

    Returns:
        The URL; None when the header is no host name.
    """
    if scheme not in {"http", "https"} or not _HOST.fullmatch(host):
        return None
    return f"{scheme}://{host}{prefix}/"


def _add_builds(app: Flask, site: Site) -> None:
    @app.get(f"/{STATEMENTS}")
    def statements() -> Reply:
        made = published_statements(site)
        if not made:
            return _text("no key has changed here\n", 404)
        data = join_statements(one.raw for one in made)
        return Response(data, 200, FRESH, mimetype="application/json")

    @app.get("/builds/")
    def builds() -> Reply:
        return show_json([str(build) for build in site.build_names()])

    @app.get("/builds/<path:_name>")
    def published(_name: str) -> AnyResponse:
        # the bytes as they were asked for: file names need not be UTF-8
        path = request.environ["PATH_INFO"].encode("latin-1")
        found = open_published(site, path.removeprefix(b"/builds/"))
        if found is None:
            return _text("no such file is published here\n", 404)
        return reply(found, request.environ)
