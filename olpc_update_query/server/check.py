"""Everything about a site that a person should look at."""

import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache, partial
from typing import NamedTuple

from olpc_update_query.errors import (
    DamagedSite,
    Malformed,
    NotPermitted,
    SiteError,
    TrustError,
    UpdateError,
)
from olpc_update_query.model.manifest import MAX_HEADER, parse_header
from olpc_update_query.model.pack import read_pack_index
from olpc_update_query.model.wire import BuildId, format_time
from olpc_update_query.run.places import ORDER
from olpc_update_query.server.above import NOBODY, above_ring, outlived
from olpc_update_query.server.changelog import FILE
from olpc_update_query.server.delegating import prove
from olpc_update_query.server.delegations import Delegation, SiteKey, file_name
from olpc_update_query.server.keys import (
    above_path,
    load_key,
    load_site_key,
    own_keys,
    private_path,
    public_path,
    site_ring,
)
from olpc_update_query.server.leases import EARLIEST
from olpc_update_query.server.ownership import user_name
from olpc_update_query.server.replacing import missing
from olpc_update_query.server.rollout import Kind, Rollout, Scope
from olpc_update_query.server.site import Site
from olpc_update_query.trust.answer import open_order
from olpc_update_query.trust.keys import KeyRing, Role

_NEW_DELEGATIONS = (
    "Have new ones made there, by `keys delegate`, and `keys accept` them here."
)
_BESIDE_PACK = ("contents.zst", "pack.index", "pack.index.zst")


class Weight(StrEnum):
    """How bad it is."""

    ERROR = "error"
    WARNING = "warning"


class Finding(NamedTuple):
    """Something to look at.

    Attributes:
        weight: An error keeps laptops from their leases or builds.
        where: The file or thing.
        text: What is wrong with it.
        mend: What to do about it; empty where the text says it.
    """

    weight: Weight
    where: str
    text: str
    mend: str = ""


def check_site(site: Site, now: int, *, thoroughly: bool = False) -> list[Finding]:
    """Look at everything in a site.

    Args:
        site: The site.
        now: The present.
        thoroughly: Whether every byte of every pack is proven, which takes minutes.

    Returns:
        What was found, nothing when all is well.
    """
    found = [*_check_clock(now), *_check_owners(site)]
    sound = True
    files = (site.settings, site.laptops, site.rollout)
    for read in (*files, site.statements, site.above_statements):
        fault = _fault(read)
        found += fault
        sound = sound and not fault
    for role in Role:
        found += _check_key(site, role)
        found += _check_delegations(site, role, now)
    for name in site.build_names():
        found += _check_build(site, name)
        found += _prove_build(site, name) if thoroughly else ()
    found += _check_strays(site)
    if sound:
        found += _check_laptops(site)
        found += _check_rules(site)
        found += _check_rollout(site, site.rollout())
    return list(dict.fromkeys(found))


def _check_owners(site: Site) -> Iterator[Finding]:
    """Look for what only its owner can use, and who serves the site is not."""
    owner = os.stat(site.path).st_uid
    private = (FILE, "reports.db*", "keys", "keys/*.private", "builds", "builds/[!.]*")
    for path in sorted(path for kind in private for path in site.path.glob(kind)):
        found = os.lstat(path).st_uid
        if found != owner:
            text = (
                f"it belongs to {user_name(found)}, and the site to {user_name(owner)}"
            )
            mend = f"As root: `chown {user_name(owner)} {path}`."
            yield Finding(Weight.ERROR, str(path), text, mend)


def _check_clock(now: int) -> Iterator[Finding]:
    if now < EARLIEST:
        text = f"it shows {format_time(now)}: no leases are signed until it is set"
        yield Finding(Weight.ERROR, "this server's clock", text)


def _fault(read: Callable[[], object]) -> list[Finding]:
    try:
        read()
    except UpdateError as error:
        return [_finding(error)]
    return []


def _finding(error: UpdateError) -> Finding:
    if isinstance(error, NotPermitted):
        text = "this user may not use it"
        return Finding(Weight.ERROR, error.path, text, "Ask as the site's owner.")
    where, _, text = str(error).partition(": ")
    hint = "" if error.advice == SiteError.advice else error.hint() or ""
    return Finding(Weight.ERROR, where, text, hint)


