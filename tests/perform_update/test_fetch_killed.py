"""A fetch that is killed at any instruction is gone on with by the next one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from olpc_update_query.perform_update.fetch import fetch
from olpc_update_query.system.http import HttpTransport
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
from tests.perform_update.world import NEW_FILES, OLD_FILES, World

pytestmark = [pytest.mark.needs("strace"), pytest.mark.slow]

PROGRAM = """
import json, sys
from pathlib import Path
from olpc_update_query.model.messages import Order
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.fetch import fetch
from olpc_update_query.system.http import HttpTransport
from tests.perform_update.published import Recorder, StillClock
order, root, downloads = sys.argv[1:]
fetch(
    Order.from_json(json.loads(order)),
    layout=Layout.detect(Path(root)),
    downloads=Path(downloads),
    transport=HttpTransport("test/1"),
    progress=Recorder(),
    clock=StillClock(),
)
"""
CALLS = ["write", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "mkdir"]


def run(world: World, url: str, *prefix: str) -> int:
    command = [*prefix, sys.executable, "-c", PROGRAM]
    order = json.dumps(world.new.order(url).to_json())
    root = world.layout.root
    done = subprocess.run(
        [*command, order, str(root), str(world.downloads)],
        check=False,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(__file__).parents[2],
    )
    return done.returncode


@pytest.fixture(params=["delta", "full pack"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    old = make_build(tmp_path / "old", "760", OLD_FILES)
    new = make_build(tmp_path / "new", "762", NEW_FILES)
    layout = install(tmp_path / "laptop", old)
    bases: tuple[Build, ...] = (old,) if request.param == "delta" else ()
    near = publish(tmp_path / "near", new, *bases)
    with serve(near) as site:
        yield World(old, new, layout, site, site, tmp_path / "work/downloads/x")


@pytest.mark.parametrize("call", CALLS)
def test_killed_at_each_call(world: World, call: str) -> None:
    for number in range(1, 1000, 3 if call == "write" else 1):
        shutil.rmtree(world.downloads, ignore_errors=True)
        world.near.seen.clear()
        inject = f"inject={call}:signal=KILL:when={number}"
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        code = run(world, world.near.url, *trace, "-e", inject)
        if code == 0:
            assert number > 1, f"it makes no {call} at all"
            break
        assert code == -9
        again(world, world.near)
    else:
        pytest.fail("it never came to its end")


def again(world: World, site: Site) -> None:
    transport = HttpTransport("test/1")
    fetch(
        world.new.order(site.url),
        layout=world.layout,
        downloads=world.downloads,
        transport=transport,
        progress=Recorder(),
        clock=StillClock(),
    )
    transport.close()
    assert set(contents_of(world.new)) - set(contents_of(world.old)) <= world.arrived()
    assert (world.downloads / "contents").read_bytes() == world.new.manifest
