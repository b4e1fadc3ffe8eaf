"""What the bandwidth limit lets through in its worst ten seconds.

Several connections fetch long ranges from a server on loopback that gives all that is
taken, in packets of 1,448 bytes. It counts what the laptop's kernel has acknowledged:
whether anybody has read it yet or not, it has crossed the link.
"""

import argparse
import contextlib
import fcntl
import re
import socket
import struct
import termios
import threading
import time

from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.throttle import ThrottledTransport

_SPELL = 10.0  # seconds
_RANGE = 256 * 1024
_PACKETS = 1500 / 1448
_FAR = 10_000_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.bandwidth", description=__doc__)
    parser.add_argument("--limit", type=int, default=40_000, help="bytes a second")
    parser.add_argument("--connections", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=25.0)
    options = parser.parse_args()
    with contextlib.closing(_Server()) as server:
        _pull(server.url, options.limit, options.connections, options.seconds)
        came = sorted(server.came)
    begun = came[0][0]
    worst = max(
        sum(size for then, size in came if start <= then < start + _SPELL)
        for start, _ in came
        if start <= begun + options.seconds - _SPELL
    )
    share = worst * _PACKETS / _SPELL / options.limit
    print(f"the worst ten seconds had {share:.1%} of {options.limit:,} bytes a second")


def _pull(url: str, limit: int, connections: int, seconds: float) -> None:
    transport = ThrottledTransport("bench", {}, SystemClock(), limit)
    over = time.monotonic() + seconds

    def pull(start: int) -> None:
        while True:
            for _ in transport.get(url, start=start, length=_RANGE).chunks:
                if time.monotonic() > over:
                    return
            start += _RANGE

    threads = [
        threading.Thread(target=pull, args=(number * _FAR,))
        for number in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    transport.close()


class _Server:
    """Gives zeros as fast as they are taken, and notes when they were."""

    def __init__(self) -> None:
        self.came: list[tuple[float, int]] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/pack"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._give, args=(client,), daemon=True).start()

    def _give(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while request := client.recv(65536):
                found = re.search(rb"bytes=(\d+)-(\d+)", request)
                if found is None:
                    return
                start, last = int(found[1]), int(found[2])
                head = (
                    f"HTTP/1.1 206 Partial Content\r\n"
                    f"Content-Length: {last - start + 1}\r\n"
                    f"Content-Range: bytes {start}-{last}/{100 * _FAR}\r\n\r\n"
                )
                self._send(client, head.encode() + bytes(last - start + 1))

    def _send(self, client: socket.socket, data: bytes) -> None:
        """Send, and note what arrives at once, also while nothing more can be sent."""
        sent = arrived = 0
        while arrived < len(data):
            before = sent
            with contextlib.suppress(BlockingIOError):
                sent += client.send(data[sent : sent + 512], socket.MSG_DONTWAIT)
            if sent == before:
                time.sleep(0.005)
            waiting = fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4))
            (unsent,) = struct.unpack("i", waiting)
            if sent - unsent > arrived:
                self.came.append((time.monotonic(), sent - unsent - arrived))
                arrived = sent - unsent


if __name__ == "__main__":
    main()
