"""What ``rsyncd-conf`` prints, read by the real daemon."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from olpc_update_query.errors import SiteError
from olpc_update_query.server.rsyncd import configuration, served_builds
from olpc_update_query.server.site import Site
from tests.server.served import COMMAND
from tests.server.sites import add_build, make_site

pytestmark = pytest.mark.needs("rsync")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path)
    add_build(made, "760")
    add_build(made, "762", {"etc/issue": b"762\n", "bin/x": b"#!"})
    (made.builds / "762/root/etc/link").symlink_to("/etc/hosts")
    add_build(made, "8.2-packed")
    subprocess.run(["rm", "-r", made.builds / "8.2-packed/root"], check=True)
    return made


@contextmanager
def daemon(site: Site, place: Path) -> Iterator[str]:
    """Run the daemon with what the command prints, and return its URL."""
    done = subprocess.run(
        [*COMMAND, "rsyncd-conf", site.path], capture_output=True, check=True
    )
    assert b" served: rsync --daemon --no-detach" in done.stderr
    assert b"1 builds" not in done.stderr
    (place / "rsyncd.conf").write_bytes(done.stdout)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1"]
    process = subprocess.Popen(
        [*command, f"--config={place / 'rsyncd.conf'}", f"--port={port}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.05)
        yield f"rsync://127.0.0.1:{port}/"
    finally:
        process.terminate()
        _, complained = process.communicate(timeout=10)
    assert "Unknown" not in complained


def rsync(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["rsync", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_daemon_serves_the_builds_that_have_a_tree(
    site: Site, tmp_path: Path
) -> None:
    with daemon(site, tmp_path) as url:
        listed = rsync(url)
        assert listed.returncode == 0, listed.stderr
        modules = [line.split()[0] for line in listed.stdout.splitlines()]
        assert modules == ["build-760", "build-762"]
        copied = tmp_path / "copied"
        done = rsync("-a", f"{url}build-762/", copied)
        assert done.returncode == 0, done.stderr
    assert (copied / "contents").read_bytes() == (
        site.builds / "762/contents"
    ).read_bytes()
    assert (copied / "root/etc/issue").read_bytes() == b"762\n"
    assert os.readlink(copied / "root/etc/link") == "/etc/hosts"


def test_nothing_can_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with daemon(site, tmp_path) as url:
        done = rsync(tmp_path / "mine", f"{url}build-762/contents")
        assert done.returncode != 0
        assert "read only" in done.stderr
    assert (site.builds / "762/contents").read_bytes() != b"x"


def test_links_lead_nowhere(site: Site, tmp_path: Path) -> None:
    with daemon(site, tmp_path) as url:
        done = rsync("-L", f"{url}build-762/root/etc/link", tmp_path / "got")
        assert done.returncode != 0
    assert not (tmp_path / "got").exists()


def test_two_may_fetch_at_a_time_and_the_eleventh_must_wait(
    site: Site, tmp_path: Path
) -> None:
    """The daemon takes the limit of ten for the whole machine."""
    text = configuration(site, served_builds(site), as_root=False)
    assert text.count("max connections = 10") == 1
    assert text.index("max connections") < text.index("[build-")
    with daemon(site, tmp_path) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        links = []
        for _ in range(10):
            link = socket.create_connection(("127.0.0.1", port), 10)
            link.recv(100)
            link.sendall(b"@RSYNCD: 31.0 sha512 sha256 sha1 md5 md4\nbuild-762\n")
            links.append(link)
        answers = [link.recv(100) for link in links]
        assert all(b"@RSYNCD: OK" in answer for answer in answers)
        late = rsync(f"{url}build-762/contents", tmp_path / "late")
        assert late.returncode != 0
        assert "max connections" in late.stderr
        for link in links:
            link.close()


def test_no_tree_is_told(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    done = subprocess.run(
        [*COMMAND, "rsyncd-conf", site.path], capture_output=True, text=True, check=True
    )
    assert "--with-root" in done.stderr
    assert "[build-" not in done.stdout


@pytest.mark.parametrize("name", ["per%cent", "new\nline"])
def test_a_path_that_rsync_cannot_take_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    site = make_site(tmp_path / name)
    add_build(site, "762")
    with pytest.raises(SiteError, match="cannot serve"):
        configuration(site, served_builds(site), as_root=False)
