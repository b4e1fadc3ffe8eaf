"""What judges the parsers must itself notice when one is wrong."""

import os
import subprocess
import sys

import pytest

from olpc_update_query.model import entry
from olpc_update_query.trust import signature
from tests.fuzz.corpus import ROOT, good
from tests.fuzz.invariants import Finding, need_plain
from tests.fuzz.measure import MOST_KIB
from tests.fuzz.targets import TARGETS


@pytest.fixture
def gullible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every signature hold."""
    monkeypatch.setattr(signature, "_holds", lambda *_: True)


@pytest.mark.usefixtures("gullible")
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("answer", b'"stolen":true', b'"stolen":false', id="answer"),
        pytest.param("order", b'"size":1989', b'"size":1988', id="order"),
        pytest.param("lease", b" K 2", b" K 3", id="lease"),
    ],
)
def test_a_forgery_is_noticed(name: str, old: bytes, new: bytes) -> None:
    seed = next(seed for seed in good(name).values() if old in seed)
    with pytest.raises(Finding, match="nobody signed"):
        TARGETS[name](seed.replace(old, new))


@pytest.mark.usefixtures("gullible")
@pytest.mark.parametrize("name", ["answer", "order", "lease"])
def test_a_wrong_signature_is_noticed(name: str) -> None:
    seed = good(name)["good-plain" if name == "lease" else "good-small"]
    start = seed.rindex(b" ") + 1
    digit = b"1" if seed[start : start + 1] == b"0" else b"0"
    with pytest.raises(Finding, match="does not hold"):
        TARGETS[name](seed[:start] + digit + seed[start + 1 :])


def test_a_traceback_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: bytes) -> None:
        raise KeyError

    monkeypatch.setattr(entry, "parse_entry", broken)
    with pytest.raises(KeyError):
        TARGETS["manifest"](good("manifest")["good-plain"])


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\x9b", "\u2028", "\ud800"])
def test_a_message_that_is_not_plain_is_noticed(text: str) -> None:
    with pytest.raises(Finding, match="plain"):
        need_plain(text)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("while True: pass", "more than 1.0 s", id="endless"),
        pytest.param(f"bytearray({MOST_KIB + 4096 << 10})", "MemoryError", id="memory"),
    ],
)
def test_a_bound_is_held(code: str, reason: str) -> None:
    program = f"""
from tests.fuzz.measure import Meter

def target(data):
    {code}
    return "accepted"

Meter(target).judge(b"")
"""
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert reason in done.stderr


def test_a_campaign_can_be_repeated() -> None:
    code = "from tests.fuzz.campaign import judge; print(judge('query', range(300), 7))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.partition(";")[0]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].startswith("300 mutants")
