"""The documents: their links lead somewhere and the commands they show exist."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.school import program

TOP = Path(__file__).parents[1]
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\n]+)`")
TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)


def documents() -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(TOP))) for path in DOCUMENTS]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("document", documents())
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(document.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def shown_lines(document: Path) -> Iterator[str]:
    """Return what a document shows as typed: blocks of code, and words in quotes."""
    in_block = False
    for line in document.read_text().splitlines():
        if line.startswith("```"):
            in_block = not in_block
        elif in_block or line.startswith("    "):
            yield line.strip().removeprefix("$ ")
        else:
            yield from QUOTED.findall(line)


def shown_commands(name: str) -> Iterator[list[str]]:
    """Return the command lines that the documents show for a program."""
    for document in DOCUMENTS:
        for line in shown_lines(document):
            text = re.split(r" {3,}|\s#|\s[|>]", line)[0]
            if text.startswith(name + " "):
                yield shlex.split(text)


def known_commands() -> set[str]:
    with open(TOP / "pyproject.toml", "rb") as file:
        return set(tomllib.load(file)["project"]["scripts"])


def help_of(*words: str) -> str:
    done = subprocess.run(
        [program(words[0]), *words[1:], "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", sorted(known_commands()))
def test_shown_commands_exist(name: str) -> None:
    shown = list(shown_commands(name))
    assert shown
    for words in shown:
        groups = {"keys", "laptops", "reports"} & set(words[1:2])
        depth = 2 + len(groups) if words[1].isalpha() else 1
        is_build = name == "olpc-update"  # its first word is no subcommand
        about = help_of(*words[: 1 if is_build else depth])
        for word in words:
            option = word.partition("=")[0]
            assert not option.startswith("-") or option in about, words


def test_shown_make_targets_exist() -> None:
    targets = set(TARGET.findall((TOP / "Makefile").read_text()))
    for words in shown_commands("make"):
        assert words[1] in targets, words


def test_the_makefile_installs_what_the_tests_need() -> None:
    makefile = (TOP / "Makefile").read_text()
    packages = re.search(r"^PACKAGES := ((?:.*\\\n)*.*)", makefile, re.MULTILINE)
    assert packages
    installed = set(packages[1].replace("\\", " ").split())
    essential = {"mount", "util-linux"}  # on every Debian
    for test in (TOP / "tests").rglob("test_*.py"):
        for arguments in re.findall(r"mark\.needs\(([^)]*)\)", test.read_text()):
            wanted = set(re.findall(r'"([^"]+)"', arguments))
            assert wanted <= installed | essential, test


def test_the_decisions_are_listed() -> None:
    directory = TOP / "docs/adr"
    index = (directory / "README.md").read_text()
    for decision in sorted(directory.glob("[0-9]*.md")):
        assert decision.name in index
        number, title = decision.name[:4], decision.read_text().splitlines()[0]
        assert title.startswith((f"# {number}. ", "# NNNN. "))
