"""What a school's server bears: answers a second, waiting times, memory.

Prints how many signed answers one processor core gives, beside how many bare signatures
it makes; how long laptops wait when they arrive at the rate of a whole school that
starts in five minutes, and how long the disk takes for a few bytes meanwhile; and the
memory of ``serve``, after each round in which every laptop has asked. Processor time is
counted, not time on the wall, so that other work on the machine matters little. Beside
``serve`` stands the same web server with an application that does nothing but sign: no
application can be faster there.
"""

import argparse
import io
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from bench.laptop import Identity
from bench.school import School, background, free_port, program
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import BuildId, parse_build_id
from olpc_update_query.server.app import QUERY_PATH, create_app
from olpc_update_query.server.keys import load_key
from olpc_update_query.server.signing import Signer
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role

if TYPE_CHECKING:
    from flask import Flask

_ROUNDS = 9
_PER_ROUND = 200
_SCHOOL, _START = 1000, 300  # so many laptops start within so many seconds
_MOST_WAIT, _MOST_MEMORY, _LEAST_SHARE = 200, 100, 70
_MOST_GROWTH, _WARM = 0.5, 2
_OLD, _NEW = parse_build_id("760"), parse_build_id("762")


def main() -> int:
    """Measure and print; tell whether an aim was missed."""
    parser = argparse.ArgumentParser(prog="bench.load", description=__doc__)
    parser.add_argument("--laptops", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=60, help="of arrivals")
    parser.add_argument("--rounds", type=int, default=6, help="of all laptops")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        laptops = [_identity(number) for number in range(options.laptops)]
        school = _found(Path(scratch), laptops)
        signer = load_key(Site(school.site, SystemClock()), Role.OATS)
        print(f"{'bare signatures, one core':52}{_bare(signer):7.0f} a second")
        good = _in_the_app(school, laptops, signer)
        with _serve(school) as server:
            print(
                f"{'memory of serve before anybody asked':52}{server.memory:7.1f} MiB"
            )
            good &= _arrive(server, laptops, options.seconds)
            good &= _stays_small(server, laptops, options.rounds)
            some = laptops[:_PER_ROUND]
            _show_rate("answers of serve, each a new connection", server, some, signer)
        with _sign_only(school) as server:
            _show_rate("the same of waitress that only signs", server, some, signer)
        return 0 if good else 1


class Server(NamedTuple):
    """A running ``serve``.

    Attributes:
        pid: Its process.
        port: Its port on loopback.
    """

    pid: int
    port: int

    @property
    def memory(self) -> float:
        """MiB resident."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    @property
    def processor(self) -> float:
        """Seconds of processor time."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def rate(self, ask: Callable[[], int]) -> float:
        """Return how many queries a second of processor time answers."""
        before, asked = self.processor, ask()
        return asked / (self.processor - before)

    def get(self, path: str) -> None:
        """Fetch a page and throw it away."""
        link = HTTPConnection("127.0.0.1", self.port, timeout=60)
        link.request("GET", path)
        link.getresponse().read()
        link.close()

    def ask(self, laptop: Identity) -> float:
        """Ask for a laptop and return how many seconds it took."""
        begin = time.monotonic()
        link = HTTPConnection("127.0.0.1", self.port, timeout=60)
        link.request("POST", QUERY_PATH, _query(laptop, _OLD))
        reply = link.getresponse()
        reply.read()
        link.close()
        if reply.status != 200:
            raise RuntimeError(f"status {reply.status}")
        return time.monotonic() - begin


def _identity(number: int) -> Identity:
    return Identity(f"SHC{number:08}", str(UUID(int=number + 1)).upper())


def _query(laptop: Identity, build: BuildId, lease: str | None = None) -> bytes:
    """Return what a laptop asks; it repeats its last report, as they do."""
    told: dict[str, Json] = {"build": str(_NEW), "code": 0, "result": "installed"}
    return Query(
        laptop.serial,
        str(random.getrandbits(128)),
        build=build,
        lease=lease,
        report={**told, "free": random.randrange(4000)},
    ).encode()


def _found(scratch: Path, laptops: list[Identity]) -> School:
    school = School(scratch / "site")
    school.found(*laptops)
    tree = scratch / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("xo\n")
    school.admin("publish", tree, "--build", str(_NEW), "--any-tree")
    school.admin("assign", "--build", str(_NEW), "--percent", "100")
    return school


def _beside_bare(signer: Signer, rate: Callable[[], float]) -> tuple[float, float]:
    """Return the best rate of several rounds, and in percent of bare signing's best.

    What else runs on the machine can only make a round slower.
    """
    both = [(rate(), _bare(signer)) for _ in range(_ROUNDS)]
    best, bare = (max(found) for found in zip(*both, strict=True))
    return best, 100 * best / bare


def _bare(signer: Signer) -> float:
    """Return how many signatures a second of processor time makes."""
    begin = time.process_time()
    for number in range(_PER_ROUND):
        signer.sign(b"%d" % number)
    return _PER_ROUND / (time.process_time() - begin)


def _in_the_app(school: School, laptops: list[Identity], signer: Signer) -> bool:
    """Measure how many queries the application itself answers."""
    app = create_app(school.site)
    some = laptops[:_PER_ROUND]
    for laptop in some:  # each is given a lease, and reports something new
        _call(app, _query(laptop, _OLD))
    leases = {one: app.extensions["reports"].lease(one.serial).line for one in some}
    good = True
    for kind, bodies in {
        "an order and a lease": [_query(one, _OLD) for one in some],
        "no news": [_query(one, _NEW, leases[one]) for one in some],
    }.items():
        rate, share = _beside_bare(signer, partial(_rate_of, app, bodies))
        good &= _show_share(f"answers of the application, {kind}", rate, share)
    app.extensions["reports"].close()
    return good


