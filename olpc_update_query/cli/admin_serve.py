"""Serving a site: by HTTP, and the configuration for rsync."""

import contextlib
import os
import socket
from pathlib import Path

import click

from olpc_update_query.cli.admin_console import (
    SITE,
    note,
    open_site,
    plain,
    say,
    suggest,
)
from olpc_update_query.errors import PortTaken
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock


@click.command()
@SITE
@click.option("--host", default="", help="Listen on this address only.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="TCP port; 80 for root, else 8080. Laptops ask port 80 by themselves.",
)
@click.option(
    "--lease-port",
    type=click.IntRange(0, 65535),
    help="TCP port of leases for the initramfs; 191 for root, else none.",
)
@click.option("--threads", type=click.IntRange(1, 64), default=8, show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Log every answer.")
def serve(
    site: Path,
    host: str,
    port: int | None,
    lease_port: int | None,
    threads: int,
    verbose: bool,
) -> None:
    """Answer laptops and hand out builds until SIGINT or SIGTERM.

    Started by root it takes the port, then runs as the user who owns the site.
    Changes of the site's files are noticed without a restart.
    """
    from olpc_update_query.server import serve as serving
    from olpc_update_query.server.app import create_app
    from olpc_update_query.server.keys import load_key
    from olpc_update_query.server.leaseport import served
    from olpc_update_query.system.notify import notify
    from olpc_update_query.trust.keys import Role

    opened = open_site(site)
    serving.heed_signals()
    wanted = (80 if os.geteuid() == 0 else 8080) if port is None else port
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as ending:
        sockets = serving.listen(host, wanted)
        leases = _listen_for_leases(host, lease_port)
        for listener in (*sockets, *leases):
            ending.callback(listener.close)
        user = serving.become_owner(site)
        _set_up_logging(verbose)
        load_key(opened, Role.OATS)
        app = create_app(site)
        ending.callback(app.extensions["reports"].close)
        trusted = opened.settings().behind_proxies > 0
        reply = app.extensions["answerer"].answer_port
        with served(leases, reply):
            _tell_port(leases)
            _announce(opened, serving.addresses(sockets), user)
            notify("READY=1")
            serving.run(app, sockets, threads=threads, trusted=trusted)
    say("Stopped.")


def _listen_for_leases(host: str, port: int | None) -> list[socket.socket]:
    """Take the port for leases; without one that was asked for, it is no matter."""
    from olpc_update_query.server.leaseport import PORT
    from olpc_update_query.server.serve import listen

    if port is not None:
        return listen(host, port)
    if os.geteuid() != 0:
        return []
    try:
        return listen(host, PORT)
    except PortTaken as error:
        note(f"No leases for the initramfs: {error}")
        return []


def _tell_port(sockets: list[socket.socket]) -> None:
    if sockets:
        port = sockets[0].getsockname()[1]
        say(f"Leases for the initramfs: TCP port {port}.")


def _set_up_logging(verbose: bool) -> None:
    import logging

    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(format="%(asctime)s %(message)s", level=level)
    # a line for each request that has to wait tells nothing that one can act on
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def _announce(site: Site, urls: list[str], user: str | None) -> None:
    from olpc_update_query.server.check import check_site

    say(f"Serving {site.settings().name} ({site.path}) at")
    for url in urls:
        say(f"  {url}")
    if user is not None:
        say(f"Runs as {user}, who owns the site.")
    elif os.geteuid() == 0:
        note("Runs as root, who owns the site; a user of its own would be safer.")
    for finding in check_site(site, SystemClock().now()):
        note(plain(f"{finding.weight}: {finding.where}: {finding.text}"))
    say("On a laptop: olpc-update-query -v --now --server ADDRESS")
    suggest(site, is_served=True)
    say("Ctrl-C stops the server.")


@click.command("rsyncd-conf")
@SITE
def rsyncd_conf(site: Path) -> None:
    """Print a configuration for rsync's daemon.

    It has a module for each build.
    """
    from olpc_update_query.server.rsyncd import configuration, served_builds

    opened = open_site(site)
    builds = served_builds(opened)
    as_root = os.geteuid() == 0
    click.echo(configuration(opened, builds, as_root=as_root), nl=False)
    if not builds:
        note("No build has its plain tree: publish it with --with-root.")
        return
    count = "1 build is" if len(builds) == 1 else f"{len(builds)} builds are"
    note(f"{count} served: rsync --daemon --no-detach --config=FILE")
    if opened.settings().rsync_url is None:
        note(f"Next: set rsync_url in {site / 'site.toml'}, so that laptops know.")


COMMANDS = (serve, rsyncd_conf)
