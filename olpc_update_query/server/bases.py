"""Chooses what a new content is a patch of.

The best guess is the file that had the same path. A file without one may have moved:
a new kernel brings all its modules in a directory of another name, a library has its
version in its own. There, a file counts as its forerunner whose name differs in digits
only, and of several the one in the most similar directory.
"""

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from mmap import mmap
from typing import NamedTuple

from olpc_update_query.model.manifest import Entry, Kind, TreePath
from olpc_update_query.model.pack import BASE_WINDOW, SEGMENT
from olpc_update_query.server.archive import let_go

_DIGITS = re.compile(rb"[0-9]+")
_SAMPLE = 32
_SAMPLES = 8
_SEARCHES = 3  # of a whole base, for each segment
_NEAR = 64 << 10
_DULL = 8  # a sample of fewer different bytes is found anywhere


class Content(NamedTuple):
    """One distinct content of a tree.

    Attributes:
        digest: Its SHA-256, 32 raw bytes.
        size: Its length in bytes.
        path: The first path that has it.
    """

    digest: bytes
    size: int
    path: TreePath


class _Group:
    """Contents of which none is a better guess than another but for its size."""

    def __init__(self) -> None:
        self._members: list[Content] = []  # one of each size, sorted by it

    def add(self, content: Content) -> None:
        """Add one; of several of a size the last counts."""
        at = bisect_left(self._members, content.size, key=_size)
        has_size = self._members[at : at + 1] and self._members[at].size == content.size
        self._members[at : at + bool(has_size)] = [content]

    def nearest(self, size: int) -> Content:
        """Return the one of the most similar size."""
        at = bisect_left(self._members, size, key=_size)
        near = self._members[max(at - 1, 0) : at + 1]
        return max(near, key=partial(_likeness, size))


def _size(content: Content) -> int:
    return content.size


def _likeness(size: int, content: Content) -> tuple[int, bytes]:
    return -abs(content.size - size), content.path


_Similar = defaultdict[bytes, defaultdict[bytes, _Group]]
"""Contents by the pattern of their names, and by that of their paths."""


def choose_bases(
    missing: Sequence[Content], old: Iterable[Entry]
) -> dict[bytes, Content]:
    """Choose a base for each content, where there is one.

    Args:
        missing: Contents that the old build does not have.
        old: Entries of the old build.

    Returns:
        The base of each content, by the content's digest.
    """
    paths = {content.path for content in missing}
    names = {_pattern(_name(content.path)) for content in missing}
    same: dict[bytes, Content] = {}
    similar: _Similar = defaultdict(lambda: defaultdict(_Group))
    for entry in old:
        if entry.kind is not Kind.FILE or not entry.size:
            continue
        pattern = _pattern(_name(entry.path))
        if pattern in names:
            candidate = Content(entry.digest, entry.size, entry.path)
            similar[pattern][_pattern(entry.path)].add(candidate)
            if entry.path in paths:
                same[entry.path] = candidate
    return dict(_choices(missing, same, similar))


def _choices(
    missing: Sequence[Content],
    same: Mapping[bytes, Content],
    similar: _Similar,
) -> Iterable[tuple[bytes, Content]]:
    for content in missing:
        base = same.get(content.path)
        if base is None and (found := similar.get(_pattern(_name(content.path)))):
            base = _most_similar(content, found)
        if base is not None:
            yield content.digest, base


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _pattern(path: bytes) -> bytes:
    return _DIGITS.sub(b"0", path)


def _most_similar(content: Content, candidates: Mapping[bytes, _Group]) -> Content:
    """Return the one in the most similar directory, of several that of similar size."""
    wanted = _pattern(content.path)
    if wanted in candidates:
        return candidates[wanted].nearest(content.size)
    parts = wanted.split(b"/")
    alike = {pattern: _alike(parts, pattern.split(b"/")) for pattern in candidates}
    most = max(alike.values())
    found = (
        group.nearest(content.size)
        for pattern, group in candidates.items()
        if alike[pattern] == most
    )
    return max(found, key=partial(_likeness, content.size))


def _alike(one: Sequence[bytes], two: Sequence[bytes]) -> int:
    """Count the directories that two paths share from either end."""
    return _common(one, two) + _common(one[::-1], two[::-1])


def _common(one: Sequence[bytes], two: Sequence[bytes]) -> int:
    pairs = zip(one, two, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class Windows:
    """Finds, for each segment of a content, the stretch of the base that it resembles.

    Only a base longer than a window leaves a choice. A few samples of the segment are
    looked for, first where the segment before had its own, then everywhere; if none
    is there, the proportional place has to do.

    Args:
        base: The base.
        size: Length of the new content in bytes.
    """

    def __init__(self, base: bytes | mmap, size: int) -> None:
        self._base, self._size = base, size
        self._shift = 0

    def choose(self, segment: bytes, offset: int) -> tuple[int, int]:
        """Return where the window of a segment begins in the base, and its length.

        Args:
            segment: The segment.
            offset: Where it begins in the new content. Segments come in order.
        """
        spare = len(self._base) - BASE_WINDOW
        if spare <= 0:
            return 0, len(self._base)
        shifts = sorted(self._shifts(segment, offset))
        if shifts:
            self._shift = shifts[len(shifts) // 2]
            start = offset + self._shift
        else:
            start = offset * len(self._base) // self._size
        start -= (BASE_WINDOW - len(segment)) // 2
        return min(max(start, 0), spare), BASE_WINDOW

    def _shifts(self, segment: bytes, offset: int) -> Iterator[int]:
        searches = _SEARCHES
        for at in range(0, len(segment), SEGMENT // _SAMPLES):
            sample = segment[at : at + _SAMPLE]
            if len(set(sample)) < _DULL:
                continue
            near = offset + at + self._shift
            found = self._base.find(sample, max(near - _NEAR, 0), max(near, 0) + _NEAR)
            if found < 0 and searches:
                searches -= 1
                found = self._find(sample)
            if found >= 0:
                yield found - offset - at

    def _find(self, sample: bytes) -> int:
        """Search all of the base, of which little is in memory at a time."""
        for start in range(0, len(self._base), SEGMENT):
            found = self._base.find(sample, start, start + SEGMENT + _SAMPLE - 1)
            let_go(self._base)
            if found >= 0:
                return found
        return -1
