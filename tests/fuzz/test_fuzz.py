"""Every parser of foreign octets: mutants, random octets, and the largest inputs.

``OLPC_FUZZ_MUTATIONS=1000000 pytest tests/fuzz -k mutations`` runs the long round;
``OLPC_FUZZ_SEED`` makes other mutants.
"""

import json
import os
import subprocess
import sys
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olpc_update_query.errors import Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.trust.answer import open_answer
from tests.fuzz.campaign import SIGNED, run
from tests.fuzz.corpus import CORPUS, ROOT, seeds
from tests.fuzz.facts import NONCE, NOW, SERIAL
from tests.fuzz.fixed import signer
from tests.fuzz.invariants import check_answer, trusted_ring
from tests.fuzz.measure import MOST_KIB, MOST_SECONDS
from tests.fuzz.mutator import Mutator
from tests.fuzz.seeds import all_seeds
from tests.fuzz.targets import ACCEPTED, TARGETS

MUTATIONS = int(os.environ.get("OLPC_FUZZ_MUTATIONS", "20000"))
SEED = int(os.environ.get("OLPC_FUZZ_SEED", "1"))
NAMES = sorted(TARGETS)
KEPT = [(name, file) for name in NAMES for file in seeds(name)]

# --- the corpus -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "file"), KEPT, ids=str)
def test_the_corpus(name: str, file: str) -> None:
    verdict = TARGETS[name](seeds(name)[file])
    if file.startswith("good"):
        assert verdict == ACCEPTED
    elif name in SIGNED:
        assert verdict != ACCEPTED


def test_the_corpus_can_be_made_again() -> None:
    made = all_seeds()
    kept = {name: {file: seeds(name)[file] for file in made[name]} for name in made}
    assert kept == made, "python -m tests.fuzz.corpus"


def test_the_corpus_is_small() -> None:
    files = [file for file in CORPUS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 300 << 10


# --- mutations --------------------------------------------------------------------


@pytest.mark.timeout(max(120, MUTATIONS // 100))
@pytest.mark.parametrize("name", NAMES)
def test_mutations(name: str) -> None:
    count = MUTATIONS if name == "answer" else max(1, MUTATIONS // 10)
    tally = run(name, count, SEED)
    print(name, tally)  # noqa: T201 - pytest -rP shows it
    assert tally.total == count
    assert tally.slowest < MOST_SECONDS
    assert tally.growth < MOST_KIB
    assert len(tally.verdicts) >= 2 or name == "lease"
    if name in SIGNED:
        assert tally.verdicts[ACCEPTED] == 0
    if name == "answer":  # else the mutants are too wild to say anything of signatures
        assert tally.verdicts["UntrustedAnswer"] > count // 50
        assert tally.same < count // 20


@settings(deadline=None)
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), random=st.randoms(use_true_random=False))
def test_small_mutations(name: str, data: st.DataObject, random: Random) -> None:
    seed = data.draw(st.sampled_from(sorted(seeds(name).values())))
    TARGETS[name](Mutator(seeds(name)).change(random, seed))


@settings(deadline=None)
@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=200))
def test_any_octets(name: str, data: bytes) -> None:
    assert TARGETS[name](data) != ACCEPTED or name == "frame"


TEXTS = st.text(max_size=20)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8
)
MEMBERS = ("lease", "stolen", "interval", "update", "message", "time", "other")


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES))
def test_whatever_a_trusted_key_signs(members: dict[str, Json]) -> None:
    """A key's holder may write nonsense; what cannot be understood is left out."""
    data: dict[str, Json] = {"time": "20261224T180000Z", **members, "nonce": NONCE}
    inner: list[Json] = ["oatc-resp", 1, data]
    line = signer("oats").sig01(canonical.encode(inner))
    raw = canonical.encode(["oatc-signed-resp", 1, [inner, ["sig", 1, [line]]]])
    ring = trusted_ring()
    try:
        opened = open_answer(
            raw, nonce=NONCE, ring=ring, serial=SERIAL, now=NOW, floor=0
        )
    except Malformed:
        assert data["time"] != "20261224T180000Z"
    else:
        check_answer(opened.answer)


