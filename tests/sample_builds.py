"""The two tiny builds in ``docs/samples/builds``, as trees.

``python -m tests.sample_builds docs/samples/builds`` publishes them anew, as root.
"""

import sys
from pathlib import Path
from stat import S_IFBLK, S_IFCHR
from tempfile import TemporaryDirectory

from olpc_update_query.model.wire import BuildId
from olpc_update_query.server.publish import publish
from tests.trees import (
    CAPABILITY,
    Device,
    Dir,
    Fifo,
    File,
    Hard,
    Link,
    Spec,
    build_tree,
)

OLD, NEW = BuildId("760"), BuildId("762")

_MODULE = b"".join(b"%d: a line of the module\n" % number for number in range(400))
_COMMON: Spec = {
    "": Dir(),
    "bin/busybox": File("#!/bin/true\n", mode=0o4755),
    "bin/sh": Hard("bin/busybox"),
    "bin/ping": File("ping\n", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    "dev/mmcblk0": Device(S_IFBLK, 179, 0, mode=0o660, owner=(0, 6)),
    "dev/null": Device(S_IFCHR, 1, 3, mode=0o666),
    "home/olpc/": Dir(mode=0o2750, owner=(500, 500)),
    "run/initctl": Fifo(mode=0o600),
    "sbin": Link("bin"),
    'usr/share/100% "quoted"': "percent and quotes\n",
    b"usr/share/caf\xc3\xa9": "a name in UTF-8\n",
    b"usr/share/caf\xe9": "a name that is not\n",
}
TREES: dict[BuildId, Spec] = {
    OLD: {
        **_COMMON,
        "etc/issue": "OLPC build 760\n",
        "lib/modules/6.1.0-9/olpc.ko": _MODULE,
        "usr/share/gone": "only in 760\n",
    },
    NEW: {
        **_COMMON,
        "etc/issue": "OLPC build 762\n",
        "lib/modules/6.1.0-10/olpc.ko": _MODULE.replace(b"\n300:", b"\n300 changed:"),
        "usr/share/new": "only in 762\n",
    },
}


def publish_samples(builds: Path, work: Path) -> None:
    """Publish both builds, the newer with a delta from the older."""
    for build, spec in TREES.items():
        tree = build_tree(work / build, spec)
        publish(builds, tree, build, delta_from=[OLD] if build == NEW else [])


if __name__ == "__main__":
    with TemporaryDirectory() as work:
        publish_samples(Path(sys.argv[1]), Path(work))
