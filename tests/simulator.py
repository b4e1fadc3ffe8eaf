"""A server that signs when asked, counts requests, and misbehaves by name.

It is the site of ``http_server`` with somebody at the antitheft address. What it
answers is a real signed answer to the query that came, changed as the test wants.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from olpc_update_query.model.messages import Answer, BareOrder, Order, Query
from olpc_update_query.report import Event, Outcome
from olpc_update_query.server.signing import make_answer, make_lease
from tests.http_server import Reply, Seen, Site, Trouble, serve
from tests.keys import SERIAL, UUID, signer

_E = TypeVar("_E")

HOUR = 3600
DAY = 24 * HOUR


class Mischief(StrEnum):
    """How an answer can be wrong."""

    HTML = "a portal's page with status 200"
    NOT_FOUND = "404 with a page"
    UNKNOWN = "404 in plain words, as our own server says to a laptop it does not know"
    HONEST_PORTAL = "511"
    TOO_MANY = "429"
    UNSIGNED = "an answer without any signature"
    WRONG_KEY = "signed by a key that nobody trusts"
    REPLAYED = "the answer to an earlier query"
    TRUNCATED = "half an answer"
    ALTERED = "one byte changed after it was signed"
    ERROR = "500"
    UNAVAILABLE = "503 with Retry-After"
    ENDLESS = "more than an answer may have"


@dataclass
class ServerSimulator:
    """What a laptop meets at the antitheft address.

    Attributes:
        site: The HTTP server; ``site.seen`` are the requests.
        lease: The lease to hand out.
        stolen: Whether the laptop is stolen.
        interval: How often it should ask.
        update: What it should run.
        message: What the administrator should read.
        keys: Statements about keys.
        key: The test key that signs.
        time: The signed time, the present when None.
        mischief: How to misbehave.
        queries: What was asked, in order.
        retry_after: Seconds that UNAVAILABLE asks to wait.
    """

    site: Site
    lease: str | None = None
    stolen: bool = False
    interval: int | None = None
    update: Order | BareOrder | None = None
    message: str | None = None
    keys: tuple[bytes, ...] = ()
    key: str = "oats"
    time: int | None = None
    mischief: Mischief | None = None
    retry_after: int = 1800
    queries: list[Query] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.site.url

    @property
    def asked(self) -> int:
        """How many queries came."""
        return len(self.queries)

    def reply(self, seen: Seen) -> Reply:
        self.queries.append(Query.decode(seen.body))
        signed = self._sign(self._nonce())
        html, plain = {"Content-Type": "text/html"}, {"Content-Type": "text/plain"}
        later = {"Retry-After": str(self.retry_after)}
        wrong = {
            Mischief.HTML: Reply(200, html, b"<html>pay here"),
            Mischief.NOT_FOUND: Reply(404, html, b"<html>nothing here"),
            Mischief.UNKNOWN: Reply(404, plain, b"this laptop is not known here\n"),
            Mischief.HONEST_PORTAL: Reply(511, html, b"<html>log in"),
            Mischief.TOO_MANY: Reply(429, later, b""),
            Mischief.TRUNCATED: Reply(body=signed[: len(signed) // 2]),
            Mischief.ALTERED: Reply(body=signed.replace(b'"time":"2', b'"time":"1')),
            Mischief.ERROR: Reply(500, plain, b"sorry"),
            Mischief.UNAVAILABLE: Reply(503, later, b"later"),
            Mischief.ENDLESS: Reply(body=signed + b" " * 70_000),
        }
        return wrong.get(self.mischief or Mischief.UNSIGNED, Reply(body=signed))

    def _nonce(self) -> str:
        at = 0 if self.mischief is Mischief.REPLAYED else -1
        return self.queries[at].nonce

    def _sign(self, nonce: str) -> bytes:
        now = int(time.time()) if self.time is None else self.time
        answer = Answer(
            nonce=nonce,
            time=now,
            lease=self.lease,
            stolen=self.stolen,
            interval=self.interval,
            update=self.update,
            message=self.message,
            keys=self.keys,
        )
        if self.mischief is Mischief.UNSIGNED:
            raw = make_answer(answer, lambda data: "")
            return raw.replace(b'["sig",1,[""]]', b'["sig",1,[]]')
        name = "stranger" if self.mischief is Mischief.WRONG_KEY else self.key
        return make_answer(answer, signer(name).sig01)


@contextlib.contextmanager
def simulate(directory: Path) -> Iterator[ServerSimulator]:
    """Run a simulator; it also serves the files below ``directory``."""
    with serve(directory) as site:
        simulator = ServerSimulator(site)
        site.reply = simulator.reply
        yield simulator


def hang_up(simulator: ServerSimulator) -> None:
    """Let the server close every connection without a word."""
    simulator.site.misbehave("*", Trouble.HANGUP)


def redirect(simulator: ServerSimulator) -> None:
    """Let a captive portal answer with a redirect."""
    simulator.site.misbehave("*", Trouble.PORTAL)


def lease(expiry: int | None, *, key: str = "lease", serial: str = SERIAL) -> str:
    """Return a lease for the test laptop."""
    return make_lease(serial, UUID, expiry, signer(key).sig01)


# --- the laptop --------------------------------------------------------------------


def prepare_laptop(root: Path, *servers: str) -> Path:
    """Give a directory what a laptop needs to ask: identity, keys, configuration."""
    mfg = root / "ofw/mfg-data"
    mfg.mkdir(parents=True)
    (mfg / "SN").write_text(SERIAL)
    (mfg / "U#").write_text(UUID)
    etc = root / "etc/olpc-update-query"
    (etc / "keys.d").mkdir(parents=True)
    for name in ("oats", "lease"):
        (etc / f"keys.d/{name}-test.public").write_bytes(signer(name).public)
    (root / "etc/oats-ignore-xs").touch()
    if servers:
        (etc / "config.toml").write_text(f'server = "{servers[0]}"\n')
    return root


def work_of(root: Path) -> Path:
    """Return the work area of a laptop."""
    shared = root / "versions/updates"
    return (shared if shared.is_dir() else root / "var/lib") / "olpc-update-query"


def now() -> int:
    """Return the time, to the second: a test may run long after it was collected."""
    return int(time.time())


def set_due(root: Path, drawn: int, due: int) -> None:
    """Write the due time of a laptop."""
    path = work_of(root) / "asker/due"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{drawn} {due}\n")


# --- what a run is given in tests ----------------------------------------------------


class FakeClock:
    """A clock that only moves when it is told to, or slept on.

    Attributes:
        time: What it shows.
        slept: How long each sleep was.
        on_sleep: Called during a sleep, before time passes.
    """

    def __init__(self, moment: int) -> None:
        self.time = float(moment)
        self.slept: list[float] = []
        self.on_sleep: Callable[[], object] = bool

    def now(self) -> int:
        return int(self.time)

    def boottime(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep()
        self.time += seconds


class Listener:
    """An audience that writes down what it hears.

    Attributes:
        events: Events and steps, in order.
        outcomes: What runs came to.
    """

    def __init__(self) -> None:
        self.events: list[Event | str] = []
        self.outcomes: list[Outcome] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)

    def step(self, text: str) -> None:
        self.events.append(text)

    def transferred(self, done: int, total: int) -> None:
        self.events.append(f"{done} of {total}")

    def end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def heard(self, kind: type[_E]) -> list[_E]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def outcome(self) -> Outcome:
        """What the last run came to; each run must say so exactly once."""
        return self.outcomes[-1]
