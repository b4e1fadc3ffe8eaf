"""Every kind of failure has its own exit code, and the page lists them all."""

import inspect
from pathlib import Path

import pytest

from olpc_update_query import errors

PAGE = Path(__file__).parents[1] / "docs/exit-codes.md"
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.UpdateError) and kind is not errors.UpdateError
]
RESERVED = {0, 1, 2, 70, 126, 127, 130}  # done, bug, usage, crash, the shell's own


def row(kind: type[errors.UpdateError]) -> str:
    meaning = inspect.getdoc(kind)
    assert meaning
    again = "yes" if kind.retry else "no"
    return (
        f"| {kind.exit_code} | {kind.__name__} | {meaning.splitlines()[0]} | {again} |"
    )


def test_codes_are_unique() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_codes_can_be_told_from_everything_else(kind: type[errors.UpdateError]) -> None:
    assert "exit_code" in vars(kind)
    assert kind.exit_code not in RESERVED
    assert 0 < kind.exit_code < 128, "above are signals"


def test_the_page_lists_exactly_these() -> None:
    lines = PAGE.read_text().splitlines()
    shown = [line for line in lines if line.startswith("| ") and line[2].isdigit()]
    own = [line for line in shown if int(line.split()[1]) not in RESERVED]
    assert sorted(own) == sorted(map(row, KINDS))


def test_the_page_tells_of_the_reserved_codes() -> None:
    page = PAGE.read_text()
    for code in (0, 1, 2, 70, 130):
        assert f"\n| {code} | " in page
