"""TCP port 191: leases for the initramfs, which has no HTTP.

A laptop sends its serial number, closes its side and reads to the end: a lease, the
word ``STOLEN``, or nothing. One thread serves all, and everything about a connection
is bounded: who sends nothing, too much, or does not read, is hung up on.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

PORT: Final = 191

_MAX_REQUEST: Final = 128
_CONNECTIONS: Final = 200
_PATIENCE: Final = 10.0
"""Seconds for a whole connection."""

_log = logging.getLogger(__name__)


class LeasePort:
    """What serves connections; ``served`` runs it.

    Args:
        reply: What to say to what was sent; it must raise nothing.
    """

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self._reply, self._open = reply, 0

    async def run(self, sockets: Sequence[socket.socket], end: asyncio.Event) -> None:
        """Serve until the end."""
        servers = [
            await asyncio.start_server(self._greet, sock=listener, limit=_MAX_REQUEST)
            for listener in sockets
        ]
        await end.wait()
        for server in servers:
            server.close()

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._open += 1
        try:
            if self._open <= _CONNECTIONS:
                async with asyncio.timeout(_PATIENCE):
                    await self._serve(reader, writer)
        except (OSError, TimeoutError):
            _log.debug("somebody was hung up on")
        finally:
            self._open -= 1
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = b""
        while piece := await reader.read(_MAX_REQUEST + 1 - len(asked)):
            asked += piece
            if b"\n" in asked or len(asked) > _MAX_REQUEST:
                break
        if len(asked) <= _MAX_REQUEST:
            writer.write(self._reply(asked))
        writer.close()
        await writer.wait_closed()


@contextlib.contextmanager
def served(
    sockets: Sequence[socket.socket], reply: Callable[[bytes], bytes]
) -> Iterator[None]:
    """Serve until the block ends.

    Args:
        sockets: They listen already; they are closed at the end. There may be none.
        reply: What to say to what was sent.
    """
    if not sockets:
        yield
        return
    loop, end = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(LeasePort(reply).run(sockets, end))

    thread = threading.Thread(target=run, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
