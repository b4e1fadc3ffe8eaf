"""Where the daemon begins: ``python -m olpc_update_query.daemon``."""

import argparse
import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from olpc_update_query import errors
from olpc_update_query.daemon import bus, units
from olpc_update_query.daemon.child import ChildRuns
from olpc_update_query.daemon.keeper import Keeper
from olpc_update_query.daemon.loop import Loop
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.notify import notify, watchdog_seconds

if TYPE_CHECKING:
    from dbus.bus import BusConnection

    from olpc_update_query.daemon.service import Reply, Service

PLACE = "run/olpc-update-query/daemon"
"""The daemon's lock below the root; hooks read its process number from there."""

_log = logging.getLogger(__name__)


class Daemon:
    """All parts together.

    Args:
        command: How the program is run, with the options that every run gets.
        root: Where the laptop's file system begins.
        tick: Seconds between two ticks.
        as_units: Whether a run is systemd's to start, each side in its own unit.
    """

    def __init__(
        self, command: list[str], root: Path, tick: int, *, as_units: bool
    ) -> None:
        self._command = command
        self._clock = SystemClock()
        self._loop = Loop(self._tick, tick)
        runs = units.UnitRuns() if as_units else ChildRuns([*command, "--for-daemon"])
        self._keeper = Keeper(runs, root, self._clock, self._loop, self)
        self._service: Service | None = None
        self._forced = -1e9
        module = bus.load()
        self._bus = (
            None
            if module is None
            else bus.SystemBus(
                module,
                self._loop.post,
                self._keeper,
                self._serve,
                follows_units=as_units,
            )
        )

    def run(self) -> None:
        """Work until SIGTERM or SIGINT."""
        self._handle_signals()
        notify("READY=1", "STATUS=waiting")
        try:
            self._loop.run()
        finally:
            notify("STOPPING=1")
            self._keeper.close()

    def _tick(self) -> None:
        if self._bus is not None:
            self._bus.connect()
        self._keeper.tick()

    # --- signals --------------------------------------------------------------------

    def _handle_signals(self) -> None:
        for number, work in (
            (signal.SIGTERM, self._loop.stop),
            (signal.SIGINT, self._loop.stop),
            (signal.SIGHUP, partial(self._loop.post, self._reload)),
            (signal.SIGUSR1, partial(self._loop.post, self._link_came_up)),
        ):

            def handle(
                number: int, frame: FrameType | None, work: Callable[[], object] = work
            ) -> None:
                work()

            signal.signal(number, handle)

    def _reload(self) -> None:
        """Look whether the configuration can be used; each run reads it anew."""
        notify("RELOADING=1")
        done = subprocess.run(
            [*self._command, "status"],
            check=False,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        verdict = "cannot be used" if done.returncode else "is read by the next run"
        _log.info("reloaded: the configuration %s", verdict)
        notify("READY=1")
        self._keeper.resumed()

    def _link_came_up(self) -> None:
        self._keeper.wake(Trigger.NETWORK)

    # --- D-Bus ----------------------------------------------------------------------

    def _serve(self, connection: "BusConnection") -> None:
        """Offer the service; a bus without our policy does not let us.

        It is there before it has its name: whoever's call started us is first in line.
        """
        import dbus

        from olpc_update_query.daemon.service import NAME, Service

        service = Service(
            connection,
            self._command,
            lambda *found: self._loop.post(partial(self._check, *found)),
        )
        try:
            connection.request_name(NAME, dbus.bus.NAME_FLAG_DO_NOT_QUEUE)
        except dbus.DBusException as error:
            _log.warning("D-Bus: no service: %s", " ".join(str(error).split()))
            service.remove_from_connection()
            return
        self._service = service

    def _check(self, now: bool, reply: "Reply") -> None:
        """Ask for somebody who sits there, by force at most once a minute."""
        forced = now and self._clock.boottime() - self._forced >= 60.0
        if forced:
            self._forced = self._clock.boottime()
        reply(self._keeper.wake(Trigger.DBUS, now=forced))

    def state(self, state: str, text: str) -> None:
        """Tell the bus what happens (``daemon.keeper.News``)."""
        if self._service is not None:
            self._service.StateChanged(state, text)

    def progress(self, done: int, total: int) -> None:
        """Tell the bus how far a download is."""
        if self._service is not None:
            self._service.Progress(done, total)


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="olpc-update-query daemon")
    parser.add_argument("--root", default="/", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--tick", default=60, type=int)
    given = parser.parse_args(arguments)
    logging.basicConfig(format="olpc-update-query: %(message)s", level=logging.INFO)
    command = [sys.executable, "-m", "olpc_update_query", "--root", str(given.root)]
    if given.config is not None:
        command += ["--config", str(given.config)]
    try:
        with _only_one(given.root):
            as_units = given.config is None and units.are_installed(given.root)
            Daemon(command, given.root, _beat(given.tick), as_units=as_units).run()
    except errors.UpdateError as error:
        _log.error("%s", error)
        sys.exit(error.exit_code)


def _beat(tick: int) -> int:
    """Return how often to tick, so that the watchdog is content as well."""
    limit = watchdog_seconds()
    return tick if limit is None else max(1, min(tick, int(limit / 2)))


def _only_one(root: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the daemon's lock, which hooks read, in the asker's unit too."""
    from olpc_update_query.system.files import disk_errors
    from olpc_update_query.system.work import lend_lock

    place = root / PLACE
    with disk_errors(place):
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        lend_lock(place)
    return hold_lock(place, "olpc-update-query daemon")


if __name__ == "__main__":
    main()
