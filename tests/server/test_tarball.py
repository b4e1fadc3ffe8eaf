"""Publishing a tar archive: the same bytes as its tree, and nothing that is hostile."""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import random
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from olpc_update_query.errors import Malformed, NoSpace, UnfitTree
from olpc_update_query.model.entry import Entry, Kind
from olpc_update_query.server import publish, tarball
from olpc_update_query.server.tar import parse_acl, parse_records, read_members
from olpc_update_query.server.tarball import NO_TIME_NS, Tarball
from tests.server.published import FIRST, SECOND, Story, entries, files_of
from tests.trees import (
    CAPABILITY,
    Dir,
    File,
    Hard,
    Link,
    Node,
    build_tree,
    difference,
    snapshot,
)
from tests.walked import described, walk_tree

ALL = ("--numeric-owner", "-C")
SECOND_NS = 1_600_000_000 * 10**9


def pack(tree: Path, archive: Path, *words: str) -> Path:
    """Make an archive with the real tar."""
    if "--format=ustar" not in words:
        words = (*words, "--sparse")
    if "--format=posix" in words:
        words = (*words, "--xattrs", "--xattrs-include=*")
    subprocess.run(["tar", "-cf", archive, *words, *ALL, tree, "."], check=True)
    return archive


def listed(archive: Path) -> list[Entry]:
    with Tarball(archive, archive.parent, Story()) as tree:
        return list(described(tree))


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--format=posix"], id="pax"),
        pytest.param(["--format=posix", "--sparse-version=0.0"], id="pax sparse 0.0"),
        pytest.param(["--format=posix", "--sparse-version=0.1"], id="pax sparse 0.1"),
    ],
)
def test_an_archive_gives_the_bytes_of_its_tree(
    tree: Path, tmp_path: Path, builds: Path, words: list[str]
) -> None:
    archive = pack(tree, tmp_path / "tree.tar", *words)
    publish.publish(builds, tree, FIRST)
    publish.publish(tmp_path / "other", archive, FIRST)
    assert files_of(tmp_path / "other/1") == files_of(builds / "1")


def test_gnu_archives_keep_all_but_parts_of_seconds_and_attributes(
    tree: Path, tmp_path: Path
) -> None:
    archive = pack(tree, tmp_path / "t.tar", "--format=gnu")
    expected = [
        one._replace(mtime_ns=one.mtime_ns // 10**9 * 10**9, xattrs=())
        for one in walk_tree(tree)
    ]
    assert listed(archive) == expected
    assert any(one.size > 3 << 20 for one in expected), "a sparse file"
    assert any(len(one.path) > 100 for one in expected), "a long name"
    assert any(one.mtime_ns < 0 for one in expected), "a time before 1970"


def test_a_ustar_archive(tmp_path: Path) -> None:
    long = "d" * 90 + "/" + "e" * 90
    tree = build_tree(tmp_path / "tree", {long: File("x", mtime_ns=SECOND_NS)})
    archive = pack(tree, tmp_path / "t.tar", "--format=ustar")
    assert listed(archive)[-1].path == long.encode()


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", _PACKERS)
def test_compressed_archives(tree: Path, tmp_path: Path, kind: str) -> None:
    """Known by their first bytes, whatever their name; also of several streams."""
    archive = pack(tree, tmp_path / "tree.tar", "--format=posix")
    raw, packer = archive.read_bytes(), _PACKERS[kind]
    packed = tmp_path / "packed"
    packed.write_bytes(packer(raw))
    expected = list(walk_tree(tree))
    assert listed(packed) == expected
    if kind != "lzma":  # of which one file holds one
        packed.write_bytes(packer(raw[:70_001]) + packer(raw[70_001:]))
        assert listed(packed) == expected
    packed.write_bytes(packer(raw)[:-4000])
    with pytest.raises(UnfitTree, match="packed: "):
        listed(packed)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("packed", "tree", "tree.tar")
    ]


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarball, "_FREE", 1 << 20)
    bomb = tmp_path / "bomb"
    bomb.write_bytes(zstandard.ZstdCompressor().compress(bytes(64 << 20)))
    with pytest.raises(UnfitTree, match="grows more than 1000 times"):
        listed(bomb)


