"""A school's server fetches builds from a national one, through whatever link."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from bench.relay import relay_to
from bench.school import background, free_port
from olpc_update_query import errors
from olpc_update_query.model.orders import Order
from olpc_update_query.model.wire import BuildId
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.fetch import fetch
from olpc_update_query.server.archive import digest_of
from olpc_update_query.server.clearing import unpublish, unused
from olpc_update_query.server.mirror import Pulled, Upstream, mirror
from olpc_update_query.server.orders import order_for
from olpc_update_query.server.publish import OrderFacts, publish
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import DEFAULT, Assignment
from olpc_update_query.server.site import Site
from olpc_update_query.server.steer import Actor
from olpc_update_query.server.verify import check_build
from olpc_update_query.system.files import hold_lock
from olpc_update_query.system.host import SystemClock
from olpc_update_query.system.http import HttpTransport
from olpc_update_query.trust.answer import open_order
from tests.http_server import Plan, Trouble, serve
from tests.http_server import Site as WebSite
from tests.keys import SERIAL, ring, signer
from tests.perform_update.published import StillClock, install, make_build
from tests.server import served
from tests.server.published import FIRST, SECOND, Story, files_of, flip, noise
from tests.server.sites import assign, make_site
from tests.trees import Node, build_tree, difference, every_kind, snapshot

NOW = 1_800_000_000


def sign(facts: OrderFacts, *, key: str = "oats", now: int = NOW) -> bytes:
    return order_for(facts, signer(key), now)


@dataclass
class Nation:
    """A national site, and a school's.

    Attributes:
        www: What the national server serves.
        site: The school's site.
        tree: The tree that is published next.
    """

    www: Path
    web: WebSite
    site: Site
    tree: Path
    story: Story = field(default_factory=Story)
    names: list[str] = field(default_factory=list)

    def publish(self, build: BuildId, *bases: BuildId) -> Path:
        """Publish the tree at the national site."""
        done = publish(
            self.www / "builds", self.tree, build, delta_from=bases, sign_order=sign
        )
        self.names.append(build)
        (self.www / "builds/index.html").write_text(json.dumps(self.names))
        return done.path

    def pull(
        self, *names: BuildId, url: str = "", with_root: bool = False
    ) -> list[Pulled]:
        """Mirror, as the command does."""
        with contextlib.closing(HttpTransport("test/1", {})) as transport:
            upstream = Upstream(url or self.web.url, transport, ring())
            return list(
                mirror(
                    self.site,
                    upstream,
                    names,
                    who="maria",
                    clock=StillClock(),
                    progress=self.story,
                    with_root=with_root,
                )
            )

    def here(self, build: BuildId) -> Path:
        return self.site.builds / build

    def is_the_same(self, build: BuildId) -> bool:
        theirs = files_of(self.www / "builds" / build)
        return files_of(self.here(build)) == theirs

    def asked(self, name: str) -> int:
        return sum(seen.name == name for seen in self.web.seen)


@pytest.fixture
def nation(tmp_path: Path) -> Iterator[Nation]:
    files: dict[str | bytes, Node | str | bytes | None] = {"etc/motd": "hello"}
    files |= {f"lib/{n}": noise(90_000, seed=n) for n in range(9)}
    tree = build_tree(tmp_path / "tree", files)
    (tmp_path / "www/builds").mkdir(parents=True)
    with serve(tmp_path / "www") as web:
        site = Site(make_site(tmp_path).path, SystemClock())
        yield Nation(tmp_path / "www", web, site, tree)


def hidden(nation: Nation) -> list[str]:
    return [name for name in os.listdir(nation.site.builds) if name.startswith(".m")]


def test_builds_come_whole_and_once(nation: Nation) -> None:
    nation.publish(FIRST)
    build_tree(nation.tree, {"etc/motd": "other words", "lib/new": noise(70_000, 99)})
    nation.publish(SECOND, FIRST)
    first, second = nation.pull(FIRST, SECOND)
    assert (first.build, first.deltas) == (FIRST, ())
    assert (second.build, second.deltas) == (SECOND, (FIRST,))
    assert nation.is_the_same(FIRST)
    assert nation.is_the_same(SECOND)
    assert nation.site.build_names() == [FIRST, SECOND]
    assert hidden(nation) == [".mirror.lock"]
    assert second.reused > 800_000
    assert second.received < 200_000
    requests = len(nation.web.seen)
    assert nation.pull() == []
    assert len(nation.web.seen) - requests == 3, "the list, and two orders"


def test_only_what_is_asked_for(nation: Nation) -> None:
    nation.publish(FIRST)
    nation.publish(SECOND)
    (nation.www / "builds/index.html").unlink()  # a static host tells no list
    with pytest.raises(errors.NetworkError):
        nation.pull()
    assert [one.build for one in nation.pull(SECOND)] == [SECOND]
    assert nation.site.build_names() == [SECOND]
    with pytest.raises(errors.BuildNotFound):
        nation.pull(BuildId("3"))


def test_what_is_of_use_comes_and_stays(nation: Nation) -> None:
    """What `mirror` would bring `gc` does not delete, and the other way round."""
    below_a_nation(nation.site)
    reports = Reports(nation.site.reports)
    names = [BuildId(name) for name in ("1", "2", "3", "3-xo4", "10", "spring")]
    for name in names:
        nation.publish(name)
    assign(nation.site, DEFAULT, Assignment(SECOND))
    brought = ["2", "3-xo4", "10", "spring"]
    assert [one.build for one in nation.pull()] == brought
    assert unused(nation.site, reports) == []
    assign(nation.site, DEFAULT, Assignment(BuildId("10")))
    assert unused(nation.site, reports) == ["2"]
    unpublish(nation.site, Actor("a test", NOW), SECOND)
    assert nation.pull() == []
    nation.publish(BuildId("11"))
    nation.names.remove("10")
    assert [one.build for one in nation.pull()] == ["11"]
    assert unused(nation.site, reports) == []
    shutil.rmtree(nation.www / "builds/11")
    nation.names.remove("11")
    nation.publish(BuildId("9"))
    assign(nation.site, DEFAULT, None)
    assert unused(nation.site, reports) == ["10"]
    assert nation.pull() == [], "older than what is here"
    reports.close()


def below_a_nation(site: Site) -> None:
    """Give a school a key of its own, and the nation's to prove builds with."""
    for kind, data in (
        ("oats.public", signer("school").public),
        ("above-oats.public", signer("oats").public),
    ):
        (site.keys / kind).write_bytes(data)


