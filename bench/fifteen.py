"""``make fifteen``: from a bare Debian to the first updated laptop, by the clock.

A Debian 12 with nothing but its base gets the packages, is made a school's server as
the README says, and answers a laptop below a directory of its own, which updates.
Nothing is prepared but what an administrator has already: the packages, the two trees
to publish, the list of laptops, and the laptop. Each step is timed, and what was
installed is compared with what was published.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import compare, laptop, trees
from bench.laptop import SOMEBODY

_TOP = Path(__file__).parents[1]
_BARE = _TOP / "build/fifteen/bare.tar"
_AIM = 15 * 60
_OLD, _NEW = "760", "762"

# What runs in the machine: a line for each step, with its seconds.
_STEPS = r"""
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
cd /root
step() {
  local name=$1 begin end
  shift
  begin=$(date +%s%N)
  "$@" >>/root/log 2>&1 </dev/null || { echo "FAILED $name"; exit 1; }
  end=$(date +%s%N)
  echo "$(((end - begin) / 1000000)) $name"
}
install() {
  apt-get update
  apt-get install -y --no-install-recommends /root/deb/*.deb
}
serve() {
  olpc-update-admin serve site --host 127.0.0.1 --port 80 >>/root/log 2>&1 &
  until (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.1; done
}
trust() {
  for role in oats lease; do
    cp site/keys/$role.public laptop/etc/olpc-update-query/keys.d/$role-school.public
  done
}
step 'apt-get install the packages' install
step 'olpc-update-admin init' olpc-update-admin init site
step 'laptops import' olpc-update-admin laptops import site inventory.csv
step 'publish the build they run' olpc-update-admin publish site old --build 760
step 'publish the new one, with a delta' \
  olpc-update-admin publish site new --build 762 --delta-from 760
step 'assign it' olpc-update-admin assign site --build 762
step 'serve, until it listens' serve
cp site/builds/760/contents laptop/versions/contents/760
step 'give the laptop the keys' trust
step 'the laptop asks and updates' \
  olpc-update-query -v --now --root /root/laptop --server http://127.0.0.1/
kill %1
wait
"""


class FifteenError(Exception):
    """It did not end with an updated laptop."""


def main() -> int:
    """Do it, and print how long each step took."""
    parser = argparse.ArgumentParser(prog="make fifteen", description=__doc__)
    parser.add_argument("--files", type=int, default=5500)
    parser.add_argument("--megabytes", type=int, default=130)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        machine = Path(scratch) / "machine"
        try:
            old, new = _make_machine(machine, options.files, options.megabytes)
            seconds = _play(machine)
            _judge(machine / "root/laptop", old, new)
        except FifteenError as error:
            print(error, file=sys.stderr)
            return 1
    print(f"{seconds:8.1f} s  together; the aim is {_AIM} s")
    return 0 if seconds <= _AIM else 1


def _make_machine(machine: Path, files: int, megabytes: int) -> tuple[Path, Path]:
    """Unpack the bare system, and put in what an administrator brings along."""
    if not _BARE.exists():
        raise FifteenError(f"{_BARE} is missing: `make fifteen` makes it")
    machine.mkdir(mode=0o755)
    subprocess.run(["tar", "-C", machine, "-xf", _BARE], check=True)
    home = machine / "root"
    home.chmod(0o755)  # the laptop's unprivileged half reads below it
    old, new = home / "old", home / "new"
    trees.make_first(old, files=files, megabytes=megabytes)
    trees.make_second(old, new)
    empty = machine / "contents"
    empty.touch()
    laptop.make(home / "laptop", old, _OLD, empty)
    rows = ["serial,uuid", f"{SOMEBODY.serial},{SOMEBODY.uuid}", ""]
    (home / "inventory.csv").write_text("\n".join(rows))
    (home / "steps").write_text(_STEPS)
    shutil.copytree(
        _TOP / "build/deb", home / "deb", ignore=shutil.ignore_patterns("log")
    )
    return old, new


def _play(machine: Path) -> float:
    """Run the steps in the machine and return how many seconds they took."""
    words = [
        "systemd-nspawn",
        "--quiet",
        "--pipe",
        "--as-pid2",
        "--register=no",
        "--keep-unit",
    ]
    words += ["--resolv-conf=copy-host", "--directory", str(machine)]
    words += ["/bin/bash", "/root/steps"]
    env = {"PATH": os.environ["PATH"], "SYSTEMD_LOG_LEVEL": "warning"}
    total = 0.0
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as running:
        for line in running.stdout or ():
            took, _, name = line.rstrip().partition(" ")
            if not took.isdecimal():
                log = (machine / "root/log").read_text(errors="replace")
                raise FifteenError(f"{line}{log[-3000:]}")
            total += int(took) / 1000
            print(f"{int(took) / 1000:8.1f} s  {name}", flush=True)
    if running.returncode != 0:
        raise FifteenError(f"exit code {running.returncode}")
    return total


def _judge(root: Path, old: Path, new: Path) -> None:
    """Insist that the laptop boots the new build, whole, and keeps the old one."""
    booted = laptop.boot(root)
    if booted != _NEW:
        raise FifteenError(f"the laptop boots {booted}")
    for tree, name in ((old, _OLD), (new, _NEW)):
        found = compare.survey(root / "versions/pristine" / name)
        lines = compare.differences(compare.survey(tree), found)
        if lines:
            raise FifteenError("\n".join([f"build {name}:", *lines[:20]]))


if __name__ == "__main__":
    sys.exit(main())
