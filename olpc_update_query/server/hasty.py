"""A connection on which nobody may take for ever to say what he wants.

The web server hangs up on who is silent. Who sends an octet now and then is not silent,
and three such clients could hold every connection.
"""

import time

from waitress.channel import HTTPChannel

LONGEST = 120.0
"""Seconds that a request may take to arrive: 16 KiB at 137 octets a second."""


class HastyChannel(HTTPChannel):  # type: ignore[misc] # waitress has no types
    """Closes a connection whose request has not arrived in time."""

    _since: float | None = None

    def received(self, data: bytes) -> bool:
        """Take what has arrived of a request."""
        done = bool(super().received(data))
        if self.request is None:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > LONGEST:
            self.will_close = True
        return done
