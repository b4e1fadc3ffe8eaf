"""Editing ``site.toml`` so that the administrator's comments and order survive."""

from dataclasses import replace
from typing import Final

from olpc_update_query.errors import NoAssignment
from olpc_update_query.server.leasepolicy import LeasePolicy
from olpc_update_query.server.rollout import DEFAULT, Scope
from olpc_update_query.server.site import parse_settings
from olpc_update_query.server.tomledit import Members, edited, table_in

FILE: Final = "site.toml"


def with_timezone(text: str, timezone: str) -> str:
    """Change the time zone in the text of site.toml.

    Raises:
        DamagedSite: The file is laid out so that it cannot be edited by a program.
    """
    wanted = replace(parse_settings(text.encode()), timezone=timezone)
    return edited(
        FILE, text, lambda top: top.update(timezone=timezone), parse_settings, wanted
    )


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
    if policy is None:
        if rules.pop(scope, None) is None:
            raise NoAssignment(FILE, f"no policy for {scope}")
        wanted = replace(before, lease_rules=rules)
        return edited(
            FILE, text, lambda top: _remove(top, scope), parse_settings, wanted
        )
    if scope == DEFAULT:
        wanted = replace(before, lease_days=policy.days, shorten=policy.shorten)
    else:
        wanted = replace(before, lease_rules={**rules, scope: policy})
    return edited(
        FILE, text, lambda top: _put(top, scope, policy), parse_settings, wanted
    )


def _put(document: Members, scope: Scope, policy: LeasePolicy) -> None:
    table = table_in(FILE, document, "lease")
    if scope != DEFAULT:
        table = table_in(FILE, table_in(FILE, table, str(scope.kind)), scope.name)
    for key, value in policy._asdict().items():
        if table.get(key) != value:
            table[key] = value


def _remove(document: Members, scope: Scope) -> None:
    del table_in(FILE, table_in(FILE, document, "lease"), str(scope.kind))[scope.name]
