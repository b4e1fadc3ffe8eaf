"""A download that is cut goes on over another protocol; what came twice is counted.

The bytes are those of a relay in front of each server, so they are what crossed the
wire. What is fetched is one large content that nothing compresses and no patch helps.
"""

import contextlib
import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.relay import Relay, relay_to
from olpc_update_query import errors
from olpc_update_query.perform_update.fetch import fetch
from olpc_update_query.perform_update.sources import local
from olpc_update_query.perform_update.sources.rsync_program import RsyncOptions
from olpc_update_query.system.http import HttpTransport, Timeouts
from tests import rsyncd
from tests.http_server import serve
from tests.perform_update.published import (
    Build,
    Recorder,
    StillClock,
    contents_of,
    install,
    make_build,
    publish,
)

pytestmark = pytest.mark.needs("rsync")

_log = logging.getLogger(__name__)

KINDS = ("http", "rsync", "directory")
LARGE = random.Random(7).randbytes(1_500_000)
CUT = 1_000_000
AT_STAKE = 64 * 1024
TALK = 16 * 1024  # headers, manifest and index, file lists


class School:
    """One build, served in three ways, and a laptop that wants it."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        old = make_build(scratch / "old", "760", {"etc/motd": b"hello\n"})
        self.new = make_build(
            scratch / "new", "762", {"etc/motd": b"hello\n", "lib/large": LARGE}
        )
        self.site = publish(scratch / "site", self.new)
        shutil.copytree(self.new.tree, self.site / "root")
        self.layout = install(scratch / "laptop", old)
        self.downloads = scratch / "work/downloads" / self.new.digest
        self.progress = Recorder()

    @contextlib.contextmanager
    def reach(self, kind: str, allowance: int | None) -> Iterator[tuple[str, Relay]]:
        """Serve the build one way, behind a relay that dies after some bytes."""
        with contextlib.ExitStack() as stack:
            if kind == "rsync":
                url = stack.enter_context(
                    rsyncd.serve(self.scratch / "rsyncd", {"build-762": self.site})
                )
                port = int(url.rstrip("/").rpartition(":")[2])
                form = "rsync://127.0.0.1:{}/build-762"
            else:
                port = stack.enter_context(serve(self.site)).port
                form = "http://127.0.0.1:{}/"
            relay = stack.enter_context(relay_to(port, allowance))
            yield form.format(relay.port), relay

    def fetch(self, kind: str, allowance: int | None = None) -> int:
        """Fetch over one kind of source; return how many bytes that brought."""
        if kind == "directory":
            read = _Counted(allowance)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(local.os, "read", read)  # type: ignore[attr-defined]
                self._fetch(f"file://{self.site}/")
            return read.count
        with self.reach(kind, allowance) as (url, relay):
            self._fetch(url)
            return relay.read().down

    def cut(self, kind: str) -> int:
        """Fetch until the source dies; return how many bytes that brought."""
        if kind == "directory":
            with pytest.raises(errors.StickFailed):
                self.fetch(kind, CUT)
            return CUT
        with self.reach(kind, CUT) as (url, relay):
            with pytest.raises(errors.SourceFailed):
                self._fetch(url)
            return relay.read().down

    def _fetch(self, url: str) -> None:
        transport = HttpTransport("test/1", timeouts=Timeouts(connect=2, silence=2))
        with contextlib.closing(transport):
            fetch(
                self.new.order(url),
                layout=self.layout,
                downloads=self.downloads,
                transport=transport,
                progress=self.progress,
                clock=StillClock(),
                rsync=RsyncOptions(silence=5, connect=2, tries=1),
            )

    def is_there(self) -> bool:
        contents = (self.downloads / "contents").read_bytes()
        return contents == self.new.manifest and len(contents_of(self.new)) == 2


class _Counted:
    """``os.read`` of a stick that is pulled out after some bytes."""

    def __init__(self, allowance: int | None) -> None:
        self._read, self._allowance, self.count = os.read, allowance, 0

    def __call__(self, descriptor: int, length: int) -> bytes:
        if self._allowance is not None and self.count >= self._allowance:
            raise OSError(5, "Input/output error")
        data = self._read(descriptor, length)
        self.count += len(data)
        return data


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_another_protocol_goes_on(tmp_path: Path, first: str, second: str) -> None:
    school = School(tmp_path)
    came = school.cut(first)
    rest = school.fetch(second)
    assert school.is_there()
    twice = came + rest - len(LARGE)
    _log.info("%s to %s: %d of %d bytes twice", first, second, twice, came + rest)
    assert twice <= AT_STAKE + TALK


def test_reboot_in_mid_download_costs_at_most_64_kib(tmp_path: Path) -> None:
    """Only what the journal vouches for, and nothing after it, is there again."""
    school = School(tmp_path)
    school.cut("http")
    part = school.downloads / "pack.spool"
    journal = part.with_name("pack.spool.have")
    end = max(int(line.split()[1]) for line in journal.read_text().splitlines())
    part.write_bytes(part.read_bytes()[:end])
    assert end >= CUT - AT_STAKE - TALK
    rest = school.fetch("http")
    assert rest <= len(LARGE) - end + TALK


@pytest.mark.parametrize("delta_too", [True, False])
def test_mirror_without_the_delta_pack_wastes_nothing(
    tmp_path: Path, delta_too: bool
) -> None:
    """The mirror that had it is gone; the other one has only the full pack."""
    pieces = {f"lib/{n}": random.Random(n).randbytes(200_000) for n in range(6)}
    old = make_build(tmp_path / "old", "760", {"etc/motd": b"hello\n"})
    new: Build = make_build(tmp_path / "new", "762", pieces)
    near = publish(tmp_path / "near", new, old)
    far = publish(tmp_path / "far", new, *([old] if delta_too else []))
    layout = install(tmp_path / "laptop", old)
    downloads = tmp_path / "work/downloads" / new.digest
    with (
        serve(near) as one,
        serve(far) as two,
        relay_to(one.port, 700_000) as dying,
        relay_to(two.port) as living,
        contextlib.closing(HttpTransport("test/1")) as transport,
    ):
        fetch(
            new.order(*(f"http://127.0.0.1:{r.port}/" for r in (dying, living))),
            layout=layout,
            downloads=downloads,
            transport=transport,
            progress=Recorder(),
            clock=StillClock(),
        )
        came = dying.read().down + living.read().down
    whole = sum(map(len, pieces.values()))
    frame = 0 if delta_too else 200_000  # the piece that had only begun
    assert came <= whole + frame + AT_STAKE + TALK
