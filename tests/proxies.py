"""Real proxies: tinyproxy and squid, on a free port of loopback."""

import contextlib
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_server import unused_port

USER, PASSWORD, REALM = "kid", 's3cret "word', "school"
_PATIENCE = 60.0


@contextlib.contextmanager
def tinyproxy(directory: Path) -> Iterator[int]:
    """Run tinyproxy, which knows Basic only and no spaces in a password."""
    port = unused_port()
    config = directory / "tinyproxy.conf"
    config.write_text(
        f"Port {port}\nListen 127.0.0.1\nBasicAuth {USER} secret\nTimeout 20\n"
    )
    with _running(["tinyproxy", "-d", "-c", str(config)], port):
        yield port


@contextlib.contextmanager
def squid(directory: Path, *lines: str) -> Iterator[int]:
    """Run squid with these lines in its configuration."""
    port = unused_port()
    config = directory / "squid.conf"
    settings = [
        f"http_port 127.0.0.1:{port}",
        "visible_hostname proxy.test",
        "pid_filename none",
        "cache_log /dev/null",
        "access_log none",
        "netdb_filename none",
        "shutdown_lifetime 0 seconds",
        "workers 1",
        "max_filedescriptors 1024",
        *lines,
    ]
    config.write_text("\n".join([*settings, ""]))
    with _running(["squid", "-N", "-f", str(config)], port):
        yield port


def basic(directory: Path) -> list[str]:
    """Return squid's settings to want Basic."""
    digest = _openssl_hash(PASSWORD)
    return _wanting(directory, "basic", f"{USER}:{digest}", "basic_ncsa_auth")


def digest(directory: Path) -> list[str]:
    """Return squid's settings to want Digest."""
    secret = hashlib.md5(f"{USER}:{REALM}:{PASSWORD}".encode()).hexdigest()
    line = f"{USER}:{REALM}:{secret}"
    return _wanting(directory, "digest", line, "digest_file_auth -c")


def _wanting(directory: Path, scheme: str, line: str, helper: str) -> list[str]:
    file = directory / f"{scheme}.users"
    file.write_text(f"{line}\n")
    file.chmod(0o644)
    return [
        f"auth_param {scheme} program /usr/lib/squid/{helper} {file}",
        f"auth_param {scheme} children 1",
        f"auth_param {scheme} realm {REALM}",
        "acl known proxy_auth REQUIRED",
        "http_access allow known",
        "http_access deny all",
    ]


def _openssl_hash(password: str) -> str:
    command = ["openssl", "passwd", "-apr1", "-stdin"]
    done = subprocess.run(
        command, input=password, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdout=quiet, stderr=quiet, env={**os.environ, "PATH": path}
    ) as process:
        try:
            _wait_for(port, process)
            yield
        finally:
            process.kill()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args!s} did not start")
