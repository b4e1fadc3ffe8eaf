"""`olpc-update -u CONTENTS_URL TREE_URL`: an old build, of which nothing is signed."""

import os
import re
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.model.messages import (
    BuildId,
    Order,
    parse_build_id,
    parse_sha256,
)
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.sources.legacy import fetch_tree, take_tree
from olpc_update_query.report import Audience, Outcome
from olpc_update_query.run.by_hand import ByHand
from olpc_update_query.run.carry_out import rsync_options
from olpc_update_query.run.facts import look
from olpc_update_query.run.machine import Machine, Parcel, as_asker
from olpc_update_query.run.places import path_of
from olpc_update_query.system.files import disk_errors
from olpc_update_query.system.lent import lend

UNSIGNED = (
    "NOTHING OF BUILD {} IS SIGNED: whoever serves {} decides what this laptop runs"
)
_LARGEST = 128
_MODULE = re.compile(r"build-([^/]+)")


def is_remote(tree_url: str) -> bool:
    """Tell whether a tree comes over the network, and not from a directory."""
    return tree_url.startswith("rsync://")


def name_of(tree_url: str) -> BuildId:
    """Return what a build is called, by the module that its tree is in.

    Raises:
        Malformed: The address has no ``build-NAME``.
    """
    found = _MODULE.search(tree_url)
    if found is None:
        reason = f"{tree_url} has no build-NAME in it; say the name as well"
        raise errors.Malformed("address", reason)
    return parse_build_id(found[1])


class Legacy(ByHand):
    """One old build that somebody wants.

    Args:
        machine: The laptop.
        audience: Who listens.
        build: What to call it.
        tree_url: Where its tree is: below ``rsync://``, or in a directory.
        force: Install it even if it failed here.
    """

    def __init__(
        self,
        machine: Machine,
        audience: Audience,
        build: BuildId,
        tree_url: str,
        *,
        force: bool = False,
    ) -> None:
        super().__init__(machine, audience, build, [tree_url], force=force)
        self._tree_url = tree_url

    def _update(self) -> Outcome:
        machine, parcel = self._machine, Parcel(_LARGEST)
        if os.geteuid() != 0:
            raise errors.NotPermitted("a build that is not signed")
        facts = look(machine)
        layout = facts.require_layout()
        local = self._local()
        if local is not None:
            with disk_errors(local):
                lend(local)
        as_asker(
            machine,
            lambda: self._fetch_tree(layout, parcel),
            self._asker,
            reads_all=local is not None,
        )
        digest, _, size = parcel.take().decode("ascii", "replace").partition(" ")
        contents = parse_sha256(digest)
        if not size.isdigit():
            raise errors.Malformed("asker", "it named no manifest")
        return self._follow(Order(self._build, contents, int(size), ()), facts)

    def _local(self) -> Path | None:
        """Return the directory that the tree is in, if it is in one."""
        if is_remote(self._tree_url):
            return None
        return path_of(self._tree_url).resolve()

    def _fetch_tree(self, layout: Layout, parcel: Parcel) -> None:
        machine, local = self._machine, self._local()
        self._asker.begin(f"fetching build {self._build}")
        installed, downloads = layout.known(), machine.work.downloads("")
        if local is not None:
            arrived = take_tree(
                local,
                self._build,
                installed=installed,
                downloads=downloads,
                progress=self._asker,
            )
        else:
            arrived = fetch_tree(
                self._tree_url,
                self._build,
                installed=installed,
                downloads=downloads,
                options=rsync_options(machine),
                progress=self._asker,
            )
        self._asker.rest()
        parcel.put(f"{arrived.contents} {arrived.size}".encode())
