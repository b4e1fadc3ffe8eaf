"""Editing ``site.toml`` so that the administrator's comments and order survive."""

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Final

from olpc_update_query.errors import DamagedSite, NoAssignment
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.rollout import DEFAULT, Scope
from olpc_update_query.server.site import Settings, parse_settings

_log = logging.getLogger(__name__)

FILE: Final = "site.toml"

_Members = MutableMapping[str, object]


def with_timezone(text: str, timezone: str) -> str:
    """Change the time zone in the text of site.toml.

    Raises:
        DamagedSite: The file is laid out so that it cannot be edited by a program.
    """
    wanted = replace(parse_settings(text.encode()), timezone=timezone)
    return _edited(text, lambda top: top.update(timezone=timezone), wanted)


def with_lease_policy(text: str, scope: Scope, policy: LeasePolicy | None) -> str:
    """Change how long leases last, in the text of site.toml.

    Args:
        text: The file's text.
        scope: For whom: a group, a stream or everybody else.
        policy: What it shall be; None removes that of a group or stream.

    Returns:
        The new text, with everything else in it as it was.

    Raises:
        NoAssignment: There is none to remove.
        DamagedSite: The file is laid out so that it cannot be edited by a program.
    """
    before = parse_settings(text.encode())
    rules = dict(before.lease_rules)
    if policy is None and rules.pop(scope, None) is None:
        raise NoAssignment(FILE, f"no policy for {scope}")
    if scope == DEFAULT and policy is not None:
        wanted = replace(before, lease_days=policy.days, shorten=policy.shorten)
    else:
        rules |= {} if policy is None else {scope: policy}
        wanted = replace(before, lease_rules=rules)
    return _edited(text, lambda top: _put(top, scope, policy), wanted)


def _put(document: _Members, scope: Scope, policy: LeasePolicy | None) -> None:
    lease = _members(document, "lease")
    if scope == DEFAULT:
        _fill(lease, policy)
        return
    named = _members(lease, str(scope.kind))
    if policy is None:
        del named[scope.name]
    else:
        _fill(_members(named, scope.name), policy)


def _fill(table: _Members, policy: LeasePolicy | None) -> None:
    for key, value in (LeasePolicy() if policy is None else policy)._asdict().items():
        if table.get(key) != value:
            table[key] = value


def _members(parent: _Members, key: str) -> _Members:
    import tomlkit

    if key not in parent:
        parent[key] = tomlkit.table()
    child = parent[key]
    if not isinstance(child, MutableMapping):
        raise DamagedSite(FILE, f"{key} is not a table")
    return child


def _edited(text: str, edit: Callable[[_Members], object], wanted: Settings) -> str:
    """Return the edited text if it says what was meant, whatever became of it."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        edit(document)
        edited = tomlkit.dumps(document)
        if parse_settings(edited.encode()) == wanted:
            return edited
    except (TOMLKitError, DamagedSite, ValueError, TypeError) as error:
        _log.debug("%s cannot be edited: %s", FILE, error)
    raise DamagedSite(FILE, "is laid out so that only a person can edit it")
