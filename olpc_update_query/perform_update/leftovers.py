"""What a run leaves that was ended after all its work was done, but before cleaning up.

The next run finds nothing to do; so it is the one to clean up.
"""

import contextlib
import functools
import os
from pathlib import Path

from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.links import names_in
from olpc_update_query.perform_update.store import Downloads
from olpc_update_query.perform_update.work import Workbench, digest_of
from olpc_update_query.system.files import disk_errors


def clear_leftovers(layout: Layout, work: Path, downloads: Path) -> None:
    """Remove what belongs to builds that are installed; keep what is still of use.

    Without leftovers it looks at a few directories, and reads no file.

    Args:
        layout: The laptop.
        work: ``WORK/installer``.
        downloads: ``WORK/asker/downloads``.

    Raises:
        TreeError: The disk is failing.
    """
    with disk_errors(work):
        layout.tidy()
        finished = functools.cache(lambda: _installed(layout))
        bench = Workbench(work)
        if any(map(os.path.lexists, (bench.stage, bench.store))):
            digest = digest_of(bench.contents)
            if not digest or digest in finished():
                bench.clear()
        for name in names_in(downloads):
            if names_in(downloads / name) and name in finished():
                with contextlib.suppress(OSError), Downloads(downloads / name) as old:
                    old.discard()


def _installed(layout: Layout) -> set[str]:
    """Return the digests of the manifests of builds that can boot."""
    return {
        digest_of(found.contents)
        for found in layout.installed()
        if layout.can_boot(found.build)
    }
