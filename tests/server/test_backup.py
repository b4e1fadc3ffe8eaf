"""A backup is a copy of the directory, made while the server works."""

import itertools
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from olpc_update_query.server.check import Weight, check_site
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from tests.keys import UUID
from tests.server.served import Served, serve
from tests.server.sites import list_laptops, make_site

SERIALS = [f"SHC{number:08}" for number in range(40)]


@contextmanager
def polled(server: Served) -> Iterator[list[tuple[str, int]]]:
    """Let laptops report without a pause, and tell what was answered."""
    answered: list[tuple[str, int]] = []
    stop = threading.Event()

    def poll() -> None:
        for number, serial in enumerate(itertools.cycle(SERIALS)):
            report = json.dumps({"build": "762", "code": number % 20, "result": "x"})
            text = report.replace(" ", "").replace('"', "%22").replace(",", "%2C")
            body = f"serialnum={serial}&version=1&nonce=5&build=760&report={text}"
            if stop.is_set():
                return
            if server.post(body.encode()).status == 200:
                answered.append((serial, number % 20))

    poller = threading.Thread(target=poll)
    poller.start()
    try:
        yield answered
    finally:
        stop.set()
        poller.join()


def test_a_copy_of_a_live_site_serves(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    list_laptops(site, *(Laptop(serial, UUID) for serial in SERIALS))
    copies = [tmp_path / f"copy{number}" for number in range(2)]
    known: list[dict[str, int]] = []
    with serve(site.path) as server, polled(server) as answered:
        for copy in copies:
            while len(answered) < 30 * (1 + len(known)):
                threading.Event().wait(0.01)
            known.append(dict(answered))
            subprocess.run(["cp", "-a", site.path, copy], check=True)
        total = len(answered)
    assert total >= 60
    for copy, before in zip(copies, known, strict=True):
        restored = Site(copy, SystemClock())
        found = check_site(restored, SystemClock().now())
        assert [one for one in found if one.weight is Weight.ERROR] == []
        with serve(copy) as server:
            body = f"serialnum={SERIALS[0]}&version=1&nonce=5&build=760".encode()
            assert server.post(body).status == 200
        reports = Reports(restored.reports)
        states = {serial: reports.state(serial) for serial in before}
        reports.close()
        assert not list(copy.glob("*.damaged")), "the copy was torn"
        lost = [
            serial
            for serial, state in states.items()
            if state is None or state.code is None
        ]
        assert lost == []