def _check_key(site: Site, role: Role) -> Iterator[Finding]:
    try:
        signer = load_key(site, role)
    except UpdateError as error:
        yield _finding(error)
        return
    path = public_path(site, role)
    if not path.exists():
        text = "is missing; `olpc-update-admin keygen` makes it anew"
        yield Finding(Weight.WARNING, str(path), text)
    elif all(key.der != signer.public for key in site_ring(site)):
        text = f"does not belong to {private_path(site, role).name}"
        yield Finding(Weight.ERROR, str(path), text)


def _check_delegations(site: Site, role: Role, now: int) -> Iterator[Finding]:
    """Look whether what a higher site has delegated serves the laptops here."""
    name = file_name(role)
    try:
        key = load_site_key(site, role)
        site.laptops()
    except UpdateError as error:
        if isinstance(error, DamagedSite):
            yield _finding(error)
        return
    if not (site.keys / name).exists():
        return
    if outlived(site, role):
        text = "it is by a key that the higher site has retired"
        yield Finding(Weight.ERROR, name, text, _NEW_DELEGATIONS)
    else:
        yield from _check_each(site, role, key, now)


def _check_each(site: Site, role: Role, key: SiteKey, now: int) -> Iterator[Finding]:
    name, is_known = file_name(role), above_path(site, role).exists()
    ring = cache(partial(above_ring, site))
    yield from _check_ends(name, key, now)
    for laptop in site.laptops().values():
        one = key.delegations.get(laptop.serial)
        if one is None:
            yield Finding(Weight.WARNING, name, f"it has none for {laptop.serial}")
        elif one.expiry <= now:
            text = f"that for {laptop.serial} has ended"
            yield Finding(Weight.ERROR, name, text)
        elif laptop.uuid is not None and laptop.uuid != one.uuid:
            text = f"{laptop.serial} has another UUID in it than in laptops.csv"
            yield Finding(Weight.ERROR, name, text)
        elif is_known:
            yield from _prove(role, one, key.signer.public, ring, now)


def _check_ends(name: str, key: SiteKey, now: int) -> Iterator[Finding]:
    soon = key.ending(now)
    if soon is not None:
        text = f"{soon.number} of {soon.whole} end from {format_time(soon.first)} on"
        yield Finding(Weight.WARNING, name, text, _NEW_DELEGATIONS)


def _prove(
    role: Role, one: Delegation, key: bytes, ring: Callable[[], KeyRing], now: int
) -> Iterator[Finding]:
    try:
        prove(one, role, key, ring(), now)
    except UpdateError as error:
        yield Finding(Weight.ERROR, file_name(role), str(error))


def _check_build(site: Site, name: BuildId) -> Iterator[Finding]:
    where = f"build {name}"
    try:
        with open(site.builds / name / "contents", "rb") as file:
            header = parse_header(file.readline(MAX_HEADER + 1))
    except Malformed as error:
        text = f"contents: {error.reason}"
        yield Finding(Weight.ERROR, where, text, _again(site, name))
        return
    if header.build != name:
        text = f"its manifest says that it is build {header.build}"
        yield Finding(Weight.ERROR, where, text, _again(site, name))
    yield from _check_files(site, name)


def _check_files(site: Site, name: BuildId) -> Iterator[Finding]:
    """Look whether the files of a build are there, and how long its pack is."""
    where, place = f"build {name}", site.builds / name
    again = _again(site, name)
    if not (place / "pack").exists():
        if not (place / "root").exists():
            text = "it has neither pack nor root/"
            yield Finding(Weight.ERROR, where, text, again)
        return
    absent = [file for file in _BESIDE_PACK if not (place / file).exists()]
    for file in absent:
        yield Finding(Weight.ERROR, where, f"{file} is missing", again)
    if absent:
        return
    try:
        with open(place / "pack.index", "rb") as index:
            length = read_pack_index(index)[0].length
    except Malformed as error:
        yield Finding(Weight.ERROR, where, f"pack.index: {error.reason}", again)
    else:
        if (place / "pack").stat().st_size != length:
            text = "pack is not as long as its index says"
            yield Finding(Weight.ERROR, where, text, again)
    yield from _check_order(site, name)


