"""What a poll costs a laptop, beside what Python itself costs.

Prints medians: a hook and a run that are not due, a poll without news, and what to hold
them against: ``python3 -c pass`` and the imports a poll cannot do without. All run with
``-S``, without the start-up files of this machine and this environment: a laptop has
none of them, and they cost more than what is measured.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import laptop
from bench.measure import Cost, run
from bench.relay import Relay, Traffic
from bench.school import CommandFailedError, School, program

_IMPORTS = "import click, cryptography.hazmat.primitives.asymmetric.rsa, requests"


_QUERY = "import sys; from olpc_update_query.__main__ import main; sys.exit(main())"
_MOST = 2048
_TOP = Path(__file__).parents[1]


class Line(NamedTuple):
    """A line of the table."""

    name: str
    costs: list[Cost]
    traffic: list[Traffic]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.poll", description=__doc__)
    parser.add_argument("-n", "--runs", type=int, default=15, help="runs of each")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o755)
        root, school = _prepare(Path(scratch))
        with school.serve() as relay:
            words = ["--root", str(root), "--server", f"http://127.0.0.1:{relay.port}/"]
            _insist(_run(_QUERY, *words, "--now"))
            wake = program("olpc-update-query-wake")
            lines = _measure(
                runs,
                relay,
                {
                    "python3 -S -c pass": ["pass"],
                    "a hook that is not due": [wake, "timer", str(root)],
                    "a run that is not due": [_QUERY, *words[:2], "--trigger", "timer"],
                    "importing what a poll needs": [_IMPORTS],
                    "a poll without news": [_QUERY, *words, "--now"],
                },
            )
        _print(runs, lines)
        print(_sum_up(lines[-1], root))


def _prepare(scratch: Path) -> tuple[Path, School]:
    tree = scratch / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("xo\n")
    school = School(scratch / "site")
    school.found(laptop.SOMEBODY)
    school.admin("publish", tree, "--build", "760", "--any-tree")
    root = scratch / "laptop"
    laptop.make(root, tree, "760", school.site / "builds/760/contents")
    laptop.trust(root, "oats", school.key("oats"))
    laptop.trust(root, "lease", school.key("lease"))
    return root, school


def _run(what: str, *words: str) -> Cost:
    if os.path.isabs(what):
        return run([what, *words])
    places = [str(_TOP), *(place for place in sys.path if "-packages" in place)]
    python = os.path.join(sys.base_prefix, "bin/python3")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    return run([python, "-S", "-c", what, *words], env=env)


def _insist(cost: Cost) -> Cost:
    if cost.code != 0:
        raise CommandFailedError(cost.output)
    return cost


def _measure(runs: int, relay: Relay, plan: dict[str, list[str]]) -> list[Line]:
    lines = [Line(name, [], []) for name in plan]
    for _ in range(runs):
        for line, words in zip(lines, plan.values(), strict=True):
            before = relay.read()
            line.costs.append(_insist(_run(*words)))
            line.traffic.append(relay.read().since(before))
    return lines


def _sum_up(line: Line, root: Path) -> str:
    """Return what a poll costs on the wire, and what of it is the lease."""
    both = median(each.up + each.down for each in line.traffic)
    turns = median(each.turns for each in line.traffic)
    lease = (root / "security/lease.sig").stat().st_size
    return (
        f"{line.name}: {turns:.0f} round trip, {both:.0f} of at most {_MOST} bytes "
        f"both ways, headers and the current lease of {lease} bytes included"
    )


def _print(runs: int, lines: list[Line]) -> None:
    def middle(values: list[Cost], what: Callable[[Cost], float]) -> float:
        return median(map(what, values))

    print(f"medians of {runs}")
    print(f"{'':30}{'ms':>7}{'CPU ms':>8}{'MB':>7}{'up':>6}{'down':>6}{'turns':>6}")
    for line in lines:
        up, down, turns = (
            median(getattr(each, name) for each in line.traffic)
            for name in ("up", "down", "turns")
        )
        print(
            f"{line.name:30}{1000 * middle(line.costs, lambda cost: cost.seconds):7.1f}"
            f"{1000 * middle(line.costs, lambda cost: cost.processor):8.1f}"
            f"{middle(line.costs, lambda cost: cost.peak) / 1024:7.1f}"
            f"{up:6.0f}{down:6.0f}{turns:6.0f}"
        )


if __name__ == "__main__":
    main()
