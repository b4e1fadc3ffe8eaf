"""Statements about keys: what they change, and what they can never change."""

import hashlib
from collections.abc import Iterable
from typing import Any

import pytest

from olpc_update_query.errors import (
    Malformed,
    UntrustedAnswer,
    UntrustedLease,
    UntrustedStatement,
)
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import Answer
from olpc_update_query.server.signing import (
    make_answer,
    make_lease,
    sign_statement,
)
from olpc_update_query.trust.answer import open_answer
from olpc_update_query.trust.keys import KeyRing, Role, Standing
from olpc_update_query.trust.lease import find_lease
from olpc_update_query.trust.rotation import (
    MAX_KEYS,
    MAX_STATEMENTS,
    Followed,
    Statement,
    follow,
    join_statements,
    open_statement,
    read_statement,
    split_statements,
    standing_from_json,
    standing_to_json,
)
from olpc_update_query.trust.signature import verify_credential
from tests.keys import SERIAL, UUID, pss_holds, public, ring, signer
from tests.rotations import MADE, statement

NOW = MADE + 1000


def trusted(keys: KeyRing, role: Role = Role.OATS) -> set[str]:
    names = ("oats", "lease", "new", "newer", "school", "stranger")
    known = {signer(name).public: name for name in names}
    return {known[key.der] for key in keys if key.role is role}


def with_threshold(count: int, *names: str) -> KeyRing:
    plain = ring(oats=names)
    return plain.with_standing(Role.OATS, Standing(threshold=count))


def verifies(keys: KeyRing, line: str, role: Role = Role.OATS) -> bool:
    try:
        verify_credential(b"data", [line], keys, role, serial=SERIAL, now=NOW)
    except (UntrustedAnswer, UntrustedLease):
        return False
    return True


# --- what a statement does ----------------------------------------------------------


def test_a_key_is_added_and_one_retired() -> None:
    old = ring()
    done = follow([statement(1, "oats", add="new", retire="oats")], old)
    assert trusted(done.ring) == {"new"}
    assert trusted(done.ring, Role.LEASE) == {"lease"}
    assert [key.digest for key in done.ring.retired] == [
        hashlib.sha256(signer("oats").public).hexdigest()
    ]
    [added] = [key for key in done.ring if key.role is Role.OATS]
    assert added.origin == "statement 1"
    assert trusted(old) == {"oats"}, "the old ring is as it was"


def test_a_laptop_that_slept_catches_up() -> None:
    chain = [
        statement(3, "newer", add="school", retire="newer"),
        statement(1, "oats", add="new", retire="oats"),
        statement(2, "new", add="newer", retire="new"),
    ]
    done = follow(chain, ring())
    assert [one.number for one in done.statements] == [1, 2, 3]
    assert trusted(done.ring) == {"school"}
    assert not done.refused


def test_a_laptop_that_was_given_a_later_key_skips_the_earlier_ones() -> None:
    chain = [
        statement(1, "oats", add="new", retire="oats"),
        statement(2, "new", add="newer", retire="new"),
    ]
    done = follow(chain, ring(oats=["new"]))
    assert trusted(done.ring) == {"newer"}
    assert [str(error) for error in done.refused] == [
        "statement 1 about oats keys refused: no trusted key has signed it"
    ]


def test_the_roles_are_apart() -> None:
    chain = [
        statement(1, "lease", add="new", role=Role.LEASE),
        statement(1, "oats", add="newer", role=Role.OATS),
    ]
    done = follow(chain, ring())
    assert trusted(done.ring, Role.LEASE) == {"lease", "new"}
    assert trusted(done.ring) == {"oats", "newer"}


@pytest.mark.parametrize(
    ("signers", "good"),
    [
        pytest.param(["oats"], False, id="one"),
        pytest.param(["oats", "oats"], False, id="one, twice"),
        pytest.param(["oats", "stranger"], False, id="one and a stranger"),
        pytest.param(["oats", "school"], True, id="two"),
        pytest.param(["oats", "school", "stranger"], True, id="two and a stranger"),
    ],
)
def test_so_many_keys_must_sign(signers: Iterable[str], good: bool) -> None:
    keys = with_threshold(2, "oats", "school", "newer")
    raw = statement(1, *signers, add="new", threshold=2)
    assert bool(follow([raw], keys).statements) == good


