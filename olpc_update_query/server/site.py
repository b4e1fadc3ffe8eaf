"""A site: the directory of readable files that the administrator works on.

::

    site.toml      its name, its addresses, how often laptops ask, how long leases last
    laptops.csv    the laptops
    rollout.toml   which laptop gets which build
    keys/          the private keys and the public ones that belong to them
    builds/        the published builds, one directory each
    reports.db     who asked when, and what they said
    changes.log    who changed what

Whoever changes a file holds the site's lock meanwhile and replaces the file whole, so
that several commands and the server can work on one site at a time.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query.errors import Busy, DamagedSite, Malformed, NoSite, UnknownBuild
from olpc_update_query.model.hashcash import MAX_BITS
from olpc_update_query.model.wire import (
    BuildId,
    Sha256,
    parse_build_id,
    parse_url,
)
from olpc_update_query.ports import Clock
from olpc_update_query.server.changelog import recorded
from olpc_update_query.server.laptops import Laptop, parse_laptops, write_laptops
from olpc_update_query.server.leasepolicy import (
    LeasePolicy,
    Rules,
    choose,
    parse_timezone,
    read_policy,
    read_rules,
)
from olpc_update_query.server.ownership import hand_over
from olpc_update_query.server.rollout import Rollout, parse_rollout
from olpc_update_query.server.rollout_text import EMPTY
from olpc_update_query.server.rotations import ABOVE_FILE, FILE, Made, parse_statements
from olpc_update_query.server.tables import read_table
from olpc_update_query.server.watch import Signature, Watched, signature
from olpc_update_query.system.files import (
    disk_errors,
    hold_lock,
    remove_leftovers,
    replace_file,
)

MIN_INTERVAL: Final = 15 * 60
MAX_INTERVAL: Final = 30 * 24 * 3600
DAY: Final = 24 * 3600

_LOCK_PATIENCE: Final = 10.0
_LOST: Final = {
    "laptops.csv": "echo serial,uuid > SITE/laptops.csv",
    "rollout.toml": "touch SITE/rollout.toml",
}
"""What makes the files anew that every site has."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class Unknown(StrEnum):
    """What a laptop that is not in laptops.csv is told.

    ``answer`` treats it like the others, but it gets no lease; ``list`` tells it that
    it is not listed, and shows it to the administrator; ``ignore`` tells it nothing.
    """

    ANSWER = "answer"
    LIST = "list"
    IGNORE = "ignore"


class Audience(StrEnum):
    """Who may see the status page: it names laptops and their addresses."""

    PRIVATE = "private"
    EVERYONE = "everyone"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Settings:
    """What site.toml says.

    Attributes:
        name: The site's name, for people.
        public_url: Where laptops reach this server; None: as they called it.
        rsync_url: Where its rsync daemon is reached, if there is one.
        mirrors: Other directories that hold the builds.
        interval: Seconds between a laptop's queries.
        unknown: What a laptop that is not listed is told.
        message: Shown on every laptop's status.
        timezone: Where the school is, by the IANA database: leases end in the morning.
        lease_days: How long a lease lasts; 0: this site gives none.
        shorten: Whether a laptop whose lease ends later than that gets a shorter one.
        lease_rules: The same for groups and streams that have their own.
        status_page: Who may see the status page.
        hashcash_bits: How much work a query needs to be answered; 0: none.
        behind_proxies: How many reverse proxies stand before the server.
        reports_url: Another database than reports.db.
    """

    name: str
    public_url: str | None = None
    rsync_url: str | None = None
    mirrors: tuple[str, ...] = ()
    interval: int = DAY
    unknown: Unknown = Unknown.ANSWER
    message: str | None = None
    timezone: str = "UTC"
    lease_days: int = 21
    shorten: bool = False
    lease_rules: Rules = field(default_factory=dict)
    status_page: Audience = Audience.PRIVATE
    hashcash_bits: int = 0
    behind_proxies: int = 0
    reports_url: str | None = None

    @property
    def lease_policy(self) -> LeasePolicy:
        """The policy of laptops whose group and stream have none."""
        return LeasePolicy(self.lease_days, self.shorten)

    def lease_policy_for(self, laptop: Laptop) -> LeasePolicy:
        """Return what leases a laptop gets."""
        return choose(laptop, self.lease_policy, self.lease_rules)[1]


