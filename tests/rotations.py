"""Statements about keys, made with the test keys."""

from olpc_update_query.server.signing import sign_statement, statement_data
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.rotation import Statement
from tests.keys import public, signer

MADE = 1_795_000_000


def statement(
    number: int,
    *by: str,
    add: str = "",
    retire: str = "",
    role: Role = Role.OATS,
    threshold: int = 1,
) -> bytes:
    """Return a statement, signed by the keys of these names.

    Args:
        number: Its number.
        *by: Who signs it.
        add: Names of keys, with spaces between them.
        retire: Likewise.
        role: What the keys sign.
        threshold: How many must sign the next one.
    """
    content = Statement(
        role,
        number,
        MADE,
        threshold,
        tuple(signer(name).public for name in add.split()),
        tuple(public(name, role).digest for name in retire.split()),
    )
    data = statement_data(content)
    return sign_statement(data, [signer(name).sig01(data) for name in by])
