"""How fast a download moves, and how long it still takes."""

from collections import deque
from typing import Final

WINDOW: Final = 30.0
"""Seconds over which the speed is taken: a link that comes and goes has no other."""
_SPACING: Final = 0.5


class Pace:
    """The speed of one download."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def note(self, done: int, at: float) -> None:
        """Note how many bytes were there at a moment, in seconds of any clock.

        Fewer bytes than before are another download.
        """
        marks = self._marks
        if marks and (done < marks[-1][1] or at < marks[-1][0]):
            marks.clear()
        if len(marks) > 1 and at - marks[-2][0] < _SPACING:
            marks.pop()
        marks.append((at, done))
        while at - marks[0][0] > WINDOW and len(marks) > 2:
            marks.popleft()

    @property
    def rate(self) -> int:
        """Bytes a second; 0 while nothing is known or nothing moves."""
        if len(self._marks) < 2:
            return 0
        (then, had), (now, has) = self._marks[0], self._marks[-1]
        return int((has - had) / (now - then)) if now - then >= _SPACING else 0

    def remaining(self, total: int) -> int | None:
        """Return how many seconds it still takes; None when nobody can tell."""
        if not self._marks or not self.rate:
            return None
        return -(-max(total - self._marks[-1][1], 0) // self.rate)
