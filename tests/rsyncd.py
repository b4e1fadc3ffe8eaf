"""A real rsync daemon on a free loopback port."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.http_server import unused_port


@contextlib.contextmanager
def serve(
    scratch: Path, modules: Mapping[str, Path], *, max_connections: int = 0
) -> Iterator[str]:
    """Serve directories as modules until the block ends.

    Args:
        scratch: Where configuration, lock file and log go.
        modules: Directory by module name, such as ``build-762``.
        max_connections: How many clients a module takes; 0 for any number.

    Yields:
        The URL of the daemon, with a slash at its end.
    """
    port = unused_port()
    scratch.mkdir(exist_ok=True)
    lines = [
        "use chroot = no",
        "address = 127.0.0.1",
        f"port = {port}",
        "reverse lookup = no",
        f"max connections = {max_connections}",
        f"lock file = {scratch / 'lock'}",
    ]
    if os.getuid() == 0:
        lines += ["uid = root", "gid = root"]
    for name, path in modules.items():
        lines += [f"[{name}]", f"path = {path}", "read only = yes"]
    config = scratch / "rsyncd.conf"
    config.write_text("\n".join([*lines, ""]))
    command = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
    with (
        open(scratch / "log", "ab") as log,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as p,
    ):
        try:
            _wait(port)
            yield f"rsync://127.0.0.1:{port}/"
        finally:
            p.kill()  # it takes its time over anything milder


@contextlib.contextmanager
def occupy(url: str, module: str) -> Iterator[None]:
    """Be a client of a module and say nothing more."""
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"@RSYNCD: 31.0 md5\n" + module.encode() + b"\n")
        said = b""
        while b"@RSYNCD: OK" not in said:
            said += (piece := connection.recv(1000))
            if not piece:
                raise ConnectionError("the daemon refused")
        yield


def _wait(port: int) -> None:
    for _ in range(200):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        time.sleep(0.02)
    raise TimeoutError("the rsync daemon did not start")