def test_memory_stays_flat_while_a_bomb_expands(tmp_path: Path) -> None:
    """What one piece of input expands to is never held whole."""
    raw = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    expanded = tarball._zstd(io.BytesIO(raw))
    assert max(map(len, expanded)) <= 1 << 20


def test_no_room_to_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> object:
        raise OSError(28, "No space left on device")

    archive = tmp_path / "t.gz"
    archive.write_bytes(gzip.compress(b"x"))
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(NoSpace):
        publish.publish(tmp_path / "builds", archive, FIRST)
    assert os.listdir(tmp_path / "builds") == [".lock"]


@pytest.mark.root
def test_nobody_needs_root_for_an_archive(
    tree: Path, tmp_path: Path, builds: Path
) -> None:
    """Owners, devices and attributes are kept by a user who could not make them."""
    archive = pack(tree, tmp_path / "tree.tar", "--format=posix")
    expected = list(walk_tree(tree))
    assert any(one.kind is Kind.CHAR for one in expected)
    tmp_path.chmod(0o755)
    archive.chmod(0o644)
    builds.mkdir(parents=True)
    for path in (builds, builds.parent):
        os.chown(path, 1000, 1000)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            os.chdir("/")
            publish.publish(builds, archive, FIRST)
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert entries(builds / "1") == expected


@pytest.mark.root
def test_only_root_makes_a_plain_tree_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: dict[str | bytes, Node] = {"etc/hers": File("x", owner=(1000, 1001))}
    archive = pack(build_tree(tmp_path / "tree", spec), tmp_path / "t.tar")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(UnfitTree, match="etc/hers: only root"):
        publish.publish(tmp_path / "builds", archive, FIRST, with_root=True)
    assert os.listdir(tmp_path / "builds") == [".lock"]


def test_the_plain_tree_of_an_archive(tree: Path, tmp_path: Path, builds: Path) -> None:
    archive = pack(tree, tmp_path / "tree.tar", "--format=posix")
    publish.publish(builds, archive, FIRST, with_root=True)
    assert not difference(snapshot(tree), snapshot(builds / "1/root"))
    publish.publish(builds, archive, SECOND, normalize_times=True)
    assert {one.mtime_ns for one in entries(builds / "2")} == {publish.NORMAL_TIME_NS}


# --- what an archive of a whole disk holds --------------------------------------


def test_the_first_build_of_a_whole_disk(tmp_path: Path) -> None:
    disk = build_tree(
        tmp_path / "disk",
        {
            "boot/olpc.fth": "no part of it",
            "versions/pristine/880/bin/a": "one",
            "versions/pristine/880/bin/b": Hard("versions/pristine/880/bin/a"),
            "versions/pristine/881/bin/a": "two",
            "versions/run/880/bin/a": "one",
        },
    )
    names = ["boot", "versions/pristine/880", "versions/pristine/881", "versions/run"]
    archive = tmp_path / "disk.tar"
    subprocess.run(["tar", "-cf", archive, "-C", disk, *names], check=True)
    found = listed(archive)
    assert [one.path for one in found] == [b"", b"bin", b"bin/a", b"bin/b"]
    assert found[-1].leader == b"bin/a"
    assert found[-1].digest == hashlib.sha256(b"one").digest()


def test_versions_and_lost_files_are_no_part_of_a_build(tmp_path: Path) -> None:
    tree = build_tree(
        tmp_path / "tree",
        {"a": "x", "lost+found/#1": "lost", "versions/updates/part": "half"},
    )
    paths = [one.path for one in listed(pack(tree, tmp_path / "t.tar"))]
    assert paths == [b"", b"a", b"versions"]
    paths = [one.path for one in walk_tree(tree)]
    assert b"lost+found" not in paths


