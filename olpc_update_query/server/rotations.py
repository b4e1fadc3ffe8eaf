"""A site's statements about keys: ``keys/keys.sig``, and who needs which of them.

Those of a higher site, whose keys the laptops trust, are in ``keys/above-keys.sig``.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from olpc_update_query.errors import DamagedSite, TrustError
from olpc_update_query.trust.keys import SHORT_DIGEST, Role, digest_of
from olpc_update_query.trust.rotation import (
    MAX_STATEMENTS,
    Statement,
    read_statement,
    split_statements,
)

FILE: Final = "keys.sig"
ABOVE_FILE: Final = f"above-{FILE}"
"""What `mirror` has taken over from the higher site."""


class Made(NamedTuple):
    """A statement, and its octets."""

    statement: Statement
    raw: bytes


def parse_statements(data: bytes | None, where: str = FILE) -> tuple[Made, ...]:
    """Read a file of statements, which may be absent.

    Args:
        data: Its bytes; None when there is none.
        where: Its name, for the error.

    Raises:
        DamagedSite: It is malformed.
    """
    if data is None:
        return ()
    try:
        found = tuple(Made(read_statement(raw), raw) for raw in split_statements(data))
    except TrustError as error:
        raise DamagedSite(where, f"is no file of statements: {error}") from error
    if len(found) > MAX_STATEMENTS:
        raise DamagedSite(where, f"has more than {MAX_STATEMENTS} statements")
    return found


def needed(made: Sequence[Made], held: str | None) -> tuple[bytes, ...]:
    """Return the statements that a laptop has to be sent.

    Args:
        made: The site's.
        held: What the query says about the keys that the laptop trusts; None when it
            says nothing, and so would not understand a statement.

    Returns:
        All those about a role of which it trusts a key that is retired, or lacks one
        that is not; none about a role of which it trusts no key at all, because it
        could not verify them.
    """
    if not made or held is None:
        return ()
    found: list[bytes] = []
    for role, keys in zip(Role, held.split("-"), strict=True):
        own = [one for one in made if one.statement.role is role]
        if keys and _changes(own, set(keys.split("."))):
            found += (one.raw for one in own)
    return tuple(found)


def _changes(made: Iterable[Made], held: set[str]) -> bool:
    added: set[str] = set()
    retired: set[str] = set()
    for statement, _ in made:
        added |= {digest_of(der)[:SHORT_DIGEST] for der in statement.add}
        retired |= {digest[:SHORT_DIGEST] for digest in statement.retire}
    return bool(held & retired or added - retired - held)
