"""The whole sweep: ``python -m tests.crash [--share N] [--most N] [SCENE ...]``.

A scene is given by the beginning of its name, as in ``rollback-partitioned``. Prints
how many states were tried, and what went wrong. A whole sweep of fewer than
``LEAST`` states has failed.
"""

import argparse
import os
import sys
import time

from tests.crash.scenes import Stage
from tests.crash.sweep import Bounds, Swept, require_tools, scratch, sweep

LEAST = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=36)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--stop", type=int, default=5)
    parser.add_argument("--unsafe", action="store_true")
    parser.add_argument("scenes", nargs="*")
    given = parser.parse_args()
    bounds = Bounds(
        given.most, given.share, not given.unsafe, given.workers, given.stop
    )
    require_tools()
    total, start = Swept(), time.monotonic()
    for partitioned in (False, True):
        with scratch() as place:
            stage = Stage(place, partitioned=partitioned)
            for make in stage.scenes():
                name = f"{make.__name__}-{stage.layout}"
                if not name.startswith(tuple(given.scenes or [""])):
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
    spent = sum(os.times()[:4])
    print(
        f"crash: {total.states} states, {len(total.failures)} failures, "
        f"{(time.monotonic() - start) / 60:.0f} min, {spent / 60:.0f} min of processor"
    )
    is_whole = not given.scenes and given.share == 1
    if is_whole and total.states < LEAST:
        sys.exit(f"crash: a whole sweep has at least {LEAST} states")
    if not total.states:
        sys.exit("crash: no scene is called so")
    sys.exit(1 if total.failures else 0)


if __name__ == "__main__":
    main()
