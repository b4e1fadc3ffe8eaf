"""Editing ``rollout.toml`` so that the administrator's comments and order survive.

Every edit is read back and compared with what was meant before it is handed on.
"""

from collections.abc import Callable, MutableMapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from olpc_update_query.errors import DamagedSite, NoAssignment
from olpc_update_query.model.orders import Reboot
from olpc_update_query.server.laptops import normal_serial
from olpc_update_query.server.rollout import (
    FILE,
    HALT,
    Assignment,
    Kind,
    Rollout,
    Scope,
    parse_rollout,
)
from olpc_update_query.server.tomledit import Members, edited

EMPTY: Final = """\
# Which laptop gets which build. `olpc-update-admin assign` writes here; so may you:
# the server reads the file again when it changes, and comments are kept.
#
# The most specific assignment decides: [serial.SHC12900018], else [group.5B], else
# [stream.testing], else [default].

# true: nobody is told to update, for as long as you like.
paused = false
"""


def with_assignment(text: str, scope: Scope, assignment: Assignment | None) -> str:
    """Change one assignment in the text of rollout.toml.

    Args:
        text: The file's text.
        scope: Whose assignment.
        assignment: What it shall be; None removes it.

    Returns:
        The new text, with everything else in it as it was.

    Raises:
        NoAssignment: There is none to remove.
        DamagedSite: The file is laid out so that it cannot be edited by a program.
    """
    before = parse_rollout(text.encode())
    wanted = dict(before.assignments)
    if assignment is not None:
        wanted[scope] = assignment
        edit = partial(_put, scope=scope, assignment=assignment)
        return _edited(text, edit, replace(before, assignments=wanted))
    if wanted.pop(scope, None) is None:
        raise NoAssignment(FILE, f"nothing is assigned to {scope}")
    edit = partial(_remove, scope=scope)
    return _edited(text, edit, replace(before, assignments=wanted))


def with_pause(
    text: str, scope: Scope | None, *, paused: bool, now: int, by: str
) -> str:
    """Pause or resume an assignment, or with no scope everything.

    Args:
        text: The file's text.
        scope: Whose assignment.
        paused: Whether to pause.
        now: The present; failures before it count no more.
        by: Who does it.

    Raises:
        NoAssignment: Nothing is assigned there.
        DamagedSite: The file is laid out so that it cannot be edited by a program.
    """
    before = parse_rollout(text.encode())
    if scope is None:
        edit = partial(_set, key="paused", value=paused)
        return _edited(text, edit, replace(before, paused=paused))
    if scope not in before.assignments:
        raise NoAssignment(FILE, f"nothing is assigned to {scope}")
    found = before.assignments[scope]
    changed = replace(found, paused=paused, halted=None, changed=now, by=by)
    return with_assignment(text, scope, changed)


def _edited(text: str, edit: Callable[[Members], None], wanted: Rollout) -> str:
    return edited(FILE, text, edit, parse_rollout, wanted)


def _put(document: Members, scope: Scope, assignment: Assignment) -> None:
    _fill(_find_or_add(document, scope), assignment)


def _find_or_add(document: Members, scope: Scope) -> Members:
    import tomlkit

    kind = str(scope.kind)
    if kind not in document:
        document[kind] = tomlkit.table(is_super_table=bool(scope.name))
    found = _members(document, kind)
    if not scope.name:
        return found
    key = _spelling(found, scope)
    if key not in found:
        found[key] = tomlkit.table()
    return _members(found, key)


def _members(parent: Members, key: str) -> Members:
    child = parent[key]
    if not isinstance(child, MutableMapping):
        raise DamagedSite(FILE, f"{key} is not a table")
    return child


def _spelling(parent: Members, scope: Scope) -> str:
    """Return how the file spells a name: an XO's serial may be in lower case."""
    if scope.kind is Kind.SERIAL:
        for key in parent:
            if normal_serial(key) == scope.name:
                return str(key)
    return scope.name


def _remove(document: Members, scope: Scope) -> None:
    if not scope.name:
        del document[str(scope.kind)]
        return
    parent = _members(document, str(scope.kind))
    del parent[_spelling(parent, scope)]


def _fill(table: Members, assignment: Assignment) -> None:
    never = assignment.reboot is Reboot.NEVER
    _set(table, "build", str(assignment.build))
    _set(table, "percent", None if assignment.percent == 100 else assignment.percent)
    _set(table, "others", assignment.others)
    _set(table, "paused", assignment.paused or None)
    _set(table, "allow_downgrade", assignment.allow_downgrade or None)
    _set(table, "opens", _moment(assignment.opens))
    _set(table, "closes", _moment(assignment.closes))
    _set(table, "not_before", _moment(assignment.not_before))
    _set(table, "reboot", None if never else str(assignment.reboot))
    _set(table, "sticky", assignment.sticky or None)
    _set(table, "halt", None if assignment.halt == HALT else assignment.halt)
    _set(table, "halted", assignment.halted)
    _set(table, "changed", _moment(assignment.changed))
    _set(table, "by", assignment.by)


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _set(table: Members, key: str, value: str | int | datetime | None) -> None:
    """Set a key to what it should say; None removes it. Comments beside it stay."""
    if value is None:
        table.pop(key, None)
    elif key not in table or table[key] != value:
        table[key] = value
