"""One query, one signed answer.

Everything that the answer depends on is kept in memory and read again when its file
changes; what is left to do for each query is one RSA signature.
"""

import contextlib
import logging
import threading
from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from typing import Final

from olpc_update_query.errors import (
    DamagedSite,
    MissingKey,
    UnsafeKey,
    UpdateError,
)
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Answer, Query
from olpc_update_query.model.orders import Order
from olpc_update_query.model.wire import BuildId
from olpc_update_query.ports import Clock
from olpc_update_query.server import signing
from olpc_update_query.server.above import HandedOn
from olpc_update_query.server.halt import Brake
from olpc_update_query.server.keys import LoadedKey
from olpc_update_query.server.laptops import Laptop, normal_serial
from olpc_update_query.server.leases import Leases, reported_expiry
from olpc_update_query.server.records import Attempt, Poll
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rollout import Assignment
from olpc_update_query.server.rotations import needed
from olpc_update_query.server.site import (
    PublishedBuild,
    Settings,
    Site,
    Unknown,
    View,
)
from olpc_update_query.trust.keys import Role

_log = logging.getLogger(__name__)

_MAX_URLS: Final = 16
_REMEMBERED: Final = 10_000
"""Laptops whose last report is remembered."""


class Answerer:
    """Answers queries for a site.

    Args:
        site: The site.
        reports: Where polls and leases are kept.
        clock: The present.
    """

    def __init__(self, site: Site, reports: Reports, clock: Clock) -> None:
        self._site, self._reports, self._clock = site, reports, clock
        self._leases = Leases(reports)
        self._oats = LoadedKey(site, Role.OATS)
        self._lease = LoadedKey(site, Role.LEASE)
        self._statements = HandedOn(site)
        self._brake = Brake(site, reports, clock)
        self._warned: set[str] = set()
        self._said: OrderedDict[str, tuple[Attempt | None, Json]] = OrderedDict()
        self._remembering = threading.Lock()

    def warm_up(self) -> None:
        """Read the keys, which takes a while, before the first laptop asks."""
        for key in (self._oats, self._lease):
            with contextlib.suppress(UpdateError):  # told to whoever asks
                key.get(self._clock.now())

    def answer(self, body: bytes, *, base: str, address: str) -> bytes | None:
        """Answer a query.

        1. The query is well-formed.
        2. The laptop is listed, or the site answers others too.
        3. A stolen laptop is told so, and nothing else.
        4. A lease, if it needs one.
        5. The build it should run, if it runs another one.
        6. One signature. What the query reports for the first time is on the disk by
           then.
        7. A report of a failure may halt the rollout.

        Args:
            body: The form that was posted.
            base: This server as the laptop called it, with a final slash.
            address: Where the laptop is.

        Returns:
            The signed answer; None when this laptop gets none.

        Raises:
            Malformed: The query is not well-formed.
            MissingKey: The site cannot sign.
            UnsafeKey: It must not.
        """
        query = Query.decode(body)
        now = self._clock.now()
        view = self._site.view(now)
        laptop = view.laptops.get(normal_serial(query.serial))
        if laptop is None and view.settings.unknown is Unknown.IGNORE:
            return None
        signer = self._oats.get(now)
        answer = self._compose(query, laptop, view, now, base)
        poll = _poll(query, laptop, answer, now, address)
        confirm = query.report is not None and self._is_news(poll)
        ticket = self._reports.record(poll, confirm=confirm)
        serial = query.serial if laptop is None else laptop.serial
        signed = signing.make_answer(answer, signer.sign_for(serial, now))
        if confirm:
            self._reports.wait(ticket)
        if poll.attempt is not None and poll.listed:
            self._brake.consider(poll.attempt)
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s at %s: %s", query.serial, address, _told(query, answer))
        return signed

    def _is_news(self, poll: Poll) -> bool:
        """Tell whether a report says what the last one of this laptop did not.

        Laptops repeat theirs with each query; that one is on the disk.
        """
        report = poll.report or {}
        said = poll.attempt, report.get("result")
        with self._remembering:
            if self._said.get(poll.serial) == said:
                return False
            self._said[poll.serial] = said
            self._said.move_to_end(poll.serial)
            if len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)
        return True

    def answer_port(self, asked: bytes) -> bytes:
        """Answer on port 191, where the initramfs asks for a lease.

        Args:
            asked: The serial number.

        Returns:
            A lease, the word ``STOLEN``, or nothing.
        """
        now = self._clock.now()
        try:
            view = self._site.view(now)
            serial = normal_serial(asked.decode("ascii").removesuffix("\n"))
            laptop = view.laptops.get(serial)
            if laptop is None:
                return b""
            if laptop.stolen:
                return b"STOLEN"
            lease = self._leases.current(
                laptop, view.settings, self._lease.get(now), now
            )
        except (UpdateError, UnicodeDecodeError) as error:
            _log.warning("port 191: %s", error)
            return b""
        return b"" if lease is None else lease.line.encode()

    def _compose(
        self,
        query: Query,
        laptop: Laptop | None,
        view: View,
        now: int,
        base: str,
    ) -> Answer:
        settings, made = view.settings, self._statements.get(now)
        keys = needed(made, query.keys)
        plain = Answer(query.nonce, now, interval=settings.interval, keys=keys)
        if laptop is None and settings.unknown is Unknown.LIST:
            message = f"This laptop is not on the list of {settings.name}."
            return replace(plain, message=message)
        if laptop is not None and laptop.stolen:
            return replace(plain, stolen=True)
        return replace(
            plain,
            lease=self._lease_for(laptop, query, settings, now),
            update=self._order_for(laptop, query, view, now, base),
            message=settings.message,
        )

    def _lease_for(
        self, laptop: Laptop | None, query: Query, settings: Settings, now: int
    ) -> str | None:
        if laptop is None or laptop.uuid is None:
            return None
        if not settings.lease_policy_for(laptop).days:
            return None
        try:
            signer = self._lease.get(now)
        except (MissingKey, UnsafeKey, DamagedSite) as error:
            self._warn(f"no lease can be signed: {error}")
            return None
        lease = self._leases.due(laptop, query, settings, signer, now)
        return None if lease is None else lease.line

    def _order_for(
        self, laptop: Laptop | None, query: Query, view: View, now: int, base: str
    ) -> Order | None:
        group, stream = None, query.stream
        if laptop is not None:
            group, stream = laptop.group, laptop.stream or stream
        serial = query.serial if laptop is None else laptop.serial
        choice = view.rollout.choose(serial, group, stream, now)
        build, assignment = choice.build, choice.assignment
        if build is None or assignment is None or build == query.build:
            return None
        published = self._published(build, view)
        if published is None:
            self._warn(f"build {build} is assigned but not published")
            return None
        return make_order(published, assignment, view.settings, base)

    def _published(self, build: BuildId, view: View) -> PublishedBuild | None:
        if build not in view.builds:
            view.builds[build] = self._site.find_build(build)
        return view.builds[build]

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 1000:
            self._warned.add(text)
            _log.warning("%s", text)


