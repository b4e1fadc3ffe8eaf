"""The manifest of a build, on its way from what was fetched to where builds lie."""

import os

from olpc_update_query.errors import Incomplete, UntrustedContents
from olpc_update_query.model.manifest import parse_header
from olpc_update_query.model.orders import Order
from olpc_update_query.perform_update.activate import Layout
from olpc_update_query.perform_update.store import Downloads
from olpc_update_query.perform_update.work import Workbench, digest_of
from olpc_update_query.system.files import fsync_directory


def accept_manifest(
    order: Order, layout: Layout, downloads: Downloads, work: Workbench
) -> None:
    """Copy the manifest that an order signs to where only root writes.

    Raises:
        Incomplete: It is neither fetched nor installed.
        UntrustedContents: What there is, is not the one that was signed.
    """
    if digest_of(work.contents) != order.contents:
        source = downloads.open_manifest()
        if source is None:
            source = _open_installed(order, layout)
        try:
            work.accept_manifest(source, order.contents, order.size)
        finally:
            os.close(source)
    with open(work.contents, "rb") as manifest:
        named = parse_header(manifest.readline()).build
    if named != order.build:
        reason = f"it is that of build {named}, not {order.build}"
        raise UntrustedContents("manifest", reason)


def _open_installed(order: Order, layout: Layout) -> int:
    if not has_contents(order, layout):
        raise Incomplete(order.build, 1)
    path = layout.contents(order.build)
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def has_contents(order: Order, layout: Layout) -> bool:
    """Say whether the build's manifest is there under its name, as it was signed."""
    return digest_of(layout.contents(order.build)) == order.contents


def ensure_contents(order: Order, layout: Layout, work: Workbench) -> None:
    """Give the accepted manifest its name, unless it is there already."""
    if not has_contents(order, layout):
        contents = layout.contents(order.build)
        contents.parent.mkdir(exist_ok=True)
        os.rename(work.contents, contents)
        fsync_directory(contents.parent)
