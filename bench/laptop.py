"""A laptop below a directory, as OLPC's image builder and initramfs leave one.

Written from what is known of their scripts (dracut-modules-olpc, olpc-os-builder);
shares no code with the product, so that it can judge what the product does:
``boot`` chooses, checks and purges as the newest initramfs does.
"""

import filecmp
import os
import shutil
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

# What the initramfs takes as the target of boot/current; anything else: no boot.
_ACCEPTED = ("/versions/pristine/", "/versions/run/", "../../run/")
_DIRECTORIES = (
    "etc/olpc-update-query/keys.d",
    "home/olpc",
    "ofw/mfg-data",
    "security",
    "versions/contents",
    "versions/pristine",
    "versions/run",
    "versions/sticky",
    "versions/updates",
)


class Layout(StrEnum):
    """How the disk is laid out: the XO-1 is one piece, later machines have two."""

    UNPARTITIONED = "unpartitioned"
    PARTITIONED = "partitioned"


class NoBootError(Exception):
    """The initramfs would stop here, and the child would see a dead laptop."""


class Slots(NamedTuple):
    """What the boot links name.

    Attributes:
        current: The build that boots.
        alternate: The build that boots with the O key held, if there is one.
    """

    current: str
    alternate: str | None


class Identity(NamedTuple):
    """Serial number and UUID, as the factory wrote them."""

    serial: str = "SHC00000001"
    uuid: str = "6b0a9d1e-52a1-4e4c-9f0e-1d2c3b4a5f60"


SOMEBODY = Identity()


def make(
    root: Path,
    tree: Path,
    build: str,
    contents: Path,
    *,
    layout: Layout = Layout.UNPARTITIONED,
    identity: Identity = SOMEBODY,
) -> None:
    """Make a laptop that runs a build.

    Args:
        root: Directory that becomes the laptop's root; must not exist.
        tree: The build's tree; only read.
        build: The build's name.
        contents: The build's manifest, as its builder ships it.
        layout: How the disk is laid out.
        identity: Whose it is.
    """
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True)
    (root / "ofw/mfg-data/SN").write_text(f"{identity.serial}\0")
    (root / "ofw/mfg-data/U#").write_text(f"{identity.uuid}\n\0")
    versions = root / "versions"
    _copy("-a", tree, versions / "pristine" / build)
    _copy("-al", versions / "pristine" / build, versions / "run" / build)
    shutil.copyfile(contents, versions / "contents" / build)
    (versions / "running").symlink_to(f"pristine/{build}")
    if layout is Layout.PARTITIONED:
        _fill_boot_partition(root, build)
    else:
        config = versions / "configs" / build
        config.mkdir(parents=True)
        (config / "current").symlink_to(f"/versions/pristine/{build}")
        (versions / "boot").symlink_to(f"configs/{build}")
        (root / "boot").symlink_to("versions/boot/current/boot")
        (root / "boot-alt").symlink_to("versions/boot/alt/boot")


def trust(root: Path, role: str, key: Path) -> None:
    """Put a deployment's public key on the laptop.

    Args:
        root: The laptop.
        role: ``oats`` or ``lease``.
        key: The public key's file.
    """
    keys = root / "etc/olpc-update-query/keys.d"
    shutil.copyfile(key, keys / f"{role}-school.public")


def slots(root: Path) -> Slots:
    """Read the boot links as the initramfs does.

    Raises:
        NoBootError: They name nothing that can boot.
    """
    if (root / "bootpart").is_dir():
        found = _partitioned_slots(root / "bootpart")
    else:
        found = _unpartitioned_slots(root / "versions")
    run = root / "versions/run" / found.current
    for needed in (run, root / "versions/pristine" / found.current):
        if not needed.is_dir():
            raise NoBootError(f"{needed.relative_to(root)} is not there")
    if not (run / "etc").is_dir():
        raise NoBootError(f"the new root {run.name} has no /etc")
    return found


def boot(root: Path) -> str:
    """Boot as the newest initramfs does, its purge of other builds included.

    Returns:
        The build that runs now.

    Raises:
        NoBootError: It would not boot.
    """
    build = slots(root).current
    running = root / "versions/running"
    running.unlink()
    running.symlink_to(f"pristine/{build}")
    if not (root / "versions/sticky" / build).exists():
        _purge(root, build)
    return build


def _copy(how: str, source: Path, target: Path) -> None:
    subprocess.run(["cp", how, "--", source, target], check=True)


def _fill_boot_partition(root: Path, build: str) -> None:
    part = root / "bootpart"
    (part / "boot-versions" / build).mkdir(parents=True)
    (part / "security").mkdir()
    source = root / "versions/pristine" / build / "boot"
    if source.is_dir():
        _copy("-rT", source, part / "boot-versions" / build)
    (part / "boot").symlink_to(f"boot-versions/{build}")
    (part / "boot-alt").symlink_to("boot/alt")


def _partitioned_slots(part: Path) -> Slots:
    where, _, current = os.readlink(part / "boot").rpartition("/")
    if where != "boot-versions" or not (part / where / current).is_dir():
        raise NoBootError(f"/bootpart/boot names {where}/{current}")
    _check_kernel(part, current)
    alternate = part / "boot" / "alt"
    if not alternate.is_symlink():
        return Slots(current, None)
    return Slots(current, os.path.basename(os.readlink(alternate)))


def _check_kernel(part: Path, build: str) -> None:
    wanted = part.parent / "versions/pristine" / build / "boot"
    for item in wanted.rglob("*") if wanted.is_dir() else ():
        copy = part / "boot-versions" / build / item.relative_to(wanted)
        if item.is_file() and not (
            copy.is_file() and filecmp.cmp(item, copy, shallow=False)
        ):
            raise NoBootError(f"/bootpart lacks {item.relative_to(wanted)} of {build}")


def _unpartitioned_slots(versions: Path) -> Slots:
    config = versions / "boot"
    if not config.is_symlink() or not config.is_dir():
        raise NoBootError("/versions/boot names no configuration")
    target = os.readlink(config / "current")
    current = next(
        (target.removeprefix(how) for how in _ACCEPTED if target.startswith(how)), ""
    )
    if not current or "/" in current:
        raise NoBootError(f"current names {target}")
    alternate = config / "alt"
    if not alternate.is_symlink():
        return Slots(current, None)
    return Slots(current, os.path.basename(os.readlink(alternate)))


def _purge(root: Path, build: str) -> None:
    """Delete what is neither running nor sticky; /versions/updates is left alone."""
    keep = {build, *os.listdir(root / "versions/sticky")}
    places = [root / "versions" / name for name in ("pristine", "run", "contents")]
    places.append(root / "bootpart/boot-versions")
    doomed = [
        item
        for place in places
        if place.is_dir()
        for item in place.iterdir()
        if item.name not in keep
    ]
    configs = root / "versions/configs"
    if configs.is_dir():
        used = os.path.basename(os.readlink(root / "versions/boot"))
        doomed += [item for item in configs.iterdir() if item.name != used]
    for item in doomed:
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()
