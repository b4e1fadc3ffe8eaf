"""``org.laptop.UpdateQuery1`` on the system bus; ``docs/dbus.md`` describes it.

Who may call is said twice: the bus policy keeps ``Hold`` and ``Release`` for root, and
``Check`` and ``Status`` are answered to root and to whoever sits at the laptop.
"""

import subprocess
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import dbus
import dbus.service

if TYPE_CHECKING:
    from dbus.bus import BusConnection

NAME = "org.laptop.UpdateQuery1"
PATH = "/org/laptop/UpdateQuery1"
LIMIT = 60.0
"""Seconds between two checks that somebody may force who is not root."""

_LOGIN = "org.freedesktop.login1"
_PATIENCE = 5.0
Reply = Callable[[str], None]
Fail = Callable[[Exception], None]


class Denied(dbus.DBusException):  # type: ignore[misc]  # dbus has no types
    """The caller is neither root nor at the laptop."""

    _dbus_error_name = "org.freedesktop.DBus.Error.AccessDenied"


class Failed(dbus.DBusException):  # type: ignore[misc]  # dbus has no types
    """The command failed; the text says why."""

    _dbus_error_name = f"{NAME}.Error.Failed"


class Service(dbus.service.Object):  # type: ignore[misc]  # dbus has no types
    """The service on one connection.

    Args:
        connection: To the system bus.
        command: How a subcommand is run; its words are added.
        check: Called with ``now`` and what takes the reply, in GLib's thread.
    """

    def __init__(
        self,
        connection: "BusConnection",
        command: list[str],
        check: Callable[[bool, Reply], None],
    ) -> None:
        super().__init__(connection, PATH)
        self._connection, self._command, self._check = connection, command, check
        self._one_at_a_time = threading.Lock()

    @dbus.service.method(
        NAME,
        in_signature="b",
        out_signature="s",
        sender_keyword="sender",
        async_callbacks=("reply", "fail"),
    )
    def Check(self, now: bool, sender: str, reply: Reply, fail: Fail) -> None:  # noqa: N802
        """Ask the servers, if a query is due or ``now`` is true."""
        if self._may(sender, fail):
            self._check(bool(now), reply)

    @dbus.service.method(
        NAME,
        out_signature="s",
        sender_keyword="sender",
        async_callbacks=("reply", "fail"),
    )
    def Status(self, sender: str, reply: Reply, fail: Fail) -> None:  # noqa: N802
        """Return what ``olpc-update-query status --json`` prints."""
        if self._may(sender, fail):
            self._run(["status", "--json"], reply, fail)

    @dbus.service.method(
        NAME,
        in_signature="s",
        out_signature="s",
        sender_keyword="sender",
        async_callbacks=("reply", "fail"),
    )
    def Hold(self, duration: str, sender: str, reply: Reply, fail: Fail) -> None:  # noqa: N802
        """Hold updates for a duration such as ``3d``, or as long as can be."""
        if self._may(sender, fail, root=True):
            words = ["hold", "--json", "--", str(duration)]
            self._run(words if duration else words[:2], reply, fail)

    @dbus.service.method(
        NAME,
        out_signature="s",
        sender_keyword="sender",
        async_callbacks=("reply", "fail"),
    )
    def Release(self, sender: str, reply: Reply, fail: Fail) -> None:  # noqa: N802
        """Let updates go on."""
        if self._may(sender, fail, root=True):
            self._run(["release", "--json"], reply, fail)

    @dbus.service.signal(NAME, signature="ss")
    def StateChanged(self, state: str, text: str) -> None:  # noqa: N802
        """Tell that a run takes another step (``running``), or ended (``idle``)."""

    @dbus.service.signal(NAME, signature="tt")
    def Progress(self, done: int, total: int) -> None:  # noqa: N802
        """Tell how many bytes of how many have arrived."""

    # --- who may --------------------------------------------------------------------

    def _may(self, sender: str, fail: Fail, *, root: bool = False) -> bool:
        user = int(self._connection.get_unix_user(sender))
        if user == 0 or (not root and self._is_active(user)):
            return True
        whom = "root" if root else "root and whoever sits at the laptop"
        fail(Denied(f"only {whom} may call this"))
        return False

    def _is_active(self, user: int) -> bool:
        """Ask logind whether a user has the session that is shown."""
        call = self._connection.call_blocking
        try:
            users = call(
                *(_LOGIN, "/org/freedesktop/login1", f"{_LOGIN}.Manager"),
                *("ListUsers", "", ()),
                timeout=_PATIENCE,
            )
            path = next(str(path) for uid, _, path in users if int(uid) == user)
            state = call(
                *(_LOGIN, path, dbus.PROPERTIES_IFACE),
                *("Get", "ss", (f"{_LOGIN}.User", "State")),
                timeout=_PATIENCE,
            )
        except (dbus.DBusException, StopIteration):
            return False
        return str(state) == "active"

    # --- commands -------------------------------------------------------------------

    def _run(self, words: list[str], reply: Reply, fail: Fail) -> None:
        """Run a subcommand beside the loop, and answer with what it prints."""

        def work() -> None:
            with self._one_at_a_time:
                done = subprocess.run(
                    [*self._command, *words],
                    check=False,
                    capture_output=True,
                    stdin=subprocess.DEVNULL,
                )
            text = done.stdout.decode("utf-8", "replace")
            if done.returncode == 0:
                reply(text)
            else:
                said = _reason(text) or done.stderr.decode("utf-8", "replace")
                fail(Failed(" ".join(said.split()) or f"exit code {done.returncode}"))

        threading.Thread(target=work, daemon=True).start()


def _reason(text: str) -> str:
    """Return what a command said that failed and speaks JSON."""
    import json

    try:
        return str(json.loads(text)["text"])
    except (ValueError, TypeError, KeyError):
        return ""
