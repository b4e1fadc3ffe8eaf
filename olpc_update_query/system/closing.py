"""Things that are closed when a block ends, however it ends."""

import abc
from types import TracebackType
from typing import Self


class Closing(abc.ABC):
    """Closes itself at the end of a ``with`` block."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