def _told(query: Query, answer: Answer) -> str:
    """Return an answer in words, for the log."""
    words = [f"runs {query.build or 'an unknown build'}"]
    if answer.stolen:
        words.append("told that it is stolen")
    if answer.lease is not None:
        words.append("given a lease")
    if answer.update is not None:
        words.append(f"told to run {answer.update.build}")
    return ", ".join(words)


def _poll(
    query: Query, laptop: Laptop | None, answer: Answer, now: int, address: str
) -> Poll:
    return Poll(
        serial=query.serial if laptop is None else laptop.serial,
        asked=now,
        address=address,
        listed=laptop is not None,
        build=query.build,
        stream=query.stream,
        lease_expiry=reported_expiry(query),
        ordered=None if answer.update is None else answer.update.build,
        stolen=answer.stolen,
        report=query.report,
    )


def make_order(
    build: PublishedBuild, assignment: Assignment, settings: Settings, base: str
) -> Order:
    """Return the order to install a build.

    Args:
        build: The build.
        assignment: How it is assigned.
        settings: Where builds can be fetched.
        base: This server as the laptop called it, with a final slash.
    """
    return Order(
        build=build.build,
        contents=build.contents,
        size=build.size,
        urls=build_urls(build, settings, base),
        allow_downgrade=assignment.allow_downgrade,
        not_before=assignment.not_before,
        reboot=assignment.reboot,
        sticky=assignment.sticky,
    )


def build_urls(build: PublishedBuild, settings: Settings, base: str) -> tuple[str, ...]:
    """Return where a build can be fetched: here, from mirrors, by rsync."""
    own = _directory(settings.public_url or base)
    urls = [f"{own}builds/{build.build}/"]
    urls += [f"{_directory(mirror)}{build.build}/" for mirror in settings.mirrors]
    if settings.rsync_url is not None and build.has_root:
        urls.append(f"{_directory(settings.rsync_url)}build-{build.build}/")
    return tuple(urls[:_MAX_URLS])


@lru_cache(64)
def _directory(url: str) -> str:
    return url if url.endswith("/") else f"{url}/"
