"""Cases of attacks, and what a laptop says to them."""

from collections.abc import Callable

import pytest

from tests.attacks.victim import Make

STRANGE = "no trusted key has signed it"
WRONG = "the signature by [0-9a-f]{64} is wrong"
EXPIRED = "its signature expired on"
GRAMMAR = "signature refused: "
FORM = "not an envelope of this type"

Case = tuple[str, Make, int, str]
"""Its name, what is answered, the exit code, and what the one line says."""


def line(make: Callable[[bytes], str], code: int, says: str, name: str) -> Case:
    """Make a case of a function that signs the data of the answer."""
    return name, lambda forge: forge.with_line(make), code, says


def table(kind: str, cases: list[Case]) -> pytest.MarkDecorator:
    """Make a test of each case."""
    return pytest.mark.parametrize(
        ("make", "code", "says"),
        [pytest.param(*case[1:], id=f"{kind}: {case[0]}") for case in cases],
    )
