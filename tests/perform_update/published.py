"""Small builds on a small site, and a laptop that has one of them installed.

Made with the formats' own functions but not with the publisher, so that a test can
also publish what no publisher would.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from olpc_update_query.model.delta import DeltaHeader, encode_delta_frame
from olpc_update_query.model.manifest import (
    Entry,
    Header,
    Kind,
    encode_entry,
    encode_header,
    parse_path,
)
from olpc_update_query.model.messages import Order, parse_build_id, parse_sha256
from olpc_update_query.model.pack import (
    Frame,
    PackHeader,
    Segment,
    encode_pack_frame,
    encode_pack_header,
    pack_segment,
)
from olpc_update_query.model.whole import pack_content
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.server.archive import Archive
from olpc_update_query.server.inside import InsidePack

TIME = 1_600_000_000
SEGMENT = 50_000  # small, so that a test has several of them


class Build(NamedTuple):
    """A build: its name, its tree, its manifest."""

    name: str
    tree: Path
    manifest: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()

    def order(self, *urls: str) -> Order:
        """Return the order to install it."""
        return Order(
            parse_build_id(self.name),
            parse_sha256(self.digest),
            len(self.manifest),
            urls,
        )


def make_build(tree: Path, name: str, files: Mapping[str, bytes]) -> Build:
    """Write a tree of files and its manifest."""
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
        os.utime(tree / path, (TIME, TIME))
    entries = [_entry(tree, path) for path in [tree, *tree.rglob("*")]]
    entries.sort(key=lambda entry: entry.path)
    plain = [entry for entry in entries if entry.kind is Kind.FILE]
    header = Header(
        parse_build_id(name), len(entries), len(plain), sum(e.size for e in plain)
    )
    manifest = encode_header(header) + b"".join(map(encode_entry, entries))
    return Build(name, tree, manifest)


def _entry(tree: Path, path: Path) -> Entry:
    facts = path.lstat()
    raw = os.fsencode(path.relative_to(tree)) if path != tree else b""
    mode = facts.st_mode & 0o7777
    where = parse_path(raw) if raw else parse_path(b"")
    owner = facts.st_uid, facts.st_gid
    if path.is_dir():
        return Entry(where, Kind.DIRECTORY, mode, *owner, facts.st_mtime_ns)
    content = path.read_bytes()
    return Entry(
        where,
        Kind.FILE,
        mode,
        *owner,
        facts.st_mtime_ns,
        len(content),
        hashlib.sha256(content).digest(),
    )


# --- publishing ------------------------------------------------------------------


def publish(
    directory: Path, build: Build, *olds: Build, level: int = 3, backwards: bool = False
) -> Path:
    """Write a build as a site serves it, with delta packs from other builds.

    Args:
        directory: Where; must not exist.
        build: The build.
        *olds: The builds to make delta packs from.
        level: How hard to compress.
        backwards: Whether the full pack is in another order than usual.

    Returns:
        The build's directory.
    """
    (directory / "delta").mkdir(parents=True)
    (directory / "contents").write_bytes(build.manifest)
    (directory / "contents.zst").write_bytes(packed(build.manifest, level))
    contents = contents_of(build)
    pack = bytearray()
    lines = []
    items = list(contents.items())
    for digest, content in items[::-1] if backwards else items:
        part = packed(content, level)
        segment = Segment(0, 0, len(part), len(content))
        frame = Frame(digest, len(content), None, len(pack), (segment,))
        lines.append(encode_pack_frame(frame))
        pack += part
    header = PackHeader(parse_sha256(build.digest), len(lines), len(pack))
    index = encode_pack_header(header) + b"".join(lines)
    (directory / "pack").write_bytes(pack)
    (directory / "pack.index").write_bytes(index)
    (directory / "pack.index.zst").write_bytes(packed(index, level))
    for old in olds:
        delta = make_delta(old, build, level)
        (directory / "delta" / f"{old.name}.pack").write_bytes(delta)
    return directory


def packed(content: bytes, level: int = 3) -> bytes:
    return b"".join(pack_content([content], len(content), level))


def contents_of(build: Build) -> dict[bytes, bytes]:
    """Return every distinct content by digest, in manifest order."""
    found = {}
    for path in sorted(os.fsencode(p.relative_to(build.tree)) for p in _files(build)):
        content = (build.tree / os.fsdecode(path)).read_bytes()
        found[hashlib.sha256(content).digest()] = content
    return found


def _files(build: Build) -> list[Path]:
    return [path for path in build.tree.rglob("*") if path.is_file()]


def make_delta(old: Build, new: Build, level: int = 3) -> bytes:
    """Return the delta pack between two builds."""
    had = contents_of(old)
    frames: list[Frame] = []
    parts = []
    for path in sorted(_files(new)):
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if digest in had or digest in {frame.digest for frame in frames}:
            continue
        before = old.tree / path.relative_to(new.tree)
        base = before.read_bytes() if before.is_file() else None
        if base is None:
            part = packed(content, level)
            segments: tuple[Segment, ...] = (Segment(0, 0, len(part), len(content)),)
        else:
            segments, part = _patches(base, content, level)
        known = None if base is None else hashlib.sha256(base).digest()
        frames.append(Frame(digest, len(content), known, 0, segments))
        parts.append(part)
    index = b"".join(encode_delta_frame(frame) for frame in frames)
    index_packed = packed(index, level)
    manifest, manifest_packed = _patches(old.manifest, new.manifest, level)
    body = manifest_packed + index_packed + b"".join(parts)
    header = DeltaHeader(
        parse_sha256(old.digest),
        parse_sha256(new.digest),
        0,
        manifest,
        len(index_packed),
        len(index),
    )
    length = 0
    while length != len(header.encode()) + len(body):
        length = len(header.encode()) + len(body)
        header = header._replace(length=length)
    return header.encode() + body


def _patches(
    base: bytes, content: bytes, level: int
) -> tuple[tuple[Segment, ...], bytes]:
    segments, parts = [], []
    for at in range(0, len(content) or 1, SEGMENT):
        piece, stretch = content[at : at + SEGMENT], base[at : at + 2 * SEGMENT]
        part = pack_segment(piece, stretch, level)
        offset = at if stretch else 0
        segments.append(Segment(offset, len(stretch), len(part), len(piece)))
        parts.append(part)
    return tuple(segments), b"".join(parts)


# --- a laptop --------------------------------------------------------------------


def install(root: Path, *builds: Build) -> Layout:
    """Make a laptop on which builds are installed; the first one runs."""
    versions = root / "versions"
    for build in builds:
        (versions / "contents").mkdir(parents=True, exist_ok=True)
        shutil.copytree(build.tree, versions / "pristine" / build.name)
        shutil.copytree(build.tree, versions / "run" / build.name)
        (versions / "contents" / build.name).write_bytes(build.manifest)
    (versions / "pristine").mkdir(parents=True, exist_ok=True)
    config = versions / "configs/first"
    config.mkdir(parents=True)
    (versions / "boot").symlink_to("configs/first")
    if builds:
        (config / "current").symlink_to(f"/versions/pristine/{builds[0].name}")
        (versions / "running").symlink_to(f"pristine/{builds[0].name}")
    return Layout.detect(root)


@dataclass
class Recorder:
    """Who is told, and remembers it."""

    steps: list[str] = field(default_factory=list)
    counts: list[tuple[int, int]] = field(default_factory=list)

    def step(self, text: str) -> None:
        self.steps.append(text)

    def transferred(self, done: int, total: int) -> None:
        self.counts.append((done, total))


@dataclass
class StillClock:
    """A clock for tests: sleeping takes no time."""

    time: int = 1_800_000_000
    slept: list[float] = field(default_factory=list)

    def now(self) -> int:
        return self.time

    def boottime(self) -> float:
        return float(self.time)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += round(seconds)


def write_inside(directory: Path) -> int:
    """Add what a publisher finds in a published build's own contents."""
    with Archive(directory) as pack, InsidePack(directory) as inside:
        for frame in filter(inside.wants, pack.frames.values()):
            inside.begin(frame)
        inside.finish(pack.frames)
        return inside.write()
