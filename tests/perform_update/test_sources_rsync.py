"""A real rsync daemon, as a school server runs one."""

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from olpc_update_query import errors
from olpc_update_query.model.messages import BuildId, Order
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.fetch import FetchReport, fetch
from olpc_update_query.perform_update.sources.rsync_program import RsyncOptions
from olpc_update_query.system.http import HttpTransport
from tests import rsyncd
from tests.http_server import unused_port
from tests.perform_update.published import (
    Build,
    Recorder,
    StillClock,
    contents_of,
    install,
    make_build,
)

pytestmark = pytest.mark.needs("rsync")

_random = random.Random(762)
BIG = _random.randbytes(400_000)
OLD_FILES = {
    "bin/sh": _random.randbytes(3000),
    "boot/vmlinuz": BIG,
    "etc/same-size": b"before",
    "lib/x": b"x\n" * 3000,
}
NEW_FILES = {
    **OLD_FILES,
    "boot/vmlinuz": BIG[:200_000] + b"patched" + BIG[200_000:],
    "etc/same-size": b"after!",  # and the same time: rsync's quick check would skip it
    "lib/-odd name\nwith everything*?": b"odd",
    "lib/twin": b"odd",
    "new/deep/er/file": _random.randbytes(5000),
}
QUICK = RsyncOptions(connect=2, silence=2, pause=1.0, patience=3)


@dataclass
class World:
    """A laptop with build 760, and a directory that a daemon serves as 762."""

    old: Build
    new: Build
    layout: Layout
    site: Path
    scratch: Path
    downloads: Path
    progress: Recorder = field(default_factory=Recorder)
    clock: StillClock = field(default_factory=StillClock)

    def fetch(self, *urls: str, options: RsyncOptions = QUICK) -> FetchReport:
        return self.fetch_order(self.new.order(*urls), options)

    def fetch_order(self, order: Order, options: RsyncOptions = QUICK) -> FetchReport:
        with contextlib.closing(HttpTransport("test/1")) as transport:
            return fetch(
                order,
                layout=self.layout,
                downloads=self.downloads,
                transport=transport,
                progress=self.progress,
                clock=self.clock,
                rsync=options,
            )

    def daemon(
        self, *, max_connections: int = 0
    ) -> contextlib.AbstractContextManager[str]:
        return rsyncd.serve(
            self.scratch, {"build-762": self.site}, max_connections=max_connections
        )

    def missing(self) -> set[bytes]:
        return set(contents_of(self.new)) - set(contents_of(self.old))

    def arrived(self) -> set[bytes]:
        return {
            bytes.fromhex(path.name)
            for path in (self.downloads / "files").iterdir()
            if hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        }

    def assert_complete(self) -> None:
        assert (self.downloads / "contents").read_bytes() == self.new.manifest
        assert self.arrived() == self.missing()
        assert sorted(os.listdir(self.downloads)) == ["contents", "files"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    old = make_build(tmp_path / "old", "760", OLD_FILES)
    new = make_build(tmp_path / "new", "762", NEW_FILES)
    layout = install(tmp_path / "laptop", old)
    site = tmp_path / "site"
    site.mkdir()
    shutil.copytree(new.tree, site / "root")
    (site / "contents").write_bytes(new.manifest)
    downloads = tmp_path / "work/downloads" / new.digest
    return World(old, new, layout, site, tmp_path / "rsyncd", downloads)


def test_only_what_differs_is_fetched(world: World) -> None:
    with world.daemon() as url:
        report = world.fetch(f"{url}build-762/")
    world.assert_complete()
    assert report.source == "rsync"
    assert report.requests == 2
    assert 5000 < report.received < 40_000  # the kernel came as a patch
    assert 0 < report.sent < 20_000


@pytest.mark.parametrize("manifest", [None, b"an old one"], ids=["none", "of old"])
def test_a_build_without_our_manifest_is_the_basis(
    world: World, manifest: bytes | None
) -> None:
    contents = world.layout.contents(BuildId("760"))
    contents.unlink()
    if manifest is not None:
        contents.write_bytes(manifest)
    with world.daemon() as url:
        report = world.fetch(f"{url}build-762/")
    assert world.arrived() == world.missing()
    assert report.received < 40_000  # the kernel came as a patch


def test_nothing_is_run_when_all_is_there(world: World) -> None:
    with world.daemon() as url:
        world.fetch(f"{url}build-762/")
    assert world.fetch("rsync://127.0.0.1:1/x") == FetchReport()


def test_module_may_have_a_path(world: World) -> None:
    modules = {"builds": world.site.parent}
    with rsyncd.serve(world.scratch, modules) as url:
        world.fetch(f"{url}builds/{world.site.name}")
    world.assert_complete()


def test_files_that_cannot_be_read_by_others_are_readable_here(world: World) -> None:
    for path in (world.site / "root").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o000)
    with world.daemon() as url:
        world.fetch(f"{url}build-762")
    world.assert_complete()
    modes = {
        path.stat().st_mode & 0o777 for path in (world.downloads / "files").iterdir()
    }
    assert modes == {0o644}