def _rate_of(app: "Flask", bodies: list[bytes]) -> float:
    begin = time.process_time()
    for body in bodies:
        _call(app, body)
    return len(bodies) / (time.process_time() - begin)


def _call(app: "Flask", body: bytes) -> None:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": QUERY_PATH,
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": "schoolserver",
        "REMOTE_ADDR": "10.0.0.7",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
    }
    said: list[str] = []
    answer = b"".join(app.wsgi_app(environ, lambda status, _: said.append(status)))  # type: ignore[arg-type]
    if said != ["200 OK"]:
        raise RuntimeError(f"{said} {answer!r}")


@contextmanager
def _serve(school: School) -> Iterator[Server]:
    port = free_port()
    words = [program("olpc-update-admin"), "serve", str(school.site)]
    words += ["--host", "127.0.0.1", "--port", str(port), "--lease-port", "0"]
    with _run(school, words, port) as server:
        server.get("/builds/")  # it has the port before it has loaded everything
        yield server


@contextmanager
def _sign_only(school: School) -> Iterator[Server]:
    port = free_port()
    words = [sys.executable, "-m", "bench.signer", str(school.site), str(port)]
    with _run(school, words, port) as server:
        yield server


@contextmanager
def _run(school: School, words: list[str], port: int) -> Iterator[Server]:
    with (
        open(school.site.with_name("server.log"), "ab") as log,
        background(words, log.fileno(), port) as pid,
    ):
        yield Server(pid, port)


def _arrive(server: Server, laptops: list[Identity], seconds: int) -> bool:
    """Let laptops arrive by chance, none of which has a lease, and tell the waiting."""
    dice, waits = random.Random(5), []
    rate, lock = _SCHOOL / _START, threading.Lock()

    def ask(laptop: Identity) -> None:
        took = server.ask(laptop)
        with lock:
            waits.append(1000 * took)

    moment, begin = 0.0, time.monotonic()
    with _watch_disk() as disk, ThreadPoolExecutor(50) as pool:
        for laptop in reversed(laptops):
            moment += dice.expovariate(rate)
            if moment > seconds:
                break
            time.sleep(max(0.0, begin + moment - time.monotonic()))
            pool.submit(ask, laptop)
    print(f"{len(waits)} laptops within {seconds} s, as {_SCHOOL} in {_START} s do")
    for name, share in (("half", 0.5), ("99 of 100", 0.99), ("all", 1.0)):
        aim = f" (aim: {_MOST_WAIT})" if share == 0.99 else ""
        wait = _quantile(waits, share)
        print(f"{f'  {name} are answered within':52}{wait:7.1f} ms{aim}")
        wait = _quantile(disk, share)
        print(f"{f'  {name} bare writes to the disk take':52}{wait:7.1f} ms")
    return _quantile(waits, 0.99) <= _MOST_WAIT


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextmanager
def _watch_disk() -> Iterator[list[float]]:
    """Write 4 KiB ten times a second as long as the block runs: ms of each."""
    took, done = list[float](), threading.Event()

    def watch() -> None:
        with tempfile.TemporaryFile(dir="/var/tmp", buffering=0) as file:
            while not done.wait(0.1) or not took:
                begin = time.monotonic()
                file.write(bytes(4096))
                os.fdatasync(file.fileno())
                took.append(1000 * (time.monotonic() - begin))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield took
    finally:
        done.set()
        watcher.join()


def _ask_all(server: Server, laptops: list[Identity]) -> int:
    with ThreadPoolExecutor(4) as pool:
        return len(list(pool.map(server.ask, laptops)))


def _stays_small(server: Server, laptops: list[Identity], rounds: int) -> bool:
    """Let everybody ask again and again, and tell whether the memory stays as it is."""
    memory = [_everybody(server, laptops) for _ in range(rounds)]
    growth = 0.0
    if len(warm := memory[_WARM:]) > 1:
        growth = linear_regression(range(len(warm)), warm).slope
        aim = f"(aim: {_MOST_GROWTH})"
        print(f"{f'  grows, after {_WARM} rounds':52}{growth:7.2f} MiB a round {aim}")
    return max(memory) <= _MOST_MEMORY and growth <= _MOST_GROWTH


def _everybody(server: Server, laptops: list[Identity]) -> float:
    asked = _ask_all(server, laptops)
    for path in ("/", "/laptops", "/laptops.csv", "/metrics"):
        server.get(path)
    _show_memory(f"memory of serve after {asked} have asked", server.memory)
    return server.memory


def _show_rate(
    name: str, server: Server, laptops: list[Identity], signer: Signer
) -> None:
    asked = partial(server.rate, partial(_ask_all, server, laptops))
    rate, share = _beside_bare(signer, asked)
    print(f"{name:52}{rate:7.0f} a second, {share:.0f} % of bare signing", flush=True)


def _show_memory(name: str, memory: float) -> None:
    print(f"{name:52}{memory:7.1f} MiB (aim: {_MOST_MEMORY})", flush=True)


def _show_share(name: str, rate: float, share: float) -> bool:
    aim = f"{share:.0f} % of bare signing (aim: {_LEAST_SHARE})"
    print(f"{name:52}{rate:7.0f} a second, {aim}", flush=True)
    return share >= _LEAST_SHARE


if __name__ == "__main__":
    sys.exit(main())