def parse_settings(data: bytes) -> Settings:
    """Read site.toml.

    Raises:
        DamagedSite: It does not follow the format; the key is named.
    """
    top = read_table(data, "site.toml")
    name = top.text("name")
    if name is None:
        raise top.fault("name", "is missing")
    plain = Settings(name)
    lease = top.table("lease") or read_table(b"", "site.toml")
    policy = read_policy(lease, plain.lease_policy)
    found = Settings(
        name=name,
        public_url=top.parsed("public_url", _parse_web),
        rsync_url=top.parsed("rsync_url", _parse_rsync),
        mirrors=top.listed("mirrors", parse_url),
        interval=top.integer("interval", MIN_INTERVAL, MAX_INTERVAL) or plain.interval,
        unknown=top.choice("unknown", Unknown, plain.unknown),
        message=top.text("message", limit=500),
        timezone=top.parsed("timezone", parse_timezone) or plain.timezone,
        lease_days=policy.days,
        shorten=policy.shorten,
        lease_rules=read_rules(lease, policy),
        status_page=top.choice("status_page", Audience, plain.status_page),
        hashcash_bits=top.integer("hashcash_bits", 0, MAX_BITS) or 0,
        behind_proxies=top.integer("behind_proxies", 0, 9) or 0,
        reports_url=top.text("reports_url", limit=1000),
    )
    top.end()
    lease.end()
    return found


