"""The corpus: what the fuzzers begin with, and what they have found worth keeping.

``python -m tests.fuzz.corpus`` writes the seeds of `tests.fuzz.seeds` again. Other
files stay: a fuzzer wrote them, or somebody who found a bug.
"""

from functools import cache
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).with_name("corpus")
ROOT: Final = Path(__file__).parents[2]
KEPT: Final = ROOT / "build/fuzz"
"""Where fuzzers keep what they find, until somebody has looked at it."""


@cache
def seeds(target: str) -> dict[str, bytes]:
    """Return the inputs kept for a target, by file name."""
    files = sorted((CORPUS / target).iterdir())
    return {file.name: file.read_bytes() for file in files}


def good(target: str) -> dict[str, bytes]:
    """Return those that the target accepts."""
    return {
        name: seed for name, seed in seeds(target).items() if name.startswith("good")
    }


def write() -> None:
    """Make the seeds again."""
    from tests.fuzz.seeds import all_seeds

    for target, made in all_seeds().items():
        directory = CORPUS / target
        directory.mkdir(parents=True, exist_ok=True)
        for name, seed in made.items():
            (directory / name).write_bytes(seed)


if __name__ == "__main__":
    write()
