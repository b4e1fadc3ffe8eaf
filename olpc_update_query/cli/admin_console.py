"""What the administrator's commands have in common: how they find, tell and fail."""

import contextlib
import getpass
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from olpc_update_query.errors import (
    Busy,
    DiskFailed,
    MissingExtra,
    NoSpace,
    NotPermitted,
    SiteError,
    UpdateError,
)
from olpc_update_query.server.ownership import user_name
from olpc_update_query.server.site import Site
from olpc_update_query.server.steer import Actor
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role

PROGRAM = "olpc-update-admin"

_PIPE_CLOSED = 128 + 13
_SERVER = ("flask", "jinja2", "sqlalchemy", "tomlkit", "waitress", "werkzeug")
_EXTRAS = dict.fromkeys(_SERVER, "server") | {"psycopg": "postgresql"}
_ADVICE = {
    Busy: "Wait until it has ended.",
    DiskFailed: (
        "Is the disk failing, or mounted read-only? With reports_url in site.toml: is "
        "that database there, and does it let this user in?"
    ),
    NoSpace: (
        "Delete something there, or take a larger one; in a site, `olpc-update-admin "
        "unpublish SITE BUILD` deletes a build, `gc SITE` all that nobody needs."
    ),
}

SITE = click.argument(
    "site", type=click.Path(file_okay=False, path_type=Path), metavar="SITE"
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def open_site(path: Path) -> Site:
    """Return a site.

    Raises:
        NoSite: There is none.
    """
    return Site(path, SystemClock())


def say(text: str = "") -> None:
    """Print a line."""
    click.echo(text)


def note(text: str) -> None:
    """Print a line that is no result, beside output that may be redirected."""
    click.echo(text, err=True)


def print_json(value: object) -> None:
    """Print a value."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def in_bytes(count: int) -> str:
    """Return a number of bytes for people."""
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"


def plain(text: str) -> str:
    """Return foreign text without what a terminal would obey."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def who() -> str:
    """Return who is working, for the log of changes."""
    name = os.environ.get("SUDO_USER") or _login()
    return plain(name).replace(" ", "_") or "?"


def actor() -> Actor:
    """Return who is working, and when."""
    return Actor(who(), SystemClock().now())


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid{os.getuid()}"


def suggest(site: Site, *, is_served: bool = False) -> None:
    """Print the next sensible step."""
    say(f"Next: {PROGRAM} {_next_step(site, is_served=is_served)}")


def _next_step(site: Site, *, is_served: bool) -> str:
    if not any(site.keys.glob(f"{Role.OATS}*.private")):
        return f"keygen {site.path}"
    if not site.build_names():
        return f"publish {site.path} TREE --build NAME"
    if not site.laptops():
        return f"laptops import {site.path} FILE.csv"
    if not site.rollout().assignments:
        newest = site.build_names()[-1]
        return f"assign {site.path} --build {newest} --percent 10"
    if is_served:
        return f"status {site.path}"
    return f"serve {site.path}, or status {site.path} when it runs"


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Tell an expected failure in one line with a hint, and exit with its code."""
    try:
        yield
    except UpdateError as error:
        sys.exit(_complain(error))
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _EXTRAS:
            raise
        sys.exit(_complain(MissingExtra(module, _EXTRAS[module])))
    except BrokenPipeError:
        # whoever read our output has seen enough; nor may the end of Python complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_PIPE_CLOSED)
    except PermissionError as error:
        sys.exit(_complain(NotPermitted(str(error.filename or "a file"))))
    except OSError as error:
        where = str(error.filename or "the operating system")
        sys.exit(_complain(SiteError(where, error.strerror or str(error))))


def _whose(path: Path) -> str:
    """Say who may use a path, or the first above it that can be looked at."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            owner = user_name(os.lstat(place).st_uid)
            whose = f"{place} belongs to {owner}"
            if place != path:
                return f"{whose}, and is closed to others: be {owner}."
            return f"{whose}: be {owner}, or `chown` it as root."
    return "Run it as the user who owns the site."


def _complain(error: UpdateError) -> int:
    note(f"{PROGRAM}: {plain(str(error))}")
    hint = _ADVICE.get(type(error)) or error.hint()
    if type(error) is NotPermitted:
        hint = _whose(Path(error.path))
    if hint:
        note(f"  hint: {plain(hint)}")
    return error.exit_code
