"""Which proxy a request goes through."""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from olpc_update_query.errors import ConfigError

DIRECT = "direct"  # as the configured address: no proxy, whatever the environment says
_SCHEMES = ("http", "https")
_NUMERIC = re.compile(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?")  # addresses and networks


class ProxyConfig(NamedTuple):
    """The ``[proxy]`` table of the configuration.

    Attributes:
        url: ``http://host:port``, ``direct``, or empty for what the environment says.
        user: User name, for a proxy whose address has none.
        password: Its password.
        exceptions: Hosts that are asked directly, as in ``no_proxy``.
    """

    url: str = ""
    user: str = ""
    password: str = ""
    exceptions: tuple[str, ...] = ()


def proxies_for(config: ProxyConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """Work out the proxies.

    Args:
        config: What the administrator set; it wins over the environment.
        environment: Usually ``os.environ``. ``http_proxy``, ``https_proxy``,
            ``all_proxy`` and ``no_proxy`` in either case, and ``RSYNC_PROXY``.

    Returns:
        Proxy addresses, with user name and password, by ``http``, ``https`` and
        ``rsync``, and the exceptions as ``no_proxy``; see ``proxy_for``.

    Raises:
        ConfigError: An address cannot be used.
    """
    if config.url == DIRECT:
        return {}
    if config.url:
        address = _complete("[proxy] url", config.url, config)
        proxies = dict.fromkeys(("http", "https", "rsync"), address)
    else:
        proxies = _from_environment(config, environment)
    exceptions = [*config.exceptions, _variable(environment, "no_proxy")[1]]
    if proxies and any(exceptions):
        proxies["no_proxy"] = ",".join(filter(None, exceptions))
    return proxies


def _from_environment(
    config: ProxyConfig, environment: Mapping[str, str]
) -> dict[str, str]:
    proxies = {}
    for scheme in _SCHEMES:
        name, address = _variable(environment, f"{scheme}_proxy")
        if not address:
            name, address = _variable(environment, "all_proxy")
        if address:
            proxies[scheme] = _complete(name, address, config)
    if rsync := environment.get("RSYNC_PROXY", ""):
        proxies["rsync"] = _complete("RSYNC_PROXY", rsync, config)
    return proxies


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    spelling = name if environment.get(name) else name.upper()
    return spelling, environment.get(spelling, "").strip()


def _complete(name: str, address: str, config: ProxyConfig) -> str:
    """Check an address, and put user name and password into it."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        usable = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number
        usable = False
    if not usable:
        raise ConfigError(name, "not an http:// or https:// proxy with host and port")
    host = parts.netloc.rpartition("@")[2]
    credentials = parts.netloc.rpartition("@")[0]
    if not credentials and config.user:
        credentials = f"{quote(config.user, '')}:{quote(config.password, '')}"
    return f"{parts.scheme}://{credentials}{'@' if credentials else ''}{host}"


def proxy_for(url: str, proxies: Mapping[str, str]) -> str | None:
    """Return the proxy to ask ``url`` through, or None to ask directly."""
    parts = urlsplit(url)
    address = proxies.get(parts.scheme)
    if address is None or parts.hostname is None:
        return None
    exceptions = re.split(r"[\s,]+", proxies.get("no_proxy", ""))
    if any(_covers(item, parts.hostname, parts.port) for item in exceptions if item):
        return None
    return address


def _covers(exception: str, host: str, port: int | None) -> bool:
    """Tell whether an item of ``no_proxy`` names this host."""
    if exception == "*":
        return True
    if _NUMERIC.fullmatch(host) and _NUMERIC.fullmatch(exception):
        inside = _contains(exception, host)
        if inside is not None:
            return inside
    name, colon, wanted = exception.lower().rpartition(":")
    if colon and wanted.isdigit():
        return int(wanted) == port and _is_or_below(host, name)
    return _is_or_below(host, exception.lower())


def _is_or_below(host: str, name: str) -> bool:
    name = name.lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _contains(network: str, address: str) -> bool | None:
    """Tell whether the address is in the network; None if they are not numeric."""
    import ipaddress

    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, False)
    except ValueError:
        return None


def rsync_proxy(url: str, proxies: Mapping[str, str]) -> str | None:
    """Return what ``RSYNC_PROXY`` must hold for ``url``, or None.

    rsync wants ``user:password@host:port`` and takes it as it stands.
    """
    address = proxy_for(url, proxies)
    if address is None:
        return None
    credentials, at, host = urlsplit(address).netloc.rpartition("@")
    return f"{unquote(credentials)}{at}{host}"