def test_directories_that_are_not_in_the_archive(tmp_path: Path) -> None:
    tree = build_tree(tmp_path / "tree", {"usr/lib/a": "x"})
    archive = tmp_path / "t.tar"
    subprocess.run(["tar", "-cf", archive, "-C", tree, "usr/lib/a"], check=True)
    story = Story()
    with Tarball(archive, tmp_path, story) as opened:
        top, usr, lib, a = described(opened, story)
    for one, path in ((top, b""), (usr, b"usr"), (lib, b"usr/lib")):
        assert one == Entry(path, Kind.DIRECTORY, 0o755, 0, 0, NO_TIME_NS)  # type: ignore[arg-type]
    assert a.path == b"usr/lib/a"
    assert len([step for step in story.steps if "not in the archive" in step]) == 3


# --- hostile and damaged --------------------------------------------------------


def info(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in facts.items():
        setattr(made, key, value)
    return made


def make(*members: tarfile.TarInfo, format_: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def pax(**headers: str) -> tarfile.TarInfo:
    return info("a", pax_headers=headers)


def with_flag(flag: bytes) -> bytes:
    return with_bytes(make(info("a")), 156, flag)


def with_bytes(raw: bytes, place: int, changed: bytes) -> bytes:
    """Change a header's field, and its checksum."""
    head = bytearray(raw[:512])
    head[place : place + len(changed)] = changed
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + raw[512:]


def long_name(size: int) -> bytes:
    head = info("././@LongLink", b"L", size=size)
    return head.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


LINK = tarfile.SYMTYPE
HOSTILE = {
    "parent": (make(info("../a")), r"\.\./a: "),
    "parent inside": (make(info("a/../../b")), "component is empty"),
    "absolute": (make(info("/etc/passwd")), "/etc/passwd: it is an absolute path"),
    "absolute after a dot": (make(info(".//etc")), "absolute"),
    "no name": (make(info("")), "absolute path"),
    "through a link": (
        make(info("a", LINK, linkname="/etc"), info("a/passwd")),
        "a/passwd: a is no directory",
    ),
    "through a link that comes later": (
        make(info("a/passwd"), info("a", LINK, linkname="/etc")),
        "a/passwd: a is no directory",
    ),
    "twice": (make(info("a"), info("./a")), "a: it is in the archive twice"),
    "hard link outside": (
        make(info("a", tarfile.LNKTYPE, linkname="/etc/shadow")),
        "absolute",
    ),
    "hard link to nothing": (
        make(info("a", tarfile.LNKTYPE, linkname="b")),
        "a: it is linked to b, which is no earlier file",
    ),
    "hard link to what follows": (
        make(info("a", tarfile.LNKTYPE, linkname="b"), info("b")),
        "no earlier file",
    ),
    "hard link to a directory": (
        make(info("d", tarfile.DIRTYPE), info("a", tarfile.LNKTYPE, linkname="d")),
        "no earlier file",
    ),
    "link to nowhere": (make(info("a", LINK, linkname="")), "a: it points nowhere"),
    "link too far": (make(info("a", LINK, linkname="x" * 5000)), "points nowhere"),
    "name too long": (make(info("x" * 300)), "it is too long"),
    "path too long": (make(info("x/" * 2100 + "y")), "it is too long"),
    "owner": (make(info("a", uid=2**32 - 1)), "a: a number of it is out of range"),
    "negative owner": (
        make(info("a", uid=-5), format_=tarfile.GNU_FORMAT),
        "out of range",
    ),
    "unknown kind": (with_flag(b"Q"), "unknown kind b'Q'"),
    "multi-volume": (with_flag(b"M"), "unknown kind"),
    "first header": (make(info("a")).replace(b"ustar", b"astar"), "its beginning is"),
    "checksum": (
        make(info("a"), info("b")).replace(b"b" + bytes(99), b"c" + bytes(99)),
        "archive: a header's checksum is wrong",
    ),
    "no archive": (b"#!/bin/sh\n" * 100, "it is no tar archive"),
    "empty": (b"", "it is cut short"),
    "cut header": (make(info("a"))[:300], "it is cut short"),
    "cut content": (make(info("a", size=5000))[:2048], "it is cut short"),
    "no end": (make(info("a"))[:512], "it is cut short"),
    "behind the end": (make(info("a")) + make(info("b")), "behind its end"),
    "negative size": (
        with_bytes(make(info("a")), 124, b"\xff" * 12),
        "a content of less than nothing",
    ),
    "huge size": (
        with_bytes(make(info("a")), 124, b"\x80" + b"\xff" * 11),
        "too large",
    ),
    "size beyond the end": (
        with_bytes(make(info("a")), 124, b"77777777777\0"),
        "cut short",
    ),
    "number": (with_bytes(make(info("a")), 108, b"0x12\0\0\0\0"), "is no number"),
    "long name bomb": (long_name(8 << 30), "an extended header of 8589934592 bytes"),
    "lonely long name": (
        long_name(3)[:1536] + bytes(1024),
        "behind an extended header",
    ),
    "time": (make(pax(mtime="1e9")), "is no time"),
    "time bomb": (make(pax(mtime="9" * 30)), "is no time"),
    "size in words": (make(pax(size="many")), "is no number"),
    "sparse map": (
        make(pax(**{"GNU.sparse.map": "9,9,0,1", "GNU.sparse.size": "20"})),
        "map of a sparse file is wrong",
    ),
    "sparse beyond": (
        make(pax(**{"GNU.sparse.map": "0,999", "GNU.sparse.size": "9"})),
        "map of a sparse file is wrong",
    ),
    "sparse bomb": (
        make(pax(**{"GNU.sparse.map": "0,0", "GNU.sparse.size": "9" * 18})),
        "a: it has 999,999,999,999,999,999 bytes, more than any laptop could hold",
    ),
    "sparse from nothing": (
        make(pax(**{"GNU.sparse.map": "0,9", "GNU.sparse.size": "9"})),
        "longer than its content",
    ),
    "sparse without an end": (
        make(pax(**{"GNU.sparse.major": "1", "GNU.sparse.realsize": "9"})),
        "is no number",
    ),
    "access by name": (
        make(pax(**{"SCHILY.acl.access": "user::rwx,user:ana:r--"})),
        "pack with --numeric-owner",
    ),
    "attribute": (make(pax(**{"LIBARCHIVE.xattr.user.a": "*"})), "not in base64"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, case: str) -> None:
    raw, match = HOSTILE[case]
    archive = tmp_path / "t.tar"
    archive.write_bytes(raw)
    with pytest.raises(UnfitTree, match=match) as refused:
        publish.publish(tmp_path / "builds", archive, FIRST)
    assert "\n" not in str(refused.value)
    assert os.listdir(tmp_path / "builds") == [".lock"]


def test_any_damage_is_refused_plainly_or_makes_a_sound_tree(tmp_path: Path) -> None:
    tree = build_tree(
        tmp_path / "tree",
        {"a": File("x" * 700, hole=100_000), "b": Link("a"), "c": Hard("a")},
    )
    raw = pack(tree, tmp_path / "t.tar", "--format=posix").read_bytes()
    chance = random.Random(1)
    refused = 0
    for _ in range(400):
        damaged = bytearray(raw)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(6000)] = chance.randrange(256)
        with contextlib.suppress(Malformed):
            list(read_members(io.BytesIO(bytes(damaged))))
            continue
        refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"5 a=b\n", id="too short a length"),
        pytest.param(b"900 a=b\n", id="too long a length"),
        pytest.param(b"0 a=b\n", id="no length"),
        pytest.param(b"6 a=bc", id="no newline"),
        pytest.param(b"6 =bcd\n", id="no key"),
        pytest.param(b"6 abcd\n", id="no equals sign"),
    ],
)
def test_damaged_records(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse_records(raw)


def test_defaults_for_all_members(tmp_path: Path) -> None:
    out = io.BytesIO()
    headers = {"mtime": "12.5", "comment": "made by a test"}
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers
    ) as archive:
        archive.addfile(info("a"))
    (tmp_path / "t.tar").write_bytes(out.getvalue())
    assert listed(tmp_path / "t.tar")[-1].mtime_ns == 12_500_000_000


