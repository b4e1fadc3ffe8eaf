"""What the forms of the pages say, and what is wrong with it, field by field."""

import re
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from olpc_update_query.errors import Malformed
from olpc_update_query.model.wire import BuildId
from olpc_update_query.server.leasepolicy import MAX_DAYS, Rules, parse_timezone
from olpc_update_query.server.rollout import DEFAULT, PARSERS, Kind, Scope

_EVERYBODY: Final = "everybody"
_MOST_DIGITS: Final = 9
_LONGEST: Final = 64
_TIME: Final = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:00)?)?")


def value_of(scope: Scope) -> str:
    """Return how a form names some laptops: ``group:5B``."""
    return f"{scope.kind}:{scope.name}" if scope.name else _EVERYBODY


def parse_scope(kind: str, name: str) -> Scope | None:
    """Return which laptops a form names, None if it says so in no way that we know.

    Args:
        kind: One of ``Kind``; the default needs no name.
        name: The name of a group or a stream, or a serial number.
    """
    if kind == Kind.DEFAULT:
        return DEFAULT
    try:
        return Scope(Kind(kind), PARSERS[Kind(kind)](name))
    except (Malformed, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class AssignForm:
    """Somebody wants laptops to run a build.

    Attributes:
        build: Which, as it was sent.
        kind: Of which kind those laptops are.
        name: How those are called, as it was typed.
        percent: How many of 100, as it was typed.
        opens: From when on they are told, UTC, as it was typed; empty for at once.
        closes: Until when, as it was typed; empty for ever.
        window: The same in seconds, None where it is empty; what was not sent is not
            here.
        scope: Who those are; everybody when the form names nobody.
        wrong: What is wrong, in English, by the name of the field.
    """

    build: str = ""
    kind: str = str(Kind.DEFAULT)
    name: str = ""
    percent: str = "10"
    opens: str = ""
    closes: str = ""
    window: Mapping[str, int | None] = field(default_factory=dict)
    scope: Scope = DEFAULT
    wrong: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        fields: Mapping[str, str],
        published: Collection[BuildId],
        known: Collection[Scope],
    ) -> "AssignForm":
        """Read the form.

        Args:
            fields: What was sent, which may be anything.
            published: The builds that there are.
            known: The groups that there are, among others.
        """
        build, kind, name, percent, opens, closes = (
            fields.get(one, "").strip()[:_LONGEST]
            for one in ("build", "kind", "name", "percent", "opens", "closes")
        )
        scope, wrong = parse_scope(kind, name), dict[str, str]()
        if build not in published:
            wrong["build"] = "That build is not published."
        if scope is None:
            wrong["name"] = "That is no serial number, group or stream."
        elif scope.kind is Kind.GROUP and scope not in known:
            wrong["name"] = "There is no such group or stream."
        elif scope == DEFAULT and name:
            wrong["name"] = "Say what this is the name of, or leave it empty for all."
        if not _is_count(percent, 100):
            wrong["percent"] = "Write a percentage from 0 to 100."
        window = _read_window(fields, wrong)
        scope = scope or DEFAULT
        return cls(build, kind, name, percent, opens, closes, window, scope, wrong)


def _read_window(
    fields: Mapping[str, str], wrong: MutableMapping[str, str]
) -> dict[str, int | None]:
    """Return when an assignment opens and closes; add what is wrong with that."""
    window: dict[str, int | None] = {}
    for name in ("opens", "closes"):
        text = fields.get(name, "").strip()
        try:
            if name in fields:
                window[name] = _read_time(text) if text else None
        except ValueError:
            wrong[name] = "Write a time such as 2027-01-31 06:00, or nothing."
    opens, closes = window.get("opens"), window.get("closes")
    if opens is not None and closes is not None and closes <= opens:
        wrong["closes"] = "It must end after it begins."
    return window


def _read_time(text: str) -> int:
    """Read a time as browsers send it, or as people type it where they cannot.

    Raises:
        ValueError: It is none.
    """
    if not _TIME.fullmatch(text):
        raise ValueError("no time")
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def time_value(seconds: int | None) -> str:
    """Return what a field for a time holds: ``2027-01-31T06:00``, UTC."""
    if seconds is None:
        return ""
    return format(datetime.fromtimestamp(seconds, UTC), "%Y-%m-%dT%H:%M")


@dataclass(frozen=True, slots=True)
class LeaseForm:
    """Somebody wants leases to last otherwise.

    Attributes:
        whom: Whose; for everybody when the form names nobody known.
        days: How many days, as it was typed.
        shorten: Whether a laptop whose lease ends later gets a shorter one.
        clear: Whether they get what everybody else gets.
        wrong: What is wrong, in English, by the name of the field.
    """

    whom: Scope
    days: str
    shorten: bool
    clear: bool
    wrong: Mapping[str, str]

    @classmethod
    def read(
        cls, fields: Mapping[str, str], known: Collection[Scope], rules: Rules
    ) -> "LeaseForm":
        """Read the form.

        Args:
            fields: What was sent, which may be anything.
            known: For whom there can be a policy.
            rules: The policies of groups and streams.
        """
        scopes = {value_of(scope): scope for scope in known}
        found = scopes.get(fields.get("whom", ""))
        days, clear = fields.get("days", "").strip(), "clear" in fields
        wrong: dict[str, str] = {}
        if found is None:
            wrong["whom"] = "There is no such group or stream."
        elif clear and found == DEFAULT:
            wrong["clear"] = "Choose a group or a stream."
        elif clear and found not in rules:
            wrong["clear"] = "It is so already."
        elif not clear and not _is_count(days, MAX_DAYS):
            wrong["days"] = "Write a number from 0 to 3650."
        return cls(
            whom=found or DEFAULT,
            days=days[:_MOST_DIGITS],
            shorten="shorten" in fields,
            clear=clear,
            wrong=wrong,
        )


def _is_count(text: str, most: int) -> bool:
    digits = text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS
    return digits and int(text) <= most


def wrong_timezone(name: str) -> Mapping[str, str]:
    """Tell what is wrong with the name of a time zone, nothing if it is known here."""
    try:
        parse_timezone(name)
    except Malformed:
        return {"timezone": "This server knows no such time zone."}
    return {}
