"""A build on a web server."""

import os
from collections.abc import Sequence
from urllib.parse import quote

from olpc_update_query.perform_update.spans import Span
from olpc_update_query.ports import Pieces, Stream, Transport


class WebFiles:
    """The files of one build on a web server (``spool.Files``).

    Args:
        url: The build's directory.
        transport: How to ask.
    """

    def __init__(self, url: str, transport: Transport) -> None:
        self.url = url.rstrip("/")
        self._transport = transport

    def open(
        self,
        name: str,
        *,
        start: int = 0,
        length: int | None = None,
    ) -> Stream:
        """Open a file by its path in the build's directory.

        Raises:
            NetworkError: See ``system.http``.
        """
        return self._transport.get(self._where(name), start=start, length=length)

    def open_ranges(self, name: str, spans: Sequence[Span]) -> Pieces:
        """Open spans of a file.

        Raises:
            RangesRefused: The server is to be asked for one at a time.
            NetworkError: See ``system.http``.
        """
        return self._transport.get_ranges(self._where(name), spans)

    def _where(self, name: str) -> str:
        return f"{self.url}/{quote(os.fsencode(name))}"
