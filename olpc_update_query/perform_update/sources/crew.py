"""The mirrors of one order, at work on one file after the other."""

from collections.abc import Callable, Collection, Iterable

from olpc_update_query import errors
from olpc_update_query.perform_update.sources.download import Download
from olpc_update_query.perform_update.sources.health import Health, Trouble
from olpc_update_query.perform_update.sources.mirrors import Mirror
from olpc_update_query.perform_update.sources.spool import AnotherFile, Files, Spool
from olpc_update_query.ports import Clock, Progress


class Crew:
    """Places that have the same files, asked together.

    Args:
        places: The places, the best first.
        health: What is remembered of them.
        clock: For pauses.
        progress: Who is told.
    """

    def __init__(
        self, places: Iterable[Files], health: Health, clock: Clock, progress: Progress
    ) -> None:
        self._mirrors = [Mirror(files, health) for files in places]
        self._health, self._clock, self._progress = health, clock, progress

    def __str__(self) -> str:
        return ", ".join(mirror.url for mirror in self._mirrors)

    def download(
        self, name: str, spool: Spool, *, limit: int, tell: Callable[[], None]
    ) -> Download:
        """Return what fetches a file into a spool; see ``Download``."""
        return Download(
            self._mirrors,
            name,
            spool,
            limit=limit,
            clock=self._clock,
            audience=self._progress,
            tell=tell,
        )

    def among(self, urls: Collection[str]) -> "Crew":
        """Return the same mirrors, but only those of some addresses."""
        few = Crew((), self._health, self._clock, self._progress)
        few._mirrors = [mirror for mirror in self._mirrors if mirror.url in urls]
        return few

    def with_another(self, name: str) -> "Crew":
        """Return those that have another file of that name than was begun with."""
        return self.among(
            [
                mirror.url
                for mirror in self._mirrors
                if isinstance(mirror.absent.get(name), AnotherFile)
            ]
        )

    def can_give(self, name: str) -> bool:
        """Say whether anybody is worth asking for a file."""
        return any(mirror.can_give(name) for mirror in self._mirrors)

    def lacks(self, name: str) -> bool:
        """Say whether somebody answers, but does not have a file."""
        absent = (mirror.absent.get(name) for mirror in self._mirrors)
        return any(isinstance(error, errors.BuildNotFound) for error in absent)

    def blame(
        self, urls: Iterable[str], name: str, error: errors.UpdateError | None = None
    ) -> None:
        """Remember who gave something wrong, and ask them for it no more."""
        wrong = error or errors.CorruptContent(name, "the right bytes", "others")
        for mirror in self._mirrors:
            if mirror.url in urls:
                mirror.absent[name] = wrong
        for url in urls:
            self._health.note(url, Trouble.LIED)

    def forgive(self, name: str) -> None:
        """Let everybody be asked for a file once more, which is another one now."""
        for mirror in self._mirrors:
            mirror.absent.pop(name, None)
            mirror.shown.discard(name)

    def troubles(self) -> list[errors.UpdateError]:
        """Return why each mirror that is not asked any more is not."""
        found = []
        for mirror in self._mirrors:
            kinds = list(mirror.absent.values())
            found += kinds[-1:]
        return found
