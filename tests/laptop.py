"""Laptops laid out by hand, and what their initramfs would boot.

Nothing here uses the product: the layouts are written down a second time, from what
is known of the firmware and the initramfs (``docs/disk-layout.md``), so that a test
which passes says something about a laptop and not about the product's own reading.
"""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

CONFIGURED = ".olpc-configured"


def make_laptop(
    root: Path, build: str, tree: Path, *, partitioned: bool, contents: bytes
) -> Path:
    """Lay out a laptop that has just booted its only build.

    Args:
        root: Where; made if need be.
        build: The build's name.
        tree: What the build consists of; it is copied.
        partitioned: With a boot partition, as every model but the first has.
        contents: The build's manifest.

    Returns:
        ``root``.
    """
    versions = root / "versions"
    for name in ("pristine", "run", "contents", "sticky", "updates"):
        (versions / name).mkdir(parents=True, exist_ok=True)
    for name in ("etc", "security", "home/olpc", "proc", "sys"):
        (root / name).mkdir(parents=True, exist_ok=True)
    add_build(root, build, tree, contents=contents)
    (versions / "running").symlink_to(f"pristine/{build}")
    if partitioned:
        _make_boot_partition(root, build)
    else:
        _make_configs(root, build)
    return root


def add_build(root: Path, build: str, tree: Path, *, contents: bytes) -> None:
    """Put one more build on a laptop; nothing refers to it."""
    versions = root / "versions"
    pristine = versions / "pristine" / build
    subprocess.run(["cp", "-a", "--", tree, pristine], check=True)
    (versions / "contents" / build).write_bytes(contents)
    link_copy(pristine, versions / "run" / build)


def link_copy(source: Path, target: Path) -> None:
    """Copy a tree as the initramfs does: links anew, all but directories linked."""
    target.mkdir()
    for item in os.scandir(os.fsencode(source)):
        there = os.path.join(os.fsencode(target), item.name)
        if item.is_dir(follow_symlinks=False):
            link_copy(Path(os.fsdecode(item.path)), Path(os.fsdecode(there)))
        elif item.is_symlink():
            facts = item.stat(follow_symlinks=False)
            os.symlink(os.readlink(item.path), there)
            os.lchown(there, facts.st_uid, facts.st_gid)
        else:
            os.link(item.path, there, follow_symlinks=False)
    facts = os.stat(source)
    os.chown(target, facts.st_uid, facts.st_gid)
    os.chmod(target, stat.S_IMODE(facts.st_mode))
    os.utime(target, (int(facts.st_mtime), int(facts.st_mtime)))


def _make_configs(root: Path, build: str) -> None:
    config = root / "versions/configs" / build
    config.mkdir(parents=True)
    (config / "current").symlink_to(f"/versions/pristine/{build}")
    (root / "versions/boot").symlink_to(f"configs/{build}")
    (root / "boot").symlink_to("versions/boot/current/boot")
    (root / "boot-alt").symlink_to("versions/boot/alt/boot")


def _make_boot_partition(root: Path, build: str) -> None:
    versions = root / "bootpart/boot-versions"
    versions.mkdir(parents=True)
    (root / "bootpart/security").mkdir()
    shutil.copytree(
        root / "versions/pristine" / build / "boot", versions / build, symlinks=True
    )
    (root / "bootpart/boot").symlink_to(f"boot-versions/{build}")
    (root / "bootpart/boot-alt").symlink_to("boot/alt")


def is_partitioned(root: Path) -> bool:
    return (root / "bootpart").is_dir()


def boots(root: Path) -> str:
    """Return the build that the initramfs would boot.

    Raises:
        AssertionError: It would not boot, or not a whole build.
    """
    if is_partitioned(root):
        target = os.readlink(root / "bootpart/boot")
        build = _match(r"boot-versions/([^/]+)", target)
        _check_boot_partition(root, build)
    else:
        target = os.readlink(_config(root) / "current")
        build = _match(r"(?:/versions/(?:pristine|run)|\.\./\.\./run)/([^/]+)", target)
    _check_whole(root, build)
    return build


