"""A laptop with one build, and two web servers that have the next one."""

import contextlib
import hashlib
import os
import random
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.pack import unpack_segment
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.fetch import FetchReport, fetch
from olpc_update_query.perform_update.sources import download
from olpc_update_query.perform_update.store import DELTA, SPOOL, Downloads, Stretch
from olpc_update_query.system.http import HttpTransport, Timeouts
from tests.http_server import Site, serve
from tests.perform_update.published import (
    Build,
    Recorder,
    StillClock,
    contents_of,
    install,
    make_build,
    publish,
)

DELTA_NAME = "760.pack"
QUICK = Timeouts(connect=2.0, silence=1.0)
_random = random.Random(760)
KERNEL = _random.randbytes(150_000)
OLD_FILES = {
    "bin/sh": _random.randbytes(3000),
    "boot/vmlinuz": KERNEL,
    "etc/motd": b"hello\n",
    "lib/data": b"a line\n" * 5000,
}
NEW_FILES = {
    "bin/sh": OLD_FILES["bin/sh"],
    "boot/vmlinuz": KERNEL[:70_000] + b"patched" + KERNEL[70_000:],
    "etc/motd": b"hello again\n",
    "lib/data": b"another line\n" * 5000,
    "lib/new": _random.randbytes(120_000),
    "lib/twin": b"hello again\n",
}


@dataclass
class World:
    """A laptop with build 760, and two web servers that have 762."""

    old: Build
    new: Build
    layout: Layout
    near: Site
    far: Site
    downloads: Path
    progress: Recorder = field(default_factory=Recorder)
    clock: StillClock = field(default_factory=StillClock)

    def fetch(self, *urls: str, wanted: Collection[bytes] = ()) -> FetchReport:
        transport = HttpTransport("test/1", timeouts=QUICK)
        with contextlib.closing(transport):
            return fetch(
                self.new.order(*(urls or (self.near.url, self.far.url))),
                layout=self.layout,
                downloads=self.downloads,
                transport=transport,
                progress=self.progress,
                clock=self.clock,
                wanted=wanted,
            )

    def arrived(self) -> set[bytes]:
        """Return the contents that can be made from what has arrived."""
        had = contents_of(self.old)
        found = {
            bytes.fromhex(path.name)
            for path in (self.downloads / "files").iterdir()
            if hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        }
        with Downloads(self.downloads) as downloads:
            for file in (DELTA, SPOOL):
                for piece in downloads.pieces(file):
                    descriptor, place = downloads.descriptors()[file], piece.position
                    content = b""
                    for part in piece.frame.segments:
                        base = had[piece.frame.base or b""] if part.base_length else b""
                        end = part.base_offset + part.base_length
                        packed = Stretch(descriptor, place, part.packed).stream()
                        with contextlib.suppress(errors.CorruptContent):
                            content += b"".join(
                                unpack_segment(
                                    packed, base[part.base_offset : end], part.size
                                )
                            )
                        place += part.packed
                    if hashlib.sha256(content).digest() == piece.frame.digest:
                        found.add(piece.frame.digest)
        return found

    def missing(self) -> set[bytes]:
        return set(contents_of(self.new)) - set(contents_of(self.old))

    def assert_complete(self) -> None:
        contents = (self.downloads / "contents").read_bytes()
        assert contents == self.new.manifest
        assert self.missing() <= self.arrived()
        left = set(os.listdir(self.downloads)) - {
            "contents",
            "delta",
            "files",
            "pack.index",
            "pack.spool",
            "pack.spool.have",
        }
        assert not left

    def starts(self, name: str, site: Site | None = None) -> list[int]:
        """Return from which offset each request for a file asked."""
        asked = [s.headers for s in (site or self.near).seen if s.name == name]
        ranges = [headers.get("Range", "bytes=0-") for headers in asked]
        return [int(text.removeprefix("bytes=").partition("-")[0]) for text in ranges]

    def without_delta(self) -> None:
        for site in (self.near, self.far):
            shutil.rmtree(site.root / "delta")

    def reset(self) -> None:
        """Forget what was fetched and asked."""
        shutil.rmtree(self.downloads, ignore_errors=True)
        for site in (self.near, self.far):
            site.seen.clear()
            site.plans.clear()


@contextlib.contextmanager
def make_world(scratch: Path) -> Iterator[World]:
    """Make one below a directory; the servers run until the block ends."""
    old = make_build(scratch / "old", "760", OLD_FILES)
    new = make_build(scratch / "new", "762", NEW_FILES)
    layout = install(scratch / "laptop", old)
    near = publish(scratch / "near", new, old)
    far = scratch / "far"
    shutil.copytree(near, far)
    downloads = scratch / "work/downloads" / new.digest
    with (
        pytest.MonkeyPatch.context() as patch,
        serve(near) as one,
        serve(far) as two,
    ):
        for name in ("HOPE", "LONG_HOPE", "SILENCE", "WORTHWHILE"):
            patch.setattr(download, name, 1e9)  # a test machine may be slow to answer
        yield World(old, new, layout, one, two, downloads)


def motd() -> bytes:
    return hashlib.sha256(NEW_FILES["etc/motd"]).digest()


def shell() -> bytes:
    return hashlib.sha256(NEW_FILES["bin/sh"]).digest()
