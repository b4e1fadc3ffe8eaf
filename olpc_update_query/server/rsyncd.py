"""The configuration of an rsync daemon that serves the builds as the old servers did.

One module ``build-NAME`` for each build that has its plain tree: ``contents`` and
``root/`` in it are what ``olpc-update`` always asked for. The limits are those of the
school server's own daemon, for a room full of laptops behind one address.
"""

from collections.abc import Sequence
from pathlib import Path

from olpc_update_query.errors import SiteError
from olpc_update_query.server.site import PublishedBuild, Site

_GLOBAL = """\
# Made by `olpc-update-admin rsyncd-conf`; make it anew after each publish.
# Run it with: rsync --daemon --no-detach --config=FILE
# (--port=8873 where port 873 is not allowed)

# Names of clients are never looked up: that stalls whole rooms without a name server.
reverse lookup = no
timeout = 600
max connections = 10
lock file = {lock}
"""

_AS_ROOT = """\
# The trees hold files that only root can read; nothing can be written.
uid = 0
gid = 0
use chroot = yes
"""

_AS_USER = """\
# Only root can lock the daemon into a build. Without that, links in a tree could lead
# out of it: let root run it where strangers can reach it.
use chroot = no
"""

_MODULE = """
[build-{name}]
path = {path}
comment = build {name}
read only = yes
list = yes
numeric ids = yes
refuse options = delete copy-links copy-dirlinks copy-unsafe-links
"""


def served_builds(site: Site) -> list[PublishedBuild]:
    """Return the builds that have a plain tree."""
    found = (site.find_build(name) for name in site.build_names())
    return [build for build in found if build is not None and build.has_root]


def configuration(
    site: Site, builds: Sequence[PublishedBuild], *, as_root: bool
) -> str:
    """Return the configuration.

    Args:
        site: The site.
        builds: The builds to serve.
        as_root: Whether root will run the daemon.

    Raises:
        SiteError: The site lies where rsync's configuration cannot say it.
    """
    lock = _quoted(site.path.resolve() / ".rsyncd.lock")
    parts = [_GLOBAL.format(lock=lock), _AS_ROOT if as_root else _AS_USER]
    for build in builds:
        path = _quoted(build.path.resolve())
        parts.append(_MODULE.format(name=build.build, path=path))
    return "".join(parts)


def _quoted(path: Path) -> str:
    text = str(path)
    if "%" in text or not text.isprintable():
        reason = "rsync cannot serve a path with such characters"
        raise SiteError(text, reason, "Move the site to a path without them.")
    return text