def test_first_installation(world: World, tmp_path: Path) -> None:
    world.layout = install(tmp_path / "empty")
    with world.daemon() as url:
        world.fetch(f"{url}build-762")
    assert world.arrived() == set(contents_of(world.new))


# --- what cannot be believed -----------------------------------------------------


def test_stale_manifest_is_refused(world: World) -> None:
    (world.site / "contents").write_bytes(world.old.manifest)
    with world.daemon() as url, pytest.raises(errors.SourceFailed) as caught:
        world.fetch(f"{url}build-762")
    assert "not what the order signs" in str(caught.value)
    assert not (world.downloads / "contents").exists()
    (world.site / "contents").write_bytes(world.new.manifest)
    with world.daemon() as url:
        world.fetch(f"{url}build-762")
    world.assert_complete()


def test_wrong_contents_are_dropped_and_the_rest_is_kept(world: World) -> None:
    target = world.site / "root/new/deep/er/file"
    good = target.read_bytes()
    target.write_bytes(good[::-1])
    with (
        world.daemon() as url,
        pytest.raises(errors.SourceFailed, match="1 files did not"),
    ):
        world.fetch(f"{url}build-762")
    assert len(world.arrived()) == len(world.missing()) - 1
    target.write_bytes(good)
    with world.daemon() as url:
        world.fetch(f"{url}build-762")
    world.assert_complete()


def test_file_that_is_too_large_does_not_fill_the_disk(world: World) -> None:
    with open(world.site / "root/new/deep/er/file", "wb") as file:
        file.truncate(50_000_000)
    with world.daemon() as url, pytest.raises(errors.SourceFailed):
        world.fetch(f"{url}build-762")
    left = subprocess.run(
        ["du", "-sk", "--apparent-size", world.downloads],
        check=True,
        capture_output=True,
    )
    assert int(left.stdout.split()[0]) < 5000


def test_absent_file_costs_only_itself(world: World) -> None:
    (world.site / "root/new/deep/er/file").unlink()
    with (
        world.daemon() as url,
        pytest.raises(errors.SourceFailed, match="1 files did not"),
    ):
        world.fetch(f"{url}build-762")
    assert len(world.arrived()) == len(world.missing()) - 1


