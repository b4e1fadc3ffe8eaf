"""One visitor of the pages at a time, so that laptops are always answered.

A page about thousands of laptops takes as much work as a hundred answers. However many
ask for pages, one thread works at them and two wait; whoever comes then is told to come
again, at once.
"""

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

INSIDE: Final = 3
_FREE: Final = ("/builds/", "/static/", "/keys.sig")
_SAID: Final = b"Too many ask for pages at once; try again in a few seconds.\n"


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
            headers = [("Content-Type", "text/plain"), ("Retry-After", "5")]
            start_response("503 Service Unavailable", headers)
            return [_SAID]
        try:
            with self._turn:
                return self._inner(environ, start_response)
        finally:
            self._room.release()
