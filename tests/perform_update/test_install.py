"""Installing on real trees, in both layouts; the old tree never changes."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from olpc_update_query.errors import (
    Incomplete,
    OrderRefused,
    UntrustedContents,
)
from olpc_update_query.model.messages import BuildId
from olpc_update_query.perform_update import perform_update
from olpc_update_query.perform_update.audit import audit
from olpc_update_query.perform_update.install import Installed, install
from olpc_update_query.perform_update.work import read_wanted
from tests.laptop import add_build, boot, boots, boots_alternate, link_copy
from tests.perform_update.builds import (
    Build,
    Patch,
    encode_manifest,
    make_build,
    put_delta,
    put_files,
    put_full_pack,
    put_manifest,
)
from tests.perform_update.conftest import BIG, NEW_TREE, OLD_TREE, Laptop, LaptopMaker
from tests.trees import (
    Dir,
    File,
    Hard,
    Link,
    Node,
    Spec,
    build_tree,
    difference,
    every_kind,
    snapshot,
)

EVERY_CHANGE: Spec = {
    "boot/vmlinuz": "new kernel",
    "bin/cat": Hard("bin/busybox"),
    "bin/su": File("setuid, but other", mode=0o4755),
    "empty/": Dir(mode=0o711),
    "etc/private": File("secret", mode=0o400),
    "link/absolute": Link("/etc/motd"),
    "new/deep/er/file": "at the bottom",
    "tmp/holes": File("end", hole=9 << 20),
    "usr/copy": File("the same content", mtime_ns=1_700_000_000_000_000_000),
}


def make_every_kind(tmp_path: Path) -> tuple[Build, Build]:
    """Return two builds that have every kind of path and of change between them."""
    old = build_tree(every_kind(tmp_path / "760"), {"boot/vmlinuz": "old kernel"})
    new = every_kind(tmp_path / "762")
    (new / "link/absolute").unlink()
    (new / "old").unlink()
    shutil.rmtree(new / "setgid")
    return make_build("760", old), make_build("762", build_tree(new, EVERY_CHANGE))


def assert_installed(laptop: Laptop, new: Build) -> None:
    assert boots(laptop.root) == new.name
    assert boots_alternate(laptop.root) == laptop.old.name
    assert not difference(snapshot(new.tree), laptop.pristine(new))
    assert laptop.layout.contents(new.name).read_bytes() == new.contents
    assert os.listdir(laptop.work) == []
    assert not difference(snapshot(laptop.old.tree), laptop.pristine(laptop.old))


# --- the whole way ----------------------------------------------------------------


def test_every_kind_of_path_and_change(make: LaptopMaker, tmp_path: Path) -> None:
    old, new = make_every_kind(tmp_path)
    laptop = make(old)
    before = snapshot(laptop.layout.run(old.name))
    installed = laptop.fetch_and_install(new)
    assert_installed(laptop, new)
    assert not difference(before, snapshot(laptop.layout.run(old.name)))
    assert installed.linked >= 17
    assert installed.copied >= 2, "usr/copy and etc/private have another dress only"


def test_what_is_the_same_is_linked_and_the_rest_is_not(
    simple: Laptop, new: Build
) -> None:
    simple.fetch_and_install(new)
    old_tree, new_tree = (simple.layout.pristine(b.name) for b in (simple.old, new))

    def is_linked(path: str) -> bool:
        return os.path.samefile(old_tree / path, new_tree / path)

    assert is_linked("etc/same")
    assert is_linked("bin/sh")
    assert not is_linked("etc/motd")
    assert not is_linked("lib/big")


def test_holes_stay_holes(make: LaptopMaker, tmp_path: Path) -> None:
    old, new = make_every_kind(tmp_path)
    laptop = make(old)
    laptop.fetch_and_install(new)
    facts = (laptop.layout.pristine(new.name) / "tmp/holes").stat()
    assert facts.st_size == (9 << 20) + 3
    assert facts.st_blocks * 512 <= 64 << 10


def test_the_run_copy_follows_the_rules_of_the_initramfs(
    make: LaptopMaker, tmp_path: Path
) -> None:
    old, new = make_every_kind(tmp_path)
    laptop = make(old)
    laptop.fetch_and_install(new)
    pristine = laptop.layout.pristine(new.name)
    expected = tmp_path / "expected"
    link_copy(pristine, expected)

    def picture(tree: Path) -> dict[bytes, Node]:
        links = [path for path, what in snapshot(tree).items() if what.kind == "l"]
        for path in links:  # their times are those of the copying
            os.utime(os.fsencode(tree) + b"/" + path, ns=(0, 0), follow_symlinks=False)
        return snapshot(tree)  # type: ignore[return-value] # for `difference` only

    assert not difference(picture(expected), picture(laptop.layout.run(new.name)))  # type: ignore[arg-type] # as above
    assert os.path.samefile(
        pristine / "bin/busybox", laptop.layout.run(new.name) / "bin/busybox"
    )


def test_the_mark_of_a_configured_build_is_not_carried_over(
    simple: Laptop, tmp_path: Path
) -> None:
    tree = build_tree(
        tmp_path / "763", {**NEW_TREE, ".olpc-configured": "", "a/.olpc-configured": ""}
    )
    new = make_build("763", tree)
    simple.fetch_and_install(new)
    run = simple.layout.run(new.name)
    assert not (run / ".olpc-configured").exists()
    assert (run / "a/.olpc-configured").exists()
    assert not difference(snapshot(tree), simple.pristine(new))


Put = Callable[[Path, Build, Build], None]


def put_patches(downloads: Path, old: Build, new: Build) -> None:
    base = old.bytes_of()
    bases = {content[:9]: content for content in base.values()}
    put_delta(
        downloads,
        old,
        new,
        [
            Patch(content, bases.get(content[:9]))
            for digest, content in new.bytes_of().items()
            if digest not in base
        ],
    )


def put_plain(downloads: Path, old: Build, new: Build) -> None:
    put_manifest(downloads, new.contents)
    put_files(downloads, new.bytes_of().values())


@pytest.mark.parametrize(
    ("put", "patched", "fetched"),
    [
        pytest.param(put_patches, 1, 3, id="patches"),
        pytest.param(put_delta, 0, 4, id="a delta pack without patches"),
        pytest.param(lambda d, _, n: put_full_pack(d, n), 0, 4, id="a full pack"),
        pytest.param(put_plain, 0, 4, id="whole files"),
    ],
)
def test_contents_come_from_anywhere(
    simple: Laptop, new: Build, put: Put, patched: int, fetched: int
) -> None:
    put(simple.downloads(new), simple.old, new)
    installed = simple.install(new)
    assert_installed(simple, new)
    assert (installed.patched, installed.fetched) == (patched, fetched)
    assert installed.new_bytes == 320_004 + len("new kernelfreshnew words")


def test_nothing_downloaded_is_left(simple: Laptop, new: Build) -> None:
    simple.fetch_and_install(new)
    assert os.listdir(simple.downloads(new)) == []


def test_other_metadata_needs_no_download(simple: Laptop, tmp_path: Path) -> None:
    spec: Spec = {**OLD_TREE, "lib/big": File(BIG, mode=0o755)}
    new = make_build("763", build_tree(tmp_path / "763", spec))
    put_manifest(simple.downloads(new), new.contents)
    installed = simple.install(new)
    assert_installed(simple, new)
    assert (installed.copied, installed.fetched) == (1, 0)


def test_a_file_that_moved_is_linked(simple: Laptop, tmp_path: Path) -> None:
    spec = {
        "usr/lib/big" if path == "lib/big" else path: what
        for path, what in OLD_TREE.items()
    }
    new = make_build("763", build_tree(tmp_path / "763", spec))
    put_manifest(simple.downloads(new), new.contents)
    installed = simple.install(new)
    assert_installed(simple, new)
    assert (installed.copied, installed.new_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"a": "x", "b": Hard("a")}, {"a": "x", "b": "x"}, id="parted"),
        pytest.param({"a": "x", "b": "x"}, {"a": "x", "b": Hard("a")}, id="joined"),
        pytest.param(
            {"a": "x", "c": Hard("a")}, {"b": "x", "c": Hard("b")}, id="led by another"
        ),
        pytest.param(
            {"a": "x", "b": Hard("a"), "c": "x", "d": Hard("c")},
            {"a": "x", "b": "x", "c": Hard("a"), "d": Hard("b")},
            id="crossed",
        ),
    ],
)
def test_hard_links_are_those_of_the_new_build(
    make: LaptopMaker, tmp_path: Path, before: Spec, after: Spec
) -> None:
    old = make_build("760", build_tree(tmp_path / "760", {"boot/k": "", **before}))
    new = make_build("762", build_tree(tmp_path / "762", {"boot/k": "", **after}))
    laptop = make(old)
    laptop.fetch_and_install(new)
    assert_installed(laptop, new)


def test_one_inode_in_two_old_builds_is_not_used_twice(
    simple: Laptop, tmp_path: Path
) -> None:
    """The second build has a file linked from the first under another path."""
    content = "moved in one build, copied in the next"
    first = make_build("1", build_tree(tmp_path / "1", {"x": content}))
    second = make_build("2", build_tree(tmp_path / "2", {"y": content}))
    add_build(simple.root, "1", first.tree, contents=first.contents)
    add_build(simple.root, "2", second.tree, contents=second.contents)
    y = simple.root / "versions/pristine/2/y"
    y.unlink()
    os.link(simple.root / "versions/pristine/1/x", y)
    both = make_build("3", build_tree(tmp_path / "3", {"x": content, "y": content}))
    put_manifest(simple.downloads(both), both.contents)
    installed = simple.install(both)
    assert_installed(simple, both)
    assert (installed.linked, installed.copied) == (1, 1)


# --- again, and differently -------------------------------------------------------


def test_a_second_time_nothing_is_done(laptop: Laptop, new: Build) -> None:
    laptop.fetch_and_install(new)
    before = snapshot(laptop.root / "versions")
    assert laptop.install(new) == Installed(new.name, already=True)
    after = snapshot(laptop.root / "versions")
    assert before.keys() == after.keys()
    assert boots(laptop.root) == new.name


def test_going_back_to_an_installed_build_needs_no_download(
    laptop: Laptop, new: Build
) -> None:
    laptop.fetch_and_install(new)
    boot(laptop.root)
    installed = laptop.install(laptop.old)
    assert boots(laptop.root) == "760"
    assert boots_alternate(laptop.root) == "762"
    assert installed == Installed(laptop.old.name)


def test_the_alternate_is_the_running_build(
    laptop: Laptop, new: Build, tmp_path: Path
) -> None:
    laptop.fetch_and_install(new)
    newer = make_build(
        "763", build_tree(tmp_path / "763", {**NEW_TREE, "etc/more": "more"})
    )
    laptop.fetch_and_install(newer)
    assert boots(laptop.root) == "763"
    assert boots_alternate(laptop.root) == "760", "762 was never booted"
    assert not laptop.layout.is_sticky(new.name)


def test_a_chosen_alternate(laptop: Laptop, new: Build, tmp_path: Path) -> None:
    other = make_build("750", build_tree(tmp_path / "750", OLD_TREE))
    add_build(laptop.root, "750", other.tree, contents=other.contents)
    put_delta(laptop.downloads(new), laptop.old, new)
    install(
        new.order,
        layout=laptop.layout,
        downloads=laptop.downloads(new),
        work=laptop.work,
        hooks=laptop.hooks,
        progress=laptop.told,
        alternate=BuildId("750"),
    )
    assert boots_alternate(laptop.root) == "750"


def test_a_sticky_order(laptop: Laptop, new: Build, tmp_path: Path) -> None:
    put_delta(laptop.downloads(new), laptop.old, new)
    install(
        replace(new.order, sticky=True),
        layout=laptop.layout,
        downloads=laptop.downloads(new),
        work=laptop.work,
        hooks=laptop.hooks,
        progress=laptop.told,
    )
    assert laptop.layout.is_sticky(new.name)


def test_a_legacy_build_without_our_manifest_gives_what_it_has(
    laptop: Laptop, new: Build
) -> None:
    laptop.layout.contents(laptop.old.name).write_bytes(b'["legacy",1,{}]\nwhatever')
    before = laptop.pristine(laptop.old)
    known = laptop.old.bytes_of()
    missing = {digest for digest in new.bytes_of() if digest not in known}
    put_full_pack(laptop.downloads(new), new, fetched=missing)
    assert laptop.install(new).linked == 2
    assert_installed(laptop, new)
    assert not difference(before, laptop.pristine(laptop.old))


def test_builds_that_were_published_from_archives_of_whole_seconds(
    laptop: Laptop, new: Build
) -> None:
    """The files of the image have times that are finer than its manifest."""
    old, newer = (_in_whole_seconds(build) for build in (laptop.old, new))
    laptop.layout.contents(old.name).write_bytes(old.contents)
    put_delta(laptop.downloads(newer), old, newer)
    assert laptop.install(newer).linked == 2
    assert boots(laptop.root) == new.name
    assert not list(audit(laptop.layout.contents(old.name), old.tree))


def _in_whole_seconds(build: Build) -> Build:
    entries = tuple(
        entry._replace(mtime_ns=entry.mtime_ns // 10**9 * 10**9)
        for entry in build.entries
    )
    return replace(
        build, contents=encode_manifest(build.name, entries), entries=entries
    )


# --- a tree of the same name ------------------------------------------------------


def test_a_whole_tree_of_that_name_is_used(laptop: Laptop, new: Build) -> None:
    add_build(laptop.root, new.name, new.tree, contents=b"of something else")
    put_manifest(laptop.downloads(new), new.contents)
    assert laptop.install(new).new_bytes == 0
    assert_installed(laptop, new)


def test_a_broken_tree_of_that_name_is_replaced(laptop: Laptop, new: Build) -> None:
    add_build(laptop.root, new.name, new.tree, contents=new.contents)
    (laptop.layout.pristine(new.name) / "etc/fresh").unlink()
    (laptop.layout.run(new.name) / "etc/stray").touch()
    laptop.fetch_and_install(new)
    assert_installed(laptop, new)
    assert not (laptop.layout.run(new.name) / "etc/stray").exists()


@pytest.mark.parametrize(
    ("current", "alternate"),
    [
        pytest.param("762", "760", id="that boots next"),
        pytest.param("760", "762", id="that is the alternate"),
    ],
)
def test_a_broken_tree_that_is_referred_to_is_replaced(
    laptop: Laptop, new: Build, current: str, alternate: str
) -> None:
    laptop.fetch_and_install(new)
    laptop.layout.activate(BuildId(current), BuildId(alternate))
    laptop.layout.contents(new.name).unlink()
    (laptop.layout.pristine(new.name) / "etc/fresh").unlink()
    laptop.fetch_and_install(new)
    assert_installed(laptop, new)


def test_a_broken_running_tree_is_left_alone(laptop: Laptop, new: Build) -> None:
    laptop.fetch_and_install(new)
    boot(laptop.root)
    laptop.layout.rollback()
    (laptop.layout.pristine(new.name) / "etc/fresh").write_text("edited")
    before = snapshot(laptop.root / "versions/pristine")
    put_delta(laptop.downloads(new), laptop.old, new)
    with pytest.raises(OrderRefused, match=r"762 is running .*etc/fresh"):
        laptop.install(new)
    assert not difference(before, snapshot(laptop.root / "versions/pristine"))
    assert boots(laptop.root) == "760"


def test_what_is_no_tree_is_replaced_by_one(laptop: Laptop, new: Build) -> None:
    laptop.layout.pristine(new.name).symlink_to("760")
    laptop.fetch_and_install(new)
    assert_installed(laptop, new)


def test_nothing_is_left_without_a_build_that_boots(laptop: Laptop, new: Build) -> None:
    """The next build is broken, and which one runs is not known."""
    laptop.fetch_and_install(new)
    (laptop.root / "versions/running").unlink()
    laptop.layout.contents(new.name).unlink()
    (laptop.layout.pristine(new.name) / "etc/fresh").unlink()
    with pytest.raises(OrderRefused, match="nothing else is known to boot"):
        laptop.fetch_and_install(new)
    assert laptop.layout.current() == new.name
    assert laptop.layout.pristine(new.name).is_dir()


def test_another_build_under_the_running_ones_name_is_refused(
    laptop: Laptop, tmp_path: Path
) -> None:
    other = make_build("760", build_tree(tmp_path / "other", NEW_TREE))
    with pytest.raises(OrderRefused, match="760 is running"):
        laptop.fetch_and_install(other)
    assert boots(laptop.root) == "760"


# --- what is missing or damaged -----------------------------------------------------


def test_missing_contents_are_noted(laptop: Laptop, new: Build) -> None:
    fresh, words = b"fresh", b"new words"
    put_delta(laptop.downloads(new), laptop.old, new, [Patch(fresh)])
    put_files(laptop.downloads(new), [words])
    with pytest.raises(Incomplete) as caught:
        laptop.install(new)
    wanted = read_wanted(laptop.work)
    assert caught.value.count == len(wanted) == 2
    assert {new.bytes_of()[digest] for digest in wanted} == {
        b"new kernel",
        BIG + b"more",
    }
    assert boots(laptop.root) == "760"
    put_files(laptop.downloads(new), new.bytes_of().values())
    assert laptop.install(new).fetched == 2, "the others were kept"
    assert_installed(laptop, new)
    assert read_wanted(laptop.work) == set()


def test_a_whole_file_that_is_another_one_is_dropped(
    laptop: Laptop, new: Build
) -> None:
    put_plain(laptop.downloads(new), laptop.old, new)
    name = hashlib.sha256(b"fresh").hexdigest()
    lie = laptop.downloads(new) / "files" / name
    lie.write_bytes(b"FRESH")
    with pytest.raises(Incomplete):
        laptop.install(new)
    assert read_wanted(laptop.work) == {bytes.fromhex(name)}
    assert not lie.exists()


def damage(path: Path) -> None:
    """Change a byte, and neither size nor time: as a worn-out disk does."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.write(b"?")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_damaged_linked_file_is_fetched_again(laptop: Laptop, new: Build) -> None:
    damage(laptop.layout.pristine(laptop.old.name) / "etc/same")
    before = laptop.pristine(laptop.old)
    with pytest.raises(Incomplete):
        laptop.fetch_and_install(new)
    assert {new.bytes_of()[digest] for digest in read_wanted(laptop.work)} == {b"same"}
    assert boots(laptop.root) == "760"
    put_files(laptop.downloads(new), [b"same"])
    laptop.install(new)
    assert not difference(snapshot(new.tree), laptop.pristine(new))
    assert not difference(before, laptop.pristine(laptop.old)), "not even repaired"
    assert boots(laptop.root) == "762"


