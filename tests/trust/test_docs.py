"""The samples and examples in the documentation are true."""

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from olpc_update_query.model.messages import Answer, Query
from olpc_update_query.model.orders import Order, Reboot
from olpc_update_query.model.wire import parse_time
from olpc_update_query.server.signing import load_private
from olpc_update_query.trust.answer import open_answer, open_order
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role, load_public
from olpc_update_query.trust.lease import find_lease
from olpc_update_query.trust.rotation import apply, open_statement
from olpc_update_query.trust.signature import verify_credential
from tests.firmware import delegates, grep_lease
from tests.keys import SERIAL, UUID, line_holds, ring, signer

DOCS = Path(__file__).parents[2] / "docs"
SAMPLES = DOCS / "samples"
NOW = parse_time("20261122T210000Z")
END = parse_time("20991231T000000Z")


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def key(role: Role) -> PublicKey:
    return PublicKey(role, load_public(sample(f"{role}.public")), "sample")


def blocks(page: str, kind: str = "") -> list[str]:
    """Return the fenced blocks of a kind."""
    text = (DOCS / page).read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for language, content in found if language == kind]


def first_column(page: str, header: str) -> list[str]:
    """Return the names in a table, found by the header of its first column."""
    text = (DOCS / page).read_text()
    table = text.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    names = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return re.findall(r"`(\w+)`", " ".join(names))


RING = KeyRing([key(Role.OATS), key(Role.LEASE)])
QUERY = Query.decode(sample("query"))


def test_the_query() -> None:
    assert QUERY.serial == SERIAL
    assert QUERY.encode() == sample("query")
    assert sample("query").decode() + "\n" in blocks("protocol.md")


def test_the_answer() -> None:
    raw = sample("answer")
    trusted = open_answer(
        raw, nonce=QUERY.nonce, ring=RING, serial=SERIAL, now=NOW, floor=0
    )
    assert trusted.signers == (key(Role.OATS).key_id,)
    assert trusted.answer.faults == ()
    assert isinstance(trusted.answer.update, Order)
    assert trusted.answer.lease == sample("lease.sig").decode()
    [shape] = [text for text in blocks("protocol.md") if "oatc-signed-resp" in text]
    _assert_shape(raw.decode(), shape.strip(), {"{DATA}": r"(\{.*\})"})


def test_the_statement_about_keys() -> None:
    raw, old = sample("keys.sig"), load_public(sample("old-oats.public"))
    before = KeyRing([PublicKey(Role.OATS, old, "sample")])
    found = open_statement(raw, before)
    assert found.time == NOW
    assert [key.der for key in apply(found, before)] == [key(Role.OATS).der]
    members = sorted(found.to_json())
    assert first_column("key-rotation.md", "member") == members
    [shape] = [text for text in blocks("key-rotation.md") if "signed-keys" in text]
    _assert_shape(raw.decode(), shape.strip(), {"{DATA}": r"(\{.*\})"})


def test_the_delegation() -> None:
    text = grep_lease(sample("d-lease.sig").decode(), SERIAL)
    assert delegates(
        text,
        sample("school-lease.public"),
        SERIAL,
        UUID,
        trusted=[sample("old-lease.public")],
        now="20261122T210000Z",
    )


def test_the_order() -> None:
    raw = sample("order")
    trusted = open_order(raw, ring=RING, serial=SERIAL, now=NOW)
    assert trusted.signers == (key(Role.OATS).key_id,)
    assert (trusted.time, trusted.expiry) == (NOW, END)
    [shape] = [text for text in blocks("protocol.md") if "signed-order" in text]
    _assert_shape(
        raw.decode(), shape.strip(), {"{ORDER}": r"(\{.*?\})", "TIME": "[0-9TZ]{16}"}
    )


def _assert_shape(text: str, shape: str, parts: dict[str, str]) -> None:
    pattern = re.escape(shape)
    parts = parts | {"SIGNATURE LINE": 'sig01: [^"]+\n'}
    for name, part in parts.items():
        assert re.escape(name) in pattern
        pattern = pattern.replace(re.escape(name), part)
    assert re.fullmatch(pattern, text, re.DOTALL)


@pytest.mark.parametrize(
    "name",
    ["lease.sig", "delegated-lease.sig", "bulk-lease.sig"],
)
def test_the_leases(name: str) -> None:
    lease = find_lease(sample(name), serial=SERIAL, uuid=UUID, ring=RING, now=NOW)
    assert lease.expiry == END
    assert lease.signers == (key(Role.LEASE).key_id,)
    assert lease.line.startswith(f"act01: {SERIAL} K 20991231T000000Z sig0")
    assert line_holds(
        lease.line.split(" ", 4)[4],
        f"{SERIAL}:{UUID}:K:20991231T000000Z".encode(),
        trusted=[key(Role.LEASE).der],
        serial=SERIAL,
        now="20261122T210000Z",
    )


def test_the_bulk_file_is_told_by_its_first_bytes() -> None:
    [shape] = [text for text in blocks("leases.md") if text.startswith("[1,")]
    assert sample("bulk-lease.sig")[:5] == shape.encode()[:5] == b'[1,{"'


@pytest.mark.parametrize(
    ("header", "names"),
    [
        pytest.param(
            "field",
            ["serialnum", "version", *[one.name for one in fields(Query)][1:]],
            id="query",
        ),
        pytest.param(
            "key of the data",
            [one.name for one in fields(Answer) if one.name != "faults"],
            id="answer",
        ),
        pytest.param(
            "key of `update`", [one.name for one in fields(Order)], id="order"
        ),
    ],
)
def test_every_member_is_described(header: str, names: list[str]) -> None:
    assert first_column("protocol.md", header) == names


def test_every_role_and_reboot_is_described() -> None:
    assert first_column("keys.md", "role") == [str(role) for role in Role]
    text = (DOCS / "protocol.md").read_text()
    assert all(f"`{kind}`" in text for kind in Reboot)


def shell(script: str, directory: Path, temporary: Path) -> str:
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=directory,
        env=os.environ | {"TMP": str(temporary)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.needs("openssl")
def test_a_lease_can_be_checked_by_hand(tmp_path: Path) -> None:
    [script] = blocks("leases.md", "sh")
    assert shell(script, SAMPLES, tmp_path) == "Verified OK\n"


@pytest.mark.needs("openssl")
def test_a_pair_of_keys_can_be_made_by_hand(tmp_path: Path) -> None:
    compare, make = blocks("keys.md", "sh")
    shell(make, tmp_path, tmp_path)
    made = load_private(tmp_path / "oats.private")
    assert load_public((tmp_path / "oats.public").read_bytes()) == made.public
    assert shell(compare, tmp_path, tmp_path).endswith("  oats.public\n")


def test_delegation_works_as_shown() -> None:
    [example] = blocks("keys.md", "python")
    names: dict[str, object] = {"data": b"data"}
    names |= {"master": signer("oats"), "school": signer("school")}
    exec(example, names)
    verified = verify_credential(
        b"data", [str(names["line"])], ring(), Role.OATS, serial=SERIAL, now=NOW
    )
    assert verified.key_ids == (signer("oats").key_id,)


def test_two_keys_can_sign_at_once() -> None:
    """As keys.md has it for the time when a key is replaced."""
    old, new = signer("oats"), signer("region")
    lines = [old.sig01(b"data") + new.sig01(b"data")]
    for trusted in (["oats"], ["region"], ["oats", "region"]):
        assert verify_credential(
            b"data", lines, ring(oats=trusted), Role.OATS, serial=None, now=NOW
        )
