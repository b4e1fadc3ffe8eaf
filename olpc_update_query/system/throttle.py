"""HTTP that takes no more bytes a second than it was told to."""

from collections.abc import Iterator, Mapping

from olpc_update_query.ports import Clock, Stream
from olpc_update_query.system.http import HttpTransport


class ThrottledTransport(HttpTransport):
    """HTTP whose downloads keep below a bandwidth (``ports.Transport``).

    Args:
        user_agent: How we name ourselves.
        proxies: As ``network.proxies_for`` works them out.
        clock: For pauses.
        limit: Bytes a second.
    """

    def __init__(
        self, user_agent: str, proxies: Mapping[str, str], clock: Clock, limit: int
    ) -> None:
        super().__init__(user_agent, proxies)
        self._clock, self._limit = clock, limit

    def get(
        self,
        url: str,
        *,
        start: int = 0,
        length: int | None = None,
        validator: str | None = None,
    ) -> Stream:
        """Ask for bytes that will come slowly; see ``HttpTransport.get``."""
        stream = super().get(url, start=start, length=length, validator=validator)
        return stream._replace(chunks=self._slowly(stream.chunks))

    def _slowly(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pause after each chunk for as long as it should have taken."""
        begun, got = self._clock.boottime(), 0
        for chunk in chunks:
            yield chunk
            got += len(chunk)
            ahead = got / self._limit - (self._clock.boottime() - begun)
            if ahead > 0:
                self._clock.sleep(ahead)
