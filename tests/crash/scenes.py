"""The jobs that are cut short: what the laptop is like before, and what has to come.

Two builds with every kind of path, in both layouts; real commands, a real server.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import click

from bench.laptop import slots
from tests.cli.school import School
from tests.keys import signer
from tests.laptop import add_build, boot, make_laptop
from tests.perform_update.builds import encode_manifest
from tests.perform_update.published import Build, publish
from tests.simulator import lease, prepare_laptop, simulate
from tests.trees import (
    CAPABILITY,
    Device,
    Dir,
    Fifo,
    File,
    Hard,
    Link,
    Spec,
    build_tree,
)
from tests.walked import walk_tree

OLD: Spec = {
    "bin/su": File("su", mode=0o4755),
    "bin/ping": File("ping", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    "boot/vmlinuz": "old kernel " * 900,
    "dev/null": Device(stat.S_IFCHR, 1, 3, mode=0o666),
    "etc/motd": "old words",
    "etc/same": "the same in both",
    "etc/mode": File("another mode", mode=0o644),
    "home/hers/": Dir(mode=0o2750, owner=(1000, 1001)),
    "lib/a": "one file",
    "lib/b": Hard("lib/a"),
    "lib/link": Link("a"),
    "run/pipe": Fifo(),
    "usr/gone": "gone",
}
NEW: Spec = {
    "bin/su": File("su", mode=0o4755),
    "bin/ping": File("ping!", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    "boot/vmlinuz": "new kernel " * 900,
    "dev/null": Device(stat.S_IFCHR, 1, 3, mode=0o666),
    "dev/sda": Device(stat.S_IFBLK, 8, 0, mode=0o660),
    "etc/motd": "new words",
    "etc/same": "the same in both",
    "etc/mode": File("another mode", mode=0o600),
    "etc/void": "",
    b"etc/n\xe9e": "a name that is not UTF-8",
    "home/hers/": Dir(mode=0o2750, owner=(1000, 1001)),
    "home/hers/note": File("hers", owner=(1000, 1001), xattrs={"user.x": b"\0"}),
    "lib/a": "one file, newer",
    "lib/b": Hard("lib/a"),
    "lib/holes": File("tail", hole=1 << 16),
    "lib/link": Link("b"),
    "run/pipe": Fifo(),
}
EXTRA: Spec = {"boot/vmlinuz": "kernel", "etc/motd": "older words", "lib/a": "older"}
_DAY = 86_400
Job = Callable[[Path], int]


@dataclass
class Scene:
    """A job on a laptop.

    Attributes:
        name: Its name.
        root: The laptop before it.
        job: The command, for any copy of the laptop; returns its exit code.
        next_run: What somebody or something runs after a cut.
        before: What boots before: build and alternate.
        after: What boots afterwards.
        builds: Every build by name, as published.
        damaged: The build that is damaged before, if there is one.
        gone: The build that is not there afterwards, if there is one.
        on_trial: The build that is on trial afterwards, if there is one.
        renews: Whether the lease has to be the new one in the end.
        reports: Whether a report has to be on the stick in the end.
        leases: The lease before and after.
    """

    name: str
    root: Path
    job: Job
    next_run: Job
    before: tuple[str, str | None]
    after: tuple[str, str | None]
    builds: dict[str, Build]
    leases: tuple[bytes | None, bytes | None]
    damaged: str = ""
    gone: str = ""
    on_trial: str = ""
    renews: bool = True
    reports: bool = False


def command(program: str, *words: str) -> int:
    """Run one of the commands in this process, as its entry point does.

    The packs of the scenes are tiny: the room of each content goes back at once.
    """
    from olpc_update_query.cli.query import query
    from olpc_update_query.cli.update import update
    from olpc_update_query.perform_update import expand

    expand._RELEASED = 1
    commands: dict[str, click.Command] = {"query": query, "update": update}
    try:
        commands[program].main(list(words), prog_name=program, standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


def update(root: Path, *words: str) -> int:
    return command("update", "--root", str(root), *words)


def poll(root: Path) -> int:
    return command("query", "--root", str(root), "--now")


def _make_build(scratch: Path, name: str, spec: Spec) -> Build:
    tree = build_tree(scratch / name, spec)
    return Build(name, tree, encode_manifest(name, walk_tree(tree)))


class Stage:
    """Builds, a site and a laptop below a scratch directory.

    Args:
        scratch: An empty directory.
        partitioned: The laptop's layout.
    """

    def __init__(self, scratch: Path, *, partitioned: bool) -> None:
        self.scratch, self._partitioned = scratch, partitioned
        self.root = scratch / "laptop"
        self.builds = {
            name: _make_build(scratch, name, spec)
            for name, spec in (("750", EXTRA), ("760", OLD), ("762", NEW))
        }
        signer("oats")  # made once, before the server's process begins
        self.old_lease = lease(int(time.time()) + 5 * _DAY)
        self.new_lease = lease(int(time.time()) + 30 * _DAY)
        self.layout = "partitioned" if partitioned else "unpartitioned"

    @contextlib.contextmanager
    def serve(self, *, orders: bool, stolen: bool = False) -> Iterator[str]:
        """Run a server in a process of its own; return its address."""
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=self._serve, args=(there, orders, stolen)
        )
        process.start()
        try:
            yield here.recv()
        finally:
            process.terminate()
            process.join()

    def _serve(self, told: Connection, orders: bool, stolen: bool) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        www = self.scratch / "www"
        shutil.rmtree(www, ignore_errors=True)
        www.mkdir()
        with simulate(www) as server:
            school = School.__new__(School)
            school.server, school.www = server, www
            for name, olds in (("750", ()), ("760", ()), ("762", ("760",))):
                build = self.builds[name]
                directory = www / "builds" / name
                publish(directory, build, *(self.builds[old] for old in olds))
                school.sign(directory, build.order())
            if orders:
                server.update = school.order(self.builds["762"])
            server.lease = None if stolen else self.new_lease
            server.stolen = stolen
            told.send(server.url)
            while True:
                time.sleep(3600)

    def lay_out(self, url: str) -> None:
        """Make a laptop that runs 760."""
        shutil.rmtree(self.root, ignore_errors=True)
        prepare_laptop(self.root, url)
        build = self.builds["760"]
        make_laptop(
            self.root,
            "760",
            build.tree,
            partitioned=self._partitioned,
            contents=build.manifest,
        )
        (self.root / "security/lease.sig").write_text(self.old_lease)

    def quietly(self, *words: str) -> None:
        """Run a command in a process of its own; it has to succeed."""
        start = f"from olpc_update_query.cli.{words[0]} import main; main()"
        line = [sys.executable, "-c", start, "--root", str(self.root), *words[1:]]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)

    def _scene(
        self,
        name: str,
        job: Job,
        before: tuple[str, str | None],
        after: tuple[str, str | None],
        **more: object,
    ) -> Scene:
        found = self.root / "security/lease.sig"
        leases = found.read_bytes(), self.new_lease.encode()
        next_run = more.pop("next_run", job)
        return Scene(
            f"{name}, {self.layout}",
            self.root,
            job,
            next_run,  # type: ignore[arg-type] # given by this class
            before,
            after,
            self.builds,
            more.pop("leases", leases),  # type: ignore[arg-type]
            **more,  # type: ignore[arg-type]
        )

    # --- the scenes -----------------------------------------------------------------

    @contextlib.contextmanager
    def poll_and_install(self) -> Iterator[Scene]:
        """A poll that brings a lease and an order: all there is, in one run."""
        with self.serve(orders=True) as url:
            self.lay_out(url)
            yield self._scene(
                "poll", poll, ("760", None), ("762", "760"), on_trial="762"
            )

    @contextlib.contextmanager
    def from_original(self) -> Iterator[Scene]:
        """The first poll of a laptop whose build has no manifest of ours."""
        with self.serve(orders=True) as url:
            self.lay_out(url)
            (self.root / "versions/contents/760").write_bytes(b"of a format of old")
            yield self._scene(
                "first", poll, ("760", None), ("762", "760"), on_trial="762"
            )

    @contextlib.contextmanager
    def lease_only(self) -> Iterator[Scene]:
        """The daily poll: a lease, and nothing to install."""
        with self.serve(orders=False) as url:
            self.lay_out(url)
            yield self._scene("lease", poll, ("760", None), ("760", None))

    @contextlib.contextmanager
    def by_hand(self) -> Iterator[Scene]:
        """A build by hand over a full house: an alternate, a site's hook."""
        with self.serve(orders=False) as url:
            self.lay_out(url)
            extra = self.builds["750"]
            add_build(self.root, "750", extra.tree, contents=extra.manifest)
            hooks = self.root / "etc/olpc-update-query/hooks.d"
            hooks.mkdir()
            (hooks / "10-site").write_text("#!/bin/sh\ntouch $1/etc/site\n")
            (hooks / "10-site").chmod(0o755)

            def job(root: Path) -> int:
                return update(root, "762")

            leases = (self.old_lease.encode(), self.old_lease.encode())
            yield self._scene(
                "by hand",
                job,
                ("760", None),
                ("762", "760"),
                leases=leases,
                on_trial="762",
            )

    @contextlib.contextmanager
    def by_stick(self) -> Iterator[Scene]:
        """A lease and a build from a stick, on which a report is left."""
        with self.serve(orders=False) as url:
            self.lay_out(url)
            stick = self.root / "media/STICK"
            shutil.copytree(self.scratch / "www/builds", stick / "builds")
            (stick / "security").mkdir()
            (stick / "security/lease.sig").write_text(self.new_lease)

            def job(root: Path) -> int:
                return update(root, "--usb", str(root / "media/STICK"))

            yield self._scene(
                "by stick",
                job,
                ("760", None),
                ("762", "760"),
                on_trial="762",
                reports=True,
            )

    @contextlib.contextmanager
    def confirm(self) -> Iterator[Scene]:
        """The new build is up: its trial ends, once a site's check agrees."""
        with self.serve(orders=False) as url:
            self.lay_out(url)
            self.quietly("update", "762")
            boot(self.root)
            checks = self.root / "etc/olpc-update-query/checks.d"
            checks.mkdir()
            (checks / "10-site").write_text("#!/bin/sh\nexit 0\n")
            (checks / "10-site").chmod(0o755)
            slots = ("762", "760")
            leases = (self.old_lease.encode(), self.old_lease.encode())
            yield self._scene(
                "confirm",
                lambda root: update(root, "--confirm"),
                slots,
                slots,
                leases=leases,
            )

    @contextlib.contextmanager
    def failed_trial(self) -> Iterator[Scene]:
        """The initramfs went back from 762: it is not installed again, though ordered.

        That is told with an exit code of its own (``OrderRefused``).
        """
        with self.serve(orders=True) as url:
            self.lay_out(url)
            self.quietly("update", "762")
            self.quietly("update", "--rollback")
            boot(self.root)
            (self.root / "versions/trial").write_text("failed 762 2\n")

            def job(root: Path) -> int:
                code = poll(root)
                return 0 if code == 43 else code or 1

            slots = ("760", "762")
            yield self._scene(
                "failed trial",
                job,
                slots,
                slots,
            )

    @contextlib.contextmanager
    def rollback(self) -> Iterator[Scene]:
        with self.serve(orders=False) as url:
            self.lay_out(url)
            self.quietly("update", "762")
            boot(self.root)

            def again(root: Path) -> int:
                swung = _current(root) == "760"
                return poll(root) if swung else update(root, "--rollback")

            yield self._scene(
                "rollback",
                lambda root: update(root, "--rollback"),
                ("762", "760"),
                ("760", "762"),
                next_run=again,
                renews=False,
            )

    @contextlib.contextmanager
    def purge(self) -> Iterator[Scene]:
        with self.serve(orders=False) as url:
            self.lay_out(url)
            self.quietly("update", "762")

            def again(root: Path) -> int:
                if (root / "versions/pristine/762").exists():
                    return update(root, "--purge", "762")
                return poll(root)

            self.quietly("update", "--rollback")
            yield self._scene(
                "purge",
                lambda root: update(root, "--purge", "762"),
                ("760", "762"),
                ("760", None),
                next_run=again,
                gone="762",
                renews=False,
            )

    @contextlib.contextmanager
    def repair(self) -> Iterator[Scene]:
        """The running build is mended: rot, what is missing, strays."""
        with self.serve(orders=False) as url:
            self.lay_out(url)
            tree = self.root / "versions/pristine/760"
            for name in ("lib/a", "etc/same", "bin/su"):
                _flip(tree / name)
            for name in ("etc/motd", "dev/null", "lib/link"):
                (tree / name).unlink()
            (tree / "etc/mode").chmod(0o640)
            (tree / "usr/stray").mkdir()
            (tree / "usr/stray/x").write_text("x")

            def job(root: Path) -> int:
                return update(root, "--verify", "760", "--repair")

            leases = (self.old_lease.encode(), self.old_lease.encode())
            yield self._scene(
                "repair",
                job,
                ("760", None),
                ("760", None),
                damaged="760",
                leases=leases,
            )

    @contextlib.contextmanager
    def stolen(self) -> Iterator[Scene]:
        with self.serve(orders=False, stolen=True) as url:
            self.lay_out(url)
            leases = (self.old_lease.encode(), None)
            yield self._scene(
                "stolen", poll, ("760", None), ("760", None), leases=leases
            )

    def scene(self, name: str) -> "contextlib.AbstractContextManager[Scene]":
        """Set a scene by its name.

        Raises:
            SystemExit: There is none of that name.
        """
        for make in self.scenes():
            if make.__name__ == name:
                return make()
        known = ", ".join(make.__name__ for make in self.scenes())
        sys.exit(f"tests.crash: no scene {name!r}; there are {known}")

    def scenes(self) -> "list[Callable[[], contextlib.AbstractContextManager[Scene]]]":
        return [
            self.poll_and_install,
            self.from_original,
            self.lease_only,
            self.by_hand,
            self.by_stick,
            self.confirm,
            self.failed_trial,
            self.rollback,
            self.purge,
            self.repair,
            self.stolen,
        ]


def _current(root: Path) -> str:
    return slots(root).current


def _flip(path: Path) -> None:
    facts = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
