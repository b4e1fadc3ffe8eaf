"""Build the man pages and the shells' completions from the program itself.

    python -m share.build DIRECTORY

Prose is in ``share/man/*.in``. What the program knows better stands there as a line of
its own: ``@OPTIONS@``, ``@COMMANDS@``, ``@KEYS@`` and ``@EXIT_STATUS@``.
"""

import gzip
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
from click.shell_completion import get_completion_class

from olpc_update_query import errors
from olpc_update_query.cli.admin import admin
from olpc_update_query.cli.query import query
from olpc_update_query.cli.update import update

TOP = Path(__file__).parents[1]
PAGES = TOP / "share/man"
SAMPLE = TOP / "docs/config.sample.toml"
COMMANDS = {
    "olpc-update-query": query,
    "olpc-update": update,
    "olpc-update-admin": admin,
}
SERVERS_OWN = range(50, 70)
"""Exit codes that only olpc-update-admin uses."""
SHELLS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/vendor-completions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}


# --- roff ----------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Return plain text as roff shows it, whatever its letters mean to roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def paragraphs(text: str) -> Iterator[str]:
    """Return click's help text as roff; lines of a marked block stay as they are."""
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b"):
            lines = escaped(block.removeprefix("\b").strip("\n"))
            yield f".PP\n.nf\n{lines}\n.fi"
        else:
            yield f".PP\n{escaped(block)}"


# --- options and commands ------------------------------------------------------------


def options_of(command: click.Command) -> list[click.Option]:
    """Return the options that a command shows, `--help` left out."""
    found = [item for item in command.params if isinstance(item, click.Option)]
    return [item for item in found if not item.hidden]


def spelling(option: click.Option) -> str:
    """Return how an option is spelt, short names first."""
    names = sorted(option.opts, key=len)
    value = ""
    if not option.is_flag and not option.count:
        kind = option.type
        choices = kind.choices if isinstance(kind, click.Choice) else ()
        value = " " + (
            "|".join(map(str, choices)) or option.metavar or kind.name.upper()
        )
    names += [f"/{name}" for name in option.secondary_opts]
    return ", ".join(f"\\fB{escaped(name)}\\fR" for name in names) + escaped(value)


def option_text(option: click.Option) -> str:
    """Return what an option means."""
    text = escaped(option.help or "")
    default = option.default
    shown = option.show_default and default is not None and not callable(default)
    return f"{text} Default: {escaped(str(default))}." if shown else text


def options(found: list[click.Option]) -> Iterator[str]:
    """Tell of options."""
    for option in found:
        yield f".TP\n{spelling(option)}\n{option_text(option)}"


def argument(item: click.Argument) -> str:
    """Return what stands for an argument; not click's own, which changes by version."""
    name = item.metavar or (item.name or "").upper()
    name = name if item.nargs == 1 else f"{name}..."
    return name if item.required else f"[{name}]"


def leaves(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Return every subcommand with its whole name, in the program's order."""
    for name, command in group.commands.items():
        whole = f"{above} {name}".strip()
        yield whole, command
        if isinstance(command, click.Group):
            yield from leaves(command, whole)


def commands(group: click.Group) -> Iterator[str]:
    """Tell of the subcommands; options that the whole program has are told once."""
    common = {name for option in options_of(group) for name in option.opts}
    for name, command in leaves(group):
        if isinstance(command, click.Group) and not command.invoke_without_command:
            continue
        takes = [item for item in command.params if isinstance(item, click.Argument)]
        words = [argument(item) for item in takes]
        yield f".SS {escaped(' '.join([name, *words]))}"
        yield from paragraphs(command.help or "")
        own = [one for one in options_of(command) if not common.intersection(one.opts)]
        yield from options(own)


# --- exit codes and keys -------------------------------------------------------------


def exit_status(program: str) -> Iterator[str]:
    """Tell what each exit code of a program means."""
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.UpdateError) and kind is not errors.UpdateError
    ]
    told = {
        0: "It is done, or there was nothing to do.",
        1: "A bug: there is a traceback.",
        2: "The command line is wrong.",
        130: "It was interrupted; what has arrived is kept.",
    }
    for kind in kinds:
        servers = kind.exit_code in SERVERS_OWN
        if not servers or program == "olpc-update-admin":
            told[kind.exit_code] = (inspect.getdoc(kind) or "").splitlines()[0]
    for code in sorted(told):
        yield f".TP\n\\fB{code}\\fR\n{escaped(told[code])}"


class Key(NamedTuple):
    """A key of the configuration, as the commented sample documents it."""

    name: str
    default: str
    text: str


def sample_keys() -> Iterator[Key]:
    """Return the keys of the commented sample."""
    table, words = "", list[str]()
    for line in SAMPLE.read_text().splitlines():
        if header := re.fullmatch(r"#\[([^\]]+)\]", line):
            table = f"{header[1]}."
        elif setting := re.fullmatch(r"#([a-z_]+) = (.*)", line):
            yield Key(table + setting[1], setting[2], " ".join(words))
            words = []
        elif line.startswith("# "):
            words.append(line.removeprefix("# "))
        elif not line.strip():
            words = []


def key_texts() -> Iterator[str]:
    """Tell of the keys of the configuration."""
    for key in sample_keys():
        default = f"Default: {escaped(key.default)}."
        yield f".TP\n\\fB{escaped(key.name)}\\fR\n{escaped(key.text)} {default}"


# --- files ---------------------------------------------------------------------------


def page(template: Path) -> str:
    """Return a man page."""
    name = template.name.partition(".")[0]
    command = COMMANDS.get(name)
    parts: dict[str, Callable[[], Iterator[str]]] = {"@KEYS@": key_texts}
    if command is not None:
        parts["@OPTIONS@"] = lambda: options(options_of(command))
        parts["@EXIT_STATUS@"] = lambda: exit_status(name)
    if isinstance(command, click.Group):
        parts["@COMMANDS@"] = lambda: commands(command)
    lines: list[str] = []
    for line in template.read_text().splitlines():
        lines += parts[line]() if line in parts else [line]
    return "\n".join(lines) + "\n"


def completion(program: str, shell: str) -> str:
    """Return the script that teaches a shell a program's words."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(shell)
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    asks = kind(COMMANDS[program], {}, program, variable)
    return asks.source_template % asks.source_vars()


def main(target: Path) -> None:
    """Build everything below a directory that is laid out like ``/usr/share``."""
    for template in sorted(PAGES.glob("*.in")):
        name = template.name.removesuffix(".in")
        path = target / f"man/man{name[-1]}/{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(page(template).encode(), mtime=0))
    for program in COMMANDS:
        for shell, place in SHELLS.items():
            path = target / place.format(program)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(completion(program, shell))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