def test_a_damaged_copied_file_is_fetched_again(simple: Laptop, tmp_path: Path) -> None:
    spec: Spec = {**OLD_TREE, "etc/same": File("same", mode=0o600)}
    new = make_build("763", build_tree(tmp_path / "763", spec))
    damage(simple.layout.pristine(simple.old.name) / "etc/same")
    with pytest.raises(Incomplete):
        simple.fetch_and_install(new)
    put_files(simple.downloads(new), [b"same"])
    simple.install(new)
    assert not difference(snapshot(new.tree), simple.pristine(new))


def test_a_patch_of_a_damaged_file_is_fetched_whole(simple: Laptop, new: Build) -> None:
    damage(simple.layout.pristine(simple.old.name) / "lib/big")
    put_patches(simple.downloads(new), simple.old, new)
    with pytest.raises(Incomplete):
        simple.install(new)
    big = [c for c in new.bytes_of().values() if c.endswith(b"more")]
    assert [new.bytes_of()[digest] for digest in read_wanted(simple.work)] == big
    put_files(simple.downloads(new), big)
    simple.install(new)
    assert boots(simple.root) == "762"


def test_a_file_changed_through_the_run_copy_is_not_taken(
    laptop: Laptop, new: Build
) -> None:
    (laptop.layout.run(laptop.old.name) / "etc/same").write_text("SAME")
    os.chmod(laptop.layout.run(laptop.old.name) / "bin/sh", 0o700)
    put_full_pack(laptop.downloads(new), new)
    laptop.install(new)
    assert not difference(snapshot(new.tree), laptop.pristine(new))