# --- the largest inputs -----------------------------------------------------------

_LINE = 1 << 20
_EMPTY = {name: seeds(name)["good-empty"] for name in ("manifest", "pack")}


def filled(item: bytes, size: int, head: bytes = b"[", tail: bytes = b"0]\n") -> bytes:
    """Return a list that repeats an item, as long as it may be."""
    return head + item * ((size - len(head) - len(tail)) // len(item)) + tail


LARGE = {
    ("manifest", "header of numbers"): filled(b"0,", _LINE),
    ("manifest", "header of objects"): filled(b'{"":0},', _LINE),
    ("manifest", "header's version"): filled(
        b"x", _LINE, b'["olpc-update-contents","', b'",{}]\n'
    ),
    ("manifest", "lists"): _EMPTY["manifest"] + filled(b"[0],", _LINE),
    ("manifest", "objects"): _EMPTY["manifest"] + filled(b'{"":[]},', _LINE),
    ("manifest", "depth"): _EMPTY["manifest"] + b"[" * (_LINE - 1) + b"\n",
    ("manifest", "digits"): _EMPTY["manifest"] + filled(b"1", _LINE, b'["",', b"]\n"),
    ("manifest", "long path"): _EMPTY["manifest"]
    + filled(b"%FF", _LINE, b'["', b'","p",420,0,0,0]\n'),
    ("manifest", "attributes"): _EMPTY["manifest"]
    + filled(b'"a":"",', _LINE, b'["a","p",420,0,0,0,{"xattrs":{', b'"a":""}}]\n'),
    ("manifest", "value"): _EMPTY["manifest"]
    + filled(b"AAAA", _LINE, b'["a","p",420,0,0,0,{"xattrs":{"a":"', b'"}}]\n'),
    ("pack", "header of numbers"): filled(b"0,", _LINE),
    ("pack", "objects"): _EMPTY["pack"] + filled(b'{"":[]},', _LINE),
    ("delta", "header of numbers"): filled(b"0,", 64 << 10),
    ("delta", "segments"): seeds("delta")["good-empty"]
    + filled(
        b"[0,0,0,0],",
        _LINE,
        b'["%b",0,"%b",[' % (b"a" * 64, b"b" * 64),
        b"[0,0,0,0]]]\n",
    ),
    ("answer", "numbers"): filled(b"0,", 64 << 10),
    ("answer", "data of numbers"): filled(
        b"0,", 64 << 10, b'["oatc-signed-resp",1,[[', b'0],["sig",1,[]]]]'
    ),
    ("answer", "quotes"): filled(b'\\"', 64 << 10, b'"', b'"'),
    ("answer", "depth"): b"[" * (64 << 10),
    ("order", "data of numbers"): filled(
        b"0,", 64 << 10, b'["olpc-update-signed-order",1,[[', b'0],["sig",1,[]]]]'
    ),
    ("lease", "lines"): b"act01: SHC12900018 K 20991231T000000Z sig01: a\n" * 40_000,
    ("lease", "one line"): b"act01: SHC12900018 K 20991231T000000Z " * 50_000,
    ("lease", "bulk"): b'[1,{"' + b'"' * (2 << 20),
    ("query", "fields"): b"a=&" * 2730,
    ("query", "escapes"): filled(b"%41", 8 << 10, b"nonce=", b""),
    ("frame", "bomb"): b"\0\0\x10\0" + seeds("frame")["good-run"][4:],
    ("frame", "run"): b"\0\xff\xff\xff" + seeds("frame")["good-run"][4:],
}


@pytest.mark.parametrize(("name", "what"), LARGE, ids=str)
def test_large(name: str, what: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.measure", name]
    data = LARGE[name, what]
    done = subprocess.run(
        command, input=data, capture_output=True, cwd=ROOT, check=False
    )
    assert not done.returncode, done.stderr.decode()
    cost = json.loads(done.stdout)
    assert cost["verdict"] != ACCEPTED or what == "segments"
