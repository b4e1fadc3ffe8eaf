"""The whole sweep: ``python -m tests.crash [--share N] [--most N] [SCENE ...]``.

Prints how many states were tried, and what went wrong.
"""

import argparse
import sys
import time

from tests.crash.scenes import Stage
from tests.crash.sweep import Bounds, Swept, scratch, sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=36)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stop", type=int, default=5)
    parser.add_argument("--unsafe", action="store_true")
    parser.add_argument("scenes", nargs="*")
    given = parser.parse_args()
    bounds = Bounds(
        given.most, given.share, not given.unsafe, given.workers, given.stop
    )
    total = Swept()
    for partitioned in (False, True):
        with scratch() as place:
            stage = Stage(place, partitioned=partitioned)
            for make in stage.scenes():
                if given.scenes and make.__name__ not in given.scenes:
                    continue
                begin = time.monotonic()
                with make() as scene:
                    found = sweep(scene, bounds)
                total.add(found)
                print(
                    f"{scene.name}: {found.points} changes, {found.states} states, "
                    f"{len(found.failures)} failures, {time.monotonic() - begin:.0f} s",
                    flush=True,
                )
                for line in found.failures:
                    print(f"  {line}", flush=True)
    print(f"crash: {total.states} states, {len(total.failures)} failures")
    sys.exit(1 if total.failures else 0)


if __name__ == "__main__":
    main()