def test_attributes_changed_through_the_run_copy_are_not_taken(
    laptop: Laptop, new: Build
) -> None:
    os.setxattr(laptop.layout.run(laptop.old.name) / "etc/same", "user.note", b"mine")
    laptop.fetch_and_install(new)
    assert not difference(snapshot(new.tree), laptop.pristine(new))


def test_fetching_and_installing_take_turns(laptop: Laptop, new: Build) -> None:
    damage(laptop.layout.pristine(laptop.old.name) / "etc/same")
    rounds: list[set[bytes]] = []

    def fetch() -> None:
        wanted = read_wanted(laptop.work)
        rounds.append(wanted)
        put_delta(laptop.downloads(new), laptop.old, new)
        put_files(laptop.downloads(new), [new.bytes_of()[one] for one in wanted])

    installed = perform_update(fetch, lambda: laptop.install(new))
    assert installed.build == "762"
    assert [len(wanted) for wanted in rounds] == [0, 1]
    assert boots(laptop.root) == "762"


def test_turns_come_to_an_end(laptop: Laptop, new: Build) -> None:
    rounds: list[None] = []
    put_manifest(laptop.downloads(new), new.contents)
    with pytest.raises(Incomplete):
        perform_update(lambda: rounds.append(None), lambda: laptop.install(new))
    assert len(rounds) == 3


# --- manifests ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda contents: contents[:-2] + b"}\n", id="another byte"),
        pytest.param(lambda contents: contents[:-1], id="cut short"),
        pytest.param(lambda contents: contents + b"\n", id="longer"),
        pytest.param(lambda contents: b"", id="empty"),
    ],
)
def test_another_manifest_is_refused(
    simple: Laptop, new: Build, change: Callable[[bytes], bytes]
) -> None:
    put_delta(simple.downloads(new), simple.old, new)
    put_manifest(simple.downloads(new), change(new.contents))
    with pytest.raises(UntrustedContents):
        simple.install(new)
    assert boots(simple.root) == "760"


def test_the_manifest_of_a_build_of_another_name_is_refused(
    simple: Laptop, new: Build
) -> None:
    lying = Build(BuildId("999"), new.tree, new.contents, new.entries)
    with pytest.raises(UntrustedContents, match="that of build 762, not 999"):
        simple.fetch_and_install(lying)
    assert boots(simple.root) == "760"


def test_without_a_manifest_there_is_something_to_fetch(
    simple: Laptop, new: Build
) -> None:
    with pytest.raises(Incomplete):
        simple.install(new)
