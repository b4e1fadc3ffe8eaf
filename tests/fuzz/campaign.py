"""Many mutants of good inputs, spread over processes, each held to its bounds.

``python -m tests.fuzz.campaign TARGET COUNT [SEED]`` tells what became of them. A
mutant is made from the seed and its number, so a run can be repeated exactly,
however many processes share it. What breaks a rule is kept below ``build/fuzz``.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Final

from tests.fuzz.corpus import KEPT, ROOT, seeds
from tests.fuzz.invariants import Finding
from tests.fuzz.measure import Meter, meter
from tests.fuzz.mutator import Mutator
from tests.fuzz.targets import ACCEPTED

SIGNED: Final = {"answer", "statement", "lease", "order"}
"""Targets that accept a mutant only if what is signed has not changed.

Such a mutant is counted apart, and another one made in its place.
"""


@dataclass
class Tally:
    """What became of the mutants.

    Attributes:
        verdicts: How many were refused for which reason, or accepted.
        same: Mutants beside these that say what the good seed says: they differ from
            it in what no signature covers.
        slowest: Processor seconds of the slowest.
        growth: KiB of memory that a process took beyond its beginning.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    same: int = 0
    slowest: float = 0.0
    growth: int = 0

    @property
    def total(self) -> int:
        """How many mutants there were, those that say the same left out."""
        return self.verdicts.total()

    def add(self, other: "Tally") -> None:
        """Add what another process counted."""
        self.verdicts += other.verdicts
        self.same += other.same
        self.slowest = max(self.slowest, other.slowest)
        self.growth = max(self.growth, other.growth)

    def __str__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self.verdicts.most_common())
        return (
            f"{self.total:,} mutants: {counts}; {self.same:,} more say the same; "
            f"slowest {self.slowest * 1000:.1f} ms, memory {self.growth / 1024:.1f} MiB"
        )


def run(name: str, count: int, seed: int = 1, jobs: int | None = None) -> Tally:
    """Judge mutants in processes of their own.

    Args:
        name: The target.
        count: How many mutants.
        seed: Other mutants for each.
        jobs: How many processes, as many as there are processors if None.

    Raises:
        Finding: A mutant broke a rule; the message tells which file holds it.
    """
    jobs = jobs or os.cpu_count() or 1
    command = [sys.executable, "-m", "tests.fuzz.campaign", name, str(count), str(seed)]
    processes = [
        subprocess.Popen(
            [*command, f"{job}/{jobs}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            text=True,
        )
        for job in range(jobs)
    ]
    tally = Tally()
    outputs = [process.communicate()[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        if process.returncode:
            raise Finding(output)
        fields = json.loads(output.splitlines()[-1])
        tally.add(Tally(Counter(fields.pop("verdicts")), **fields))
    return tally


def judge(name: str, numbers: Iterable[int], seed: int) -> Tally:
    """Judge the mutants of these numbers, in this process."""
    mutator, ours, tally = Mutator(seeds(name)), meter(name), Tally()
    for number in numbers:
        random = Random(f"{seed}:{number}")
        verdict = _judge(ours, mutator.make(random))
        while verdict == ACCEPTED and name in SIGNED:
            tally.same += 1
            verdict = _judge(ours, mutator.make(random))
        tally.verdicts[verdict] += 1
    tally.slowest, tally.growth = ours.slowest, ours.growth
    return tally


def _judge(ours: Meter, mutant: bytes) -> str:
    try:
        return ours.judge(mutant)
    except BaseException as error:
        KEPT.mkdir(parents=True, exist_ok=True)
        file = KEPT / f"finding-{sha256(mutant).hexdigest()[:16]}"
        file.write_bytes(mutant)
        raise Finding(f"see {file}") from error


def main() -> None:
    """Do a part of a campaign, or all of it and tell the result."""
    name, count, *more = sys.argv[1:]
    seed = int(more[0]) if more else 1
    if len(more) < 2:
        print(name, run(name, int(count), seed), flush=True)  # noqa: T201
        return
    job, jobs = map(int, more[1].split("/"))
    tally = judge(name, range(job, int(count), jobs), seed)
    print(json.dumps(vars(tally)))  # noqa: T201 - for the process that asked


if __name__ == "__main__":
    main()
