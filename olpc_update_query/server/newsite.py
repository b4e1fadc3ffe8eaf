"""A new site, and the texts that its files begin with."""

import json
import os
from pathlib import Path
from typing import Final

from olpc_update_query.errors import Malformed, SiteExists
from olpc_update_query.server.laptops import write_laptops
from olpc_update_query.server.leasepolicy import parse_timezone
from olpc_update_query.server.rollout_text import EMPTY
from olpc_update_query.system.files import disk_errors, replace_file

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
    with disk_errors(path):
        os.makedirs(path, exist_ok=True)
        if (path / "site.toml").exists():
            raise SiteExists(str(path), "is a site already")
        for directory, mode in (("keys", 0o700), ("builds", 0o755)):
            os.makedirs(path / directory, exist_ok=True)
            os.chmod(path / directory, mode)
        _create(path / ".gitignore", IGNORED)
        _create(path / "laptops.csv", write_laptops({}).decode())
        _create(path / "rollout.toml", EMPTY)
        quoted = json.dumps(name, ensure_ascii=False)
        zone = json.dumps(_local_timezone())
        text = SITE.format(name=quoted, timezone=zone)
        replace_file(path / "site.toml", text.encode())


def _local_timezone() -> str:
    """Return where this machine is, as far as it knows."""
    try:
        place = os.readlink(_LOCALTIME).partition("zoneinfo/")[2]
        zone = parse_timezone(place.removeprefix("posix/"))
    except (OSError, Malformed):
        return "UTC"
    return "UTC" if zone == "Etc/UTC" else zone


def _create(path: Path, text: str) -> None:
    if not path.exists():
        replace_file(path, text.encode())
