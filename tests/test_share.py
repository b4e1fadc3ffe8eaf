"""The man pages and the completions agree with the program."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bench.school import program
from olpc_update_query import config
from share import build
from tests.test_exit_codes import KINDS

PAGES = sorted(build.PAGES.glob("*.in"))
PROGRAMS = sorted(build.COMMANDS)


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("share")
    build.main(directory)
    return directory


def shown(name: str) -> str:
    """Return a page as groff shows it, in one line."""
    page = build.page(build.PAGES / f"{name}.in")
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", "-rHY=0"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    return " ".join(done.stdout.split())


@pytest.mark.needs("groff-base")
@pytest.mark.parametrize("template", PAGES, ids=lambda path: path.name)
def test_groff_finds_no_fault(template: Path) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-z"],
        input=build.page(template),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search(r"^@[A-Z_]+@$", build.page(template), re.MULTILINE)


def words_of(command: click.Command) -> Iterator[str]:
    for option in build.options_of(command):
        yield from option.opts
    for name, inner in getattr(command, "commands", {}).items():
        yield name
        yield from words_of(inner)


@pytest.mark.needs("groff-base")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_tells_every_option(name: str) -> None:
    text = shown(f"{name}.1")
    for word in words_of(build.COMMANDS[name]):
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), word


@pytest.mark.needs("groff-base")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_tells_no_option_that_is_not_there(name: str) -> None:
    section = re.search(r"\bOPTIONS (.*?) (COMMANDS|EXIT STATUS)", shown(f"{name}.1"))
    assert section
    known = set(words_of(build.COMMANDS[name])) | {"--help"}
    assert set(re.findall(r"(?<!\S)--[a-z][a-z-]+", section[1])) <= known


@pytest.mark.needs("groff-base")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_page_tells_the_exit_codes(name: str) -> None:
    section = shown(f"{name}.1").partition("EXIT STATUS ")[2]
    for kind in KINDS:
        meaning = (kind.__doc__ or "").splitlines()[0]
        servers = kind.exit_code in build.SERVERS_OWN
        told = f"{kind.exit_code} {meaning}" in section
        assert told is (not servers or name == "olpc-update-admin"), kind


@pytest.mark.needs("groff-base")
def test_the_page_of_the_configuration() -> None:
    assert {key.name for key in build.sample_keys()} == set(config.KEYS)
    text = shown("olpc-update-query.conf.5")
    for key in config.KEYS:
        assert key in text


# --- completions ---------------------------------------------------------------------


@pytest.mark.needs("fish", "zsh")
@pytest.mark.parametrize("shell", build.SHELLS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_shell_takes_the_completion(share: Path, shell: str, name: str) -> None:
    path = share / build.SHELLS[shell].format(name)
    done = subprocess.run(
        [shell, "-n", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


WORDS = [
    pytest.param("olpc-update-query", "sta", "status", id="a subcommand"),
    pytest.param("olpc-update-query", "--trigger ne", "network", id="a choice"),
    pytest.param("olpc-update", "--roll", "--rollback", id="an option"),
    pytest.param("olpc-update-admin", "laptops sh", "show", id="a deeper one"),
]


@pytest.mark.parametrize(("name", "typed", "wanted"), WORDS)
def test_bash_completes(share: Path, name: str, typed: str, wanted: str) -> None:
    path = share / build.SHELLS["bash"].format(name)
    function = re.search(r"-F (\w+)", path.read_text())
    assert function
    script = (
        f'source "{path}"; COMP_WORDS=({name} {typed}); '
        f"COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); {function[1]} {name}; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    here = os.path.dirname(program(name))
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{here}:/usr/bin:/bin"},
    )
    assert wanted in done.stdout.split()
