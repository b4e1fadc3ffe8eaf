"""The installer: from a signed order to a build that boots."""

from collections.abc import Callable
from typing import Final, TypeVar

from olpc_update_query.errors import Incomplete

ROUNDS: Final = 3

_Installed = TypeVar("_Installed")


def perform_update(
    fetch: Callable[[], object], install: Callable[[], _Installed]
) -> _Installed:
    """Fetch what is missing and install, until nothing is missing any more.

    An installed file may prove damaged only when the tree made from it is audited;
    then there is one thing more to fetch. So the two take turns, a few times.

    Args:
        fetch: Fetches what the laptop lacks, and what the installer noted as wanted.
        install: Installs from what was fetched.

    Returns:
        What was installed.

    Raises:
        Incomplete: Contents are still missing after the last round.
        UpdateError: Whatever either of them raises.
    """
    for _ in range(ROUNDS - 1):
        fetch()
        try:
            return install()
        except Incomplete:
            continue
    fetch()
    return install()
