"""The asker's side of a query: ask, verify, remember, draw the next due time."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.hashcash import (
    MAX_BITS,
    STATUS,
    Challenge,
    credentials,
    mint,
    parse_challenge,
)
from olpc_update_query.model.messages import MAX_ANSWER, Query, format_time
from olpc_update_query.policy.gates import HeldBack, draw_reopening
from olpc_update_query.policy.schedule import DAY, draw_next, draw_retry
from olpc_update_query.ports import Reply, Transport
from olpc_update_query.report import (
    Answered,
    Asking,
    Report,
    Unanswered,
    never_in_the_way,
)
from olpc_update_query.run.machine import Machine, network
from olpc_update_query.run.memory import Memory, recall, remember
from olpc_update_query.system.host import boot_id, draw_nonce
from olpc_update_query.system.network import proxies_for
from olpc_update_query.system.proxy_script import proxy_script
from olpc_update_query.trust.answer import TrustedAnswer, open_answer
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.lease import find_lease

PATH = "antitheft/1/"
TOO_MANY_REQUESTS = 429
LONGEST_REMARK = 100
LONGEST_WORK = 30  # seconds, by a clock that goes on in suspend
PORTAL_SAYS = 511  # Network Authentication Required: an honest portal
_MARKUP = re.compile(
    rb"<(!doctype|!--|/?(html|head|body|script|iframe|meta|link|style|div|img)\b)",
    re.IGNORECASE,
)

_UNPAID = "it took the hashcash and gave no answer"
_PUNCTUATION = dict.fromkeys(map(ord, "TZ"))


class Replied(NamedTuple):
    """What came of a query.

    Attributes:
        server: Number of the server that answered, among those configured.
        trusted: The answer.
        sent: Bytes sent to all servers.
        received: Bytes received from all servers.
    """

    server: int
    trusted: TrustedAnswer
    sent: int
    received: int


def ask(machine: Machine, query: Query, report: Report) -> Replied:
    """Ask each server in turn, until one gives an answer that verifies.

    Raises:
        NetworkError: Nobody gave an answer.
        TrustError: Somebody gave one that does not verify, and nobody a better one.
    """
    problems: list[errors.UpdateError] = []
    with network(machine) as transport:
        for number, server in enumerate(machine.settings.servers):
            report.tell(Asking(server, query.encode()))
            try:
                trusted = _ask_one(machine, transport, server, query)
            except (errors.NetworkError, errors.TrustError) as error:
                report.tell(Unanswered(server, error))
                problems.append(error)
            else:
                report.tell(Answered(server, trusted, _keys(trusted)))
                return Replied(number, trusted, transport.sent, transport.received)
    _mention_script(machine, report, problems)
    raise max(problems, key=_weight)


def _mention_script(
    machine: Machine, report: Report, problems: Sequence[errors.UpdateError]
) -> None:
    """Tell of a proxy script that might explain why nobody could be reached."""
    reached = any(not isinstance(error, errors.NetworkError) for error in problems)
    if reached or proxies_for(machine.settings.proxy, os.environ):
        return
    script = proxy_script()
    if script is not None:
        report.note(
            f"NetworkManager names a proxy script ({script}), and scripts are not "
            "evaluated: set [proxy] url to the proxy itself"
        )


def _ask_one(
    machine: Machine, transport: Transport, server: str, query: Query
) -> TrustedAnswer:
    url, form = server + PATH, query.encode()
    reply = transport.post(url, form, limit=MAX_ANSWER + 1)
    challenge = parse_challenge(reply.challenge) if reply.status == STATUS else None
    if challenge is None:
        _require_answer(url, reply)
    else:
        reply = _ask_again(transport, url, form, _pay(machine, url, challenge))
    try:
        return open_answer(
            reply.body,
            nonce=query.nonce,
            ring=machine.ring,
            serial=machine.identity.serial,
            now=machine.clock.now(),
            floor=recall(machine.asker).floor,
            check_signature=not machine.settings.ignore_signature,
        )
    except errors.Malformed as error:
        if challenge is not None:
            raise errors.HashcashRefused(url, f"{_UNPAID}: {error}") from error
        if _MARKUP.search(reply.body):
            raise errors.NoAnswer(url, "a web page is mixed into the reply") from None
        raise


def _pay(machine: Machine, url: str, challenge: Challenge) -> str:
    """Do the work a server asks for: once for each query, and never much.

    Raises:
        HashcashRefused: It is too much, or takes too long.
    """
    if challenge.bits > MAX_BITS:
        reason = f"it wants {challenge.bits} bits of hashcash, more than {MAX_BITS}"
        raise errors.HashcashRefused(url, reason)
    clock = machine.clock
    until = clock.boottime() + LONGEST_WORK
    stamp = mint(
        challenge,
        date=format_time(clock.now()).translate(_PUNCTUATION)[2:],
        salt=draw_nonce(),
        may_go_on=lambda: clock.boottime() < until,
    )
    if stamp is None:
        reason = f"{challenge.bits} bits of hashcash take over {LONGEST_WORK} seconds"
        raise errors.HashcashRefused(url, reason)
    return stamp


def _ask_again(transport: Transport, url: str, form: bytes, stamp: str) -> Reply:
    """Ask with a stamp; work for nothing is backed off, whoever is to blame.

    Raises:
        ServerFailed: The server says so itself.
        HashcashRefused: There was no answer.
    """
    try:
        reply = transport.post(
            url, form, limit=MAX_ANSWER + 1, authorization=credentials(stamp)
        )
        _require_answer(url, reply)
    except errors.ServerFailed:
        raise
    except errors.NetworkError as error:
        raise errors.HashcashRefused(url, f"{_UNPAID}: {error.reason}") from error
    return reply


def _keys(trusted: TrustedAnswer) -> tuple[tuple[str, str], ...]:
    return tuple(
        (key.key_id, key.origin)
        for name in trusted.signers
        for key in trusted.keys.ring.find(Role.OATS, name)
    )


def _require_answer(url: str, reply: Reply) -> None:
    """Tell an answer from an error page and from a captive portal's page.

    Raises:
        ServerFailed: The server says so itself.
        NoAnswer: It is anything else but an answer.
    """
    kind = reply.content_type or "no content type"
    seen = f"HTTP {reply.status}, {kind}, {len(reply.body)} bytes"
    failed = reply.status >= 500 and reply.status != PORTAL_SAYS
    if failed or reply.status == TOO_MANY_REQUESTS:
        raise errors.ServerFailed(url, seen, reply.retry_after)
    if reply.status != 200 or not reply.body.startswith(b"["):
        raise errors.NoAnswer(url, f"{seen}: {_remark(reply)}")


def _remark(reply: Reply) -> str:
    """Return what a plain text says, such as our own server's to an unknown laptop."""
    if reply.status == PORTAL_SAYS:
        return "a captive portal wants somebody to log in"
    if reply.content_type == "text/html" or _MARKUP.search(reply.body):
        return "a web page, as a captive portal shows"
    text = reply.body[:LONGEST_REMARK].decode("utf-8", "replace").strip()
    if reply.content_type == "text/plain" and text.isprintable():
        return text
    return "this is not an answer"


