"""A site's builds: publishing a tree."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from olpc_update_query.cli.admin_console import (
    PROGRAM,
    SITE,
    in_bytes,
    note,
    open_site,
    plain,
    say,
    suggest,
    who,
)
from olpc_update_query.cli.admin_site import read_build
from olpc_update_query.errors import (
    Malformed,
    MissingKey,
    MissingUpstreamKey,
    UnknownBuild,
)
from olpc_update_query.model.wire import BuildId, parse_build_id
from olpc_update_query.ports import Transport
from olpc_update_query.server.keys import load_key
from olpc_update_query.server.site import Site
from olpc_update_query.system.files import replace_file
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import KeyRing, Role

if TYPE_CHECKING:
    from olpc_update_query.server.mirror import Upstream
    from olpc_update_query.server.publish import OrderFacts, Published


class Teller:
    """Tells how far a long job is (``ports.Progress``)."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._tenth = 0

    def step(self, text: str) -> None:
        """Tell one step."""
        self._tenth = 0
        say(plain(text))

    def transferred(self, done: int, total: int) -> None:
        """Tell how far it is: on a terminal all the time, else now and then."""
        share = min(done / total, 1.0) if total else 1.0
        if self._is_terminal:
            click.echo(f"\r  {share:4.0%}" + ("\n" if share == 1 else ""), nl=False)
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            say(f"  {share:4.0%}")


