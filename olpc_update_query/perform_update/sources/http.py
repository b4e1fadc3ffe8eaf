"""A build on a web server."""

import os
from urllib.parse import quote

from olpc_update_query.ports import Stream, Transport


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
        return self._transport.get(
            f"{self.url}/{quote(os.fsencode(name))}",
            start=start,
            length=length,
        )
