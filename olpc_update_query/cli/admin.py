"""``olpc-update-admin``: everything an administrator does to a site."""

import sys
from typing import NoReturn

import click

from olpc_update_query.cli import (
    admin_builds,
    admin_clearing,
    admin_keys,
    admin_laptops,
    admin_rollout,
    admin_serve,
    admin_site,
    admin_stick,
)
from olpc_update_query.cli.admin_console import PROGRAM, guard, note

INTERRUPTED = 130


_ABOUT = """\
Keep a site: its builds, its laptops, and which of them run what.

A site is a directory of readable files. A new one, in fifteen minutes:

\b
  olpc-update-admin init SITE
  olpc-update-admin publish SITE TREE --build 762
  olpc-update-admin laptops import SITE laptops.csv
  olpc-update-admin assign SITE --build 762 --percent 10
  olpc-update-admin serve SITE
"""


@click.group(help=_ABOUT, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="olpc-update-query", prog_name=PROGRAM)
def admin() -> None:
    """Keep a site."""


for _module in (
    admin_site,
    admin_keys,
    admin_builds,
    admin_clearing,
    admin_laptops,
    admin_rollout,
    admin_serve,
    admin_stick,
):
    for _command in _module.COMMANDS:
        admin.add_command(_command)


def main() -> NoReturn:
    """Run the command, and leave the process with its exit code."""
    try:
        with guard():
            code = admin.main(prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        note(f"{PROGRAM}: interrupted")
        note("  hint: Repeat the same command: it finishes what was begun.")
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
