"""Builds from trees, and what a fetch would have left of them on a laptop.

Packs are put together here frame by frame, from the formats' own functions, so that
a test can also make what no publisher would.
"""

import hashlib
import io
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from olpc_update_query.model.delta import DeltaHeader, encode_delta_frame
from olpc_update_query.model.entry import Entry, Kind, encode_entry
from olpc_update_query.model.manifest import Header, ManifestReader, encode_header
from olpc_update_query.model.messages import BuildId, Sha256
from olpc_update_query.model.orders import Order
from olpc_update_query.model.pack import (
    Frame,
    PackHeader,
    Segment,
    encode_pack_frame,
    encode_pack_header,
    pack_segment,
)
from tests.walked import walk_tree


class Told:
    """A `ports.Progress` that remembers."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def transferred(self, done: int, total: int) -> None:
        pass


@dataclass(frozen=True)
class Build:
    """A build as its publisher has it."""

    name: BuildId
    tree: Path
    contents: bytes
    entries: tuple[Entry, ...] = field(repr=False)

    @property
    def digest(self) -> Sha256:
        return Sha256(hashlib.sha256(self.contents).hexdigest())

    @property
    def order(self) -> Order:
        return Order(self.name, self.digest, len(self.contents), ())

    def bytes_of(self) -> dict[bytes, bytes]:
        """Return every distinct content by its digest, in manifest order."""
        return {
            entry.digest: (self.tree / os.fsdecode(entry.path)).read_bytes()
            for entry in self.entries
            if entry.kind is Kind.FILE
        }


def make_build(name: str, tree: Path) -> Build:
    entries = tuple(walk_tree(tree))
    return Build(BuildId(name), tree, encode_manifest(name, entries), entries)


def encode_manifest(name: str, entries: Iterable[Entry]) -> bytes:
    entries = list(entries)
    files = [entry for entry in entries if entry.kind is Kind.FILE]
    size = sum(entry.size for entry in files if entry.leader is None)
    header = Header(BuildId(name), len(entries), len(files), size)
    return encode_header(header) + b"".join(map(encode_entry, entries))


def read_manifest(contents: bytes) -> list[Entry]:
    return list(ManifestReader(io.BytesIO(contents)))


# --- what a fetch leaves ----------------------------------------------------------


def put_manifest(downloads: Path, contents: bytes) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    (downloads / "contents").write_bytes(contents)


def put_files(downloads: Path, contents: Iterable[bytes]) -> None:
    """Leave whole contents, as rsync or a plain tree gives them."""
    (downloads / "files").mkdir(parents=True, exist_ok=True)
    for content in contents:
        name = hashlib.sha256(content).hexdigest()
        (downloads / "files" / name).write_bytes(content)


def put_full_pack(
    downloads: Path, new: Build, *, fetched: Collection[bytes] | None = None
) -> None:
    """Leave the ranges of a full pack that hold some contents, or all."""
    frames, spool, journal, offset = b"", b"", "", 0
    contents = new.bytes_of()
    for digest, content in contents.items():
        packed = pack_segment(content, b"", 3)
        segment = Segment(0, 0, len(packed), len(content))
        frames += encode_pack_frame(
            Frame(digest, len(content), None, offset, (segment,))
        )
        if fetched is None or digest in fetched:
            journal += f"{offset} {offset + len(packed)} http://a.test\n"
            spool += bytes(offset - len(spool)) + packed
        offset += len(packed)
    header = encode_pack_header(PackHeader(new.digest, len(contents), offset))
    put_manifest(downloads, new.contents)
    (downloads / "pack.index").write_bytes(header + frames)
    (downloads / "pack.spool.have").write_text(journal)
    (downloads / "pack.spool").write_bytes(spool)


@dataclass
class Patch:
    """A content of a delta pack: its bytes, and a content to start from."""

    content: bytes
    base: bytes | None = None

    def frame(self, offset: int) -> tuple[Frame, bytes]:
        base = self.base or b""
        packed = pack_segment(self.content, base, 3)
        segment = Segment(0, len(base), len(packed), len(self.content))
        digest = hashlib.sha256(self.content).digest()
        start = hashlib.sha256(base).digest() if base else None
        return Frame(digest, len(self.content), start, offset, (segment,)), packed


def put_delta(
    downloads: Path, old: Build, new: Build, patches: Iterable[Patch] | None = None
) -> None:
    """Leave a delta pack, by default with every new content, whole."""
    if patches is None:
        known = old.bytes_of()
        patches = [Patch(c) for d, c in new.bytes_of().items() if d not in known]
    put_manifest(downloads, new.contents)
    index, frames = b"", b""
    for patch in patches:
        frame, packed = patch.frame(len(frames))
        index += encode_delta_frame(frame)
        frames += packed
    (downloads / "delta").write_bytes(assemble_delta(old, new, index, frames))


def assemble_delta(old: Build, new: Build, index: bytes, frames: bytes) -> bytes:
    """Put a delta pack together; its manifest is not patched but packed whole."""
    manifest = pack_segment(new.contents, b"", 3)
    packed_index = pack_segment(index, b"", 3)
    segment = Segment(0, 0, len(manifest), len(new.contents))
    rest = manifest + packed_index + frames
    length = 0
    while True:  # the header names the length of all, itself included
        header = DeltaHeader(
            old.digest, new.digest, length, (segment,), len(packed_index), len(index)
        )
        if len(header.encode()) + len(rest) == length:
            return header.encode() + rest
        length = len(header.encode()) + len(rest)
