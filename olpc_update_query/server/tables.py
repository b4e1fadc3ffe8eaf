"""Strict reading of the tables of a TOML file.

A key that nobody asks for is a mistake of whoever wrote it, and is named.
"""

import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from olpc_update_query.errors import DamagedSite, Malformed

_T = TypeVar("_T", str, int, bool)
_R = TypeVar("_R")
_E = TypeVar("_E", bound=StrEnum)


class Table:
    """One table, from which each key is taken once.

    Args:
        members: What the table holds.
        file: The file's name, for messages.
        name: The table's dotted name, empty for the whole file.
    """

    def __init__(
        self, members: Mapping[str, object], file: str, name: str = ""
    ) -> None:
        self._rest, self._file, self._name = dict(members), file, name

    def fault(self, key: str, reason: str) -> DamagedSite:
        """Return the error that says what is wrong with a key."""
        dotted = f"{self._name}.{key}" if self._name else key
        return DamagedSite(f"{self._file}, {dotted}", reason)

    def _take(self, key: str, kind: type[_T]) -> _T | None:
        value = self._rest.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, kind) or type(value) is not kind:
            kinds = {str: "a text in quotes", int: "a whole number", bool: "a flag"}
            raise self.fault(key, f"is not {kinds[kind]}")
        return value

    def text(self, key: str, *, limit: int = 256) -> str | None:
        """Take a text of one line, None when it is absent or empty."""
        value = self._take(key, str)
        if not value:
            return None
        if len(value) > limit or not value.isprintable():
            raise self.fault(key, f"is not one line of at most {limit} characters")
        return value

    def parsed(self, key: str, parse: Callable[[str], _R]) -> _R | None:
        """Take a text and read it, None when it is absent or empty."""
        value = self._take(key, str)
        if not value:
            return None
        try:
            return parse(value)
        except Malformed as error:
            raise self.fault(key, error.reason) from error

    def integer(self, key: str, low: int, high: int) -> int | None:
        """Take a whole number from ``low`` to ``high``."""
        value = self._take(key, int)
        if value is not None and not low <= value <= high:
            raise self.fault(key, f"{value} is not {low} to {high}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """Take true or false."""
        value = self._take(key, bool)
        return default if value is None else value

    def choice(self, key: str, kind: type[_E], default: _E) -> _E:
        """Take one of a few words."""
        value = self._take(key, str)
        if value is None:
            return default
        try:
            return kind(value)
        except ValueError:
            words = ", ".join(f'"{word}"' for word in kind)
            raise self.fault(key, f'"{value}" is none of {words}') from None

    def moment(self, key: str) -> int | None:
        """Take a date with time; without an offset it is UTC."""
        value = self._rest.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, datetime):
            raise self.fault(key, "is not a time such as 2027-01-31T06:00:00Z")
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())

    def listed(self, key: str, parse: Callable[[str], _R]) -> tuple[_R, ...]:
        """Take a list of texts and read each."""
        items = self._rest.pop(key, [])
        if not isinstance(items, list):
            raise self.fault(key, "is not a list")
        one = [Table({key: item}, self._file, self._name) for item in items]
        found = [table.parsed(key, parse) for table in one]
        return tuple(item for item in found if item is not None)

    def table(self, key: str) -> "Table | None":
        """Take a table in this one."""
        members = self._rest.pop(key, None)
        if members is None:
            return None
        if not isinstance(members, dict):
            raise self.fault(key, "is not a table")
        dotted = f"{self._name}.{key}" if self._name else key
        return Table(members, self._file, dotted)

    def tables(self) -> dict[str, "Table"]:
        """Take everything that is left as tables, by name."""
        found = {}
        for key in list(self._rest):
            if (table := self.table(key)) is not None:
                found[key] = table
        return found

    def end(self) -> None:
        """Say that nothing else is expected.

        Raises:
            DamagedSite: There is something else.
        """
        for key in self._rest:
            raise self.fault(key, "is not a key of this file")


def read_table(data: bytes, file: str) -> Table:
    """Read a TOML file.

    Args:
        data: The file's bytes.
        file: Its name, for messages.

    Raises:
        DamagedSite: It is not TOML; the line is named.
    """
    try:
        return Table(tomllib.loads(data.decode()), file)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DamagedSite(f"{file}, line {line}", "is not UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        end = f"at line {len(data.splitlines())}"
        text = str(error).replace("at end of document", end)
        raise DamagedSite(file, text) from error
