"""The one rule that every run applies before anything else."""

import subprocess
import sys

import pytest

from olpc_update_query.policy.due import LONGEST, format_due, may_skip, parse_due

NOW = 1_800_000_000
DAY = 24 * 3600


@pytest.mark.parametrize(
    ("text", "skips"),
    [
        pytest.param(f"{NOW - 5} {NOW + 5}\n", True, id="in between"),
        pytest.param(f"{NOW} {NOW + 1}\n", True, id="just drawn"),
        pytest.param(f"{NOW - 5} {NOW}\n", False, id="due now"),
        pytest.param(f"{NOW - 5} {NOW - 1}\n", False, id="overdue"),
        pytest.param(f"{NOW + 1} {NOW + 5}\n", False, id="clock was set back"),
        pytest.param(f"{NOW - DAY} {NOW + 30 * DAY}\n", True, id="31 days"),
        pytest.param(f"{NOW - DAY} {NOW + 30 * DAY + 1}\n", False, id="longer"),
        pytest.param(f"{NOW - 9} {NOW + 5}", True, id="no newline"),
        pytest.param("", False, id="no file"),
        pytest.param("\n", False, id="empty line"),
        pytest.param(f"{NOW}\n", False, id="one number"),
        pytest.param(f"{NOW} {NOW + 5} 7\n", False, id="three numbers"),
        pytest.param(f"{NOW} {NOW + 5}\n\n", False, id="two lines"),
        pytest.param(f" {NOW} {NOW + 5}\n", False, id="leading space"),
        pytest.param(f"-{NOW} {NOW + 5}\n", False, id="negative"),
        pytest.param(f"1_0 {NOW + 5}\n", False, id="underscore"),
        pytest.param(f"{NOW}.0 {NOW + 5}\n", False, id="fraction"),
        pytest.param(f"٣ {NOW + 5}\n", False, id="digits of another script"),
        pytest.param(f"{NOW} {'9' * 5000}\n", False, id="a number that costs time"),
        pytest.param("\0\0\0\0", False, id="zeros after a power cut"),
    ],
)
def test_skips_only_before_a_sane_due_time(text: str, skips: bool) -> None:
    assert may_skip(text, NOW) is skips


def test_what_is_written_is_read_back() -> None:
    assert format_due((7, 9)) == "7 9\n"
    assert parse_due(format_due((7, NOW))) == (7, NOW)


def test_greatest_interval_fits() -> None:
    assert LONGEST >= 30 * DAY


def test_imports_nothing_but_builtins() -> None:
    code = (
        "import sys; before = set(sys.modules);"
        "import olpc_update_query.policy.due;"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert run.stdout.split() == [
        "olpc_update_query",
        "olpc_update_query.policy",
        "olpc_update_query.policy.due",
    ]
