"""Make two versions of an operating system from files that this machine has.

The first is a cut of /usr with a kernel, its modules and the odd things that real
trees hold; the second is what an upgrade would make of it.
"""

import glob
import itertools
import os
import random
import shutil
import stat
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

OLD_KERNEL, NEW_KERNEL = "6.1.0-37-amd64", "6.1.0-40-amd64"
_MODULES = "usr/lib/modules"
_TREATED_APART = {NEW_KERNEL, "locale-archive", "odd"}
_SOURCES = (
    "/usr/lib/python3.*",
    "/usr/share/perl",
    "/usr/lib/git-core",
    "/usr/share/locale",
    "/usr/share/doc",
    "/usr/share/zoneinfo",
    "/usr/lib/python3",
    "/usr/share/mime",
    "/usr/share/fonts",
    "/usr/share/icons",
    "/usr/bin",
)
_BINARIES = ("/usr/bin/*", "/usr/lib/*-linux-gnu/*.so*", "/usr/sbin/*")
_BUILT = 1_700_000_000 * 10**9
_UPGRADED = 1_710_000_000 * 10**9
_BIGGEST_MODULE = 500_000
_ODD_NAMES = (
    b"with space and 100%25",
    b"new\nline",
    b"tab\tand \x01",
    b"not utf-8 \xff\xe9",
    "ñandú 学校 \U0001f427".encode(),
    b"-rf",
    b"quote\"and\\backslash'",
    b"x" * 255,
)
_NET_BIND = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep


def make_first(root: Path, *, files: int, megabytes: int) -> Counter[str]:
    """Make the first version.

    Args:
        root: Directory to make.
        files: About how many files it shall have.
        megabytes: About how big it shall be.

    Returns:
        How many of each special kind this machine and file system could hold.
    """
    sources = [path for each in _SOURCES for path in sorted(glob.glob(each))]
    for source in sources:
        share = len(sources)
        _take(Path(source), root, files // share, megabytes * 700_000 // share)
    _add_kernel(root, megabytes * 200_000)
    _write(root / "etc/hostname", b"xo\n")
    _write(root / "sbin/init", b"#!/bin/sh\n")
    (root / "sbin/init").chmod(0o755)
    _write(root / "etc/passwd", b"root:x:0:0::/root:/bin/sh\n" * 40)
    _write(root / "usr/lib/locale/locale-archive", _binary_blob(megabytes * 100_000))
    for name in ("home", "security", "versions", "proc"):
        (root / name).mkdir(mode=0o755)
    found = Counter(_add_specials(root))
    for directory in _directories(root):
        os.utime(directory, ns=(_BUILT, _BUILT + 123_456_789))
    return found


def make_second(first: Path, second: Path) -> Counter[str]:
    """Make what an upgrade would make of the first version.

    Args:
        first: The first version; only read.
        second: Directory to make.

    Returns:
        How many paths were changed in each way.
    """
    subprocess.run(["cp", "-a", "--", first, second], check=True)
    before = {path: path.stat().st_mtime_ns for path in _directories(second)}
    done = Counter[str]()
    done["renamed with their directory"] = _upgrade_kernel(second)
    done["changed in the middle"] = _change_the_middle(second)
    done["links and special files"] = _change_specials(second)
    done += _upgrade_packages(second)
    for directory in _directories(second):
        if directory.stat().st_mtime_ns != before.get(directory):
            os.utime(directory, ns=(_UPGRADED, _UPGRADED))
    return done


def change_small_files(first: Path, second: Path, number: int) -> None:
    """Make a second version that differs in small files all over the tree.

    They keep their times, as where a build gives every file the same.

    Args:
        first: The first version; only read.
        second: Directory to make.
        number: How many files to add a line to.
    """
    subprocess.run(["cp", "-a", "--", first, second], check=True)
    small = [
        path
        for path in _readable(second)
        if not path.is_symlink() and 0 < path.stat().st_size < 16_000
    ]
    for path in small[:: max(len(small) // number, 1)][:number]:
        _write(path, path.read_bytes() + b"# changed\n", path.stat().st_mtime_ns)


def _take(source: Path, root: Path, files: int, size: int) -> None:
    """Copy a share of a directory of this machine, links included."""
    for path in _readable(source):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size > size // 4:
            continue
        files, size = files - 1, size - status.st_size
        if files < 0 or size < 0:
            return
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def _readable(source: Path) -> Iterator[Path]:
    for where, directories, names in os.walk(source):
        directories.sort()
        for name in sorted(names):
            path = Path(where, name)
            if path.is_symlink() or (path.is_file() and os.access(path, os.R_OK)):
                yield path


def _directories(root: Path) -> list[Path]:
    return [Path(where) for where, _, _ in os.walk(root)]


def _write(path: Path, data: bytes, mtime_ns: int = _BUILT) -> None:
    """Write a new file in the place of any that is there, as packages do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o644
    if path.exists():
        mode = stat.S_IMODE(path.stat().st_mode)
        path.unlink()
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def _binaries() -> Iterator[bytes]:
    for path in itertools.chain.from_iterable(map(glob.iglob, _BINARIES)):
        if os.path.isfile(path) and not os.path.islink(path):
            with suppress(OSError):
                yield Path(path).read_bytes()


def _binary_blob(size: int) -> bytes:
    blob = b""
    for data in _binaries():
        blob += data
        if len(blob) >= size:
            break
    return blob[:size]


def _add_kernel(root: Path, size: int) -> None:
    number = 0
    for data in _binaries():
        if len(data) > _BIGGEST_MODULE:
            continue
        number, size = number + 1, size - len(data)
        if size < 0:
            break
        name = f"{OLD_KERNEL}/kernel/drivers/d{number % 9}/m{number}.ko"
        _write(root / _MODULES / name, data + f"vermagic={OLD_KERNEL}".encode())
    _pack_kernel(root, OLD_KERNEL, _BUILT)


def _pack_kernel(root: Path, release: str, mtime_ns: int) -> None:
    """Compress the boot files anew, as the tools of a distribution do."""
    import zstandard

    modules = sorted((root / _MODULES / release).rglob("*.ko"))
    inside = b"".join(path.read_bytes() for path in modules[::3])
    initrd = zstandard.ZstdCompressor(level=9).compress(inside)
    _write(root / "boot/initrd.img", initrd, mtime_ns)
    kernel = b"".join(path.read_bytes() for path in modules[::9])
    _write(root / "boot/vmlinuz", release.encode() + zlib.compress(kernel), mtime_ns)


def _upgrade_kernel(root: Path) -> int:
    new = root / _MODULES / NEW_KERNEL
    (root / _MODULES / OLD_KERNEL).rename(new)
    modules = sorted(new.rglob("*.ko"))
    for number, path in enumerate(modules):
        data = path.read_bytes().replace(OLD_KERNEL.encode(), NEW_KERNEL.encode())
        if number % 5 == 0:
            data = data[:99] + b"fixed" + data[99:]
        _write(path, data, _UPGRADED)
    _pack_kernel(root, NEW_KERNEL, _UPGRADED)
    return len(modules)


def _change_the_middle(root: Path) -> int:
    path = root / "usr/lib/locale/locale-archive"
    data = path.read_bytes()
    half = len(data) // 2
    _write(path, data[:half] + b"a new locale" * 99 + data[half + 500 :], _UPGRADED)
    return 1


def _upgrade_packages(root: Path) -> Counter[str]:
    """Do to some files what an upgrade does, the same ones on every run."""
    chosen = random.Random(762)
    files = sorted(
        path
        for path in (root / "usr").rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and _TREATED_APART.isdisjoint(path.parts)
    )
    chosen.shuffle(files)
    take = iter(files).__next__
    plan: list[tuple[str, float, Callable[[Path], None]]] = [
        ("edited", 0.03, _edit),
        ("replaced by a new version", 0.01, lambda path: _rewrite(path, chosen)),
        ("other time only", 0.10, lambda path: os.utime(path, ns=(0, _UPGRADED + 1))),
        ("other mode only", 0.005, lambda path: path.chmod(0o755)),
        ("removed", 0.02, Path.unlink),
        ("added", 0.02, _add_beside),
    ]
    done = Counter[str]()
    for what, share, change in plan:
        for _ in range(int(len(files) * share) + 1):
            change(take())
            done[what] += 1
    return done


def _edit(path: Path) -> None:
    data = path.read_bytes()
    third = len(data) // 3
    _write(path, data[:third] + b"# corrected\n" + data[third:], _UPGRADED)


def _rewrite(path: Path, chosen: random.Random) -> None:
    blocks = [path.read_bytes()[start::7] for start in range(7)]
    chosen.shuffle(blocks)
    _write(path, b"".join(blocks), _UPGRADED)


def _add_beside(path: Path) -> None:
    _write(path.with_name(path.name[:200] + ".new"), path.read_bytes()[::-1], _UPGRADED)


def _add_specials(root: Path) -> Iterator[str]:
    """Add what simple programs forget; yield the kind of each that could be made."""
    odd = os.fsencode(root) + b"/usr/share/odd/"
    os.mkdir(odd)
    for name in _ODD_NAMES:
        with suppress(OSError), open(odd + name, "wb") as file:
            file.write(name)
            yield "odd names"
    yield from _add_links(root / "usr/share/odd")
    yield from _add_modes_and_times(root / "usr/share/odd")
    yield from _add_attributes(root / "usr/share/odd")
    yield from _add_devices(root)


def _add_links(odd: Path) -> Iterator[str]:
    for name, target in (
        ("relative", "../doc"),
        ("absolute", "/etc/hostname"),
        ("slash at the end", "../doc/"),
        ("dangling", "nowhere/at/all"),
        ("to be a directory", "../doc"),
    ):
        (odd / name).symlink_to(target)
        yield "symlinks"
    _write(odd / "one", b"the same file under three names\n" * 9)
    for name in ("two", "three", "four, alone in the next version"):
        (odd / name).hardlink_to(odd / "one")
        yield "hard links"


def _add_modes_and_times(odd: Path) -> Iterator[str]:
    for name, mode in (("read-only", 0o444), ("set-user-id", 0o4755)):
        _write(odd / name, name.encode())
        (odd / name).chmod(mode)
        yield "odd modes"
    (odd / "sticky").mkdir()
    (odd / "sticky").chmod(0o1777)
    for name, mtime in (("before 1970", -86_400_500_000_000), ("2100", 4 * 10**18)):
        _write(odd / name, b"", mtime)
        yield "odd times"


def _add_attributes(odd: Path) -> Iterator[str]:
    for name, key, value in (
        ("commented", "user.comment", b"kept \0 whole"),
        ("may bind to port 80", "security.capability", _NET_BIND),
    ):
        _write(odd / name, name.encode())
        with suppress(OSError):
            os.setxattr(odd / name, key, value)
            yield "extended attributes"


def _add_devices(root: Path) -> Iterator[str]:
    (root / "dev").mkdir()
    os.mkfifo(root / "dev/initctl", 0o600)
    yield "fifos"
    for name, kind, number in (
        ("null", stat.S_IFCHR, os.makedev(1, 3)),
        ("mmcblk0", stat.S_IFBLK, os.makedev(179, 0)),
    ):
        with suppress(OSError):
            os.mknod(root / "dev" / name, kind | 0o660, number)
            yield "devices"
    if os.getuid() == 0:
        os.chown(root / "etc/hostname", 1000, 1000)
        yield "other owners"


def _change_specials(root: Path) -> int:
    odd = root / "usr/share/odd"
    (odd / "relative").unlink()
    (odd / "relative").symlink_to("../perl")
    (odd / "to be a directory").unlink()
    (odd / "to be a directory").mkdir()
    _write(odd / "to be a directory/inside", b"a link became a directory\n", _UPGRADED)
    _write(odd / "four, alone in the next version", b"alone\n", _UPGRADED)
    with open(odd / "one", "ab") as file:  # changes all its names
        file.write(b"and a new line\n")
    (odd / "five").hardlink_to(odd / "one")
    with suppress(OSError):
        os.setxattr(odd / "commented", "user.comment", b"another comment")
    (root / "dev/initctl").chmod(0o620)
    if os.getuid() == 0:
        os.chown(root / "etc/passwd", 1000, 0)
    return 9