def test_a_link_that_is_cut_all_the_time(nation: Nation) -> None:
    """Each run begins where the last one was cut; half a build is never served.

    Little comes twice: a run costs the list and the order, not what it fetched.
    """
    theirs = nation.publish(FIRST)
    names = ("pack", "contents.zst", "pack.index.zst", "order")
    needed = sum((theirs / name).stat().st_size for name in names)
    runs = came = 0
    while nation.site.build_names() == []:
        runs += 1
        with (
            relay_to(nation.web.port, allowance=250_000) as relay,
            contextlib.suppress(errors.NetworkError),
        ):
            nation.pull(url=f"http://127.0.0.1:{relay.port}/")
        came += relay.read().down
        assert runs < 12, "what has come is not kept"
        served = os.listdir(nation.site.builds)
        assert "1" not in served or nation.is_the_same(FIRST)
    assert runs >= 3
    assert needed < came < 1.01 * needed + runs * 5000


@pytest.mark.needs("busybox-static")
def test_from_a_plain_web_server(nation: Nation) -> None:
    """One that lists nothing, and calls every range of a file HTML."""
    nation.publish(FIRST)
    (nation.www / "builds/index.html").unlink()
    port = free_port()
    words = ["busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h"]
    words.append(str(nation.www))
    url = f"http://127.0.0.1:{port}/"
    with open(os.devnull, "ab") as log, background(words, log.fileno(), port):
        with pytest.raises(errors.BuildNotFound, match="--build NAME"):
            nation.pull(url=url)
        nation.pull(FIRST, url=url)
    assert nation.is_the_same(FIRST)


def test_a_wrong_byte_on_the_way_is_mended(nation: Nation) -> None:
    nation.publish(FIRST)
    nation.web.plans["pack"] = Plan(Trouble.WRONG_BYTES, after=200_000, times=1)
    (done,) = nation.pull()
    assert any("came damaged" in step for step in nation.story.steps)
    assert nation.is_the_same(FIRST)
    whole = (nation.here(FIRST) / "pack").stat().st_size
    assert done.received < 1.4 * whole, "only what was damaged came twice"


