"""What NetworkManager tells of proxies, asked over a real bus."""

from pathlib import Path

import pytest

from olpc_update_query.system.proxy_script import proxy_script
from tests.http_server import unused_port
from tests.network_manager import network_manager
from tests.run.conftest import laptop, private, server
from tests.run.polled import Laptop

__all__ = ["laptop", "private", "server"]

PAC = "http://school.test/proxy.pac"


def use_bus(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Let this be the system's bus; libdbus reads the environment only once."""
    import dbus.bus

    monkeypatch.setattr(dbus.bus.BusConnection, "TYPE_SYSTEM", address)


needs_bus = pytest.mark.needs("dbus", "python3-dbus", "python3-gi")


@needs_bus
@pytest.mark.parametrize(
    ("proxy", "dhcp", "expected"),
    [
        pytest.param({"method": 1, "pac-url": PAC}, {}, PAC, id="by hand"),
        pytest.param(
            {"method": 1, "pac-script": "function FindProxyForURL() {}"},
            {},
            "kept in the connection",
            id="a script of its own",
        ),
        pytest.param({"method": 1}, {"wpad": PAC}, PAC, id="by DHCP"),
        pytest.param(
            {"method": 1}, {"domain_name": "x"}, "left to be found", id="WPAD"
        ),
        pytest.param({"method": 1}, {}, "left to be found", id="without DHCP"),
        pytest.param({"method": 0}, {"wpad": PAC}, None, id="switched off"),
        pytest.param({}, {}, None, id="nothing"),
        pytest.param({"method": 1, "pac-url": "a\x1b[2Jb"}, {}, "a?[2Jb", id="foreign"),
    ],
)
def test_what_a_connection_knows(
    proxy: dict[str, object],
    dhcp: dict[str, str],
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with network_manager(tmp_path, proxy, dhcp) as address:
        use_bus(monkeypatch, address)
        assert proxy_script() == expected


@needs_bus
def test_without_a_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_bus(monkeypatch, f"unix:path={tmp_path}/none")
    assert proxy_script() is None


@needs_bus
@pytest.mark.parametrize("configured", [False, True])
def test_it_is_told_when_nobody_can_be_reached(
    laptop: Laptop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    configured: bool,
) -> None:
    if configured:
        path = laptop.root / "etc/olpc-update-query/config.d/proxy.toml"
        path.parent.mkdir()
        path.write_text(f'[proxy]\nurl = "http://127.0.0.1:{unused_port()}"\n')
    with network_manager(tmp_path, {"method": 1, "pac-url": PAC}, {}) as address:
        use_bus(monkeypatch, address)
        code, heard = laptop.ask(f"http://127.0.0.1:{unused_port()}/")
        assert code == 10
        told = [event for event in heard.events if isinstance(event, str)]
        named = f"NetworkManager names a proxy script ({PAC}), and scripts are not"
        assert any(named in text for text in told) is not configured