def _weight(error: errors.UpdateError) -> int:
    """Order what several servers did by how much it tells."""
    match error:
        case errors.TrustError():
            return 4
        case errors.ServerFailed() | errors.HashcashRefused():
            return 3
        case errors.ProxyRefused():
            return 2
        case errors.NoAnswer():
            return 1
        case _:
            return 0


# --- what is kept of it ------------------------------------------------------------


def keep_answer(machine: Machine, answer: Replied, lease_expiry: int | None) -> None:
    """Remember an answer and draw the next due time.

    A disk that refuses is only a warning: the answer may hold a lease.

    Args:
        machine: The laptop.
        answer: The answer.
        lease_expiry: When the installed lease ends, None for never or without one.
    """
    now, said = machine.clock.now(), answer.trusted.answer
    before = recall(machine.asker)
    memory = replace(
        before,
        floor=answer.trusted.floor,
        interval=said.interval or before.interval,
        answered=now,
        server=machine.settings.servers[answer.server],
        message=said.message or "",
        failures=0,
        boot=boot_id(machine.root),
    )
    expiry = _lease_expiry(machine, answer.trusted, lease_expiry)
    with never_in_the_way("due time"):
        machine.asker.write_due(draw_after(machine, memory, expiry))
    with never_in_the_way("asker's memory"):
        remember(machine.asker, memory)


def _lease_expiry(
    machine: Machine, trusted: TrustedAnswer, installed: int | None
) -> int | None:
    if trusted.answer.lease is None:
        return installed
    try:
        return find_lease(
            trusted.answer.lease,
            serial=machine.identity.serial,
            uuid=machine.identity.uuid,
            ring=trusted.keys.ring,
            now=trusted.present(machine.clock.now()),
        ).expiry
    except errors.UntrustedLease:
        return installed


def draw_after(
    machine: Machine, memory: Memory, lease_expiry: int | None
) -> tuple[int, int]:
    """Draw the due time that follows an answer."""
    now = machine.clock.now()
    return draw_next(
        memory.interval,
        now,
        machine.draw(),
        lease_expiry=by_our_clock(lease_expiry, now, memory),
    )


def look_again(machine: Machine, held: HeldBack) -> None:
    """Draw when to see whether a gate is open again, unless a query is due before."""
    now, due = machine.clock.now(), machine.asker.read_due()
    behind = max(recall(machine.asker).floor - now, 0)
    held = held._replace(until=held.until - behind)
    again = draw_reopening(held, now, machine.draw())
    if due is None or again[1] < due[1]:
        machine.asker.write_due(again)


def ask_again(machine: Machine) -> None:
    """Draw the due time as after a first failure."""
    machine.asker.write_due(draw_retry(1, machine.clock.now(), machine.draw()))


def by_our_clock(moment: int | None, now: int, memory: Memory) -> int | None:
    """Return when a signed moment comes by a clock that may be far from right.

    It is behind while it shows less than the floor; it is ahead if it was when the
    last answer came, and has not been set back since.
    """
    if moment is None:
        return None
    ahead = memory.answered - memory.floor
    if ahead > DAY and now >= memory.answered:
        return moment + ahead
    return moment - max(memory.floor - now, 0)


def keep_failure(
    machine: Machine, error: errors.UpdateError, lease_expiry: int | None
) -> None:
    """Back off from a server that failed.

    Without a network, or behind a captive portal, nothing is drawn: the due time
    stays in the past, and the next link-up, or the next tick, asks again. What is
    malformed was damaged on the way, so that counts as no network too.
    """
    retry_after = None
    match error:
        case errors.ServerFailed():
            retry_after = error.retry_after
        case errors.HashcashRefused():
            pass
        case errors.TrustError() if not isinstance(error, errors.Malformed):
            pass
        case _:
            return
    now, before = machine.clock.now(), recall(machine.asker)
    boot = boot_id(machine.root)
    memory = replace(before, failures=before.failures + 1, boot=boot)
    remember(machine.asker, memory)
    due = draw_retry(
        memory.failures,
        now,
        machine.draw(),
        retry_after=retry_after,
        lease_expiry=by_our_clock(lease_expiry, now, memory),
    )
    machine.asker.write_due(due)