def test_links_of_the_server_are_not_followed(world: World, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(NEW_FILES["new/deep/er/file"])
    target = world.site / "root/new/deep/er/file"
    target.unlink()
    target.symlink_to(secret)
    with world.daemon() as url, pytest.raises(errors.SourceFailed):
        world.fetch(f"{url}build-762")
    assert not any(path.is_symlink() for path in world.downloads.rglob("*"))


# --- servers that refuse ---------------------------------------------------------


def test_unknown_module_is_a_missing_build(world: World) -> None:
    with world.daemon() as url, pytest.raises(errors.BuildNotFound):
        world.fetch(f"{url}build-999")


def test_module_without_a_build_is_a_missing_build(world: World) -> None:
    (world.site / "contents").unlink()
    with world.daemon() as url, pytest.raises(errors.BuildNotFound):
        world.fetch(f"{url}build-762")


def test_server_that_is_down(world: World) -> None:
    url = f"rsync://127.0.0.1:{unused_port()}/build-762"
    with pytest.raises(errors.SourceFailed, match="Connection refused"):
        world.fetch(url)
    assert len(world.clock.slept) == QUICK.tries - 1


def test_full_server_is_asked_again_with_patience(world: World) -> None:
    with world.daemon(max_connections=1) as url:
        with rsyncd.occupy(url, "build-762"):
            with pytest.raises(errors.ServerFull, match="too many clients"):
                world.fetch(f"{url}build-762")
            first, second = world.clock.slept
            assert 1.0 <= first <= 3.0
            assert 2.0 <= second <= 6.0
        world.clock = Napper()
        patient = RsyncOptions(silence=2, patience=100, pause=0.02)
        world.fetch(f"{url}build-762", options=patient)
    world.assert_complete()


class Napper(StillClock):
    """A clock that does sleep, until the daemon has noticed that a client is gone."""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def test_program_that_is_not_installed(world: World) -> None:
    options = RsyncOptions(program="no-such-rsync")
    with pytest.raises(errors.NoRsync, match="no-such-rsync is not installed"):
        world.fetch("rsync://127.0.0.1:1/x", options=options)


def test_full_server_is_waited_for_only_after_the_others(world: World) -> None:
    """While it serves somebody else, the next source is used at once."""
    with (
        world.daemon(max_connections=1) as url,
        rsyncd.occupy(url, "build-762"),
        rsyncd.serve(world.scratch / "other", {"b": world.site}) as other,
    ):
        (world.scratch / "other").mkdir(exist_ok=True)
        world.fetch(f"{url}build-762", f"{other}b")
    world.assert_complete()
    assert not world.clock.slept


FAILS = """#!/bin/sh
echo "rsync: something happened" >&2
exit {code}
"""


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        pytest.param(1, errors.NoRsync, "older than 3.1.3", id="unknown option"),
        pytest.param(2, errors.NoRsync, "no common protocol", id="protocol"),
        pytest.param(4, errors.NoRsync, "too old", id="not supported"),
        pytest.param(5, errors.SourceFailed, "refused at the start", id="start"),
        pytest.param(11, errors.SourceFailed, "could not be written", id="file"),
        pytest.param(12, errors.SourceFailed, "broke off", id="stream"),
        pytest.param(22, errors.SourceFailed, "out of memory", id="memory"),
        pytest.param(30, errors.SourceFailed, "silent for too long", id="silence"),
        pytest.param(35, errors.SourceFailed, "in time", id="connect"),
        pytest.param(99, errors.SourceFailed, "ended with 99", id="unheard of"),
    ],
)
def test_exit_codes_in_plain_words(
    world: World, tmp_path: Path, code: int, kind: type[errors.NetworkError], words: str
) -> None:
    program = tmp_path / "failing"
    program.write_text(FAILS.replace("{code}", str(code)))
    program.chmod(0o755)
    options = RsyncOptions(program=str(program), tries=2)
    with pytest.raises(kind, match=words) as caught:
        world.fetch("rsync://127.0.0.1:1/x", options=options)
    assert "something happened" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_next_source_takes_over(world: World) -> None:
    dead = f"rsync://127.0.0.1:{unused_port()}/build-762"
    with world.daemon() as url:
        world.fetch(dead, f"{url}build-762")
    world.assert_complete()


# --- cuts ------------------------------------------------------------------------

