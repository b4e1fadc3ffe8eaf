"""What laptop and server say to each other: query, answer, order.

Values only; ``trust`` decides whether to believe them. Times are seconds since the
epoch, UTC.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import parse_qsl, urlencode

from olpc_update_query.errors import Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.orders import BareOrder, Order, OrderFile, Reboot
from olpc_update_query.model.wire import (
    BuildId,
    Fields,
    Sha256,
    format_expiry,
    format_time,
    parse_build_id,
    parse_expiry,
    parse_serial,
    parse_sha256,
    parse_time,
    parse_token,
    parse_url,
    parse_uuid,
)

__all__ = [
    "Answer",
    "BareOrder",
    "BuildId",
    "Order",
    "OrderFile",
    "Query",
    "Reboot",
    "Sha256",
    "format_expiry",
    "format_time",
    "parse_build_id",
    "parse_expiry",
    "parse_serial",
    "parse_sha256",
    "parse_time",
    "parse_url",
    "parse_uuid",
]

MAX_QUERY: Final = 8 * 1024
MAX_ANSWER: Final = 64 * 1024
MIN_INTERVAL: Final = 15 * 60
MAX_INTERVAL: Final = 30 * 24 * 3600
NEVER_EXPIRES: Final = 253402300799
"""As ``Query.lease_expiry``: the lease has no end."""

_MAX_NONCE: Final = 256
_MAX_LEASE_SENT: Final = 1024
_MAX_REPORT: Final = 512
_MAX_MESSAGE: Final = 1024
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KEYS: Final = re.compile("-".join([r"(?:[0-9a-f]{8}(?:\.[0-9a-f]{8}){0,31})?"] * 2))

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says to one query.

    A member that cannot be understood is left out and named in ``faults``, so that a
    faulty order never costs a laptop its lease.

    Attributes:
        nonce: The query's nonce.
        time: The server's clock.
        lease: One or more ``act01:`` lines, which have signatures of their own.
        stolen: Whether the laptop was reported stolen.
        interval: Seconds between queries, clamped to 15 minutes .. 30 days.
        update: Which build to run.
        message: Text for the administrator, without control characters.
        keys: Statements about keys, which have signatures of their own.
        faults: What was left out, and why.
    """

    nonce: str
    time: int
    lease: str | None = None
    stolen: bool = False
    interval: int | None = None
    update: Order | BareOrder | None = None
    message: str | None = None
    keys: tuple[bytes, ...] = ()
    faults: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Json) -> "Answer":
        """Read the data of an ``oatc-resp``; unknown members are skipped.

        Args:
            value: A decoded object.

        Returns:
            The answer.

        Raises:
            Malformed: It is no object, or nonce or time is missing or wrong.
        """
        fields = Fields("answer", value)
        faults: list[str] = []

        def optional(read: Callable[[], _R]) -> _R | None:
            try:
                return read()
            except Malformed as fault:
                faults.append(str(fault))
                return None

        return cls(
            nonce=fields.need("nonce", str),
            time=parse_time(fields.need("time", str)),
            lease=optional(lambda: fields.get("lease", str)),
            stolen=optional(lambda: fields.get("stolen", bool) is True) or False,
            interval=optional(lambda: _interval(fields.get("interval", int))),
            update=optional(lambda: _update(fields.raw("update"))),
            message=optional(lambda: _message(fields.get("message", str))),
            keys=optional(lambda: _statements(fields.get("keys", list))) or (),
            faults=tuple(faults),
        )

    def to_json(self) -> dict[str, Json]:
        """Return the object that ``from_json`` reads; defaults are left out."""
        members: dict[str, Json] = {
            "nonce": self.nonce,
            "time": format_time(self.time),
            "lease": self.lease,
            "stolen": self.stolen or None,
            "interval": self.interval,
            "keys": [canonical.decode(raw) for raw in self.keys] or None,
            "message": self.message,
            "update": _update_json(self.update),
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Query:
    """What a laptop asks.

    Attributes:
        serial: Its serial number.
        nonce: A fresh text that the answer must repeat.
        stream: The update stream it follows.
        build: The build it runs.
        lease: Its lease, one line.
        lease_expiry: Until when that is good; ``NEVER_EXPIRES`` for ever.
        report: What became of the last attempt.
        keys: Which keys it trusts, as ``KeyRing.fingerprints`` has it.
    """

    serial: str
    nonce: str
    stream: str | None = None
    build: BuildId | None = None
    lease: str | None = None
    lease_expiry: int | None = None
    report: dict[str, Json] | None = None
    keys: str | None = None

    def encode(self) -> bytes:
        """Write the form that is posted.

        A lease of more than 1 KiB is left out in favour of ``lease_expiry``; a report
        of more than 512 bytes is left out, because a query must get through.

        Returns:
            ``application/x-www-form-urlencoded``.
        """
        form = [("serialnum", self.serial), ("version", "1"), ("nonce", self.nonce)]
        if self.stream is not None:
            form.append(("stream", self.stream))
        if self.build is not None:
            form.append(("build", self.build))
        form += self._lease_fields() + self._report_fields()
        if self.keys is not None:
            form.append(("keys", self.keys))
        return urlencode(form).encode()

    def _lease_fields(self) -> list[tuple[str, str]]:
        if self.lease is not None and len(self.lease.encode()) <= _MAX_LEASE_SENT:
            return [("lease", self.lease)]
        if self.lease_expiry is None:
            return []
        never = self.lease_expiry >= NEVER_EXPIRES
        return [("lease_expiry", format_expiry(None if never else self.lease_expiry))]

    def _report_fields(self) -> list[tuple[str, str]]:
        if self.report is None:
            return []
        report = canonical.encode(self.report)
        return [("report", report.decode())] if len(report) <= _MAX_REPORT else []

    @classmethod
    def decode(cls, body: bytes) -> "Query":
        """Read a form, for the server; unknown fields are ignored.

        Args:
            body: The request's body.

        Returns:
            The query.

        Raises:
            Malformed: It is larger than 8 KiB, no form, of another version, repeats a
                field, or a field that is known is missing or wrong.
        """
        form = _parse_form(body)
        if form.get("version") != "1":
            raise Malformed("query", "its version is not 1")
        nonce = form.get("nonce", "")
        if not 0 < len(nonce) <= _MAX_NONCE:
            raise Malformed("query", f"its nonce is not 1 to {_MAX_NONCE} characters")
        return cls(
            serial=parse_serial(form.get("serialnum", "")),
            nonce=nonce,
            stream=_given(form, "stream", lambda text: parse_token("stream", text)),
            build=_given(form, "build", parse_build_id),
            lease=_given(form, "lease", _lease_sent),
            lease_expiry=_given(form, "lease_expiry", _expiry_sent),
            report=_given(form, "report", _report_sent),
            keys=_given(form, "keys", _keys_sent),
        )


def _update(value: Json) -> Order | BareOrder | None:
    if value is None:
        return None
    if isinstance(value, str):
        return BareOrder(parse_build_id(value))
    return Order.from_json(value)


def _update_json(update: Order | BareOrder | None) -> Json:
    if isinstance(update, Order):
        return update.to_json()
    return update.build if update else None


def _interval(seconds: int | None) -> int | None:
    if seconds is None:
        return None
    return max(MIN_INTERVAL, min(seconds, MAX_INTERVAL))


def _message(text: str | None) -> str | None:
    if text is None:
        return None
    return "".join(
        mark if mark.isprintable() or mark == "\n" else " "
        for mark in text[:_MAX_MESSAGE]
    )


def _statements(items: list[Json] | None) -> tuple[bytes, ...]:
    """Return the octets of statements: a canonical value has but one spelling."""
    return tuple(map(canonical.encode, items or ()))


def _keys_sent(text: str) -> str:
    if not _KEYS.fullmatch(text):
        raise Malformed("query", "its keys are not two lists of digests")
    return text


def _parse_form(body: bytes) -> Mapping[str, str]:
    if len(body) > MAX_QUERY:
        raise Malformed("query", f"it is larger than {MAX_QUERY} bytes")
    try:
        text = body.decode("ascii")
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=64,
        )
    except ValueError:
        raise Malformed("query", "it is not a form") from None
    form = dict(pairs)
    if len(form) < len(pairs) or _BAD_PERCENT.search(text):
        raise Malformed("query", "a field is repeated or wrongly escaped")
    return form


def _given(form: Mapping[str, str], name: str, read: Callable[[str], _R]) -> _R | None:
    return read(form[name]) if name in form else None


def _lease_sent(text: str) -> str:
    if len(text.encode()) > _MAX_LEASE_SENT:
        raise Malformed("query", f"its lease is larger than {_MAX_LEASE_SENT} bytes")
    return text


def _expiry_sent(text: str) -> int:
    expiry = parse_expiry(text)
    return NEVER_EXPIRES if expiry is None else expiry


def _report_sent(text: str) -> dict[str, Json]:
    data = text.encode()
    report = canonical.decode(data, max_depth=4) if len(data) <= _MAX_REPORT else None
    if not isinstance(report, dict):
        raise Malformed("query", f"its report is no object of {_MAX_REPORT} bytes")
    return report