def test_what_belongs_to_the_machine_is_left_out(tmp_path: Path) -> None:
    raw = make(
        pax(
            **{
                "SCHILY.xattr.security.selinux": "label",
                "SCHILY.xattr.user.note": "kept",
                "LIBARCHIVE.xattr.user.%41": "eA",
            }
        )
    )
    (tmp_path / "t.tar").write_bytes(raw)
    assert listed(tmp_path / "t.tar")[-1].xattrs == (
        (b"user.A", b"x"),
        (b"user.note", b"kept"),
    )


def test_access_control_lists() -> None:
    """As the kernel packs them: kind, rights, who."""
    text = b"user::rwx,group::r-x,user:1000:r--,mask::rwx,other::---,group:g:-w-:7"
    expected = [
        (1, 7, 2**32 - 1),
        (2, 4, 1000),
        (4, 5, 2**32 - 1),
        (8, 2, 7),
        (16, 7, 2**32 - 1),
        (32, 0, 2**32 - 1),
    ]
    packed = b"".join(struct.pack("<HHI", *line) for line in expected)
    assert parse_acl(text.replace(b"group:g:-w-:7", b"group:7:-w-")) == (
        struct.pack("<I", 2) + packed
    )
    with pytest.raises(Malformed):
        parse_acl(b"nonsense")


