"""Runs the application under waitress, in one process, until it is told to stop."""

import errno
import os
import pwd
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, TypeAlias

from olpc_update_query.errors import PortTaken
from olpc_update_query.server.crowd import Crowd, Listener
from olpc_update_query.server.heap import share_one_heap

if TYPE_CHECKING:
    from flask import Flask

_Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
_Found: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, _Address]

EVERYWHERE: Final = ""
"""The host that stands for all addresses of this machine."""

_MAX_REQUEST: Final = 16 * 1024
_SILENCE = 60
_CLEANUP = 10
_CONNECTIONS: Final = 500
_BACKLOG: Final = 256
_UNSUPPORTED: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}


def listen(host: str, port: int) -> list[socket.socket]:
    """Take the port.

    Args:
        host: A name or address of this machine; ``EVERYWHERE`` for all of them.
        port: The TCP port; 0 for any that is free.

    Returns:
        Sockets that listen, one for each address.

    Raises:
        PortTaken: It cannot be had.
    """
    where = f"{host or 'port'}{':' if host else ' '}{port}"
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return _bind_all(found, is_choosy=bool(host))
    except OSError as error:
        raise PortTaken(where, error.strerror or str(error)) from error


def _bind_all(found: Sequence[_Found], *, is_choosy: bool) -> list[socket.socket]:
    bound: list[socket.socket] = []
    for family, _, _, _, address in found:
        try:
            bound.append(_bind(family, address))
        except OSError as error:
            if error.errno in _UNSUPPORTED and not is_choosy:
                continue
            for listener in bound:
                listener.close()
            raise
    if not bound:
        raise OSError(errno.EADDRNOTAVAIL, "this machine has no such address")
    return bound


def _bind(family: socket.AddressFamily, address: _Address) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def addresses(sockets: Sequence[socket.socket]) -> list[str]:
    """Return the URLs by which the sockets can be reached."""
    urls = []
    for listener in sockets:
        host, port = listener.getsockname()[:2]
        names = _own_names() if host in {"0.0.0.0", "::"} else [host]  # noqa: S104
        for name in names:
            shown = f"[{name}]" if ":" in name else name
            urls.append(f"http://{shown}{'' if port == 80 else f':{port}'}/")
    return list(dict.fromkeys(urls))


def _own_names() -> list[str]:
    names = [socket.gethostname()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # sends nothing: the kernel only looks up which address it would use
            probe.connect(("192.0.2.1", 9))
            names.append(probe.getsockname()[0])
        except OSError:
            names.append("127.0.0.1")
    return names


def become_owner(path: Path) -> str | None:
    """Give up root for the user who owns the site.

    Args:
        path: The site.

    Returns:
        The user's name; None when nothing was given up, or there is no such path.
    """
    try:
        owner = os.stat(path).st_uid
    except FileNotFoundError:
        return None
    if os.geteuid() != 0 or owner == 0:
        return None
    try:
        user = pwd.getpwuid(owner)
        name, group = user.pw_name, user.pw_gid
        os.initgroups(name, group)
    except KeyError:
        name, group = f"user {owner}", os.stat(path).st_gid
        os.setgroups([])
    os.setgid(group)
    os.setuid(owner)
    return name


def heed_signals() -> None:
    """Let SIGTERM end the server as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(
    app: "Flask", sockets: list[socket.socket], *, threads: int, trusted: bool
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what was begun.

    Whoever is slow costs a descriptor and no thread. Who is silent for a minute, or
    does not get a request out in two, is hung up on; who sends more than 16 KiB gets an
    error. No address has more than 200 connections at a time.

    Args:
        app: The application.
        sockets: Where to listen.
        threads: How many requests are worked on at a time.
        trusted: Whether a reverse proxy's headers are to be believed.
    """
    from waitress import create_server
    from waitress.server import TcpWSGIServer

    from olpc_update_query.server.hasty import HastyChannel

    share_one_heap()
    TcpWSGIServer.channel_class = HastyChannel
    if not trusted:  # behind a proxy everybody comes from the same address
        crowd = Crowd()
        sockets = [Listener(listener, crowd) for listener in sockets]
    server = create_server(
        app,
        sockets=sockets,
        threads=threads,
        ident="olpc-update",
        backlog=_BACKLOG,
        connection_limit=_CONNECTIONS,
        channel_timeout=_SILENCE,
        cleanup_interval=_CLEANUP,
        max_request_header_size=_MAX_REQUEST,
        max_request_body_size=_MAX_REQUEST,
        clear_untrusted_proxy_headers=not trusted,
        asyncore_use_poll=True,
    )
    try:
        server.run()
    finally:
        server.close()
