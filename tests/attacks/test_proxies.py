"""Polls through real proxies: with passwords, and such that cache and strip."""

import http.client
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from olpc_update_query.cli import render
from tests.attacks.forge import Forge, new_lease
from tests.attacks.victim import Victim, assert_plain
from tests.http_server import Reply, unused_port
from tests.proxies import PASSWORD, USER, basic, digest, squid, tinyproxy
from tests.raw_server import Part, raw_server
from tests.run.polled import NOW
from tests.simulator import work_of

HARD = [
    "http_access allow all",
    "cache_mem 8 MB",
    "refresh_pattern . 9999 100% 9999 override-expire override-lastmod "
    "ignore-reload ignore-no-store ignore-private",
]


def configure(victim: Victim, port: int, user: str = "", password: str = "") -> None:
    path = victim.laptop.root / "etc/olpc-update-query/config.d/proxy.toml"
    path.parent.mkdir(exist_ok=True)
    lines = ["[proxy]", f'url = "http://127.0.0.1:{port}"']
    if user:
        lines += [f"user = '{user}'", f"password = '{password}'"]
    path.write_text("\n".join([*lines, ""]))


def says_nowhere(victim: Victim, story: str, secret: str) -> None:
    """Check that a password is neither told nor written down."""
    kept = [path for path in work_of(victim.laptop.root).rglob("*") if path.is_file()]
    told = story + "".join(path.read_text() for path in kept)
    assert kept
    for spelling in (secret, quote(secret), quote(secret, "")):
        assert spelling not in told


def ask_through(victim: Victim, secret: str, code: int) -> str:
    """Poll; return everything that was told."""
    asked = victim.server.asked
    found, heard = victim.laptop.ask()
    assert found == code, heard.outcome
    assert victim.server.asked == asked + (code == 0)
    if code:
        assert_plain(heard, "407|401")
    events = [event for event in heard.events if not isinstance(event, str)]
    lines = [line for event in events for line in render.story(event, NOW)]
    notes = [event for event in heard.events if isinstance(event, str)]
    story = "\n".join([*lines, *notes, str(heard.outcome)])
    says_nowhere(victim, story, secret)
    return story


@pytest.mark.needs("squid", "openssl")
@pytest.mark.parametrize("wanting", [basic, digest])
def test_squid_with_a_password(victim: Victim, tmp_path: Path, wanting: object) -> None:
    lines = wanting(tmp_path)  # type: ignore[operator]
    with squid(tmp_path, *lines) as port:
        configure(victim, port, USER, PASSWORD)
        victim.server.lease = new_lease()
        ask_through(victim, PASSWORD, 0)
        assert victim.laptop.lease() == new_lease()
        assert "Via" in victim.server.site.seen[-1].headers, "it went through squid"
        assert "Proxy-Authorization" not in victim.server.site.seen[-1].headers
        configure(victim, port, USER, "wr0ng word")
        scheme = wanting.__name__.title()  # type: ignore[attr-defined]
        assert f"it offers {scheme}" in ask_through(victim, "wr0ng word", 12)
        configure(victim, port)
        ask_through(victim, PASSWORD, 12)


@pytest.mark.needs("squid")
def test_squid_by_the_environment(
    victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with squid(tmp_path, *digest(tmp_path)) as port:
        login = f"{USER}:{quote(PASSWORD, '')}"
        monkeypatch.setenv("http_proxy", f"http://{login}@127.0.0.1:{port}/")
        ask_through(victim, PASSWORD, 0)
        assert "Via" in victim.server.site.seen[-1].headers


@pytest.mark.needs("tinyproxy")
def test_tinyproxy_with_a_password(victim: Victim, tmp_path: Path) -> None:
    with tinyproxy(tmp_path) as port:
        configure(victim, port, USER, "secret")
        ask_through(victim, "secret", 0)
        configure(victim, port, USER, "wr0ng")
        ask_through(victim, "wr0ng", 12)
        configure(victim, port)
        ask_through(victim, "secret", 12)


@pytest.mark.needs("squid")
def test_squid_that_caches_as_hard_as_it_can(victim: Victim, tmp_path: Path) -> None:
    forever = {"Cache-Control": "public, max-age=99999", "Content-Location": "/x"}
    with squid(tmp_path, *HARD) as port:
        configure(victim, port)
        for number in range(3):
            message = f"answer {number}"
            victim.attack(
                lambda forge, said=message: Reply(  # type: ignore[misc]
                    200, forever, forge.signed(forge.data(message=said))
                )
            )
            assert victim.laptop.ask()[0] == 0
            kept = victim.laptop.machine().asker.load("state")
            assert kept["message"] == message, "each answer is a new one"


def test_a_proxy_that_answers_from_its_cache(victim: Victim) -> None:
    """The nonce tells, whatever the headers say."""
    victim.is_unmoved_by(lambda forge: forge.overheard, 21, "nonce")


def through_a_stripper(victim: Victim, body: bytes) -> bytes:
    """Forward a query with no header but its length, and give back octets only."""
    target = urlsplit(victim.server.url).netloc
    link = http.client.HTTPConnection(target)
    link.putrequest("POST", "/antitheft/1/", skip_accept_encoding=True)
    link.putheader("Content-Length", str(len(body)))
    link.endheaders(body)
    answer = link.getresponse().read()
    link.close()
    return answer


def test_a_proxy_that_strips_headers(victim: Victim) -> None:
    def forward(body: bytes) -> Iterable[Part]:
        return [b"HTTP/1.0 200 OK\r\n\r\n", through_a_stripper(victim, body)]

    victim.attack(Forge.genuine)
    with raw_server(forward) as proxy:
        configure(victim, urlsplit(proxy.url).port or 0)
        assert victim.laptop.ask()[0] == 0
        assert proxy.asked == 1
    assert victim.laptop.lease() == new_lease()


def test_a_proxy_that_is_not_there(victim: Victim) -> None:
    configure(victim, unused_port(), USER, PASSWORD)
    code, heard = victim.laptop.ask()
    assert code == 10
    assert "the proxy: " in heard.outcome.text
    says_nowhere(victim, str(heard.outcome), PASSWORD)
