"""A sample of ``make badlinks``: a shaped link, lost packets, cuts and a power cut."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("iproute2", "rsync", "e2fsprogs", "xfsprogs"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


AT_STAKE = 64 * 1024 + 16 * 1024  # what the power cut may cost, and a second poll
AT_A_CUT = 8 * 1024  # what is asked for once more to be compared, and a new request


def payload(row: str) -> int:
    found = re.search(r" ([\d,]+) B ", row)
    assert found, row
    return int(found[1].replace(",", ""))


def test_update_over_a_bad_link() -> None:
    words = ["-m", "bench.badlinks", "--sample", "--files", "900", "--megabytes", "24"]
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    rows = done.stdout.splitlines()
    assert len(rows) == 2, done.stderr
    cuts = re.search(r" ([1-9]\d*) cuts, 1 power cuts, 0 paths wrong", rows[1])
    assert cuts, rows
    good, bad = (
        int(re.findall(r"([\d,]+) B ", row)[0].replace(",", "")) for row in rows
    )
    assert bad - good < AT_STAKE + int(cuts[1]) * AT_A_CUT
