"""How a proxy is logged in at: the vectors of RFC 7616, and what is not understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.system.proxy_login import ProxyLogin, best_challenge

RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
MUFASA = "http://Mufasa:Circle%20of%20Life@proxy.test:3128"


def digest_of(login: ProxyLogin, challenge: str) -> str:
    found = best_challenge([challenge])
    assert found is not None
    asked = ("GET", "/dir/index.html")
    return login._digest(found.fields, asked, CNONCE, "00000001")


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        (
            "SHA-256",
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
    ],
)
def test_the_vectors_of_rfc_7616(algorithm: str, response: str) -> None:
    login = ProxyLogin(MUFASA)
    challenge = RFC_7616.format(algorithm)
    assert login.learn([challenge], None)
    made = digest_of(login, challenge)
    assert f'response="{response}"' in made
    assert f"algorithm={algorithm}, qop=auth, nc=00000001" in made
    assert 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' in made


def test_the_example_of_rfc_2069() -> None:
    """An old proxy knows no qop. (The erratum of RFC 2069 has this response.)"""
    login = ProxyLogin("http://Mufasa:CircleOfLife@proxy.test:3128")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    challenge = f'Digest realm="testrealm@host.com", nonce="{nonce}"'
    assert login.learn([challenge], None)
    made = digest_of(login, challenge)
    assert 'response="1949323746fe6a43ef61f9606e7febea"' in made
    assert "qop" not in made


def test_nothing_is_sent_before_it_is_asked_for() -> None:
    login = ProxyLogin(MUFASA)
    assert login.header("POST", "http://a.test/") is None
    assert login.address == "http://proxy.test:3128"
    assert login.learn(['Basic realm="x"'], None)
    assert login.header("POST", "http://a.test/") == (
        "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl"
    )


def test_each_request_counts() -> None:
    login = ProxyLogin(MUFASA)
    login.learn([RFC_7616.format("MD5")], None)
    made = [login.header("POST", "http://a.test/") or "" for _ in range(2)]
    assert "nc=00000001" in made[0]
    assert "nc=00000002" in made[1]
    assert made[0].partition("cnonce=")[2][:18] != made[1].partition("cnonce=")[2][:18]


def test_a_password_that_was_refused_is_not_offered_again() -> None:
    login, challenge = ProxyLogin(MUFASA), RFC_7616.format("MD5")
    assert login.learn([challenge], None)
    assert login.learn([challenge], None), "another thread's request, without it"
    assert not login.learn([challenge], login.header("GET", "http://a.test/"))
    stale = f"{challenge}, stale=true"
    assert login.learn([stale], login.header("GET", "http://a.test/")), "a new nonce"


def test_without_a_user_nothing_is_tried() -> None:
    assert not ProxyLogin("http://proxy.test:3128").learn(['Basic realm="x"'], None)


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        pytest.param(['Basic realm="x"', RFC_7616.format("MD5")], "MD5", id="Digest"),
        pytest.param(
            [RFC_7616.format("MD5"), RFC_7616.format("SHA-256")], "SHA-256", id="SHA"
        ),
        pytest.param(["Negotiate", 'basic realm="x"'], "basic", id="what is known"),
        pytest.param(["NTLM"], None, id="NTLM"),
        pytest.param([""], None, id="nothing"),
        pytest.param(["Digest"], None, id="no fields"),
        pytest.param(["Digest realm"], None, id="no value"),
        pytest.param(['Digest realm="x"'], None, id="no nonce"),
        pytest.param([RFC_7616.format("SHA-512")], None, id="another digest"),
        pytest.param([RFC_7616.format("MD5-sess")], None, id="a session"),
        pytest.param(
            ['Digest realm="x", nonce="y", qop="auth-int"'], None, id="the body too"
        ),
        pytest.param(
            ['Digest realm="x\r\ny", nonce="z"'], None, id="a header in a header"
        ),
    ],
)
def test_the_best_challenge(offered: list[str], expected: str | None) -> None:
    found = best_challenge(offered)
    if found is None:
        assert expected is None
    else:
        assert expected in {found.scheme, found.fields.get("algorithm")}


WORDS = st.sampled_from(
    [
        *("Digest ", "Basic ", 'realm="x"', 'nonce="y"', "qop=auth"),
        *(", ", '"', "=", "\\", "MD5"),
    ]
)


@given(st.lists(st.text(max_size=30) | st.lists(WORDS).map("".join), max_size=3))
def test_any_challenge(offered: list[str]) -> None:
    login = ProxyLogin(MUFASA)
    login.learn(offered, None)
    header = login.header("POST", "http://a.test/antitheft/1/")
    assert header is None or (header.isascii() and header.isprintable())
    assert "Circle of Life" not in (header or "")
