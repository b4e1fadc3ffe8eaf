"""What `docs/behind-nginx.md` sets up, with Debian's own programs, on loopback.

The configuration is that of ``docs/nginx``; only places are others. Every program runs
as the user it is meant for: nginx's workers as ``www-data``, PostgreSQL as
``postgres``, the application as the owner of the site.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.school import free_port, is_open_to_all
from tests.server.served import Reply, ask

CONFIGURATION = Path(__file__).parents[2] / "docs/nginx"
OWNER = "daemon"
PATIENCE = 30.0

_NGINX = """\
user www-data;
worker_processes 2;
pid {top}/nginx.pid;
error_log {top}/nginx-error.log;
events {{ worker_connections 512; }}
http {{
    log_format short '$status $upstream_addr $request';
    access_log {top}/nginx-access.log short;
    client_body_temp_path {top}/nginx-body;
    proxy_temp_path {top}/nginx-proxy;
    fastcgi_temp_path {top}/nginx-fastcgi;
    uwsgi_temp_path {top}/nginx-uwsgi;
    scgi_temp_path {top}/nginx-scgi;
    include {top}/olpc-update.conf;
}}
"""


def patiently(is_so: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def configured(name: str, places: Mapping[str, str]) -> str:
    """Return a file of the recipe with other places in it, each of which it names."""
    text = (CONFIGURATION / name).read_text()
    for documented, ours in places.items():
        text = text.replace(documented, ours)
    return text


class Process:
    """A server that is started, stopped, and started again.

    Args:
        words: The command.
        log: Where it says what it does.
        user: As whom it runs; None: as we do.
    """

    def __init__(self, words: list[str], log: Path, user: str | None) -> None:
        self._words, self.log, self._user = words, log, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        own: dict[str, Any] = {}
        if self._user is not None:
            found = pwd.getpwnam(self._user)
            own = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                **own,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def children(self) -> list[int]:
        """Return its workers."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


class Stack:
    """nginx before gunicorn before PostgreSQL.

    Args:
        top: Directory for everything.
    """

    def __init__(self, top: Path) -> None:
        self.top, self.site, self.port = top, top / "site", free_port()
        self.owner = OWNER if os.getuid() == 0 and is_open_to_all() else None
        self.database_url = f"postgresql+psycopg://olpc@/postgres?host={top}/sockets"
        self._places = {
            "listen 80 ": f"listen 127.0.0.1:{self.port} ",
            "    listen [::]:80 default_server;\n": "",
            "/run/olpc-update-admin/socket": f"{top}/run/socket",
            "/srv/site": str(self.site),
            "/etc/nginx/olpc-update-proxy.conf": f"{top}/olpc-update-proxy.conf",
        }
        self.database = self._postgresql()
        self.gunicorn = Process(
            [
                *(str(Path(sys.executable).with_name("gunicorn")), "--config"),
                str(top / "gunicorn.conf.py"),
            ],
            top / "gunicorn.log",
            self.owner,
        )
        self.nginx = Process(
            ["/usr/sbin/nginx", "-c", f"{top}/nginx.conf", "-g", "daemon off;"],
            top / "nginx.log",
            None,
        )

    def _postgresql(self) -> Process:
        where, sockets = self.top / "database", self.top / "sockets"
        binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
        words = [str(binaries / "postgres"), "-D", str(where), "-k", str(sockets)]
        words += ["-c", "listen_addresses=", "-c", "max_connections=60"]
        return Process(words, self.top / "postgresql.log", "postgres")

    def set_up(self) -> None:
        """Make the cluster, and write the configuration of the recipe."""
        postgres = pwd.getpwnam("postgres")
        for name in ("database", "sockets"):
            (self.top / name).mkdir()
            os.chown(self.top / name, postgres.pw_uid, postgres.pw_gid)
        initdb = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        words: list[str | Path] = [
            initdb,
            "-D",
            self.top / "database",
            "-U",
            "olpc",
            "-A",
            "trust",
        ]
        subprocess.run(
            words,
            check=True,
            capture_output=True,
            cwd="/",
            user=postgres.pw_uid,
            group=postgres.pw_gid,
            extra_groups=[],
        )
        for name in ("olpc-update.conf", "olpc-update-proxy.conf", "gunicorn.conf.py"):
            (self.top / name).write_text(configured(name, self._places))
        (self.top / "nginx.conf").write_text(_NGINX.format(top=self.top))
        (self.top / "run").mkdir()
        self.give_site_away()

    def give_site_away(self) -> None:
        """Let the site belong to the user who serves it."""
        if self.owner is None:
            return
        for place in (self.site, self.site / "builds", self.top / "run"):
            shutil.chown(place, self.owner, self.owner)
        others = [place for place in self.site.iterdir() if place.name != "builds"]
        subprocess.run(["chown", "-R", f"{self.owner}:", *others], check=True)

    def start(self) -> None:
        """Start everything and wait until it answers."""
        self.start_database()
        self.gunicorn.start()
        patiently((self.top / "run/socket").exists, self.told())
        self.nginx.start()
        patiently(self._answers, self.told())

    def start_database(self) -> None:
        self.database.start()
        patiently(
            lambda: any((self.top / "sockets").glob(".s.PGSQL.*[0-9]")), self.told()
        )
        ready = max(Path("/usr/lib/postgresql").glob("*/bin/pg_isready"))
        words = [str(ready), "-q", "-h", str(self.top / "sockets")]
        patiently(lambda: subprocess.run(words, check=False).returncode == 0, "ready")

    def stop(self) -> None:
        for process in (self.nginx, self.gunicorn):
            process.stop()
        self.database.stop(signal.SIGINT)

    def told(self) -> str:
        """Return what the programs have said."""
        return "".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}\n"
            for path in sorted(self.top.glob("*.log"))
        )

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/builds/").status == 200
        except OSError:
            return False

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        source: str = "127.0.0.1",
    ) -> Reply:
        """Ask nginx something, from an address of ours."""
        rest = (method, path, body, headers)
        return ask(self.port, *rest, source=source, patience=PATIENCE)

    def post(self, body: bytes, *, source: str = "127.0.0.1") -> Reply:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", "/antitheft/1/", body, kind, source=source)


@contextlib.contextmanager
def stack() -> Iterator[Stack]:
    """Make a directory for everything; what is started in it ends with the block."""
    top = Path(tempfile.mkdtemp(prefix="olpc-nginx-", dir="/var/tmp"))
    top.chmod(0o755)
    made = Stack(top)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(top, ignore_errors=True)
