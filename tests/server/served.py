"""A server as it is run: ``olpc-update-admin serve`` as a process, on loopback."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

COMMAND = [
    sys.executable,
    "-c",
    "from olpc_update_query.cli.admin import main; main()",
]


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    source: str = "127.0.0.1",
    patience: float = 20,
) -> Reply:
    """Send a request to a port on 127.0.0.1, from an address of ours."""
    connection = HTTPConnection(
        "127.0.0.1", port, timeout=patience, source_address=(source, 0)
    )
    try:
        connection.request(method, path, body, dict(headers or {}))
        found = connection.getresponse()
        kept = {name.lower(): value for name, value in found.getheaders()}
        return Reply(found.status, kept, found.read())
    finally:
        connection.close()


class Served:
    """A running server.

    Args:
        process: Its process.
        port: Where it listens on 127.0.0.1.
        lease_port: Where it gives leases to the initramfs.
        said: What it printed until it was ready.
    """

    def __init__(self, process: "subprocess.Popen[str]", port: int, said: str) -> None:
        self.process, self.port, self.said = process, port, said
        found = re.search(r"TCP port ([0-9]+)", said)
        self.lease_port = int(found[1]) if found else 0

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        return ask(self.port, method, path, body, headers)

    def get(self, path: str, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("GET", path, headers=named)

    def post(self, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        return self.request("POST", "/antitheft/1/", body, headers)

    def raw(self, octets: bytes, limit: float = 20) -> bytes:
        """Send octets and read until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=limit) as link:
            link.sendall(octets)
            parts = []
            try:
                while part := link.recv(65536):
                    parts.append(part)
            except ConnectionResetError:
                pass
            return b"".join(parts)

    def descriptors(self) -> int:
        """Return how many files and connections the server has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextmanager
def serve(site: Path, *options: str, before: str = "") -> Iterator[Served]:
    """Serve a site until the block ends, then insist that it ends cleanly.

    Args:
        site: Its directory.
        *options: More words for the command.
        before: Python to run first.
    """
    python, flag, script = COMMAND
    words = [
        python,
        flag,
        before + script,
        "serve",
        str(site),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--lease-port",
        "0",
    ]
    process = subprocess.Popen(
        [*words, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield _wait(process)
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=20)
        assert process.returncode == 0, complained
        assert said.endswith("Stopped.\n")
        assert "Traceback" not in complained, complained
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _wait(process: "subprocess.Popen[str]") -> Served:
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if "stops the server" in line:
            break
    found = re.search(r"http://(?:127\.0\.0\.1|\[::1\]):([0-9]+)/", said)
    if found is None:
        _, complained = process.communicate()
        raise AssertionError(f"it does not serve: {said}{complained}")
    return Served(process, int(found[1]), said)
