"""olpc-update-query keys: which keys are trusted, and by whose word."""

from pathlib import Path

import click

from olpc_update_query.cli import render
from olpc_update_query.cli.console import Console
from olpc_update_query.cli.options import Common, common
from olpc_update_query.model.canonical import Json
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role

_pass = click.make_pass_decorator(Common, ensure=True)


@click.group(invoke_without_command=True)
@click.pass_context
def keys(context: click.Context) -> None:
    """Show and change which keys are trusted; alone it lists them."""
    if context.invoked_subcommand is None:
        context.invoke(list_keys)


@keys.command("list")
@common
@_pass
def list_keys(given: Common) -> None:
    """List the trusted keys, and where each is from.

    Also those that are retired.
    """
    from olpc_update_query.system.keyring import load_keys

    console = given.console()
    with console.guard():
        ring = load_keys(given.root, threshold=given.settings().key_threshold)
        if console.as_json:
            console.print_json([_row(key, ring) for key in (*ring, *ring.retired)])
            return
        for key in (*ring, *ring.retired):
            number = ring.standing(key.role).retired.get(key.digest)
            mark = "" if number is None else f"  RETIRED by statement {number}"
            console.say(f"{key.role:<6} {key.key_id}  {key.origin}{mark}")
        if not len(ring):
            console.say("no key is trusted: no answer will be believed")


def _row(key: PublicKey, ring: KeyRing) -> Json:
    number = ring.standing(key.role).retired.get(key.digest)
    return {
        "role": str(key.role),
        "id": key.key_id,
        "sha256": key.digest,
        "origin": key.origin,
        "retired": number is not None,
        "retired_by": number,
    }


@keys.command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--role",
    type=click.Choice(["oats", "lease"]),
    help="What the key may sign: answers and orders, or leases. Not needed where the "
    "file's name begins with it.",
)
@click.option("--name", help="Part of the file's name; else as FILE, or `site`.")
@common
@_pass
def add_key(given: Common, file: Path, role: str | None, name: str | None) -> None:
    """Trust the public key in FILE, such as oats-north.public."""
    from olpc_update_query.system.keyring import add_key

    console = given.console()
    with console.guard():
        wanted = None if role is None else Role(role)
        path = add_key(given.root, file, role=wanted, name=name)
        console.say(f"trusted from now on: {path}")
        _tell_what_remains(console, given.root)


@keys.command("remove")
@click.argument("key_id")
@common
@_pass
def remove_key(given: Common, key_id: str) -> None:
    """Trust a key in keys.d no longer, named by the beginning of its id."""
    from olpc_update_query.system.keyring import remove_keys

    console = given.console()
    with console.guard():
        for path in remove_keys(given.root, key_id):
            console.say(f"removed: {path}")
        _tell_what_remains(console, given.root)


@keys.command("follow")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@common
@_pass
def follow_statements(given: Common, path: Path) -> None:
    """Follow the signed statements about keys in a file.

    It is PATH, or PATH/keys.sig. Such a file is on the deployment's sticks. It need not
    be trusted: each statement proves itself, and one that is old or for other keys
    changes nothing.
    """
    from olpc_update_query.system.keyring import follow_path

    console = given.console()
    with console.guard():
        threshold = given.settings().key_threshold
        done = follow_path(given.root, path, threshold=threshold)
        if done.refused and not done.statements:
            raise done.refused[0]
        for found in done.statements:
            console.say(render.statement(found))
        if not done.statements:
            console.say("nothing is new in it")
        _tell_what_remains(console, given.root)


def _tell_what_remains(console: Console, root: Path) -> None:
    from olpc_update_query.system.keyring import load_keys

    ring = load_keys(root)
    counts = {role: sum(key.role is role for key in ring) for role in Role}
    told = ", ".join(f"{count} {role}" for role, count in counts.items())
    console.say(f"keys that are trusted now: {told}")
    for role, count in counts.items():
        if not count:
            what = "answer or order" if role is Role.OATS else "lease"
            console.warn(f"no {what} can be verified without a key for {role}")
