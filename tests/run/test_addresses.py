"""Servers by any name, over IPv4 and IPv6."""

from pathlib import Path

import pytest

from tests.run.polled import NOW, Laptop
from tests.server.served import serve
from tests.server.sites import LAPTOP, list_laptops, make_site
from tests.simulator import FakeClock, prepare_laptop


@pytest.mark.parametrize(
    ("listen", "server"),
    [
        pytest.param("127.0.0.1", "http://127.0.0.1:{}/", id="IPv4"),
        pytest.param("127.0.0.1", "http://localhost:{}/", id="a name"),
        pytest.param("127.0.0.1", "http://LocalHost:{}/", id="in other letters"),
        pytest.param("::1", "http://[::1]:{}/", id="IPv6"),
    ],
)
def test_a_poll(private: Path, listen: str, server: str) -> None:
    site = make_site(private)
    list_laptops(site, LAPTOP)
    with serve(site.path, "--host", listen) as served:
        root = prepare_laptop(private / "laptop", server.format(served.port))
        laptop = Laptop(root, FakeClock(NOW))
        code, heard = laptop.ask()
    assert code == 0, heard.outcome
    assert laptop.lease() is not None
