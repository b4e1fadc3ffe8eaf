"""A new site, and the texts that its files begin with."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from olpc_update_query.errors import Malformed, SiteExists
from olpc_update_query.server.laptops import write_laptops
from olpc_update_query.server.leasepolicy import parse_timezone
from olpc_update_query.server.rollout_text import EMPTY
from olpc_update_query.system.files import disk_errors, fsync_directory, replace_file

_LOCALTIME: Final = "/etc/localtime"

SITE: Final = """\
# The settings of this site. docs/server.md explains every key; the server reads the
# file again when it changes.

name = {name}

# Where laptops reach this server. Without it they are sent to where they asked.
# public_url = "http://schoolserver/"

# The rsync daemon with the modules of `olpc-update-admin rsyncd-conf`, if one runs.
# rsync_url = "rsync://schoolserver/"

# Other places that hold a copy of builds/.
# mirrors = ["http://mirror.example/builds/"]

# How often a laptop asks, in seconds: 900 (15 minutes) to 2592000 (30 days).
interval = 86400

# What a laptop is told that is not in laptops.csv: "answer" gives it updates but no
# lease, "list" says that it is not listed and shows it in the status, "ignore" nothing.
unknown = "answer"

# Shown to whoever looks at a laptop's status.
# message = "Questions? Ask Maria in room 3."

# Another database for the reports than reports.db, when several servers share them.
# reports_url = "postgresql+psycopg://olpc@db.example/olpc"

# Where the school is, a name such as "America/Lima": leases end there at six in the
# morning of a school day.
timezone = {timezone}

# Who may see the status page: "private" (addresses of local networks), "everyone",
# "nobody".
status_page = "private"

# How much work a laptop does before it is answered, in bits of hashcash: 0 for none, 20
# at most. Something for a server that strangers ask for fun; laptops pay in battery.
# hashcash_bits = 12

[lease]
# How long a lease lasts; a new one is given when half of it is over. 0: no leases.
days = 21

# Whether a laptop whose lease ends later than that is given a shorter one.
shorten = false

# A group of laptops.csv, or a stream, may have its own: `olpc-update-admin policy`.
# [lease.group."5B"]
# days = 60
"""

IGNORED: Final = """\
keys/*.private
keys/admin.password
builds/
reports.db*
.lock
"""


def create_site(path: Path, name: str) -> None:
    """Make a new site, without keys.

    Args:
        path: Its directory; it may exist if nothing of a site is in it.
        name: Its name, for people.

    Raises:
        SiteExists: There is one.
        NotPermitted: The directory cannot be written.
    """
    if (path / "site.toml").exists():
        raise SiteExists(str(path), "is a site already")
    quoted = json.dumps(name, ensure_ascii=False)
    zone = json.dumps(_local_timezone())
    text = SITE.format(name=quoted, timezone=zone)
    with disk_errors(path), ExitStack() as undo:
        for place, mode in (
            (path, None),
            (path / "keys", 0o700),
            (path / "builds", 0o755),
        ):
            _make_directories(place, undo)
            if mode is not None:
                os.chmod(place, mode)
        for file, said in (
            (".gitignore", IGNORED),
            ("laptops.csv", write_laptops({}).decode()),
            ("rollout.toml", EMPTY),
            ("site.toml", text),
        ):
            if not (path / file).exists():
                replace_file(path / file, said.encode())
                undo.callback((path / file).unlink)
        undo.pop_all()


def _make_directories(path: Path, undo: ExitStack) -> None:
    """Make a directory and those above it, which are on the disk when this returns."""
    for place in reversed([path, *path.parents]):
        if not place.exists():
            place.mkdir()
            undo.callback(place.rmdir)
            fsync_directory(place.parent)


def _local_timezone() -> str:
    """Return where this machine is, as far as it knows."""
    try:
        place = os.readlink(_LOCALTIME).partition("zoneinfo/")[2]
        zone = parse_timezone(place.removeprefix("posix/"))
    except (OSError, Malformed):
        return "UTC"
    return "UTC" if zone == "Etc/UTC" else zone