def read_builds(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> tuple[BuildId, ...]:
    """Return the builds that an option names, each once."""
    try:
        return tuple(dict.fromkeys(map(parse_build_id, texts)))
    except Malformed as error:
        raise click.BadParameter(error.reason) from error


def _read_name(
    context: click.Context, option: click.Parameter, text: str | None
) -> BuildId | None:
    return None if text is None else read_build(context, option, text)


@click.command()
@SITE
@click.argument("tree", type=click.Path(exists=True, path_type=Path))
@click.option("--build", callback=_read_name, help="Its new name.")
@click.option(
    "--delta-from",
    callback=read_builds,
    multiple=True,
    metavar="BUILD",
    help="Make a delta from this published build; may be given several times.",
)
@click.option(
    "--with-root",
    is_flag=True,
    help="Add the plain tree, for rsync and for old laptops.",
)
@click.option(
    "--normalize-times",
    is_flag=True,
    help="Give every path the same time, so that more can be linked on the laptops.",
)
@click.option(
    "--any-tree",
    is_flag=True,
    help="Publish it even if no laptop could boot it, for tests.",
)
def publish(  # noqa: PLR0913, PLR0917 - click hands over each option
    site: Path,
    tree: Path,
    build: BuildId | None,
    delta_from: tuple[BuildId, ...],
    with_root: bool,
    normalize_times: bool,
    any_tree: bool,
) -> None:
    """Make a build of the operating system in TREE.

    TREE is a directory, an image that you have mounted, or a tar archive, as it is or
    compressed by gzip, bzip2, xz, lzma or zstd; of a school server's bundle it is the
    file -tree.tar. No laptop is told of the build before you assign it. Run it as a
    user who can read every file of the tree; an archive needs no root.
    """
    from olpc_update_query.server import publish as publishing
    from olpc_update_query.server.bundle import find_bundle, prove_archive

    opened = open_site(site)
    bundle = find_bundle(tree)
    build = build or bundle.name
    if build is None:
        raise click.UsageError("give --build NAME")
    prove_archive(tree, bundle)
    for old in delta_from:
        if opened.find_build(old) is None:
            raise UnknownBuild(old, ", ".join(opened.build_names()))
    signer = _order_signer(opened)
    with opened.recorded(who(), f"publish build {build}"):
        done = publishing.publish(
            opened.builds,
            tree,
            build,
            delta_from=delta_from,
            with_root=with_root,
            normalize_times=normalize_times,
            must_boot=not any_tree,
            progress=Teller(),
            sign_order=signer,
        )
    _tell(opened, done)


def _order_signer(site: Site) -> "Callable[[OrderFacts], bytes] | None":
    """Return what signs the order that lies beside a build."""
    from olpc_update_query.server.orders import order_for

    try:
        key = load_key(site, Role.OATS)
    except MissingKey:
        note("No key, so no signed order: sticks and `olpc-update BUILD` need one.")
        note(f"  hint: `{PROGRAM} keygen {site.path}`, then publish it again.")
        return None

    return lambda facts: order_for(facts, key, SystemClock().now())


def _tell(site: Site, done: "Published") -> None:
    build = done.facts.build
    say(
        f"Published build {build} in {done.path}: {done.header.files:,} files, "
        f"{in_bytes(done.header.bytes)}."
    )
    say(f"A laptop that has nothing of it fetches {in_bytes(done.pack)}.")
    for old, size in done.deltas.items():
        say(f"A laptop that runs {old} fetches {in_bytes(size)}.")
    if len(site.build_names()) > 1 and not done.deltas:
        note("No delta was made: --delta-from BUILD makes updates much smaller.")
    if not site.laptops():
        say(f"Next: {PROGRAM} laptops import {site.path} FILE.csv")
    elif build in site.rollout().builds():  # it was published again
        say(f"Next: {PROGRAM} status {site.path}")
    else:
        say(f"Next: {PROGRAM} assign {site.path} --build {build} --percent 10")


@click.command()
@click.argument("url", metavar="URL")
@SITE
@click.option(
    "--build",
    "names",
    callback=read_builds,
    multiple=True,
    help="This build, of use or not; may be repeated.",
)
@click.option(
    "--key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The other site's keys/oats.public; kept from then on.",
)
@click.option(
    "--with-root",
    is_flag=True,
    help="Make the plain tree of each as well, for rsync and for old laptops.",
)
def mirror(
    url: str,
    site: Path,
    names: tuple[BuildId, ...],
    key: Path | None,
    with_root: bool,
) -> None:
    """Fetch builds from another site.

    It is served at URL, such as http://national/. Without --build these are the ones
    that are assigned here, those that are here and were published anew, and the newest.
    What is here is not fetched again, and what a cut link or a killed run has fetched
    is kept: run it again, by a timer for example. A build is served when all of it is
    here. Started by root, it goes on as the user who owns the site, unless --with-root
    is given.

    URL may also be the directory of a stick that `usb` made.
    """
    from olpc_update_query.server.keys import above_path
    from olpc_update_query.server.mirror import Upstream
    from olpc_update_query.server.mirror import mirror as pull
    from olpc_update_query.server.serve import become_owner
    from olpc_update_query.system.keyring import read_key

    der = None if key is None else read_key(key).der
    if not with_root:
        become_owner(site)
    opened = open_site(site)
    if der is not None:
        with opened.change(who(), f"trust the builds of {plain(url)}"):
            replace_file(above_path(opened, Role.OATS), der)
    count = 0
    place, ring = _web_or_directory(url), _upstream_ring(opened)
    with _network() as transport:
        _take_statements(opened, Upstream(place, transport, ring))
        upstream = Upstream(place, transport, _upstream_ring(opened))
        for done in pull(
            opened,
            upstream,
            names,
            who=who(),
            clock=SystemClock(),
            progress=Teller(),
            with_root=with_root,
        ):
            count += 1
            say(
                f"Build {done.build} is here: {in_bytes(done.received)} fetched, "
                f"{in_bytes(done.reused)} were here."
            )
            for base in done.deltas:
                say(f"There is a delta from {base}.")
    if not count:
        say("Nothing new.")
    elif not opened.rollout().assignments:
        suggest(opened)


def _web_or_directory(url: str) -> str:
    if url.startswith(("http://", "https://", "file://")):
        return url
    if Path(url).is_dir():
        return str(Path(url).resolve())
    raise click.BadParameter("it is no http or https URL, and no directory")


def _upstream_ring(site: Site) -> KeyRing:
    """Return the keys that builds of another site may be signed with.

    Raises:
        MissingUpstreamKey: There are none.
    """
    from olpc_update_query.server.above import above_ring
    from olpc_update_query.server.keys import above_path, site_ring

    above = above_path(site, Role.OATS)
    if not above.exists():
        raise MissingUpstreamKey(str(above), "is missing")
    return KeyRing([*above_ring(site), *site_ring(site)])


def _take_statements(site: Site, upstream: "Upstream") -> None:
    """Take over what the other site says about its keys."""
    from olpc_update_query.server.above import follow_above, outlived, take_over

    raw = upstream.statements()
    if raw is None:
        return
    try:
        done = follow_above(site, raw)
    except Malformed as error:
        say(plain(f"keys.sig is left out: {error}"))
        return
    for refused in done.refused:
        say(plain(str(refused)))
    if not done.made:
        return
    with site.change(who(), f"take over what {plain(upstream.url)} says about keys"):
        take_over(site, done.made)
    for statement, _ in done.made:
        say(f"Statement {statement.number} about {statement.role} keys is taken over.")
    for role in Role:
        if outlived(site, role):
            note(f"This site signs by what a retired {role} key has delegated.")
            note(f"  hint: have it delegated anew, then `{PROGRAM} keys accept` that.")


@contextmanager
def _network() -> Iterator[Transport]:
    from olpc_update_query.run.machine import USER_AGENT
    from olpc_update_query.system.http import HttpTransport
    from olpc_update_query.system.network import ProxyConfig, proxies_for

    transport = HttpTransport(USER_AGENT, proxies_for(ProxyConfig(), os.environ))
    with closing(transport):
        yield transport


COMMANDS = (publish, mirror)
