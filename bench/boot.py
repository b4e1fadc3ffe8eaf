"""``make boot``: machines that really boot, update, fail and go back.

Run it in a network namespace of its own, as the make target does. First a container:
the shipped initramfs script on an ext4 image, then systemd as the first process, the
program's own commands, a school's server on the loopback device. Then, unless --fast
is given, an emulated machine: a kernel, an initramfs made by dracut, two partitions.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import laptop
from bench.emulator import boot_emulated
from bench.laptop import Layout
from bench.machine import RESTARTED, CheckFailedError, Machine, check, make_build
from bench.school import School

_BROKEN = "#!/bin/sh\nexit 1\n"
_CONFIRMED = """
n=0; while [ -e /versions/trial ] && [ $n -lt 90 ]; do sleep 1; n=$((n+1)); done
"""
_OFF = "\nsystemctl poweroff\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Boot the machines and return the exit code."""
    parser = argparse.ArgumentParser(prog="make boot", description=__doc__)
    parser.add_argument("--debian", type=Path, default=Path("build/boot"))
    parser.add_argument("--fast", action="store_true", help="only the container")
    options = parser.parse_args(arguments)
    debian: Path = options.debian.resolve()
    scratch = debian / "machines"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    shutil.rmtree(scratch, ignore_errors=True)
    begin = time.monotonic()
    try:
        for layout in Layout:
            _container(debian / "tree", scratch / layout, layout)
        if not options.fast:
            boot_emulated(debian, scratch / "emulated")
    except CheckFailedError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    print(f"\nAll machines did as they should, in {time.monotonic() - begin:.0f} s.")
    return 0


def _container(debian: Path, directory: Path, layout: Layout) -> None:
    print(f"\n== A machine with systemd, {layout}", flush=True)
    school = School(directory / "site")
    directory.mkdir(parents=True)
    school.found(laptop.SOMEBODY)
    keys = {role: school.key(role) for role in ("oats", "lease")}
    for name, init in {"760": "", "762": "", "763": _BROKEN}.items():
        tree = make_build(debian, directory / name, name, keys, init=init)
        base = ("--delta-from", "760") if name != "760" else ()
        # its init is in /usr, which all builds share here
        school.admin("publish", tree, "--build", name, "--any-tree", *base)
    machine = Machine(directory / "machine", debian)
    contents = school.site / "builds/760/contents"
    machine.install(directory / "760", "760", contents, layout)
    try:
        with school.serve() as relay:
            _Story(machine, school, f"http://127.0.0.1:{relay.port}/").play()
    finally:
        subprocess.run(["umount", machine.disk], check=True)


class _Story:
    """What happens to one machine."""

    def __init__(self, machine: Machine, school: School, server: str) -> None:
        self._machine, self._school = machine, school
        self._poll = f"olpc-update-query -v --now --server {server}\n"
        self._server = server

    def play(self) -> None:
        """Update, confirm, go back, fail, come back, restart in each way."""
        self._update_and_restart()
        self._confirm_and_go_back()
        self._fail()
        self._come_back()
        self._restart_when_idle()

    def _boot(self, what: str, story: str, code: int = 0) -> str:
        found, said = self._machine.boot(f"cat /etc/build\n{story}")
        check(what, found, code, said)
        return said

    def _assign(self, build: str, reboot: str) -> None:
        words = ("--build", build, "--reboot", reboot, "--halt", "100")
        self._school.admin("assign", *words)

    def _runs(self, build: str) -> None:
        found = (self._machine.disk / "versions/running").readlink().name
        check(f"build {build} ran", found, build)

    def _update_and_restart(self) -> None:
        self._assign("762", "now")
        said = self._boot("an order restarts at once (133)", self._poll, RESTARTED)
        self._runs("760")
        check("762 is on trial", self._mark(), "trial 762 0\n", said)
        check(
            "original rules boot it", laptop.slots(self._machine.disk), ("762", "760")
        )

    def _confirm_and_go_back(self) -> None:
        story = f"{_CONFIRMED}\ncat /versions/trial\nolpc-update-query history\n"
        said = self._boot("762 comes up and is switched off", story + _OFF)
        self._runs("762")
        check("the service confirmed it", self._mark(), "", said)
        check("the history says so", "762 is up, and confirmed" in said, True, said)
        story = f"olpc-update --rollback{_OFF}"
        self._boot("762 boots again, somebody goes back", story)
        self._runs("762")
        check("original rules boot 760", laptop.boot(self._machine.disk), "760")

    def _fail(self) -> None:
        self._assign("763", "never")
        said = self._boot("760 boots, and installs 763", self._poll + _OFF)
        self._runs("760")
        check("763 is on trial", self._mark(), "trial 763 0\n", said)
        for number in (1, 2):
            code, said = self._machine.boot()
            check(f"763 does not start, try {number}", code not in {0, 99}, True, said)
            check("it was counted", self._mark(), f"trial 763 {number}\n", said)

    def _come_back(self) -> None:
        story = f"{self._poll}olpc-update-query status --json{_OFF}"
        said = self._boot("the machine comes back by itself", story)
        self._runs("760")
        check("and says so", "763 did not come up in 2 tries" in said, True, said)
        status = json.loads(said[said.rindex("\n{") :])
        check("763 is given up", sorted(status["given_up"]), ["762", "763"])
        check("nothing else boots next", status["boots_next"], "760")
        told = self._school.admin("status", "--json").output
        check("the server was told", "763 did not come up" in told, True, told)
        story = f"olpc-update -f -r 762 -s {self._server}\nsleep 60"
        self._boot("olpc-update -r restarts (133)", story, RESTARTED)
        self._runs("760")

    def _restart_when_idle(self) -> None:
        story = f"{_CONFIRMED}olpc-update --rollback{_OFF}"
        self._boot("762 is confirmed again, somebody goes back", story)
        self._assign("762", "idle")
        somebody = "-p PAMName=login -p User=games -E XDG_SESSION_CLASS=user"
        lesson = f"systemd-run --quiet {somebody} sleep 99; sleep 2"
        install = f"olpc-update -f 762 -s {self._server}\n{self._poll}"
        off = "sleep 5; sync\nsystemctl --force poweroff\n"  # or the lesson holds it up
        story = f"{lesson}\nloginctl\n{install}{off}"
        said = self._boot("somebody is logged in: no restart", story)
        self._runs("760")
        check("he was seen", "games" in said, True, said)
        check("762 waits", self._mark(), "trial 762 0\n", said)
        (self._machine.disk / "versions/trial").write_text("failed 762 2\n")
        self._boot("an interrupted way back is finished", f"{_CONFIRMED}{_OFF}")
        self._runs("760")
        said = self._boot(
            "nobody is logged in: it restarts (133)", f"{install}sleep 60", RESTARTED
        )

    def _mark(self) -> str:
        path = self._machine.disk / "versions/trial"
        return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    raise SystemExit(main())
