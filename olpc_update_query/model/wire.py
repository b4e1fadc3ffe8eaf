"""The small things that messages and files are made of: names, digests, times, URLs.

Whatever is read here may come from anybody, so every reader is strict: what it
returns is the text it was given, or it raises ``Malformed``. Times are seconds since
the epoch, UTC; on the wire ``YYYYMMDDTHHMMSSZ``.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NewType, TypeVar
from urllib.parse import urlsplit

from olpc_update_query.errors import Malformed
from olpc_update_query.model.canonical import Json

BuildId = NewType("BuildId", str)
Sha256 = NewType("Sha256", str)

_NEVER_TEXT: Final = "00000000T000000Z"
_MAX_URL: Final = 2048
_TOKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_TIME: Final = re.compile(
    r"([0-9]{4})" + r"([0-9]{2})" * 2 + "T" + r"([0-9]{2})" * 3 + "Z"
)
_URL: Final = re.compile(
    r"(https?|rsync|file)://[!-\[\]-~]+"
)  # printable, no backslash
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_T = TypeVar("_T", str, int, bool, list[Json])


def parse_build_id(text: str) -> BuildId:
    """Check the name of a build, which becomes a file name.

    Args:
        text: The name: letters, digits and ``._+-``, at most 64, not a mark first.

    Returns:
        The same name.

    Raises:
        Malformed: It is not a name.
    """
    return BuildId(parse_token("build name", text))


def parse_serial(text: str) -> str:
    """Check a laptop's serial number, made of the same characters as a build's name.

    It is signed between colons and stands between spaces in a lease, so it may hold
    neither.

    Args:
        text: The serial number.

    Returns:
        The same.

    Raises:
        Malformed: It is not a serial number.
    """
    return parse_token("serial number", text)


def parse_uuid(text: str) -> str:
    """Check a laptop's UUID; its case is kept, because leases sign it as it is.

    Args:
        text: 36 characters.

    Returns:
        The same.

    Raises:
        Malformed: It is not a UUID.
    """
    if not _UUID.fullmatch(text):
        raise Malformed("UUID", f"{shown(text)} is not of 8-4-4-4-12 hex digits")
    return text


def parse_sha256(text: str) -> Sha256:
    """Check a digest.

    Args:
        text: 64 lower-case hex digits.

    Returns:
        The same.

    Raises:
        Malformed: It is anything else.
    """
    if not _DIGEST.fullmatch(text):
        raise Malformed("sha256", f"{shown(text)} is not 64 lower-case hex digits")
    return Sha256(text)


def parse_time(text: str) -> int:
    """Read a wire time.

    Args:
        text: ``YYYYMMDDTHHMMSSZ``.

    Returns:
        Seconds since the epoch, negative before 1970.

    Raises:
        Malformed: There is no such moment.
    """
    found = _TIME.fullmatch(text)
    try:
        year, month, day, hour, minute, second = map(
            int, found.groups() if found else ()
        )
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        raise Malformed("time", f"{shown(text)} is not YYYYMMDDTHHMMSSZ") from None
    return (moment - _EPOCH) // timedelta(seconds=1)


def format_time(seconds: int) -> str:
    """Write a wire time.

    Args:
        seconds: Since the epoch, from year 1 to 9999.

    Returns:
        ``YYYYMMDDTHHMMSSZ``.

    Raises:
        ValueError: The moment cannot be written.
    """
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError(f"{seconds} s cannot be written as a time") from error
    # strftime does not pad years before 1000 on every platform
    return f"{moment.year:04}{moment:%m%dT%H%M%SZ}"


def parse_expiry(text: str) -> int | None:
    """Read the time until which something is good.

    Args:
        text: A wire time, or ``00000000T000000Z``: for ever.

    Returns:
        Seconds since the epoch, None for ever.

    Raises:
        Malformed: It is neither.
    """
    return None if text == _NEVER_TEXT else parse_time(text)


def format_expiry(expiry: int | None) -> str:
    """Write what ``parse_expiry`` reads.

    Args:
        expiry: Seconds since the epoch, None for ever.

    Returns:
        16 characters.
    """
    return _NEVER_TEXT if expiry is None else format_time(expiry)


def parse_url(text: str) -> str:
    """Check the URL of a build's directory.

    Args:
        text: An ``http``, ``https`` or ``rsync`` URL with a host, or a ``file`` URL
            with an absolute path; at most 2048 characters, without user, password,
            query and fragment.

    Returns:
        The same.

    Raises:
        Malformed: It is none, or names another scheme.
    """
    if len(text) > _MAX_URL or not _URL.fullmatch(text):
        raise Malformed("URL", f"{shown(text)} is no http, https, rsync or file URL")
    if "?" in text or "#" in text:
        raise Malformed("URL", f"{shown(text)} is no directory")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Malformed("URL", f"its host or port is wrong: {error}") from error
    if "@" in parts.netloc:
        raise Malformed("URL", "it holds a user name or a password")
    if parts.netloc if parts.scheme == "file" else not host:
        raise Malformed("URL", f"{shown(text)} has no host, or a file URL has one")
    return text


class Fields:
    """The members of an object, each read with the type it must have.

    A member that is null counts as absent; unknown members are never looked at.

    Args:
        what: What the object is, for messages.
        value: The decoded value.

    Raises:
        Malformed: The value is not an object.
    """

    def __init__(self, what: str, value: Json) -> None:
        if not isinstance(value, dict):
            raise Malformed(what, "it is not an object")
        self._what, self._members = what, value

    def get(self, name: str, kind: type[_T]) -> _T | None:
        """Return a member, None when it is absent."""
        value = self._members.get(name)
        if value is None:
            return None
        if type(value) is not kind:  # True is an int, but not here
            raise Malformed(self._what, f"{name} is not of type {kind.__name__}")
        return value

    def need(self, name: str, kind: type[_T]) -> _T:
        """Return a member that must be there."""
        value = self.get(name, kind)
        if value is None:
            raise Malformed(self._what, f"{name} is missing")
        return value

    def raw(self, name: str) -> Json:
        """Return a member of any type, None when it is absent."""
        return self._members.get(name)


def parse_token(what: str, text: str) -> str:
    """Check a name: a letter or digit, then at most 63 more or ``._+-``.

    Args:
        what: What it names, for the message.
        text: The name.

    Returns:
        The same.

    Raises:
        Malformed: It is empty, too long or holds another character.
    """
    if not _TOKEN.fullmatch(text):
        raise Malformed(what, f"{shown(text)} is not 1 to 64 letters, digits or ._+-")
    return text


def shown(text: str) -> str:
    """Quote foreign text for a message: ASCII, no control characters, short."""
    quoted = ascii(text[:40])
    return quoted if len(text) <= 40 else quoted + "..."