def test_the_last_statement_says_how_many_sign_the_next() -> None:
    keys = follow([statement(1, "oats", add="new", threshold=2)], ring()).ring
    assert not follow([statement(2, "oats", add="newer")], keys).statements
    assert follow([statement(2, "oats", "new", add="newer")], keys).statements


# --- what a statement cannot do -------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_a_replayed_or_lower_one_changes_nothing(number: int) -> None:
    keys = follow([statement(2, "oats", add="new", retire="school")], ring()).ring
    raw = statement(number, "oats", add="stranger")
    done = follow([raw], keys)
    assert done == Followed(keys, (), ())
    with pytest.raises(UntrustedStatement, match="number 2 was followed already"):
        open_statement(raw, keys)


REFUSED: list[Any] = [
    pytest.param(statement(1, "stranger", add="new"), "no trusted key", id="stranger"),
    pytest.param(statement(1, add="new"), "no trusted key", id="unsigned"),
    pytest.param(
        statement(1, "lease", add="new"), "no trusted key", id="key of the other role"
    ),
    pytest.param(
        statement(1, "oats", add="new").replace(b'"number":1', b'"number":7'),
        "is wrong",
        id="altered",
    ),
    pytest.param(
        statement(1, "oats", retire="oats"), "leaves 0 keys", id="retires the last key"
    ),
    pytest.param(
        statement(1, "oats", add="new", threshold=3),
        "leaves 2 keys of which 3 sign",
        id="wants more keys than there are",
    ),
]


@pytest.mark.parametrize(("raw", "reason"), REFUSED)
def test_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(UntrustedStatement, match=reason):
        open_statement(raw, ring())
    done = follow([raw], ring())
    assert trusted(done.ring) == {"oats"}
    assert len(done.refused) == 1


def test_a_retired_key_never_comes_back() -> None:
    chain = [statement(1, "oats", add="new", retire="oats")]
    keys = follow(chain, ring()).ring
    back = statement(2, "new", add="oats")
    with pytest.raises(UntrustedStatement, match="adds a key that is retired"):
        open_statement(back, keys)
    by_the_retired = statement(2, "oats", add="stranger")
    with pytest.raises(UntrustedStatement, match="no trusted key"):
        open_statement(by_the_retired, keys)


def test_a_retired_key_verifies_nothing() -> None:
    oats, school = signer("oats"), signer("school")
    keys = follow([statement(1, "oats", add="new", retire="oats")], ring()).ring
    chain = oats.delegate(school.public, serial=SERIAL, expiry=NOW + 99)
    delegated = school.sig02(b"data", serial=SERIAL, expiry=NOW + 99, chain=chain)
    for line in (oats.sig01(b"data"), delegated):
        assert verifies(ring(), line)
        assert not verifies(keys, line)
    whole = oats.sig01(b"data").replace(oats.key_id, oats.public.hex())
    assert verifies(ring(), whole)
    assert not verifies(keys, whole)


def test_a_retired_key_is_no_link_of_a_delegation_either() -> None:
    """So one stolen school server can be taken out before its delegations end."""
    oats, school = signer("oats"), signer("school")
    keys = follow([statement(1, "oats", retire="school", add="new")], ring()).ring
    chain = oats.delegate(school.public, serial=SERIAL, expiry=NOW + 99)
    line = school.sig02(b"data", serial=SERIAL, expiry=NOW + 99, chain=chain)
    with pytest.raises(UntrustedAnswer, match="delegates to a key that is retired"):
        verify_credential(b"data", [line], keys, Role.OATS, serial=SERIAL, now=NOW)


