"""A server with two published builds, and a laptop that runs the older one."""

import json
import time as clock
from dataclasses import replace
from pathlib import Path

from olpc_update_query.model.messages import Order, OrderFile
from olpc_update_query.server.signing import make_order
from tests.keys import signer
from tests.laptop import make_laptop
from tests.perform_update.published import Build, make_build, publish
from tests.simulator import ServerSimulator, prepare_laptop

NOISE = bytes(range(256)) * 300
OLD_FILES = {
    "boot/vmlinuz": b"old kernel",
    "etc/motd": b"old words",
    "lib/big": NOISE + b"old",
    "usr/same": b"same",
}
NEW_FILES = {
    "boot/vmlinuz": b"new kernel",
    "etc/motd": b"new words",
    "lib/big": b"new" + NOISE,
    "usr/fresh": b"fresh",
    "usr/same": b"same",
}


class School:
    """The builds, where they are published, and a laptop.

    Attributes:
        server: Who serves ``www``.
        old: Build 760, which the laptop runs.
        new: Build 762.
        root: The laptop.
    """

    def __init__(self, directory: Path, server: ServerSimulator) -> None:
        self.server = server
        self.www = server.site.root
        self.old = make_build(directory / "760", "760", OLD_FILES)
        self.new = make_build(directory / "762", "762", NEW_FILES)
        self.publish(self.old)
        self.publish(self.new, self.old)
        (self.www / "builds/index.html").write_text(json.dumps(["760", "762"]))
        self.root = prepare_laptop(directory / "laptop", server.url)
        make_laptop(
            self.root,
            "760",
            self.old.tree,
            partitioned=False,
            contents=self.old.manifest,
        )

    def publish(self, build: Build, *olds: Build) -> Path:
        """Publish a build with its signed order."""
        directory = publish(self.www / "builds" / build.name, build, *olds)
        self.sign(directory, build.order())
        return directory

    def sign(
        self,
        directory: Path,
        order: Order,
        *,
        key: str = "oats",
        expiry: int | None = None,
        serials: frozenset[str] | None = None,
        time: int | None = None,
    ) -> None:
        """Put a signed order beside a build."""
        signed = int(clock.time()) if time is None else time
        file = OrderFile(order, signed, expiry, serials)
        (directory / "order").write_bytes(make_order(file, signer(key).sig01))

    def order(self, build: Build | None = None, **changes: object) -> Order:
        """Return the order that the server's answer is to hold."""
        build = build or self.new
        plain = build.order(f"{self.server.url}builds/{build.name}/")
        return replace(plain, **changes)  # type: ignore[arg-type]

    @property
    def installed(self) -> list[str]:
        """Names of the builds on the laptop."""
        return sorted(path.name for path in (self.root / "versions/run").iterdir())
