"""One visitor of the pages at a time, so that laptops are always answered.

A page about thousands of laptops takes as much work as a hundred answers. However many
ask for pages, one thread works at them and two wait; whoever comes then is told to come
again, at once.
"""

import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from olpc_update_query.server.words import LANGUAGES, speaker

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

INSIDE: Final = 3
_FREE: Final = ("/builds/", "/static/", "/keys.sig")
_LONGEST: Final = 64
_SAID: Final = "Too many ask for pages at once; try again in a few seconds."


@lru_cache(64)
def _told(languages: str) -> bytes:
    """Return what is told to somebody who reads these languages."""
    wanted = parse_accept_header(languages, LanguageAccept)
    language = wanted.best_match(LANGUAGES) or LANGUAGES[0]
    return f"{speaker(language)(_SAID)}\n".encode()


class Turnstile:
    """Lets requests for pages in one after the other.

    Args:
        inner: The application.
    """

    def __init__(self, inner: "WSGIApplication") -> None:
        self._inner = inner
        self._room, self._turn = threading.Semaphore(INSIDE), threading.Lock()

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        """Serve a request; its body must be whole when the application returns."""
        if environ.get("PATH_INFO", "").startswith(_FREE):
            return self._inner(environ, start_response)
        if not self._room.acquire(blocking=False):
            kind = "text/plain; charset=utf-8"
            headers = [("Content-Type", kind), ("Retry-After", "5")]
            start_response("503 Service Unavailable", headers)
            return [_told(environ.get("HTTP_ACCEPT_LANGUAGE", "")[:_LONGEST])]
        try:
            with self._turn:
                return self._inner(environ, start_response)
        finally:
            self._room.release()
