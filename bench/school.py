"""A school's server as its administrator runs it: by the commands, as a process."""

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.laptop import Identity
from bench.measure import Cost, run
from bench.relay import Relay, relay_to

_PATIENCE = 20.0


class CommandFailedError(Exception):
    """A command did not exit with 0; the text says which and what it printed."""


def program(name: str) -> str:
    """Return the path of one of the project's commands, from this environment."""
    return str(Path(sys.executable).with_name(name))


def is_open_to_all() -> bool:
    """Tell whether a user without rights can read the program and its environment.

    Its unprivileged half is such a user; a clone below /root is closed to it.
    """
    return all(
        place.stat().st_mode & 0o001
        for start in (Path(__file__), Path(sys.prefix, "lib"))
        for place in start.parents
    )


def command(*words: str | os.PathLike[str], echo: bool = False) -> Cost:
    """Run one of the project's commands and insist on success.

    Args:
        *words: The command's name and arguments.
        echo: Print the command and its output as they come.

    Raises:
        CommandFailedError: It failed.
    """
    shown = shlex.join(os.fspath(word) for word in words)
    if echo:
        print("   $", shown, flush=True)
    name, *arguments = words
    cost = run([program(os.fspath(name)), *arguments], together=True, echo=echo)
    if cost.code != 0:
        raise CommandFailedError(f"exit code {cost.code}: {shown}\n{cost.output}")
    return cost


class School:
    """A site and its server.

    Args:
        site: Directory of the site; made by ``found``.
        echo: Print commands and what they say.
    """

    def __init__(self, site: Path, *, echo: bool = False) -> None:
        self.site = site
        self._echo = echo

    def admin(self, subcommand: str, *words: str | os.PathLike[str]) -> Cost:
        """Run ``olpc-update-admin SUBCOMMAND SITE ...``."""
        return command(
            "olpc-update-admin", subcommand, self.site, *words, echo=self._echo
        )

    def found(self, *laptops: Identity) -> None:
        """Make the site and its keys, and enter its laptops."""
        self.admin("init")
        table = self.site.with_name("inventory.csv")
        rows = [f"{each.serial},{each.uuid}" for each in laptops]
        table.write_text("\n".join(["serial,uuid", *rows, ""]))
        command(
            "olpc-update-admin", "laptops", "import", self.site, table, echo=self._echo
        )

    def key(self, role: str) -> Path:
        """Return the file of a public key, role ``oats`` or ``lease``."""
        return next((self.site / "keys").glob(f"{role}*.public"))

    @contextmanager
    def serve(self, delay: float = 0.0) -> Iterator[Relay]:
        """Run the server behind a counting relay until the block ends."""
        port = free_port()
        words = ["serve", str(self.site), "--host", "127.0.0.1", "--port", str(port)]
        words += ["--lease-port", "0"]  # not 191, where others may listen
        if self._echo:
            print("   $ olpc-update-admin", shlex.join(words))
        with (
            open(self.site.with_name("server.log"), "ab") as log,
            background([program("olpc-update-admin"), *words], log.fileno(), port),
            relay_to(port, delay=delay) as relay,
        ):
            yield relay


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def background(words: list[str], log: int, port: int) -> Iterator[int]:
    """Run a server until the block ends; begin when it listens on its port.

    Raises:
        CommandFailedError: It ended, or never listened.
    """
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        if not _listens(process, port):
            raise CommandFailedError(f"{shlex.join(words)}: not listening")
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(process: "subprocess.Popen[bytes]", port: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False