def _parse_web(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise Malformed("URL", "is no http or https URL")
    return parse_url(text)


def _parse_rsync(text: str) -> str:
    if not text.startswith("rsync://"):
        raise Malformed("URL", "is no rsync URL")
    return parse_url(text)


class PublishedBuild(NamedTuple):
    """A build in the site.

    Attributes:
        build: Its name.
        path: Its directory.
        contents: Digest of its manifest.
        size: Bytes of its manifest.
        has_root: Whether the plain tree lies there too.
    """

    build: BuildId
    path: Path
    contents: Sha256
    size: int
    has_root: bool


class View(NamedTuple):
    """What a site says at one moment.

    Attributes:
        settings: site.toml.
        laptops: laptops.csv by serial number.
        rollout: rollout.toml.
        builds: The builds that were asked for, None for those that are not there.
    """

    settings: Settings
    laptops: Mapping[str, Laptop]
    rollout: Rollout
    builds: dict[BuildId, PublishedBuild | None]


class Site:
    """A site on disk. Reading is always fresh; changing is done by ``change``.

    Args:
        path: Its directory.
        clock: For waiting on the lock and for the log of changes.

    Raises:
        NoSite: There is no site.toml.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self._clock = path, clock
        if not (path / "site.toml").is_file():
            raise NoSite(str(path), "is no site: it has no site.toml")
        self._settings = Watched(path / "site.toml", _settings_of)
        self._laptops = Watched(path / "laptops.csv", _laptops_of)
        self._rollout = Watched(path / "rollout.toml", _rollout_of)
        self._statements = Watched(self.keys / FILE, parse_statements)
        parse_above = partial(parse_statements, where=ABOVE_FILE)
        self._above = Watched(self.keys / ABOVE_FILE, parse_above)
        self._manifests: dict[BuildId, Watched[tuple[Sha256, int] | None]] = {}
        self._seen: tuple[int, Signature | None, Signature | None] | None = None
        self._view: View | None = None

    @property
    def keys(self) -> Path:
        """The directory of the keys."""
        return self.path / "keys"

    @property
    def builds(self) -> Path:
        """The directory of the builds."""
        return self.path / "builds"

    @property
    def reports(self) -> Path | str:
        """The file of the reports, or the URL of their database."""
        return self.settings().reports_url or self.path / "reports.db"

    def settings(self) -> Settings:
        """Return what site.toml says.

        Raises:
            DamagedSite: It is malformed, and was since the program started.
        """
        return self._settings.get()

    def laptops(self) -> Mapping[str, Laptop]:
        """Return the laptops by serial number.

        Raises:
            DamagedSite: laptops.csv is malformed, and was since the program started.
        """
        return self._laptops.get()

    def rollout(self) -> Rollout:
        """Return the assignments.

        Raises:
            DamagedSite: rollout.toml is malformed, and was since the program started.
        """
        return self._rollout.get()

    def statements(self) -> tuple[Made, ...]:
        """Return the statements about keys.

        Raises:
            DamagedSite: keys/keys.sig is malformed, and was since the program started.
        """
        return self._statements.get()

    def above_statements(self) -> tuple[Made, ...]:
        """Return the statements about keys of the site above this one.

        Raises:
            DamagedSite: keys/above-keys.sig is malformed, and was since the start.
        """
        return self._above.get()

    def view(self, now: int) -> View:
        """Return all of that at once, for the cost of looking at two directories.

        A file that is replaced, as every program of ours does, is noticed at once,
        one that is written in place when the clock's second changes.

        Args:
            now: The present.

        Raises:
            DamagedSite: A file is malformed, and was since the program started.
        """
        seen = (now, signature(self.path), signature(self.builds))
        view = self._view
        if view is None or seen != self._seen:
            view = View(
                self.settings(),
                self.laptops(),
                self.rollout(),
                {},
            )
            self._view, self._seen = view, seen
        return view

    def problems(self) -> list[str]:
        """Return what has been damaged since it was read, one sentence each."""
        watched = (
            *(self._settings, self._laptops, self._rollout),
            *(self._statements, self._above),
        )
        return [str(one.problem) for one in watched if one.problem is not None]

    def build_names(self) -> list[BuildId]:
        """Return the names of the published builds, sorted."""
        try:
            found = os.listdir(self.builds)
        except FileNotFoundError:
            return []
        return [
            parse_build_id(name)
            for name in sorted(found)
            if _NAME.fullmatch(name) and (self.builds / name / "contents").is_file()
        ]

    def find_build(self, build: BuildId) -> PublishedBuild | None:
        """Return a published build, None when there is none of that name."""
        path = self.builds / build
        watched = self._manifests.get(build)
        if watched is None:
            watched = Watched(path / "contents", _digest_of)
            self._manifests[build] = watched
        found = watched.get()
        if found is None:
            return None
        return PublishedBuild(build, path, *found, (path / "root").is_dir())

    def need_build(self, build: BuildId) -> PublishedBuild:
        """Return a published build.

        Raises:
            UnknownBuild: There is none of that name.
        """
        found = self.find_build(build)
        if found is None:
            raise UnknownBuild(build, ", ".join(self.build_names()))
        return found

    @contextlib.contextmanager
    def change(self, who: str, what: str) -> Iterator[None]:
        """Hold the site's lock while the block changes files; first log the change.

        Args:
            who: Who changes it.
            what: What is changed, in a few words.

        Raises:
            Busy: Another command has held the lock for ten seconds.
            NotPermitted: The site belongs to somebody else.
        """
        with disk_errors(self.path), self._locked(what), self.recorded(who, what):
            for place in (self.path, self.keys):
                remove_leftovers(place)
            yield
            hand_over(self.path, [*self.path.iterdir(), *self.keys.glob("*")])

    def recorded(self, who: str, what: str) -> AbstractContextManager[None]:
        """Log a change that the block makes, which holds a lock of its own.

        Args:
            who: Who changes it.
            what: What is changed, in a few words.

        Raises:
            NoSpace, NotPermitted, DiskFailed: It cannot be logged; nothing is done.
        """
        return recorded(self.path, self._clock, who, what)

    @contextlib.contextmanager
    def _locked(self, purpose: str) -> Iterator[None]:
        until = self._clock.boottime() + _LOCK_PATIENCE
        while True:
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(
                        hold_lock(self.path / ".lock", purpose, mode=0o644)
                    )
                except Busy:
                    if self._clock.boottime() >= until:
                        raise
                else:
                    yield
                    return
            self._clock.sleep(0.02)

    def save_laptops(self, laptops: Mapping[str, Laptop]) -> None:
        """Replace laptops.csv; only inside ``change``."""
        replace_file(self.path / "laptops.csv", write_laptops(laptops))

    def rollout_text(self) -> str:
        """Return the text of rollout.toml, for editing inside ``change``."""
        try:
            return (self.path / "rollout.toml").read_text(encoding="utf-8")
        except FileNotFoundError:
            return EMPTY

    def settings_text(self) -> str:
        """Return the text of site.toml, for editing inside ``change``."""
        return (self.path / "site.toml").read_text(encoding="utf-8")

    def save_settings(self, text: str) -> None:
        """Replace site.toml; only inside ``change``."""
        replace_file(self.path / "site.toml", text.encode())

    def save_rollout(self, text: str) -> None:
        """Replace rollout.toml; only inside ``change``."""
        replace_file(self.path / "rollout.toml", text.encode())


def _settings_of(data: bytes | None) -> Settings:
    if data is None:
        raise NoSite("site.toml", "is gone")
    return parse_settings(data)


def _laptops_of(data: bytes | None) -> Mapping[str, Laptop]:
    return parse_laptops(_there(data, "laptops.csv"))


def _rollout_of(data: bytes | None) -> Rollout:
    return parse_rollout(_there(data, "rollout.toml"))


def _there(data: bytes | None, name: str) -> bytes:
    """Insist on a file that every site has: what is lost must not pass for empty."""
    if data is None:
        mend = f"Bring it back from your backup; if there is none, `{_LOST[name]}`."
        raise DamagedSite(name, "is missing", mend)
    return data


def _digest_of(data: bytes | None) -> tuple[Sha256, int] | None:
    if data is None:
        return None
    return Sha256(hashlib.sha256(data).hexdigest()), len(data)
