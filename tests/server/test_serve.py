import errno
import os
import socket
from pathlib import Path

import pytest

from olpc_update_query.errors import PortTaken
from olpc_update_query.server import serve


def close(sockets: list[socket.socket]) -> None:
    for listener in sockets:
        listener.close()


def test_everywhere_is_every_family() -> None:
    found = serve.listen(serve.EVERYWHERE, 0)
    try:
        assert socket.AF_INET in {listener.family for listener in found}
        port = next(
            listener.getsockname()[1]
            for listener in found
            if listener.family == socket.AF_INET
        )
        socket.create_connection(("127.0.0.1", port), 5).close()
        urls = serve.addresses(found)
        assert f"http://{socket.gethostname()}:{port}/" in urls
        assert len(set(urls)) == len(urls)
    finally:
        close(found)


def test_a_family_that_the_kernel_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.socket

    def lacking(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return real(family, kind)

    both = [
        (family, socket.SOCK_STREAM, 0, "", (host, 0))
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    monkeypatch.setattr(socket, "socket", lacking)
    found = serve.listen(serve.EVERYWHERE, 0)
    assert [listener.family for listener in found] == [socket.AF_INET]
    close(found)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both[1:])
    with pytest.raises(PortTaken, match="port 0: this machine has no such address"):
        serve.listen(serve.EVERYWHERE, 0)


def test_all_addresses_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with socket.create_server(("127.0.0.2", 0)) as other:
            free = other.getsockname()[1]
        both = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.2", free)),
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        with pytest.raises(PortTaken, match="Address already in use"):
            serve.listen("schoolserver", port)
    monkeypatch.undo()
    close(serve.listen("127.0.0.2", free))


class Named(socket.socket):
    name: tuple[str, int]

    def getsockname(self) -> tuple[str, int]:
        return self.name


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("10.0.0.5", 8080, "http://10.0.0.5:8080/"),
        ("10.0.0.5", 80, "http://10.0.0.5/"),
        ("fe80::1", 8080, "http://[fe80::1]:8080/"),
    ],
)
def test_addresses_are_urls(host: str, port: int, url: str) -> None:
    with Named() as listener:
        listener.name = host, port
        assert serve.addresses([listener]) == [url]


def test_only_root_gives_anything_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert serve.become_owner(tmp_path) is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if tmp_path.stat().st_uid == 0:
        assert serve.become_owner(tmp_path) is None


@pytest.mark.root
def test_an_owner_without_a_name_will_do(tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, 54322)
    child = os.fork()
    if child == 0:  # what is given up cannot be had back
        name = serve.become_owner(tmp_path)
        good = (
            name == "user 54321"
            and os.getresuid() == (54321,) * 3
            and os.getresgid() == (54322,) * 3
            and os.getgroups() == []
        )
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