def boots_alternate(root: Path) -> str | None:
    """Return the build that the older initramfs boots when the O key is held."""
    if is_partitioned(root):
        link = root / "bootpart/boot/alt"
        if not os.path.lexists(link):
            return None
        assert os.readlink(root / "bootpart/boot-alt") == "boot/alt"
        build = _match(r"\.\./([^/]+)", os.readlink(link))
        _check_boot_partition(root, build)
    else:
        link = _config(root) / "alt"
        if not os.path.lexists(link):
            return None
        build = _match(r"/versions/(?:pristine|run)/([^/]+)", os.readlink(link))
    _check_whole(root, build)
    return build


def boot(root: Path) -> str:
    """Boot as the newest initramfs does: note the build, delete what nobody keeps."""
    build = boots(root)
    versions = root / "versions"
    (versions / "running").unlink(missing_ok=True)
    (versions / "running").symlink_to(f"pristine/{build}")
    if not (versions / "sticky" / build).exists():
        _purge(root, build)
    return build


def _purge(root: Path, current: str) -> None:
    kept = {current, *os.listdir(root / "versions/sticky")}
    places = [root / "versions" / name for name in ("pristine", "run", "contents")]
    if is_partitioned(root):
        places.append(root / "bootpart/boot-versions")
    for place in places:
        for name in set(os.listdir(place)) - kept:
            _remove(place / name)
    if not is_partitioned(root):
        for name in set(os.listdir(root / "versions/configs")) - {_config(root).name}:
            _remove(root / "versions/configs" / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _config(root: Path) -> Path:
    name = _match(r"configs/([^/]+)", os.readlink(root / "versions/boot"))
    return root / "versions/configs" / name


def _match(pattern: str, target: str) -> str:
    found = re.fullmatch(pattern, target)
    assert found, f"Failure condition in initramfs: {target!r}"
    return found[1]


def _check_boot_partition(root: Path, build: str) -> None:
    copy = root / "bootpart/boot-versions" / build
    source = root / "versions/pristine" / build / "boot"
    for where, _, files in os.walk(source):
        for name in files:
            path = Path(where, name)
            twin = copy / path.relative_to(source)
            assert twin.read_bytes() == path.read_bytes(), f"{twin} is not whole"


def _check_whole(root: Path, build: str) -> None:
    """Compare what is booted with the untouched tree, name by name, link by link."""
    pristine = os.fsencode(root / "versions/pristine" / build)
    run = os.fsencode(root / "versions/run" / build)
    assert os.path.isdir(pristine), f"pristine/{build} is missing"
    assert os.path.isdir(run), f"run/{build} is missing: it cannot boot"
    for where, dirs, files in os.walk(pristine):
        twin = os.path.join(run, os.path.relpath(where, pristine))
        for name in (*dirs, *files):
            if os.fsdecode(name) == CONFIGURED and where == pristine:
                continue
            _check_twin(os.path.join(where, name), os.path.join(twin, name))


def _check_twin(path: bytes, twin: bytes) -> None:
    wanted, found = os.lstat(path), os.lstat(twin)
    assert stat.S_IFMT(wanted.st_mode) == stat.S_IFMT(found.st_mode), twin
    if stat.S_ISLNK(wanted.st_mode):
        assert os.readlink(path) == os.readlink(twin), twin
    elif not stat.S_ISDIR(wanted.st_mode):
        assert wanted.st_ino == found.st_ino, f"{twin!r} is no link of its twin"


def listing(root: Path) -> str:
    """Return what is on a laptop as text, a line a path, builds' trees left closed."""
    lines: list[str] = []
    for where, dirs, files in os.walk(root):
        above = Path(where).relative_to(root)
        for name in (*dirs, *files):
            path = root / above / name
            line = str(above / name)
            if path.is_symlink():
                line += f" -> {os.readlink(path)}"
            elif path.is_dir():
                line += "/"
            lines.append(line)
        if above.parent.name in {"pristine", "run"}:
            lines = lines[: len(lines) - len(dirs) - len(files)]
            dirs.clear()
    return "".join(f"{line}\n" for line in sorted(lines))
