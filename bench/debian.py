"""Make real Debian trees to measure with: a release, its updates, and a small fix.

They are what a school-laptop image holds: kernel, initrd, Xfce, Sugar, Python, fonts,
locales. Each is made from scratch by mmdebstrap, as image builders do, so even a file
that no package changed may have another time.

- ``release``: the point release of Debian 12 as it came out,
- ``updated``: the same packages with all later updates (and a new kernel),
- ``fixed``: the point release with a few packages updated.

A tree that is there is kept; it takes root, a network and about 1.3 GB of disk each.
"""

import argparse
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

_MIRROR = "http://deb.debian.org/debian"
_SECURITY = "http://deb.debian.org/debian-security"
_RELEASE = f"deb {_MIRROR} bookworm main"
_UPDATES = (
    f"deb {_MIRROR} bookworm-updates main",
    f"deb {_SECURITY} bookworm-security main",
)
_PACKAGES = (
    *(
        "linux-image-cloud-amd64",
        "initramfs-tools",
        "zstd",
        "systemd-sysv",
        "dbus",
        "udev",
    ),
    *("kmod", "iproute2", "network-manager", "openssh-client", "locales", "man-db"),
    *("python3", "python3-requests", "python3-cryptography", "ca-certificates"),
    *("xserver-xorg-core", "xserver-xorg-input-libinput", "lightdm", "xfce4-panel"),
    *("xfce4-session", "xfce4-terminal", "xfwm4", "xfdesktop4", "thunar"),
    *("sucrose", "fonts-dejavu-core", "fonts-noto-core", "vim-tiny", "less"),
)
_FIXED = "/^(libssl3|openssl|libglib2.0-0|libglib2.0-bin|libexpat1|libxml2|libc6)$/"
_PREFERENCES = f"""\
Package: *
Pin: release l=Debian-Security
Pin-Priority: 1

Package: {_FIXED}
Pin: release l=Debian-Security
Pin-Priority: 990
"""


class Tree(NamedTuple):
    """How a tree is made.

    Attributes:
        sources: What apt reads.
        epoch: When the image builder runs, for what it compresses itself.
        preferences: Text for apt's preferences.
    """

    sources: tuple[str, ...]
    epoch: int
    preferences: str = ""


TREES = {
    "release": Tree((_RELEASE,), 1_780_000_000),
    "updated": Tree((_RELEASE, *_UPDATES), 1_790_000_000),
    "fixed": Tree((_RELEASE, *_UPDATES), 1_785_000_000, _PREFERENCES),
}


def main() -> None:
    """Make the trees that are not there yet."""
    parser = argparse.ArgumentParser(prog="bench.debian", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("build/trees"))
    parser.add_argument("names", nargs="*", default=list(TREES), metavar="NAME")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        make(options.directory / name, TREES[name])


def make(path: Path, tree: Tree) -> None:
    """Make one tree, unless it is there."""
    if path.is_dir():
        print(f"{path} is there")
        return
    fresh = path.with_name(f".{path.name}")
    if fresh.exists():
        shutil.rmtree(fresh)
    words = ["mmdebstrap", "--quiet", "--mode=root", "--variant=important"]
    words += ["--aptopt=APT::Install-Recommends false"]
    words += [f"--include={','.join(_PACKAGES)}"]
    if tree.preferences:
        note = path.with_name(f".{path.name}.preferences")
        note.write_text(tree.preferences)
        words.append(f'--setup-hook=cp "{note}" "$1/etc/apt/preferences.d/fix"')
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(tree.epoch)}
    print(f"making {path}", flush=True)
    subprocess.run(
        [*words, "bookworm", str(fresh), *tree.sources], env=environment, check=True
    )
    fresh.rename(path)


if __name__ == "__main__":
    main()
