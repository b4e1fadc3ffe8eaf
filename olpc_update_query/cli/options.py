"""What the laptop's commands take in common, before or after the subcommand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click

from olpc_update_query import config
from olpc_update_query.cli.console import Console, Level, set_up_logging
from olpc_update_query.cli.logbook import Logbook
from olpc_update_query.run.machine import Machine, this_machine
from olpc_update_query.system import journal
from olpc_update_query.system.settings import Settings

_F = TypeVar("_F", bound=Callable[..., object])


@dataclass(slots=True)
class Common:
    """The options that every subcommand knows.

    Attributes:
        program: The command's name.
        root: Where the laptop's file system begins.
        config: Read this file instead of the configured ones.
        servers: Ask these instead of the configured ones.
        verbose: How often `-v` was given.
        quiet: Tell nothing but errors.
        as_json: Tell nothing but JSON.
    """

    program: str = "olpc-update-query"
    root: Path = Path("/")
    config: Path | None = None
    servers: tuple[str, ...] = ()
    verbose: int = 0
    quiet: bool = False
    as_json: bool = False
    _settings: Settings | None = field(default=None, init=False)

    def console(self) -> Console:
        """Return who listens, and send the log the same way."""
        level = Level.QUIET if self.quiet else Level(min(self.verbose, Level.DEBUG))
        set_up_logging(self.program, level)
        kind = Logbook if journal.is_listening() and not self.as_json else Console
        return kind(self.program, level, as_json=self.as_json)

    def settings(self) -> Settings:
        """Read the configuration.

        Raises:
            ConfigError: It cannot be used.
        """
        if self._settings is None:
            self._settings = config.load(
                self.root, config=self.config, servers=self.servers
            )
        return self._settings

    def machine(self) -> Machine:
        """Find out which laptop this is.

        Raises:
            ConfigError: The configuration cannot be used, or it is nobody.
        """
        return this_machine(self.root, self.settings())


def common(function: _F) -> _F:
    """Let a command take the common options; they go into the ``Common`` object."""
    for option in (_ROOT, _CONFIG, _SERVER, _VERBOSE, _QUIET, _JSON):
        function = option(function)
    return function


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """Put a given option into the ``Common`` object, a later one over an earlier."""
    found = context.ensure_object(Common)
    if value not in (None, False, 0, ()) and parameter.name is not None:
        setattr(found, parameter.name, value)


_DIRECTORY = click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path)
_ROOT = click.option(
    "--root",
    type=_DIRECTORY,
    metavar="DIR",
    callback=_keep,
    expose_value=False,
    help="Do everything below DIR: configuration, state, identity, builds.",
)
_CONFIG = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    callback=_keep,
    expose_value=False,
    help="Read FILE instead of the configuration files.",
)
_SERVER = click.option(
    "--server",
    "-s",
    "servers",
    multiple=True,
    metavar="http://HOST[:PORT]/",
    callback=_keep,
    expose_value=False,
    help="Ask this server instead of all others; may be repeated.",
)
_VERBOSE = click.option(
    "--verbose",
    "-v",
    count=True,
    callback=_keep,
    expose_value=False,
    help="Tell the whole story; twice: the log as well.",
)
_QUIET = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    callback=_keep,
    expose_value=False,
    help="Tell nothing but errors.",
)
_JSON = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_keep,
    expose_value=False,
    help="Tell nothing but one JSON object.",
)