def _check_order(site: Site, name: BuildId) -> Iterator[Finding]:
    """Look at the order beside a build: schools below and `olpc-update` ask for it."""
    where, path = f"build {name}", site.builds / name / ORDER
    try:
        ring = KeyRing([*own_keys(site, Role.OATS), *above_ring(site)])
        signed = open_order(path.read_bytes(), ring=ring, serial=NOBODY, now=0)
    except DamagedSite:
        return  # that file is named by itself
    except FileNotFoundError:
        text = "it has no signed order: no school below can fetch it, nor `olpc-update`"
        yield Finding(Weight.WARNING, where, text, _again(site, name))
    except TrustError as error:
        yield Finding(Weight.ERROR, where, str(error), _again(site, name))
    else:
        found = site.find_build(name)
        if found is not None and signed.order.contents != found.contents:
            text = "its signed order is for another manifest"
            yield Finding(Weight.ERROR, where, text, _again(site, name))


def _again(site: Site, name: BuildId) -> str:
    """Say how a damaged build is replaced, whether laptops are told of it or not."""
    place = site.builds / name
    return f"Delete {place}, then publish it again or fetch it with `mirror`."


def _check_strays(site: Site) -> Iterator[Finding]:
    for name in missing(site.builds):
        text = "replacing it was cut short, and no laptop can fetch it"
        mend = "Start `serve` or `mirror`: either puts it back."
        yield Finding(Weight.ERROR, f"build {name}", text, mend)
    known = {str(name) for name in site.build_names()}
    for path in sorted(site.builds.glob("[!.]*")):
        if path.name not in known:
            text = "is no build: it has no manifest, and no laptop is told of it"
            mend = "Delete it, or publish it again."
            yield Finding(Weight.WARNING, str(path), text, mend)


def _prove_build(site: Site, name: BuildId) -> Iterator[Finding]:
    from olpc_update_query.server.verify import check_build

    try:
        checked = check_build(site.builds / name)
    except FileNotFoundError:
        return  # `_check_files` names what is missing
    except OSError as error:
        text = f"{error.filename or 'its files'}: {error.strerror}"
        mend = "Look who may read it, and whether the disk is failing."
        yield Finding(Weight.ERROR, f"build {name}", text, mend)
        return
    except UpdateError as error:
        mend = _again(site, name)
        yield Finding(Weight.ERROR, f"build {name}", str(error), mend)
        return
    for delta in checked.unproven:
        text = f"its delta from {delta} cannot be proven, because {delta} is not here"
        yield Finding(Weight.WARNING, f"build {name}", text)


def _check_laptops(site: Site) -> Iterator[Finding]:
    laptops = site.laptops()
    if not laptops:
        yield Finding(Weight.WARNING, "laptops.csv", "no laptop is listed")
    settings = site.settings()
    without = [
        laptop.serial
        for laptop in laptops.values()
        if laptop.uuid is None and settings.lease_policy_for(laptop).days
    ]
    if without:
        text = f"{len(without)} laptops have no uuid and get no lease"
        yield Finding(Weight.WARNING, "laptops.csv", f"{text}, such as {without[0]}")


def _check_rules(site: Site) -> Iterator[Finding]:
    laptops = site.laptops().values()
    used = {Scope(Kind.GROUP, laptop.group or "") for laptop in laptops}
    used |= {Scope(Kind.STREAM, laptop.stream or "") for laptop in laptops}
    for scope in sorted(site.settings().lease_rules.keys() - used):
        text = f"it says how long leases last for {scope}, in which no laptop is"
        yield Finding(Weight.WARNING, "site.toml", text)


def _check_rollout(site: Site, rollout: Rollout) -> Iterator[Finding]:
    if not rollout.assignments:
        text = "nothing is assigned: no laptop is told to update"
        yield Finding(Weight.WARNING, "rollout.toml", text)
    for name in sorted(rollout.builds()):
        if site.find_build(name) is None:
            text = f"build {name} is assigned but not published"
            mend = "Publish it or fetch it with `mirror`, or `assign` another."
            yield Finding(Weight.ERROR, "rollout.toml", text, mend)
    groups = {laptop.group for laptop in site.laptops().values()}
    for scope in sorted(rollout.assignments):
        if scope.kind is Kind.GROUP and scope.name not in groups:
            text = f"no laptop is in {scope}"
            yield Finding(Weight.WARNING, "rollout.toml", text)
        if scope.kind is Kind.SERIAL and scope.name not in site.laptops():
            text = f"{scope} is not in laptops.csv"
            yield Finding(Weight.WARNING, "rollout.toml", text)