SLOW = """#!/bin/sh
# an rsync that is killed in the middle, like a laptop that is switched off
rsync "$@" &
pid=$!
while kill -0 $pid && [ "$(stat -c %s '{partial}' || echo 0)" -lt 100000 ]; do
    sleep 0.02
done 2> /dev/null
kill -{signal} $pid
wait $pid
"""


@pytest.mark.parametrize("how", ["TERM", "KILL"])
def test_cut_transfer_goes_on_with_what_has_come(
    world: World, tmp_path: Path, how: str
) -> None:
    slow = tmp_path / "slow"
    fresh = _random.randbytes(600_000)
    world.new = make_build(tmp_path / "new3", "763", {**NEW_FILES, "fresh": fresh})
    world.downloads = world.downloads.with_name(world.new.digest)
    partial = world.downloads / "rsync/tree/fresh"
    script = SLOW.replace("{signal}", how).replace("{partial}", str(partial))
    slow.write_text(script)
    slow.chmod(0o755)
    (world.site / "root/fresh").write_bytes(fresh)
    (world.site / "contents").write_bytes(world.new.manifest)
    once = RsyncOptions(program=str(slow), silence=2, tries=1, bandwidth=200_000)
    with world.daemon() as url:
        with pytest.raises(errors.SourceFailed):
            world.fetch(f"{url}build-762", options=once)
        come = partial.stat().st_size
        assert 100_000 <= come < 600_000
        report = world.fetch(f"{url}build-762")
    world.assert_complete()
    assert report.received < 600_000 + 60_000 - come


# --- the way rsync is run ----------------------------------------------------------

SPY = """#!/bin/sh
env > {out}.env
printf '%s\\n' "$@" > {out}.args
exit 10
"""


def test_rsync_gets_a_clean_environment_and_no_shell(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, out = tmp_path / "spy", tmp_path / "out"
    spy.write_text(SPY.replace("{out}", str(out)))
    spy.chmod(0o755)
    for name in ("RSYNC_RSH", "RSYNC_CONNECT_PROG", "RSYNC_PASSWORD", "LANG"):
        monkeypatch.setenv(name, "planted")
    options = RsyncOptions(
        program=str(spy),
        proxies={"rsync": "http://kid:secret@proxy.test:3128"},
        bandwidth=100_000,
        tries=1,
    )
    url = "rsync://school.test/build-762"
    with pytest.raises(errors.SourceFailed):
        world.fetch(url, options=options)
    names = dict(
        line.partition("=")[::2] for line in Path(f"{out}.env").read_text().splitlines()
    )
    assert set(names) <= {
        "PATH",
        "LC_ALL",
        "RSYNC_PROXY",
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }
    assert names["RSYNC_PROXY"] == "kid:secret@proxy.test:3128"
    words = Path(f"{out}.args").read_text().splitlines()
    assert words[-3:-1] == ["--", f"{url}/contents"]
    assert "--bwlimit=98" in words
    assert "--ignore-times" in words
    assert "--timeout=30" in words


@pytest.mark.needs("tinyproxy")
@pytest.mark.parametrize("password", ["secret", "wrong"])
def test_real_proxy(world: World, tmp_path: Path, password: str) -> None:
    port = unused_port()
    config = tmp_path / "tinyproxy.conf"
    config.write_text(f"Port {port}\nListen 127.0.0.1\nBasicAuth kid secret\n")
    command = ["tinyproxy", "-d", "-c", str(config)]
    proxies = {"rsync": f"http://kid:{password}@127.0.0.1:{port}"}
    options = RsyncOptions(proxies=proxies, silence=5)
    with (
        world.daemon() as url,
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as proxy,
    ):
        try:
            rsyncd._wait(port)
            if password == "secret":
                world.fetch(f"{url}build-762", options=options)
                world.assert_complete()
            else:
                with pytest.raises(errors.ProxyRefused):
                    world.fetch(f"{url}build-762", options=options)
        finally:
            proxy.terminate()
