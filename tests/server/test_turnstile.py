"""However many want pages, threads are left for laptops."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from werkzeug.test import Client

from olpc_update_query.server.turnstile import INSIDE, Turnstile

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Slow:
    """An application that works until it is let go, and counts who is in it."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)
        self.inside = self.most = 0

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/broken":
            raise ValueError("a bug")
        if environ["PATH_INFO"] == "/":
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.begun.release()
            assert self.go_on.wait(60)
            self.inside -= 1
        start_response("200 OK", [])
        return [b"a page"]


def test_one_at_a_time_few_wait_and_the_rest_go_away() -> None:
    slow = Slow()
    turnstile = Turnstile(slow)

    def get(path: str) -> int:
        return Client(turnstile).get(path).status_code

    with ThreadPoolExecutor(INSIDE) as pool:
        asked = [pool.submit(get, "/") for _ in range(INSIDE)]
        assert slow.begun.acquire(timeout=60)
        while turnstile._room._value:
            time.sleep(0.01)
        refused = Client(turnstile).get("/")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.text.startswith("Too many ask for pages at once")
        for languages in ("es-PE,es;q=0.9", "es;q=x,es"):
            headers = {"Accept-Language": languages}
            refused = Client(turnstile).get("/", headers=headers)
            assert refused.text.startswith("Demasiados piden páginas a la vez")
        assert get("/builds/762/contents") == get("/static/style.css") == 200
        slow.go_on.set()
        assert [one.result(60) for one in asked] == [200] * INSIDE
    assert slow.most == 1
    assert get("/") == 200


def test_a_page_that_fails_leaves_its_place() -> None:
    turnstile = Turnstile(Slow())
    for _ in range(INSIDE + 1):
        try:
            Client(turnstile).get("/broken")
        except ValueError:
            continue
    assert Client(turnstile).get("/other").status_code == 200