@pytest.mark.parametrize("name", ["contents.zst", "pack.index.zst", "pack"])
def test_what_was_not_signed_is_refused(nation: Nation, name: str) -> None:
    theirs = nation.publish(FIRST)
    for path in {theirs / name, theirs / name.removesuffix(".zst")}:
        flip(path, path.stat().st_size // 2)
    with pytest.raises((errors.TrustError, errors.TreeError)):
        nation.pull()
    assert nation.site.build_names() == []


def test_a_build_that_is_not_signed_keeps_no_other_from_coming(nation: Nation) -> None:
    first = nation.publish(FIRST)
    nation.publish(SECOND)
    facts = facts_of(first)
    (first / "order").write_bytes(sign(facts, key="stranger"))
    with pytest.raises(errors.UntrustedAnswer):
        nation.pull(FIRST, SECOND)
    assert nation.site.build_names() == [SECOND]
    (first / "order").write_bytes((nation.www / "builds/2/order").read_bytes())
    with pytest.raises(errors.UntrustedAnswer, match="it is for build 2, not 1"):
        nation.pull(FIRST)


def facts_of(build: Path) -> OrderFacts:
    manifest = build / "contents"
    return OrderFacts(FIRST, digest_of(manifest), manifest.stat().st_size)


def test_an_older_build_does_not_come_back(nation: Nation) -> None:
    """Whoever is in the link may show what was signed once."""
    nation.publish(FIRST)
    old = nation.www.rename(nation.www.with_name("old"))
    (nation.www / "builds").mkdir(parents=True)
    build_tree(nation.tree, {"etc/motd": "mended"})
    nation.names.clear()
    done = nation.publish(FIRST)
    facts = facts_of(done)
    (done / "order").write_bytes(sign(facts, now=NOW + 60))
    nation.pull()
    assert nation.is_the_same(FIRST)
    shutil.rmtree(nation.www)
    old.rename(nation.www)
    with pytest.raises(errors.UntrustedAnswer, match="older than the one here"):
        nation.pull()


def test_a_build_that_was_published_anew_is_replaced(nation: Nation) -> None:
    first = nation.publish(FIRST)
    nation.pull()
    shutil.rmtree(first)
    build_tree(nation.tree, {"etc/motd": "mended"})
    nation.publish(FIRST)
    assert [one.build for one in nation.pull()] == [FIRST]
    assert nation.is_the_same(FIRST)
    assert sorted(os.listdir(nation.site.builds)) == [".lock", ".mirror.lock", "1"]


def test_an_order_that_was_signed_anew_is_taken(nation: Nation) -> None:
    first = nation.publish(FIRST)
    nation.pull()
    facts = facts_of(first)
    (first / "order").write_bytes(sign(facts, now=NOW + 60))
    assert nation.pull() == []
    assert nation.is_the_same(FIRST)
    log = (nation.site.path / "changes.log").read_text().splitlines()
    assert [line.partition(" maria: ")[2] for line in log] == [
        f"mirror build 1 from {nation.web.url}",
        f"mirror the order of 1 from {nation.web.url}",
    ]


def test_a_damaged_delta_is_left_out(nation: Nation) -> None:
    nation.publish(FIRST)
    build_tree(nation.tree, {"lib/new": noise(70_000, 99)})
    second = nation.publish(SECOND, FIRST)
    flip(second / "delta/1.pack", 30_000)
    nation.pull()
    assert os.listdir(nation.here(SECOND) / "delta") == []
    check_build(nation.here(SECOND))


def test_what_was_begun_and_is_gone_is_forgotten(nation: Nation) -> None:
    nation.publish(FIRST)
    (nation.site.builds / ".mirror-0").mkdir(parents=True)
    nation.pull()
    assert hidden(nation) == [".mirror.lock"]


def test_one_at_a_time(nation: Nation) -> None:
    nation.site.builds.mkdir(exist_ok=True)
    with (
        hold_lock(nation.site.builds / ".mirror.lock", "a test"),
        pytest.raises(errors.Busy),
    ):
        nation.pull()


def test_no_room(nation: Nation, monkeypatch: pytest.MonkeyPatch) -> None:
    nation.publish(FIRST)
    monkeypatch.setattr(
        "olpc_update_query.perform_update.sources.spool.free_bytes", lambda _: 2 << 20
    )
    pack = nation.www / "builds/1/pack"
    assert pack.stat().st_size < 1 << 20
    nation.pull()
    monkeypatch.setattr(
        "olpc_update_query.perform_update.sources.spool.free_bytes", lambda _: 0
    )
    build_tree(nation.tree, {"etc/motd": "x"})
    nation.publish(SECOND)
    with pytest.raises(errors.NoSpace):
        nation.pull()
    assert nation.site.build_names() == [FIRST]


@pytest.mark.root
def test_the_plain_tree_is_made_of_the_pack(nation: Nation, tmp_path: Path) -> None:
    """As the national site would have it, and linked with that of another build."""
    shutil.rmtree(nation.tree)
    every_kind(nation.tree)
    nation.publish(FIRST)
    first = snapshot(nation.tree)
    nation.pull()
    assert not (nation.here(FIRST) / "root").exists()
    assert nation.pull(with_root=True) == []
    root = nation.here(FIRST) / "root"
    assert not difference(first, snapshot(root))
    assert nation.site.need_build(FIRST).has_root
    (nation.tree / "new").write_text("of the second build")
    os.chmod(nation.tree / "etc/private", 0o640)
    (root / "bin/busybox").write_text("changed by hand")
    nation.publish(SECOND)
    nation.pull(with_root=True)
    second = nation.here(SECOND) / "root"
    assert not difference(snapshot(nation.tree), snapshot(second))

    def is_linked(path: str) -> bool:
        return os.path.samestat(os.lstat(root / path), os.lstat(second / path))

    for path in ("link/dangling", "dev/fifo", "bin/su", "usr/copy"):
        assert is_linked(path), path
    assert not is_linked("etc/private")
    assert not is_linked("bin/busybox"), "it is not what the manifest says"
    check_build(nation.here(SECOND))
    assert hidden(nation) == [".mirror.lock"]


def test_a_plain_tree_is_made_again(nation: Nation) -> None:
    first = nation.publish(FIRST)
    nation.pull(with_root=True)
    assert (nation.here(FIRST) / "root/etc/motd").read_text() == "hello"
    shutil.rmtree(first)
    build_tree(nation.tree, {"etc/motd": "mended"})
    nation.publish(FIRST)
    nation.pull()
    assert (nation.here(FIRST) / "root/etc/motd").read_text() == "mended"
    assert not difference(snapshot(nation.tree), snapshot(nation.here(FIRST) / "root"))


def test_from_a_stick(nation: Nation) -> None:
    nation.publish(FIRST)
    done = nation.pull(url=str(nation.www))
    assert [one.build for one in done] == [FIRST]
    assert done[0].received == 0
    assert nation.is_the_same(FIRST)


def test_a_class_costs_the_link_one_download(nation: Nation, tmp_path: Path) -> None:
    """A hundred laptops fetch from the school; nothing more crosses the link."""
    nation.publish(FIRST)
    port = nation.web.port
    with relay_to(port) as relay:
        nation.pull(url=f"http://127.0.0.1:{relay.port}/")
        before = relay.read()
        raw = (nation.here(FIRST) / "order").read_bytes()
        order = open_order(raw, ring=ring(), serial=SERIAL, now=NOW).order
        old = make_build(tmp_path / "old", "0", {"etc/motd": b"hello"})
        layout = install(tmp_path / "laptop", old)
        with served.serve(nation.site.path) as school:
            url = f"http://127.0.0.1:{school.port}/builds/1/"
            with ThreadPoolExecutor(10) as pool:
                wanted = replace(order, urls=(url,))
                work = partial(_fetch, wanted, layout, tmp_path)
                sizes = list(pool.map(work, range(100)))
        after = relay.read()
    whole = (nation.here(FIRST) / "pack").stat().st_size
    assert min(sizes) > 0.9 * whole
    assert before.down < whole + 40_000
    assert (after.down, after.up) == (before.down, before.up)


def _fetch(order: Order, layout: Layout, scratch: Path, number: int) -> int:
    downloads = scratch / f"laptop{number}" / "downloads" / order.contents
    downloads.mkdir(parents=True)
    with contextlib.closing(HttpTransport("test/1", {})) as transport:
        done = fetch(
            order,
            layout=layout,
            downloads=downloads,
            transport=transport,
            progress=Story(),
            clock=SystemClock(),
        )
    shutil.rmtree(scratch / f"laptop{number}")
    return done.received
