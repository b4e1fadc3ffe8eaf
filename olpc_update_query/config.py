"""The configuration: fragments, then inputs, then settings.

A *fragment* is one TOML file as it was written. The *inputs* are all fragments
merged, with the file and the line that each value is from, and the files that the
original system had. The *settings* are validated and frozen; only they leave here.

Files, later ones win: the files of the original system, then
``/etc/olpc-update-query/config.toml``, then ``config.d/*.toml`` in the order of their
names, then the command line.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from olpc_update_query import errors
from olpc_update_query.policy.gates import Gates
from olpc_update_query.system.files import read_bounded
from olpc_update_query.system.network import ProxyConfig, proxies_for
from olpc_update_query.system.settings import (
    DEFAULT_SERVER,
    SCHOOL_SERVER,
    Settings,
)
from olpc_update_query.trust.rotation import MAX_KEYS

DIRECTORY = "etc/olpc-update-query"
MAX_FILE = 64 * 1024
MAX_LEGACY = 1024

Value = str | int | bool

KEYS: Mapping[str, Value] = {
    "server": DEFAULT_SERVER,
    "stream": "",
    "set_clock": False,
    "bandwidth_limit": 0,
    "lease_port": 191,
    "proxy.url": "",
    "proxy.user": "",
    "proxy.password": "",
    "proxy.exceptions": "",
    "gates.quiet_hours": "",
    "gates.metered": True,
    "gates.battery": 30,
    "gates.days": 7,
    "identity.serial": "",
    "identity.uuid": "",
    "keys.threshold": 1,
}
"""Every key that a file may hold, with its default; the default gives the type."""

_STREAM = re.compile(r"[A-Za-z0-9._-]{0,64}")
_HOURS = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_HOST = re.compile(
    r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\]"
)  # with the zone of an address that is local to a link
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*")
_TYPES = {str: "a string", int: "a whole number", bool: "true or false"}


class Located(NamedTuple):
    """A value and where it was read: a file, with its line where that is known."""

    value: Value
    where: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """One TOML file as it was written, its keys dotted."""

    values: Mapping[str, Located]


@dataclass(frozen=True, slots=True)
class Inputs:
    """All files merged."""

    values: Mapping[str, Located]
    ask_school_server: bool = True
    ignore_signature: bool = False

    def get(self, key: str) -> Located:
        """Return a value, or its default."""
        return self.values.get(key, Located(KEYS[key], "default"))


def load(
    root: Path, *, config: Path | None = None, servers: Sequence[str] = ()
) -> Settings:
    """Read the configuration below ``root``.

    Args:
        root: Where the laptop's own file system begins.
        config: Read this file, and no other TOML file.
        servers: From the command line: instead of all configured servers.

    Raises:
        ConfigError: A file cannot be read or holds what it must not hold.
    """
    paths = [config] if config is not None else list(_files(root))
    return settings(merge(root, [read_fragment(path) for path in paths]), servers)


def _files(root: Path) -> Iterator[Path]:
    directory = root / DIRECTORY
    main = directory / "config.toml"
    if main.exists():
        yield main
    yield from sorted((directory / "config.d").glob("*.toml"))


# --- fragments -----------------------------------------------------------------


def read_fragment(path: Path) -> Fragment:
    """Read one file and check its keys and their types.

    Raises:
        ConfigError: With the file, the line and the key.
    """
    import tomllib

    text = _read_text(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise errors.ConfigError(str(path), f"this is not TOML: {error}") from None
    values = {}
    for key, value in _flatten(tables):
        where = f"{path}, line {_line_of(key, text)}"
        values[key] = Located(_checked(key, value, where), where)
    return Fragment(values)


def _read_text(path: Path) -> str:
    try:
        return read_bounded(path.resolve(), MAX_FILE).decode()
    except OSError as error:
        raise errors.ConfigError(str(path), error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise errors.ConfigError(f"{path}, line {line}", "this is not UTF-8") from None
    except ValueError as error:
        raise errors.ConfigError(str(path), str(error)) from None


def _flatten(
    table: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and (value or key in KEYS):
            yield from _flatten(value, f"{key}.")
        elif not (isinstance(value, dict) and _is_table(key)):
            yield key, value


def _is_table(name: str) -> bool:
    return any(key.startswith(f"{name}.") for key in KEYS)


def _checked(key: str, value: object, where: str) -> Value:
    if key not in KEYS:
        raise errors.ConfigError(where, f"there is no key `{key}`{_nearest(key)}")
    wanted = type(KEYS[key])
    if type(value) is not wanted or not isinstance(value, str | int | bool):
        raise errors.ConfigError(where, f"`{key}` must be {_TYPES[wanted]}")
    return value


def _nearest(key: str) -> str:
    import difflib

    near = difflib.get_close_matches(key, KEYS, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _line_of(key: str, text: str) -> int:
    """Find the line of a key, which tomllib does not tell: 1 when it hides well."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        plain = re.sub(r"[\s\"']", "", line)
        if header := re.match(r"\[+([^\]#]+)\]", plain):
            table = f"{header[1]}."
        name = table + plain.partition("=")[0]
        if key in {name, table[:-1]} or (name and key.startswith(f"{name}.")):
            return number
    return 1


# --- inputs --------------------------------------------------------------------


def merge(root: Path, fragments: Sequence[Fragment]) -> Inputs:
    """Merge the fragments, later ones over earlier ones, over the original files."""
    values = dict(_legacy_values(root))
    for fragment in fragments:
        values.update(fragment.values)
    return Inputs(
        values,
        ask_school_server=_first(root, "oats-ignore-xs") is None,
        ignore_signature=_first(root, "oats-ignore-signature") is not None,
    )


