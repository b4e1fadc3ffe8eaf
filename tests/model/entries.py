"""Entries for the tests of manifests."""

from hypothesis import strategies as st

from olpc_update_query.model.entry import MAX_ID, MAX_INT
from olpc_update_query.model.manifest import (
    Entry,
    Kind,
    TreePath,
)

HEX = "ab" * 32
DIGEST = bytes.fromhex(HEX)
PLAIN = b'["bin/sh","f",493,0,0,1600000000123456789,4,"%s"]\n' % HEX.encode()


def path(text: str | bytes) -> TreePath:
    return TreePath(text.encode() if isinstance(text, str) else text)


def directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(path(name), Kind.DIRECTORY, mode, 0, 0, 0)


def file(name: str, **changes: object) -> Entry:
    entry = Entry(path(name), Kind.FILE, 0o644, 0, 0, 0, size=3, digest=DIGEST)
    return Entry(**{**entry._asdict(), **changes})


names = st.binary(min_size=1, max_size=20).filter(
    lambda raw: raw not in {b".", b".."} and not set(raw) & {0, 0x2F}
)
paths = st.lists(names, min_size=1, max_size=4).map(b"/".join)
counts = st.integers(0, 1 << 59)
attributes = st.dictionaries(names, st.binary(max_size=20), max_size=3).map(
    lambda pairs: tuple(sorted(pairs.items()))
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(Kind))
    entry = Entry(
        path(draw(paths)),
        kind,
        draw(st.integers(0, 0o7777)),
        draw(st.integers(0, MAX_ID)),
        draw(st.integers(0, MAX_ID)),
        draw(st.integers(-MAX_INT, MAX_INT)),
        xattrs=draw(attributes),
    )
    if kind is Kind.FILE:
        leader = path(entry.path[:-1] + bytes([entry.path[-1] - 1]))
        is_linked = draw(st.booleans()) and entry.path[-1] not in {1, 0x30, 0x2F}
        is_linked = is_linked and leader.rpartition(b"/")[2] not in {b".", b".."}
        digest = draw(st.binary(min_size=32, max_size=32))
        return entry._replace(
            size=draw(counts), digest=digest, leader=leader if is_linked else None
        )
    if kind is Kind.SYMLINK:
        return entry._replace(target=draw(names))
    if kind in {Kind.CHAR, Kind.BLOCK}:
        number = st.integers(0, MAX_ID)
        return entry._replace(device=(draw(number), draw(number)))
    return entry
