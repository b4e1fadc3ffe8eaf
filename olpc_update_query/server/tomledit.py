"""Editing a TOML file so that a person's comments and order survive."""

import logging
from collections.abc import Callable, MutableMapping
from typing import TypeVar

from olpc_update_query.errors import DamagedSite

_log = logging.getLogger(__name__)

Members = MutableMapping[str, object]
_V = TypeVar("_V")


def edited(
    file: str,
    text: str,
    edit: Callable[[Members], object],
    parse: Callable[[bytes], _V],
    wanted: _V,
) -> str:
    """Return an edited text if it says what was meant, whatever became of it.

    Args:
        file: The file's name, for the error.
        text: Its text.
        edit: Changes the document.
        parse: Reads the file.
        wanted: What it must say then.

    Raises:
        DamagedSite: The file is laid out so that it cannot be edited by a program.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        edit(document)
        found = tomlkit.dumps(document)
        if parse(found.encode()) == wanted:
            return found
    except (TOMLKitError, DamagedSite, ValueError, TypeError) as error:
        _log.debug("%s cannot be edited: %s", file, error)
    raise DamagedSite(file, "is laid out so that only a person can edit it")


def table_in(file: str, parent: Members, key: str) -> Members:
    """Return a table, made where there is none.

    Raises:
        DamagedSite: Something else is there.
    """
    import tomlkit

    if key not in parent:
        parent[key] = tomlkit.table()
    child = parent[key]
    if not isinstance(child, MutableMapping):
        raise DamagedSite(file, f"{key} is not a table")
    return child
