"""A connection on which nobody may take for ever, or be ambiguous, in what he wants.

The web server hangs up on who is silent. Who sends an octet now and then is not silent,
and three such clients could hold every connection. Where a request ends must be beyond
doubt: a proxy before us may see its end elsewhere.
"""

import time

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError

LONGEST = 120.0
"""Seconds that a request may take to arrive: 16 KiB at 137 octets a second."""


class StrictParser(HTTPRequestParser):  # type: ignore[misc] # waitress has no types
    """Refuses a request whose end can be seen in two places (RFC 9112, 6.1)."""

    path = ""  # what is logged of one that could not be read, when its client is gone

    def parse_header(self, header_plus: bytes) -> None:
        """Read the first line and the headers.

        Raises:
            ParsingError: They are malformed or ambiguous.
        """
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # a length of thousands of digits
            raise ParsingError("its Content-Length is no number") from error
        if self.version not in {"1.0", "1.1"}:
            raise ParsingError("this server speaks HTTP/1.0 and HTTP/1.1")
        if "TRANSFER_ENCODING" in self.headers:
            raise ParsingError("HTTP/1.0 has no Transfer-Encoding")
        if self.chunked and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("there are both Content-Length and Transfer-Encoding")


class HastyChannel(HTTPChannel):  # type: ignore[misc] # waitress has no types
    """Closes a connection whose request has not arrived in time."""

    parser_class = StrictParser
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
