"""A real rsync daemon on a free loopback port."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.school import background, free_port


def configuration(modules: dict[str, Path]) -> str:
    """Return an ``rsyncd.conf`` that serves directories read-only."""
    lines = ["use chroot = no", "address = 127.0.0.1", "reverse lookup = no"]
    if os.getuid() == 0:
        lines += ["uid = root", "gid = root"]
    for name, path in modules.items():
        lines += [f"[{name}]", f"path = {path}", "read only = yes"]
    return "\n".join([*lines, ""])


@contextmanager
def serve(scratch: Path, text: str) -> Iterator[int]:
    """Run a daemon until the block ends.

    Args:
        scratch: Directory for its configuration and log.
        text: The configuration, without a port.

    Yields:
        Its port.
    """
    port = free_port()
    config, log = scratch / "rsyncd.conf", scratch / "rsyncd.log"
    config.write_text(f"port = {port}\n{text}")
    words = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
    with open(log, "ab") as file, background(words, file.fileno(), port):
        yield port
