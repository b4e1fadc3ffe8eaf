"""Sites made on the spot, with keys that are made once, and a clock that is set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from olpc_update_query.model.entry import Entry, Kind, encode_entry, parse_path
from olpc_update_query.model.manifest import Header, encode_header
from olpc_update_query.model.wire import BuildId
from olpc_update_query.server import signing
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.newsite import create_site
from olpc_update_query.server.rollout import Assignment, Scope
from olpc_update_query.server.rollout_text import with_assignment
from olpc_update_query.server.site import Site
from olpc_update_query.system.files import replace_file
from tests.keys import SERIAL, UUID, signer

NOW = 1_800_000_000  # 20270115T080000Z
OTHER = "SHC12900019"
LAPTOP = Laptop(SERIAL, UUID, group="5B", name="Ana")


@dataclass
class HandClock:
    """A clock that goes when it is told to (``ports.Clock``)."""

    time: int = NOW
    slept: list[float] = field(default_factory=list)

    def now(self) -> int:
        return self.time

    def boottime(self) -> float:
        return self.time + sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def make_site(
    path: Path, *, clock: HandClock | None = None, keys: tuple[str, ...] = ()
) -> Site:
    """Make a site in ``path / "site"`` with the test keys."""
    create_site(path / "site", "Escuela 1")
    site = Site(path / "site", clock or HandClock())
    for role in keys or ("oats", "lease"):
        signing.store_private(site.keys / f"{role}.private", signer(role))
        (site.keys / f"{role}.public").write_bytes(signer(role).public)
    return site


def settle(site: Site, text: str) -> None:
    """Say something in site.toml, over what is there."""
    lines = (site.path / "site.toml").read_text().splitlines()
    names = {line.split("=")[0].strip() for line in text.splitlines() if "=" in line}
    kept = [line for line in lines if line.split("=")[0].strip() not in names]
    top, _, lease = "\n".join(kept).partition("[lease]")
    plain, _, more = text.partition("[lease]")
    path = site.path / "site.toml"
    text = f"{top}\n{plain}\n[lease]\n{lease}\n{more}\n"
    replace_file(path, text.encode())


def list_laptops(site: Site, *laptops: Laptop) -> None:
    """Let the site know these laptops and no others."""
    site.save_laptops({laptop.serial: laptop for laptop in laptops})


def assign(site: Site, scope: Scope, assignment: Assignment | None) -> None:
    """Assign a build, published or not."""
    site.save_rollout(with_assignment(site.rollout_text(), scope, assignment))


def add_build(site: Site, name: str, files: Mapping[str, bytes] | None = None) -> bytes:
    """Publish a tree of plain files by hand, and return its manifest."""
    files = files or {"etc/issue": f"build {name}\n".encode()}
    directories = {""}
    for path in files:
        parts = path.split("/")[:-1]
        directories |= {"/".join(parts[: end + 1]) for end in range(len(parts))}
    entries = [_directory(path) for path in directories]
    entries += [_file(path, data) for path, data in files.items()]
    entries.sort(key=lambda entry: entry.path)
    size = sum(map(len, files.values()))
    header = Header(BuildId(name), entries=len(entries), files=len(files), bytes=size)
    manifest = encode_header(header) + b"".join(map(encode_entry, entries))
    place = site.builds / name
    for path, data in files.items():
        (place / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (place / "root" / path).write_bytes(data)
    (place / "contents").write_bytes(manifest)
    return manifest


def _directory(path: str) -> Entry:
    raw = parse_path(path.encode())
    return Entry(raw, Kind.DIRECTORY, 0o755, 0, 0, NOW * 10**9)


def _file(path: str, data: bytes) -> Entry:
    return Entry(
        parse_path(path.encode()),
        Kind.FILE,
        0o644,
        0,
        0,
        NOW * 10**9,
        size=len(data),
        digest=sha256(data).digest(),
    )
