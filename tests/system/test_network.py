"""Which proxy a request goes through."""

import pytest

from olpc_update_query.errors import ConfigError
from olpc_update_query.system.network import (
    ProxyConfig,
    proxies_for,
    proxy_for,
    rsync_proxy,
)


@pytest.mark.parametrize(
    ("config", "environment", "expected"),
    [
        pytest.param(ProxyConfig(), {}, {}, id="none"),
        pytest.param(
            ProxyConfig("http://p:8080"),
            {"http_proxy": "http://other:1"},
            dict.fromkeys(("http", "https", "rsync"), "http://p:8080"),
            id="configuration wins",
        ),
        pytest.param(
            ProxyConfig("direct"), {"http_proxy": "http://p:1"}, {}, id="direct"
        ),
        pytest.param(
            ProxyConfig("p:8080", "kid", "a:b/c@d"),
            {},
            dict.fromkeys(
                ("http", "https", "rsync"), "http://kid:a%3Ab%2Fc%40d@p:8080"
            ),
            id="user and password",
        ),
        pytest.param(
            ProxyConfig("http://me:x@p:1", "kid", "y"),
            {},
            dict.fromkeys(("http", "https", "rsync"), "http://me:x@p:1"),
            id="address has a user",
        ),
        pytest.param(
            ProxyConfig(),
            {"http_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"},
            {"http": "http://a:1", "https": "http://b:2"},
            id="environment, either case",
        ),
        pytest.param(
            ProxyConfig(),
            {"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:2"},
            {"http": "http://a:1"},
            id="lower case wins",
        ),
        pytest.param(
            ProxyConfig(),
            {"all_proxy": "http://a:1"},
            {"http": "http://a:1", "https": "http://a:1"},
            id="all_proxy",
        ),
        pytest.param(
            ProxyConfig(user="kid", password="pw"),
            {"http_proxy": "http://a:1"},
            {"http": "http://kid:pw@a:1"},
            id="password for the environment's proxy",
        ),
        pytest.param(
            ProxyConfig(),
            {"RSYNC_PROXY": "u:p@a:1"},
            {"rsync": "http://u:p@a:1"},
            id="rsync's own variable",
        ),
        pytest.param(
            ProxyConfig(exceptions=("schoolserver",)),
            {"http_proxy": "http://a:1", "NO_PROXY": "b,c"},
            {"http": "http://a:1", "no_proxy": "schoolserver,b,c"},
            id="exceptions of both",
        ),
        pytest.param(ProxyConfig(), {"no_proxy": "b"}, {}, id="exceptions of nothing"),
    ],
)
def test_proxies(
    config: ProxyConfig, environment: dict[str, str], expected: dict[str, str]
) -> None:
    assert proxies_for(config, environment) == expected


@pytest.mark.parametrize(
    "address",
    ["socks5://p:1", "http://", "http://p:port", "http://p:99999", "http://p:0"],
)
def test_unusable_proxy_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=r"\[proxy\] url"):
        proxies_for(ProxyConfig(address), {})
    with pytest.raises(ConfigError, match="http_proxy"):
        proxies_for(ProxyConfig(), {"http_proxy": address})


@pytest.mark.parametrize(
    ("url", "exceptions", "direct"),
    [
        pytest.param("http://a.test/", "", False, id="no exceptions"),
        pytest.param("http://a.test/", "b.test", False, id="another"),
        pytest.param("http://a.test/", "a.test", True, id="the host"),
        pytest.param("http://A.Test/", "a.TEST", True, id="in any case"),
        pytest.param("http://x.a.test/", "a.test", True, id="below it"),
        pytest.param("http://x.a.test/", ".a.test", True, id="with a dot"),
        pytest.param("http://xa.test/", "a.test", False, id="only ends alike"),
        pytest.param("http://a.test/", "b, a.test ,c", True, id="in a list"),
        pytest.param("http://a.test/", "b a.test", True, id="separated by spaces"),
        pytest.param("http://a.test/", "*", True, id="all"),
        pytest.param("http://a.test:81/", "a.test:81", True, id="the port"),
        pytest.param("http://a.test:82/", "a.test:81", False, id="another port"),
        pytest.param("http://10.1.2.3/", "10.1.0.0/16", True, id="network"),
        pytest.param("http://10.2.2.3/", "10.1.0.0/16", False, id="another network"),
        pytest.param("http://10.1.2.3/", "10.1.2.3", True, id="address"),
        pytest.param("http://10.1.2.3/", "10.1.2.3/99", False, id="wrong mask"),
        pytest.param("http://10.1.2.3:8/", "10.1.2.3:8", True, id="address and port"),
        pytest.param("http://[fe80::1]/", "fe80::/10", True, id="IPv6 network"),
        pytest.param("http://bad.cafe/", "cafe", True, id="name of hex digits"),
        pytest.param("http://a.test/", ".", False, id="a dot alone"),
    ],
)
def test_exceptions(url: str, exceptions: str, direct: bool) -> None:
    proxies = {"http": "http://p:1", "no_proxy": exceptions}
    assert proxy_for(url, proxies) == (None if direct else "http://p:1")


def test_each_scheme_has_its_proxy() -> None:
    proxies = {"http": "http://p:1"}
    assert proxy_for("https://a.test/", proxies) is None


def test_rsync_gets_the_password_as_it_is() -> None:
    proxies = proxies_for(ProxyConfig("http://p:1", "kid", "a@b/c"), {})
    assert rsync_proxy("rsync://a.test/x", proxies) == "kid:a@b/c@p:1"
    assert rsync_proxy("rsync://a.test/x", {"http": "http://p:1"}) is None
    assert rsync_proxy("rsync://a.test/x", {"rsync": "http://p:1"}) == "p:1"
