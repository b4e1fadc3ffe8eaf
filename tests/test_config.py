import re
import tomllib
from pathlib import Path

import pytest

from olpc_update_query import config
from olpc_update_query.errors import ConfigError
from olpc_update_query.policy.gates import Gates
from olpc_update_query.system.network import ProxyConfig
from olpc_update_query.system.settings import Settings

TOP = Path(__file__).parents[1]
SAMPLE = TOP / "docs/config.sample.toml"
PAGE = TOP / "docs/configuration.md"
SCHOOL = "http://schoolserver/"
CENTRAL = "http://antitheft.laptop.org/"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/olpc-update-query/config.d").mkdir(parents=True)
    (tmp_path / "security").mkdir()
    return tmp_path


def write(root: Path, text: str, name: str = "config.toml") -> Path:
    path = root / "etc/olpc-update-query" / name
    path.write_text(text)
    return path


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    assert config.load(tmp_path) == Settings(servers=(SCHOOL, CENTRAL))


def test_every_key(root: Path) -> None:
    write(
        root,
        """
        server = "https://oats.example:8443/school"
        stream = "testing"
        set_clock = true
        bandwidth_limit = 20000
        [proxy]
        url = "http://proxy:3128"
        user = "kid"
        password = "p@ss: word"
        exceptions = "schoolserver, .lan"
        [gates]
        quiet_hours = " 8:00 - 15:30"
        metered = false
        battery = 50
        days = 3
        [identity]
        serial = "SHC00000001"
        uuid = "00000000-0000-0000-0000-00000000002A"
        """,
    )
    assert config.load(root) == Settings(
        servers=(SCHOOL, "https://oats.example:8443/school/"),
        stream="testing",
        set_clock=True,
        bandwidth_limit=20000,
        proxy=ProxyConfig(
            "http://proxy:3128", "kid", "p@ss: word", ("schoolserver", ".lan")
        ),
        gates=Gates(quiet=(8 * 60, 15 * 60 + 30), metered=False, battery=50, days=3),
        serial="SHC00000001",
        uuid="00000000-0000-0000-0000-00000000002A",
    )


def test_later_fragments_win_key_by_key(root: Path) -> None:
    write(root, 'stream = "a"\nserver = "one"\n[proxy]\nuser = "u"\n')
    write(root, 'stream = "c"\n', "config.d/20-stream.toml")
    write(root, 'stream = "b"\n[proxy]\npassword = "p"\n', "config.d/10-first.toml")
    write(root, 'stream = "d"\n', "config.d/30-not-toml.conf")
    found = config.load(root)
    assert found.stream == "c"
    assert found.servers == (SCHOOL, "http://one/")
    assert (found.proxy.user, found.proxy.password) == ("u", "p")


def test_one_file_instead_of_all_others(root: Path, tmp_path: Path) -> None:
    write(root, 'stream = "a"\n')
    other = tmp_path / "other.toml"
    other.write_text('server = "two"\n')
    found = config.load(root, config=other)
    assert (found.stream, found.servers[1]) == ("", "http://two/")


def test_servers_of_the_command_line_replace_all(root: Path) -> None:
    write(root, 'server = "one"\n')
    found = config.load(root, servers=["http://a:8080", "b"])
    assert found.servers == ("http://a:8080/", "http://b/")


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        pytest.param('stream = "a"\nsevrer = "x"\n', 2, "`sevrer`", id="unknown key"),
        pytest.param("[proxy]\n\nuser = 1\n", 3, "a string", id="number for a string"),
        pytest.param('[proxy]\nusr = "x"\n', 2, "`proxy.usr`", id="key in a table"),
        pytest.param('[prxy]\nuser = "x"\n', 2, "`prxy.user`", id="unknown table"),
        pytest.param("[nothing]\n", 1, "`nothing`", id="empty unknown table"),
        pytest.param("set_clock = 1\n", 1, "true or false", id="1 is not true"),
        pytest.param('set_clock = "false"\n', 1, "true or false", id="a word"),
        pytest.param("bandwidth_limit = true\n", 1, "whole number", id="true is not 1"),
        pytest.param("bandwidth_limit = -1\n", 1, "negative", id="negative"),
        pytest.param("gates.days = 91\n", 1, "at most 90", id="for ever"),
        pytest.param("gates.days = 0\n", 1, "at least 1", id="not a day"),
        pytest.param("gates.battery = 101\n", 1, "at most 100", id="overcharged"),
        pytest.param('gates.quiet_hours = "8-15"\n', 1, "08:00-15:00", id="no minutes"),
        pytest.param('gates.quiet_hours = "1:00-25:00"\n', 1, "08:00", id="no hour"),
        pytest.param('gates.quiet_hours = "1:00-1:00"\n', 1, "08:00", id="never ends"),
        pytest.param("bandwidth_limit = 1.5\n", 1, "whole number", id="fraction"),
        pytest.param('proxy = "x"\n', 1, "`proxy`", id="value for a table"),
        pytest.param('[server]\nurl = "x"\n', 2, "`server.url`", id="table for a key"),
        pytest.param("a = 1\na = 2\n", 2, "TOML", id="key twice"),
        pytest.param('stream = "a\n', 1, "TOML", id="syntax"),
        pytest.param('stream = "a b"\n', 1, "stream's name", id="no stream"),
        pytest.param('server = "ftp://x/"\n', 1, "http://HOST", id="no server"),
        pytest.param('\n[proxy]\nurl = "x://y"\n', 3, "`proxy.url`", id="no proxy"),
        pytest.param('proxy.url = "x://y"\n', 1, "`proxy.url`", id="dotted key"),
        pytest.param("proxy = {usr = 1}\n", 1, "`proxy.usr`", id="inline table"),
    ],
)
def test_mistakes_are_named_with_file_and_line(
    root: Path, text: str, line: int, complaint: str
) -> None:
    path = write(root, text)
    with pytest.raises(ConfigError) as caught:
        config.load(root)
    assert str(path) in caught.value.where
    assert re.search(rf"line {line}\b", str(caught.value))
    assert complaint in caught.value.reason