def test_a_delegate_appoints_nobody() -> None:
    oats, school = signer("oats"), signer("school")
    data = canonical.encode(
        ["olpc-update-keys", 1, read_statement(statement(1, add="new")).to_json()]
    )
    chain = oats.delegate(school.public, serial=SERIAL, expiry=None)
    line = school.sig02(data, serial=SERIAL, expiry=None, chain=chain)
    with pytest.raises(UntrustedStatement, match="made for one laptop"):
        open_statement(sign_statement(data, [line]), ring())


# --- form --------------------------------------------------------------------------


def altered(**changes: Any) -> bytes:
    members = read_statement(statement(1, add="new")).to_json()
    members.update(changes)
    members = {name: value for name, value in members.items() if value != "absent"}
    return sign_statement(canonical.encode(["olpc-update-keys", 1, members]), [])


KEY = signer("new").public.hex()

MALFORMED = [
    pytest.param(altered(role="developer"), "no role", id="role"),
    pytest.param(altered(number=0), "number is not", id="number 0"),
    pytest.param(altered(number=10**7), "number is not", id="number too great"),
    pytest.param(altered(number="absent"), "number is missing", id="no number"),
    pytest.param(altered(threshold=0), "threshold is not", id="threshold 0"),
    pytest.param(altered(threshold=MAX_KEYS + 1), "threshold is not", id="threshold 9"),
    pytest.param(altered(add=[]), "neither adds nor retires", id="says nothing"),
    pytest.param(altered(add=[KEY] * 9), "more than 8", id="too many keys"),
    pytest.param(altered(add=[KEY[:-2]]), "no RSA-2048 key", id="short key"),
    pytest.param(altered(add=["zz"]), "no RSA-2048 key", id="no hex"),
    pytest.param(altered(add=[KEY.upper()]), "lower-case", id="upper case"),
    pytest.param(altered(add=[7]), "no list of texts", id="a number"),
    pytest.param(altered(add="x"), "not of type list", id="no list"),
    pytest.param(altered(retire=["00"]), "64 lower-case", id="short digest"),
    pytest.param(
        altered(retire=[hashlib.sha256(signer("new").public).hexdigest()]),
        "adds and retires the same",
        id="both",
    ),
    pytest.param(altered(time="yesterday"), "YYYYMMDD", id="time"),
    pytest.param(b"[]", "envelope", id="empty"),
    pytest.param(statement(1, add="new") + b" ", "nothing may follow", id="more"),
    pytest.param(b"[" * 70_000, "larger than", id="too long"),
]


