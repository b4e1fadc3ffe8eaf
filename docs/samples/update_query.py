"""python-dbusmock template: stands in for ``org.laptop.UpdateQuery1`` in tests.

``parameters``: ``check`` is what ``Check`` returns, ``status`` what ``Status`` does.
"""

import json

import dbus
from dbusmock import MOCK_IFACE

BUS_NAME = "org.laptop.UpdateQuery1"
MAIN_OBJ = "/org/laptop/UpdateQuery1"
MAIN_IFACE = "org.laptop.UpdateQuery1"
SYSTEM_BUS = True

HELD = json.dumps({"held": True, "until": 1800000000})
RELEASED = json.dumps({"held": False})


def load(mock, parameters):
    """Give the mock the service's methods."""
    mock.check = parameters.get("check", "started")
    mock.status = parameters.get("status", '{"work": {"state": "idle"}}')
    mock.AddMethods(
        MAIN_IFACE,
        [
            ("Check", "b", "s", "ret = self.check"),
            ("Status", "", "s", "ret = self.status"),
            ("Hold", "s", "s", f"ret = {HELD!r}"),
            ("Release", "", "s", f"ret = {RELEASED!r}"),
        ],
    )


@dbus.service.method(MOCK_IFACE, in_signature="s")
def SetCheck(self, answer):  # noqa: N802
    """Say what ``Check`` returns from now on."""
    self.check = str(answer)


@dbus.service.method(MOCK_IFACE, in_signature="ss")
def SetState(self, state, text):  # noqa: N802
    """Send ``StateChanged``."""
    self.EmitSignal(MAIN_IFACE, "StateChanged", "ss", [state, text])


@dbus.service.method(MOCK_IFACE, in_signature="tt")
def SetProgress(self, done, total):  # noqa: N802
    """Send ``Progress``."""
    self.EmitSignal(MAIN_IFACE, "Progress", "tt", [done, total])