def _legacy_values(root: Path) -> Iterator[tuple[str, Located]]:
    for key, name in (("server", "oats-server"), ("stream", "update-stream")):
        path = _first(root, name)
        if path is None:
            continue
        try:
            text = read_bounded(path.resolve(), MAX_LEGACY).decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise errors.ConfigError(str(path), str(error)) from None
        if text:
            yield key, Located(text, str(path))


def _first(root: Path, name: str) -> Path | None:
    """Return where an original file is; before 2010 they were in /security."""
    places = (root / "etc", root / "security", root / "etc/olpc-update")
    return next((place / name for place in places if (place / name).exists()), None)


# --- settings ------------------------------------------------------------------


def settings(inputs: Inputs, servers: Sequence[str] = ()) -> Settings:
    """Validate the inputs.

    Raises:
        ConfigError: With the place that the bad value is from.
    """
    return Settings(
        servers=_servers(inputs, servers),
        stream=_text(inputs, "stream", _is_stream, "a stream's name"),
        set_clock=bool(inputs.get("set_clock").value),
        bandwidth_limit=_number(inputs, "bandwidth_limit", 0, None),
        proxy=_proxy(inputs),
        gates=_gates(inputs),
        serial=str(inputs.get("identity.serial").value).strip(),
        uuid=str(inputs.get("identity.uuid").value).strip(),
        lease_port=_number(inputs, "lease_port", 0, 65535),
        key_threshold=_number(inputs, "keys.threshold", 1, MAX_KEYS),
        ignore_signature=inputs.ignore_signature,
    )


def _servers(inputs: Inputs, given: Sequence[str]) -> tuple[str, ...]:
    if given:
        return tuple(parse_server(text, "--server") for text in given)
    text, where = inputs.get("server")
    configured = parse_server(str(text), where)
    if not inputs.ask_school_server:
        return (configured,)
    return tuple(dict.fromkeys((SCHOOL_SERVER, configured)))


def parse_server(text: str, where: str) -> str:
    """Return the URL of a server, given as a URL or as a mere host name.

    Args:
        text: ``HOST[:PORT]``, an IPv6 address, or ``http[s]://HOST[:PORT][/PATH]``.
        where: Where it was read, for the error.

    Returns:
        The URL, with a slash at its end.

    Raises:
        ConfigError: It is neither.
    """
    url = _with_scheme(text.strip())
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and _HOST.fullmatch(_host(parts.netloc)) is not None
    except ValueError:
        good = False
    else:
        good = good and parts.scheme in {"http", "https"}
        good = good and not (parts.query or parts.fragment) and url.isprintable()
    if not good or " " in url:
        raise errors.ConfigError(where, f"{text!r} is not http://HOST[:PORT]/")
    return url if url.endswith("/") else f"{url}/"


def _with_scheme(text: str) -> str:
    if "://" in text:
        return text
    return f"http://[{text}]" if _BARE_IPV6.fullmatch(text) else f"http://{text}"


def _host(netloc: str) -> str:
    return re.sub(r":[0-9]*$", "", netloc)


def _text(inputs: Inputs, key: str, good: Callable[[str], bool], what: str) -> str:
    value, where = inputs.get(key)
    text = str(value).strip()
    if not good(text):
        raise errors.ConfigError(where, f"`{key}`: {text!r} is not {what}")
    return text


def _is_stream(text: str) -> bool:
    return _STREAM.fullmatch(text) is not None


def _proxy(inputs: Inputs) -> ProxyConfig:
    url, user, password, exceptions = (
        inputs.get(f"proxy.{name}") for name in ProxyConfig._fields
    )
    proxy = ProxyConfig(
        str(url.value).strip(),
        str(user.value),
        str(password.value),
        tuple(str(exceptions.value).replace(",", " ").split()),
    )
    try:
        proxies_for(proxy, {})
    except errors.ConfigError as error:
        raise errors.ConfigError(url.where, f"`proxy.url`: {error.reason}") from None
    return proxy


def _number(inputs: Inputs, key: str, least: int, most: int | None) -> int:
    value, where = inputs.get(key)
    number = int(value)
    if number < least:
        reason = "must not be negative" if least == 0 else f"must be at least {least}"
        raise errors.ConfigError(where, f"`{key}` {reason}")
    if most is not None and number > most:
        raise errors.ConfigError(where, f"`{key}` must be at most {most}")
    return number


def _gates(inputs: Inputs) -> Gates:
    return Gates(
        quiet=_quiet_hours(inputs),
        metered=bool(inputs.get("gates.metered").value),
        battery=_number(inputs, "gates.battery", 0, 100),
        days=_number(inputs, "gates.days", 1, 90),
    )


def _quiet_hours(inputs: Inputs) -> tuple[int, int] | None:
    """Read ``08:00-15:00``: minutes since midnight of both ends."""
    text, where = inputs.get("gates.quiet_hours")
    if not str(text).strip():
        return None
    ends = [_HOURS.fullmatch(part.strip()) for part in str(text).split("-")]
    minutes = [int(end[1]) * 60 + int(end[2]) for end in ends if end is not None]
    if len(ends) != 2 or len(minutes) != 2 or minutes[0] == minutes[1]:
        reason = f"`gates.quiet_hours`: {text!r} is not two times as in `08:00-15:00`"
        raise errors.ConfigError(where, reason)
    return minutes[0], minutes[1]