@pytest.mark.parametrize(("raw", "reason"), MALFORMED)
def test_malformed(raw: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read_statement(raw)
    done = follow([raw, statement(1, "oats", add="new")], ring())
    assert trusted(done.ring) == {"oats", "new"}, "the good one counts all the same"


def test_a_statement_with_a_broken_line_is_malformed() -> None:
    raw = statement(1, "oats", add="new").replace(b"sig01: sha256", b"sig01: sha256 ")
    with pytest.raises(Malformed):
        open_statement(raw, ring())


def test_round_trip() -> None:
    made = Statement(Role.LEASE, 7, MADE, 2, (signer("new").public,), ("ab" * 32,))
    assert Statement.from_json(made.to_json()) == made


def test_files() -> None:
    one, two = statement(1, "oats", add="new"), statement(2, "oats", add="newer")
    assert split_statements(one) == split_statements(one + b"\n") == (one,)
    assert split_statements(join_statements([one, two])) == (one, two)
    assert split_statements(b"[]") == ()
    for bad in (b"", b"{}", b"[1]", b'["x"]', b"act01: "):
        with pytest.raises(Malformed):
            split_statements(bad)


def test_only_so_many_are_looked_at() -> None:
    junk = [b"junk"] * MAX_STATEMENTS
    done = follow([*junk, statement(1, "oats", add="new")], ring())
    assert not done.statements
    assert len(done.refused) == MAX_STATEMENTS


def test_what_is_kept_on_the_disk() -> None:
    keys = follow(
        [
            statement(1, "oats", add="new", retire="school"),
            statement(2, "new", add="newer", retire="new"),
        ],
        ring(),
    ).ring
    kept = keys.standing(Role.OATS)
    assert kept.added == {signer("newer").public: 2}, "a retired key is not kept"
    assert sorted(kept.retired.values()) == [1, 2]
    assert standing_from_json(standing_to_json(kept)) == kept
    damages: list[dict[str, Json]] = [
        {"number": 0},
        {"added": []},
        {"retired": {"x": 1}},
    ]
    for damage in damages:
        with pytest.raises(Malformed):
            standing_from_json({**standing_to_json(kept), **damage})


def test_an_independent_verifier_agrees() -> None:
    """The signature is over the octets from the data's bracket to its match."""
    raw = statement(1, "oats", add="new", retire="school")
    start = raw.index(b'["olpc-update-keys"')
    data = raw[start : raw.index(b',["sig",1,[')]
    line = raw[raw.index(b"sig01: ") :].split(b"\n")[0].decode()
    tag, digest, name, signature = line.split(" ")
    assert (tag, digest, name) == ("sig01:", "sha256", signer("oats").key_id)
    assert pss_holds(signer("oats").public, data, bytes.fromhex(signature))
    assert len(raw) < 2048


# --- in an answer ------------------------------------------------------------------


def opened(raw: bytes, keys: KeyRing) -> Any:
    return open_answer(raw, nonce="n", ring=keys, serial=SERIAL, now=NOW, floor=0)


def test_an_answer_by_a_key_that_its_own_statements_add() -> None:
    """The server may not have the old key any more."""
    chain = (
        statement(1, "oats", add="new", retire="oats"),
        statement(2, "new", add="newer", retire="new"),
    )
    raw = make_answer(Answer("n", NOW, keys=chain), signer("newer").sig01)
    found = opened(raw, ring())
    assert found.signers == (signer("newer").key_id,)
    assert trusted(found.keys.ring) == {"newer"}
    assert found.answer.keys == chain


def test_an_answer_by_a_key_that_its_own_statements_retire() -> None:
    chain = (statement(1, "oats", add="new", retire="oats"),)
    raw = make_answer(Answer("n", NOW, keys=chain), signer("oats").sig01)
    with pytest.raises(UntrustedAnswer, match="no trusted key"):
        opened(raw, ring())


def test_statements_by_strangers_change_nothing_in_an_answer() -> None:
    chain = (statement(1, "stranger", add="stranger"), b'["junk"]')
    raw = make_answer(Answer("n", NOW, keys=chain), signer("oats").sig01)
    found = opened(raw, ring())
    assert trusted(found.keys.ring) == {"oats"}
    assert len(found.keys.refused) == 2
    stranger = make_answer(Answer("n", NOW, keys=chain), signer("stranger").sig01)
    with pytest.raises(UntrustedAnswer, match="no trusted key"):
        opened(stranger, ring())


def test_members_that_are_no_statements_are_left_out() -> None:
    answer = Answer.from_json({"nonce": "n", "time": "20260101T000000Z", "keys": 7})
    assert answer.keys == ()
    assert answer.faults == ("answer refused: keys is not of type list",)


def test_a_lease_by_a_retired_key_is_refused() -> None:
    keys = follow(
        [statement(1, "lease", add="new", retire="lease", role=Role.LEASE)], ring()
    ).ring
    old = make_lease(SERIAL, UUID, NOW + 99, signer("lease").sig01)
    new = make_lease(SERIAL, UUID, NOW + 99, signer("new").sig01)
    found = find_lease(old + new, serial=SERIAL, uuid=UUID, ring=keys, now=NOW)
    assert found.line == new
    with pytest.raises(UntrustedLease):
        find_lease(old, serial=SERIAL, uuid=UUID, ring=keys, now=NOW)


def test_fingerprints() -> None:
    digests = sorted(public(name, Role.OATS).digest[:8] for name in ("oats", "new"))
    keys = ring(oats=["oats", "new"])
    lease = public("lease", Role.LEASE).digest[:8]
    assert keys.fingerprints() == f"{'.'.join(digests)}-{lease}"
    assert KeyRing().fingerprints() == "-"
