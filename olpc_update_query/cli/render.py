"""What people read: every text of the laptop's commands, in one place."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Answer, BareOrder, Order, parse_time
from olpc_update_query.policy.decide import Decision, Install, Nothing, Refuse, Wait
from olpc_update_query.report import (
    Answered,
    Asking,
    ClockSet,
    Decided,
    Event,
    KeysChanged,
    LeaseKept,
    LeaseRefused,
    Outcome,
    Sleeps,
    Unanswered,
    Woken,
)
from olpc_update_query.trust.answer import TrustedAnswer
from olpc_update_query.trust.rotation import Statement

MINUTE, HOUR, DAY = 60, 3600, 86400
SHORT_ID = 16
UNSIGNED = (
    "SIGNATURES ARE NOT CHECKED, because /etc/oats-ignore-signature is there: "
    "whoever answers is obeyed"
)


# --- times and sizes -------------------------------------------------------------


def moment(seconds: int) -> str:
    """Write a time, by the clock on the wall and in UTC."""
    try:
        utc = datetime.fromtimestamp(seconds, tz=UTC)
        local = utc.astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{seconds} seconds since 1970"
    if not local.utcoffset():
        return f"{utc:%a %Y-%m-%d %H:%M:%S} UTC"
    same_day = local.date() == utc.date()
    there = f"{utc:%H:%M:%S}" if same_day else f"{utc:%Y-%m-%d %H:%M:%S}"
    return f"{local:%a %Y-%m-%d %H:%M:%S %Z} ({there} UTC)"


def duration(seconds: int) -> str:
    """Write a duration with its two largest units."""
    units = (("d", DAY), ("h", HOUR), ("min", MINUTE), ("s", 1))
    rest = abs(seconds)
    parts: list[str] = []
    for name, size in units:
        count, rest = divmod(rest, size)
        if count or parts or size == 1:
            parts.append(f"{count} {name}")
    shown = [part for part in parts[:2] if not part.startswith("0 ")]
    return " ".join(shown) or "0 s"


def relative(seconds: int, now: int) -> str:
    """Write how far a time is off."""
    if seconds == now:
        return "now"
    ago = duration(seconds - now)
    return f"in {ago}" if seconds > now else f"{ago} ago"


def size(count: int) -> str:
    """Write a number of bytes."""
    amount, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def progress(done: int, total: int, rate: int, remaining: int | None) -> str:
    """Write how far a download is, how fast it moves and how long it still takes."""
    share = min(done / total, 1.0) if total else 1.0
    text = f"{share:4.0%}  {size(done)} of {size(total)}"
    if rate and remaining is not None:
        text += f", {size(rate)}/s, about {duration(remaining)} to go"
    return text


def expiry(seconds: int | None, now: int) -> str:
    """Write until when something is good."""
    if seconds is None:
        return "for ever"
    return f"until {moment(seconds)}, {relative(seconds, now)}"


def until(seconds: int | None, now: int) -> str:
    """Write until when something is held."""
    if seconds is None:
        return "until `olpc-update-query release`"
    return f"until {moment(seconds)}, for {duration(seconds - now)}"


# --- the story of a run ------------------------------------------------------------


def story(event: Event, now: int) -> Iterator[str]:
    """Tell an event in plain sentences, for `-v`."""
    match event:
        case Woken():
            yield from _woken(event)
        case Asking(server, form):
            yield f"asking {server}, sending {len(form)} bytes:"
            yield from _form(form)
        case Answered():
            yield from _answered(event, now)
        case KeysChanged(statements):
            yield from map(statement, statements)
        case _:
            yield _sentence(event, now)


def one_line(event: LeaseKept | LeaseRefused | ClockSet, now: int) -> str:
    """Tell an event that is worth a line of the log."""
    return _sentence(event, now)


def _sentence(
    event: Sleeps | Unanswered | LeaseKept | LeaseRefused | ClockSet | Decided,
    now: int,
) -> str:
    match event:
        case Sleeps(until):
            return f"a moment was drawn: asking {relative(until, now)}, {moment(until)}"
        case Unanswered(server, error):
            return f"no answer that counts from {server}: {error}"
        case LeaseKept(changed, until):
            kept = "a new lease is installed, good" if changed else "the lease is good"
            return f"lease: {kept} {expiry(until, now)}"
        case LeaseRefused(error):
            return f"{error}; the lease on the disk stays"
        case ClockSet(before, after):
            return f"the clock was set from {moment(before)} to {moment(after)}"
        case Decided(decision):
            return f"decision: {decided(decision)}"


def statement(found: Statement) -> str:
    """Tell what a statement about keys has changed."""
    return (
        f"keys: statement {found.number} about {found.role} keys of "
        f"{moment(found.time)} added {len(found.add)} and retired {len(found.retire)}"
    )


def _woken(event: Woken) -> Iterator[str]:
    yield f"trigger: {event.trigger}"
    yield f"clock: {moment(event.now)}"
    if event.due is not None:
        drawn, due = event.due
        yield (
            f"schedule: a query is due {relative(due, event.now)}, {moment(due)}; "
            f"that was drawn {relative(drawn, event.now)}"
        )
    if event.forced:
        yield "schedule: the command line says to ask now"
    else:
        yield f"schedule: {event.verdict.reason}"


def _form(form: bytes) -> Iterator[str]:
    for name, value in parse_qsl(form.decode("ascii"), keep_blank_values=True):
        text = value.strip()
        short = text if len(text) <= 100 else f"{text[:60]}... ({len(text)} characters)"
        yield f"  {name} = {short}"


def _answered(event: Answered, now: int) -> Iterator[str]:
    trusted = event.trusted
    yield f"answer from {event.server}, {len(trusted.raw)} bytes:"
    yield from _signature(trusted, event.keys)
    for name, text in _fields(trusted.answer, now):
        yield f"  {name}: {text}"


def _signature(
    trusted: TrustedAnswer, keys: tuple[tuple[str, str], ...]
) -> Iterator[str]:
    if not trusted.signed:
        yield f"  {UNSIGNED}"
    for key_id, origin in keys:
        yield f"  signed by key {key_id[:SHORT_ID]}, from {origin}"


def _fields(answer: Answer, now: int) -> Iterator[tuple[str, str]]:
    yield "nonce", "ours, so the answer is fresh"
    yield "time", f"{moment(answer.time)}, {relative(answer.time, now)} by our clock"
    lease = "none sent" if answer.lease is None else f"{len(answer.lease)} characters"
    yield "lease", lease
    yield "stolen", "YES" if answer.stolen else "no"
    if answer.interval is not None:
        yield "interval", f"ask every {duration(answer.interval)}"
    yield from _update(answer.update)
    if answer.keys:
        yield "keys", f"{len(answer.keys)} statements"
    if answer.message is not None:
        yield "message", answer.message
    for fault in answer.faults:
        yield "left out", fault


def _update(update: Order | BareOrder | None) -> Iterator[tuple[str, str]]:
    match update:
        case None:
            yield "update", "none ordered"
        case BareOrder(build):
            yield "update", f"build {build}, of which nothing is signed but the name"
        case Order():
            yield "update", f"build {update.build}, contents {update.contents}"
            for url in update.urls:
                yield "update", f"  from {url}"
            if update.not_before is not None:
                yield "update", f"  not before {moment(update.not_before)}"
            if update.allow_downgrade:
                yield "update", "  even if the current build is newer"


def decided(decision: Decision) -> str:
    """Tell what is done about an order, and why."""
    match decision:
        case Install(order, reason):
            return f"install build {order.build}, because {reason}"
        case Nothing(reason):
            return f"nothing to do, because {reason}"
        case Refuse(reason):
            return f"refuse it, because {reason}"
        case Wait(until, reason):
            then = "" if until is None else f" until {moment(until)}"
            return f"wait{then}, because {reason}"


def closing(outcome: Outcome, now: int) -> str:
    """Tell in one line what a run came to, and when the next query is due."""
    return "; ".join(filter(None, (outcome.text, next_query(outcome, now))))


def next_query(outcome: Outcome, now: int) -> str:
    """Tell when the next query is due, if that is known."""
    due = outcome.facts.get("next_due")
    if not isinstance(due, int):
        return ""
    if due <= now:
        return "the next trigger asks again"
    return f"next query {relative(due, now)}, {moment(due)}"


# --- status and history ------------------------------------------------------------


def status(found: Mapping[str, Json], now: int) -> Iterator[str]:
    """Tell what `status` found, a line for each thing."""
    for name, value in found.items():
        for text in _status_lines(name, value, now):
            yield f"{name.replace('_', ' ') + ':':<16}{text}"


def _status_lines(name: str, value: Json, now: int) -> list[str]:
    match value:
        case None:
            return ["none"]
        case bool():
            return ["yes" if value else "no"]
        case int():
            return [size(value) if name in SIZES else _when(value, now)]
        case str():
            return value.splitlines() or [""]
        case list():
            return [str(item) for item in value] or ["none"]
        case dict():
            members = (_member(key, item, now) for key, item in value.items())
            return [", ".join(filter(None, members))]


SIZES = ("free_space", "unfinished")
PLAIN = ("state", "step", "text", "time")  # what needs no label in front of it


def _member(name: str, value: Json, now: int) -> str:
    label = "" if name in PLAIN else f"{name.replace('_', ' ')} "
    text = f"{label}{value}"
    match name, value:
        case "exit_code", 0:
            text = ""
        case (("since" | "until" | "time"), int(moment)):
            text = label + _when(moment, now)
        case "time", str(written):
            text = _when(parse_time(written), now)
        case "until", None:
            text = "for ever"
        case (("done" | "total"), int(count)):
            text = label + size(count)
        case (("rate" | "remaining"), _):
            text = _speed(name, value)
        case _:
            pass
    return text


def _speed(name: str, value: Json) -> str:
    if name == "rate":
        return f"{size(value)}/s" if isinstance(value, int) and value else "standing"
    if not isinstance(value, int):
        return "nobody knows how long to go"
    return f"about {duration(value)} to go"


def _when(seconds: int, now: int) -> str:
    return f"{moment(seconds)} ({relative(seconds, now)})"


def installed(row: Mapping[str, Json]) -> str:
    """Tell of one build what it is to this laptop."""
    names = {
        "running": "running",
        "boots_next": "boots next",
        "alternate": "to go back to",
        "sticky": "sticky",
    }
    marks = ", ".join(text for name, text in names.items() if row[name])
    return f"{row['build']:<20} {marks}".rstrip()


def event(found: Mapping[str, Json]) -> str:
    """Tell an event of the history in one line."""
    when = moment(parse_time(str(found["time"])))
    code = found.get("exit_code", 0)
    failed = f" (exit code {code})" if code else ""
    return f"{when}  {found.get('trigger', ''):<7}  {found.get('text', '')}{failed}"