def test_a_slip_of_the_pen_gets_a_suggestion(root: Path) -> None:
    write(root, 'sevrer = "x"\n')
    with pytest.raises(ConfigError, match="did you mean `server`"):
        config.load(root)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"#" * 70_000], ids=["not UTF-8", "too long"]
)
def test_a_file_that_is_no_text(root: Path, content: bytes) -> None:
    (root / "etc/olpc-update-query/config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        config.load(root)


def test_where_a_file_is_no_text(root: Path) -> None:
    path = root / "etc/olpc-update-query/config.toml"
    path.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(ConfigError, match=r"config\.toml, line 2: this is not UTF-8"):
        config.load(root)


def test_a_directory_for_a_file(root: Path) -> None:
    (root / "etc/olpc-update-query/config.toml").mkdir()
    with pytest.raises(ConfigError, match=r"config\.toml"):
        config.load(root)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("host", "http://host/"),
        ("host:8080", "http://host:8080/"),
        (" http://host \n", "http://host/"),
        ("https://host/sub", "https://host/sub/"),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("2001:db8::5", "http://[2001:db8::5]/"),
        ("::1", "http://[::1]/"),
        ("http://[fe80::1%25eth0]/", "http://[fe80::1%25eth0]/"),
        ("school_server", "http://school_server/"),
        ("oats.escuela-1.example.", "http://oats.escuela-1.example./"),
        ("2001:db8::zz", None),
        ("http://[fe80::1%25]/", None),
        ("", None),
        ("http://", None),
        ("http:///x", None),
        ("http://ho st/", None),
        ("http://host:99999/", None),
        ("http://host:0/", None),
        ("http://host/?q", None),
        ("http://host/#f", None),
        ("http://user:pw@host/", None),
        ("http://host/\x1b[2J", None),
        ("file:///etc/passwd", None),
    ],
)
def test_server_names(text: str, url: str | None) -> None:
    if url is None:
        with pytest.raises(ConfigError, match="--server"):
            config.parse_server(text, "--server")
    else:
        assert config.parse_server(text, "--server") == url


# --- the files of the original system -----------------------------------------------


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("etc", "update-stream"),
        ("security", "update-stream"),
        ("etc/olpc-update", "update-stream"),
    ],
)
def test_the_old_stream_file(root: Path, directory: str, name: str) -> None:
    (root / directory).mkdir(exist_ok=True)
    (root / directory / name).write_text(" none\n")
    assert config.load(root).stream == "none"


@pytest.mark.parametrize("directory", ["etc", "security"])
def test_the_old_server_file(root: Path, directory: str) -> None:
    (root / directory / "oats-server").write_text("oats.example\n")
    assert config.load(root).servers == (SCHOOL, "http://oats.example/")


@pytest.mark.parametrize("directory", ["etc", "security"])
def test_ignoring_the_school_server(root: Path, directory: str) -> None:
    (root / directory / "oats-ignore-xs").touch()
    assert config.load(root).servers == (CENTRAL,)


def test_ignoring_signatures_takes_a_file(root: Path) -> None:
    assert not config.load(root).ignore_signature
    (root / "etc/oats-ignore-signature").touch()
    assert config.load(root).ignore_signature


def test_etc_wins_over_security_and_toml_over_both(root: Path) -> None:
    (root / "security/oats-server").write_text("older")
    (root / "etc/oats-server").write_text("old")
    assert config.load(root).servers[1] == "http://old/"
    write(root, 'server = "new"\n')
    assert config.load(root).servers[1] == "http://new/"


def test_an_empty_old_file_says_nothing(root: Path) -> None:
    (root / "etc/oats-server").write_text("\n")
    assert config.load(root).servers == (SCHOOL, CENTRAL)


@pytest.mark.parametrize("content", [b"\xff\n", b"http://a b\n", b"x" * 2000])
def test_a_damaged_old_file_is_named(root: Path, content: bytes) -> None:
    (root / "etc/oats-server").write_bytes(content)
    with pytest.raises(ConfigError, match="etc/oats-server"):
        config.load(root)


# --- documentation -----------------------------------------------------------------


def uncommented(text: str) -> str:
    """Take the mark off the keys and tables of the sample, not off its prose."""
    return re.sub(r"^#(?=[\w.]+ = |\[)", "", text, flags=re.MULTILINE)


def test_the_sample_shows_every_key_with_its_default() -> None:
    text = SAMPLE.read_text()
    assert tomllib.loads(text) == {}, "as shipped it changes nothing"
    shown = dict(config._flatten(tomllib.loads(uncommented(text))))
    assert shown == dict(config.KEYS)


def test_the_sample_explains_every_key() -> None:
    lines = SAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#[\w.]+ = ", line):
            assert lines[number - 1].startswith("# "), line


def test_the_sample_is_accepted(root: Path) -> None:
    write(root, uncommented(SAMPLE.read_text()))
    assert config.load(root) == Settings(servers=(SCHOOL, CENTRAL))


def test_the_page_tells_of_every_key_and_every_old_file() -> None:
    page = PAGE.read_text()
    for key in config.KEYS:
        assert f"`{key}`" in page
    for name in ("oats-server", "oats-ignore-xs", "oats-ignore-signature"):
        assert f"/etc/{name}" in page
