"""Making room in a site: unpublish a build, or all that nobody needs."""

from pathlib import Path

import click

from olpc_update_query.cli.admin_console import (
    PROGRAM,
    SITE,
    actor,
    in_bytes,
    open_site,
    say,
)
from olpc_update_query.cli.admin_site import read_build
from olpc_update_query.model.wire import BuildId
from olpc_update_query.server.site import Site


@click.command()
@SITE
@click.argument("build", callback=read_build)
def unpublish(site: Path, build: BuildId) -> None:
    """Delete a published build.

    BUILD must not be assigned any more.
    """
    from olpc_update_query.server.clearing import unpublish as delete

    delete(open_site(site), actor(), build)
    say(f"Build {build} is deleted here; laptops that run it keep it.")


@click.command()
@SITE
@click.option("--dry-run", is_flag=True, help="Only tell which.")
def gc(site: Path, dry_run: bool) -> None:
    """Delete the builds that nobody needs.

    They are not assigned, no laptop runs them, and there is a newer one. What is left
    of a `publish` that was cut short goes as well; until then the next one uses it.
    """
    from olpc_update_query.server.clearing import drop_attempts
    from olpc_update_query.server.clearing import unpublish as delete

    opened = open_site(site)
    dropped = 0 if dry_run else drop_attempts(opened)
    found = _unused(opened)
    for build in found:
        if not dry_run:
            delete(opened, actor(), build)
        say(f"Build {build} {'is of no use' if dry_run else 'is deleted'}.")
    if dropped:
        say(f"What was left of a publish is deleted: {in_bytes(dropped)}.")
    if not found:
        say("Every published build is assigned, runs somewhere, or is the newest.")
    elif dry_run:
        say(f"Next: {PROGRAM} gc {site}")


def _unused(site: Site) -> list[BuildId]:
    from olpc_update_query.server.clearing import unused
    from olpc_update_query.server.reports import Reports

    reports = Reports(site.reports)
    try:
        return unused(site, reports)
    finally:
        reports.close()


COMMANDS = (unpublish, gc)
