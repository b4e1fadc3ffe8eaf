"""Coverage-guided fuzzing with atheris: ``python -m tests.fuzz.run_atheris SECONDS``.

Each target runs in a process of its own for so many seconds, or only those that are
named after the seconds. An input may take one second, and the process 64 MiB beyond
what it has after the target has run once. New inputs go to ``build/fuzz/TARGET``,
where the next run goes on from them; what broke a rule goes to
``build/fuzz/finding-TARGET-...``, and ``python -m tests.fuzz.measure`` shows it again.

Atheris is not among the project's requirements; ``make fuzz`` installs it.
"""

import importlib
import importlib.util
import resource
import subprocess
import sys
from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.fuzz.corpus import CORPUS, KEPT, ROOT, good, seeds
from tests.fuzz.mutator import Mutator

_NAMES: Final = (
    *("answer", "order", "lease", "query"),
    *("manifest", "pack", "delta", "frame"),
)
_LONGEST: Final = 128 << 10
_MOST_MIB: Final = 64


def main() -> None:
    """Fuzz the targets, one after another."""
    seconds, *names = sys.argv[1:]
    if names[:1] == ["--here"]:
        fuzz(names[1], int(seconds))
        return
    if importlib.util.find_spec("atheris") is None:
        sys.exit("atheris is not installed: make fuzz, or pip install atheris")
    command = [sys.executable, "-m", "tests.fuzz.run_atheris", seconds, "--here"]
    failed = [
        name
        for name in names or _NAMES
        if subprocess.run([*command, name], cwd=ROOT, check=False).returncode
    ]
    if failed:
        sys.exit(f"fuzzing found something: {', '.join(failed)}; see {KEPT}")


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target; does not return.

    Args:
        name: The target.
        seconds: For how long.
    """
    atheris: Any = importlib.import_module("atheris")
    # Nothing that this module imports may have imported these already.
    with atheris.instrument_imports(include=["olpc_update_query"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    for seed in good(name).values():
        target(seed)
    found = KEPT / name
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        name,
        f"-max_total_time={seconds}",
        f"-max_len={_LONGEST}",
        "-timeout=1",
        f"-rss_limit_mb={_peak_mib() + _MOST_MIB}",
        f"-malloc_limit_mb={_MOST_MIB}",
        f"-artifact_prefix={KEPT}/finding-{name}-",
        "-print_final_stats=1",
        "-verbosity=0",
        str(found),
        str(CORPUS / name),
    ]
    mutate = _mutate_with(atheris, Mutator(seeds(name)))
    atheris.Setup(arguments, target, custom_mutator=mutate)
    atheris.Fuzz()


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _mutate_with(atheris: Any, mutator: Mutator) -> Callable[[bytes, int, int], bytes]:
    """Mix libFuzzer's own mutations with ours, which know the formats."""

    def mutate(data: bytes, longest: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, longest))
        return mutator.change(random, data)[:longest]

    return mutate


if __name__ == "__main__":
    main()