def test_a_capability_survives_an_archive(tmp_path: Path) -> None:
    name = "SCHILY.xattr.security.capability"
    value = CAPABILITY.decode("utf-8", "surrogateescape")
    (tmp_path / "t.tar").write_bytes(make(pax(**{name: value})))
    found = listed(tmp_path / "t.tar")[-1].xattrs
    assert found == ((b"security.capability", CAPABILITY),)


def test_a_sparse_file_of_many_parts(tmp_path: Path) -> None:
    """More than a header holds, in each of the formats."""
    path = tmp_path / "tree/file"
    path.parent.mkdir()
    with open(path, "wb") as out:
        for number in range(60):
            out.seek(number * 128 << 10)
            out.write(b"%d" % number)
        out.truncate(61 * 128 << 10)
    os.utime(path, ns=(SECOND_NS, SECOND_NS))
    digest = hashlib.sha256(path.read_bytes()).digest()
    for number, words in enumerate(
        (
            ["--format=gnu"],
            ["--format=posix"],
            ["--format=posix", "--sparse-version=0.1"],
        )
    ):
        archive = pack(path.parent, tmp_path / f"{number}.tar", *words)
        assert archive.stat().st_size < 2 << 20
        assert listed(archive)[-1].digest == digest


def test_a_file_that_is_nothing_but_a_hole(tmp_path: Path) -> None:
    build_tree(tmp_path / "tree", {"a": ""})
    os.truncate(tmp_path / "tree/a", 1 << 40)
    with pytest.raises(UnfitTree, match=r"a: it has .* more than any laptop"):
        list(walk_tree(tmp_path / "tree"))


@pytest.mark.root
def test_a_mounted_image(tmp_path: Path) -> None:
    """Its own file system only, and not what belongs to that."""
    image, mount = tmp_path / "image", tmp_path / "mount"
    subprocess.run(["truncate", "-s", "8M", image], check=True)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        build_tree(mount, {"etc/motd": "x", "proc/": Dir()})
        subprocess.run(["mount", "-t", "tmpfs", "none", mount / "proc"], check=True)
        try:
            (mount / "proc/cmdline").write_text("of this machine")
            story = Story()
            found = [one.path for one in walk_tree(mount, progress=story)]
        finally:
            subprocess.run(["umount", mount / "proc"], check=True)
    finally:
        subprocess.run(["umount", mount], check=True)
    assert found == [b"", b"etc", b"etc/motd", b"proc"]
    assert story.steps == ["leaving out what is mounted on proc"]
