"""Bounds for one input: a second of processor time, 64 MiB of memory.

``python -m tests.fuzz.measure TARGET < FILE`` shows what becomes of an input, such as
one that a fuzzer has kept.
"""

import json
import resource
import signal
import sys
import time
from types import FrameType
from typing import Final

from tests.fuzz.corpus import good
from tests.fuzz.invariants import Finding
from tests.fuzz.targets import TARGETS, Target

MOST_SECONDS: Final = 1.0
MOST_KIB: Final = 64 << 10


class Meter:
    """Runs a target and holds it to the bounds, in a process of its own.

    The memory is the kernel's: the most that was ever resident (``VmHWM``; what
    ``getrusage`` tells includes the process before ``exec``), over what is resident
    when the meter is made. It only ever rises, so no input took more than ``growth``.
    Besides, the process gets no more address space than the bound, so that an input
    which wants more ends in ``MemoryError``.

    Attributes:
        slowest: The most processor seconds that an input took.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.slowest = 0.0
        self._status = open(  # noqa: SIM115 - read after every input
            "/proc/self/status", "rb", buffering=0
        )
        self._base = self._kib(b"VmRSS")
        space = self._kib(b"VmSize") + MOST_KIB << 10
        resource.setrlimit(resource.RLIMIT_AS, (space, resource.RLIM_INFINITY))
        signal.signal(signal.SIGPROF, _too_slow)

    @property
    def growth(self) -> int:
        """The most memory in KiB that the process has used beyond its beginning."""
        return self._kib(b"VmHWM") - self._base

    def _kib(self, name: bytes) -> int:
        self._status.seek(0)
        return int(self._status.read().partition(name + b":")[2].split(None, 1)[0])

    def judge(self, data: bytes) -> str:
        """Return what the target says to some octets.

        Raises:
            Finding: It took too long or too much.
        """
        begin = time.thread_time()
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        try:
            return self._target(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.slowest = max(self.slowest, time.thread_time() - begin)
            if self.slowest > MOST_SECONDS:
                raise Finding(f"it took {self.slowest:.2f} s")
            if self.growth > MOST_KIB:
                raise Finding(f"it took {self.growth} KiB")


def meter(name: str) -> Meter:
    """Return a meter for a target that has loaded what it loads once."""
    for seed in good(name).values():
        TARGETS[name](seed)
    return Meter(TARGETS[name])


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise Finding(f"it took more than {MOST_SECONDS} s")


def main() -> None:
    """Judge the standard input."""
    name = sys.argv[1]
    data = sys.stdin.buffer.read()
    ours = meter(name)
    verdict = ours.judge(data)
    cost = {"verdict": verdict, "seconds": ours.slowest, "kib": ours.growth}
    print(json.dumps(cost))  # noqa: T201 - this is a program


if __name__ == "__main__":
    main()
