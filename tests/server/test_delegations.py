"""A national site, a region below it, a school below that, and one laptop.

The laptop and its firmware know the national keys only.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from olpc_update_query.errors import DamagedSite, Malformed, UntrustedDelegation
from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import format_time
from olpc_update_query.server.answers import Answerer
from olpc_update_query.server.app import create_app
from olpc_update_query.server.check import check_site
from olpc_update_query.server.delegating import accept_delegations, delegate_laptops
from olpc_update_query.server.delegations import (
    FOREVER,
    make_delegation,
    parse_delegation,
    parse_delegations,
)
from olpc_update_query.server.keys import load_site_key
from olpc_update_query.server.laptops import Laptop
from olpc_update_query.server.leasepolicy import lease_end
from olpc_update_query.server.leases import sign_lease
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.signing import bulk_leases
from olpc_update_query.server.site import DAY, Site
from olpc_update_query.server.stick import all_leases
from olpc_update_query.trust.answer import open_answer
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.lease import find_lease
from tests.firmware import boots, delegates, grep_lease
from tests.keys import SERIAL, UUID, ring, signer
from tests.server.sites import LAPTOP, NOW, OTHER, HandClock, list_laptops, make_site
from tests.vectors import bios_crypto, vector_key

NOW_TEXT = format_time(NOW)
NATIONAL = [signer("lease").public]


def below(directory: Path, name: str, clock: HandClock) -> Site:
    """Make a site whose keys no laptop knows."""
    directory.mkdir()
    site = make_site(directory, clock=clock)
    for role in Role:
        (site.keys / f"{role}.private").write_bytes(
            signer(f"{name}-{role}").private_bytes()
        )
        (site.keys / f"{role}.public").write_bytes(signer(f"{name}-{role}").public)
    list_laptops(site, LAPTOP)
    return site


class Tree(NamedTuple):
    clock: HandClock
    national: Site
    region: Site
    school: Site
    answerer: Answerer


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    clock = HandClock()
    national = make_site(tmp_path, clock=clock)
    list_laptops(national, LAPTOP, LAPTOP._replace(serial=OTHER, stolen=True))
    region = below(tmp_path / "region", "region", clock)
    school = below(tmp_path / "school", "school", clock)
    reports = Reports(school.reports)
    yield Tree(clock, national, region, school, Answerer(school, reports, clock))
    reports.close()


def hand_down(upper: Site, lower: Site, role: Role, *, days: int = 30) -> bytes:
    key = (lower.keys / f"{role}.public").read_bytes()
    lines = delegate_laptops(
        upper, role, key, group=None, now=NOW, expiry=NOW + days * DAY
    )
    assert list(lines) == [SERIAL], "a stolen laptop has no delegation"
    raw = bulk_leases(lines)
    accept_delegations(lower, role, raw, None, NOW)
    return raw


def lease_of(site: Site, days: int = 21) -> str:
    key = load_site_key(site, Role.LEASE)
    return sign_lease(LAPTOP, UUID, key=key, now=NOW, days=days, timezone="UTC").line


@pytest.mark.parametrize("levels", [1, 2], ids=["one level", "two levels"])
def test_a_delegated_lease_starts_the_laptop(tree: Tree, levels: int) -> None:
    line = lease_of(tree.school)
    assert not boots(line, SERIAL, UUID, trusted=NATIONAL, now=NOW_TEXT)
    upper = tree.national
    if levels == 2:
        hand_down(tree.national, tree.region, Role.LEASE)
        upper = tree.region
    hand_down(upper, tree.school, Role.LEASE)
    line = lease_of(tree.school)
    assert line.count("sha256") == levels + 1
    assert boots(line, SERIAL, UUID, trusted=NATIONAL, now=NOW_TEXT)
    expiry = lease_end(NOW, 21, "UTC")
    end = format_time(expiry)
    assert not boots(line, SERIAL, UUID, trusted=NATIONAL, now=end)
    assert not boots(line, SERIAL, UUID.lower(), trusted=NATIONAL, now=NOW_TEXT)
    lease = find_lease(line, serial=SERIAL, uuid=UUID, ring=ring(), now=NOW)
    assert (lease.line, lease.expiry) == (line, expiry)


def test_each_line_of_the_file_is_a_delegation(tree: Tree) -> None:
    raw = hand_down(tree.national, tree.school, Role.LEASE)
    line = grep_lease(raw.decode(), SERIAL)
    key = signer("school-lease").public
    facts = {"trusted": NATIONAL, "now": NOW_TEXT}
    assert delegates(line, key, SERIAL, UUID, **facts)  # type: ignore[arg-type]
    other = signer("region-lease").public
    assert not delegates(line, other, SERIAL, UUID, **facts)  # type: ignore[arg-type]


def test_a_lease_ends_no_later_than_its_delegation(tree: Tree) -> None:
    hand_down(tree.national, tree.school, Role.LEASE, days=5)
    line = lease_of(tree.school, days=21)
    assert parse_end(line) == NOW + 5 * DAY
    assert boots(line, SERIAL, UUID, trusted=NATIONAL, now=NOW_TEXT)


def parse_end(line: str) -> int | None:
    return find_lease(line, serial=SERIAL, uuid=UUID, ring=ring(), now=NOW).expiry


def test_a_region_hands_on_no_more_than_it_has(tree: Tree) -> None:
    hand_down(tree.national, tree.region, Role.LEASE, days=5)
    list_laptops(tree.region, LAPTOP, LAPTOP._replace(serial="SHC00000042"))
    raw = hand_down(tree.region, tree.school, Role.LEASE, days=300)
    assert parse_delegations(raw, "x")[SERIAL].expiry == NOW + 5 * DAY


def ask(tree: Tree, *, lease: str | None = None) -> bytes:
    query = Query(SERIAL, "42", lease=lease)
    signed = tree.answerer.answer(
        query.encode(), base="http://school/", address="10.0.0.7"
    )
    assert signed is not None
    return signed


def test_answers_and_their_leases_by_delegation(tree: Tree) -> None:
    for role in Role:
        hand_down(tree.national, tree.school, role)
    raw = ask(tree)
    facts = {"ring": ring(), "serial": SERIAL, "now": NOW, "floor": 0}
    trusted = open_answer(raw, nonce="42", **facts)  # type: ignore[arg-type]
    assert trusted.signers == (signer("oats").key_id,)
    lease = trusted.answer.lease
    assert lease is not None
    assert boots(lease, SERIAL, UUID, trusted=NATIONAL, now=NOW_TEXT)
    again = open_answer(ask(tree, lease=None), nonce="42", **facts)  # type: ignore[arg-type]
    assert again.answer.lease == lease, "it is signed once"
    tree.clock.time += 31 * DAY
    late = open_answer(raw, nonce="42", **facts)  # type: ignore[arg-type]
    assert late.signed
    with pytest.raises(Exception, match="no trusted key"):
        open_answer(ask(tree), nonce="42", **facts)  # type: ignore[arg-type]


def test_another_laptop_is_not_signed_for(tree: Tree) -> None:
    hand_down(tree.national, tree.school, Role.LEASE)
    key = load_site_key(tree.school, Role.LEASE)
    other = LAPTOP._replace(serial="SHC00000042")
    with pytest.raises(UntrustedDelegation, match="delegation for SHC00000042"):
        sign_lease(other, UUID, key=key, now=NOW, days=1, timezone="UTC")
    moved = lease_of(tree.school).replace(SERIAL, other.serial)
    assert not boots(moved, other.serial, UUID, trusted=NATIONAL, now=NOW_TEXT)
    list_laptops(tree.school, LAPTOP, other)
    assert list(all_leases(tree.school, days=1, now=NOW)) == [SERIAL]
    assert tree.answerer.answer_port(other.serial.encode()) == b""
    assert tree.answerer.answer_port(SERIAL.encode()).startswith(b"act01: ")


# --- accepting -------------------------------------------------------------------


def national(role: Role) -> bytes:
    return signer(str(role)).public


def made_for(site: Site, name: str, expiry: int = NOW + DAY) -> bytes:
    lines = delegate_laptops(
        site, Role.LEASE, signer(name).public, group=None, now=NOW, expiry=expiry
    )
    return bulk_leases(lines)


def test_accepting_proves_them(tree: Tree) -> None:
    raw, key = made_for(tree.national, "school-lease"), national(Role.LEASE)
    done = accept_delegations(tree.school, Role.LEASE, raw, key, NOW)
    assert done == (1, format_time(NOW + DAY), True)
    assert accept_delegations(tree.school, Role.LEASE, raw, None, NOW).proved


@pytest.mark.parametrize(
    ("name", "above", "expiry", "reason"),
    [
        pytest.param("region-lease", "lease", NOW + DAY, "is wrong", id="other key"),
        pytest.param("school-lease", "stranger", NOW + DAY, "no trusted", id="other"),
        pytest.param("school-lease", "lease", NOW, "none that is current", id="ended"),
    ],
)
def test_useless_ones_are_refused(
    tree: Tree, name: str, above: str, expiry: int, reason: str
) -> None:
    raw, key = made_for(tree.national, name, expiry), signer(above).public
    with pytest.raises(UntrustedDelegation, match=reason):
        accept_delegations(tree.school, Role.LEASE, raw, key, NOW)
    assert not (tree.school.keys / "d-lease.sig").exists()


# --- the grammar -----------------------------------------------------------------


def line(expiry: int | None = NOW) -> str:
    return make_delegation(
        signer("school").public,
        serial=SERIAL,
        uuid=UUID,
        expiry=expiry,
        signer=signer("lease"),
    )


def test_both_forms_of_a_file() -> None:
    one, two = line(NOW), line(None)
    assert parse_delegation(one).expiry == NOW
    plain = parse_delegations((one + two).encode(), "d-lease.sig")
    assert plain == {SERIAL: parse_delegation(two)}
    assert plain[SERIAL].expiry == FOREVER
    bulk = bulk_leases({SERIAL: one + two})
    assert parse_delegations(bulk, "d-lease.sig") == plain


@pytest.mark.parametrize(
    "bad",
    [
        b"act01: x",
        line().encode().replace(b"del01", b"del02"),
        line().encode().replace(UUID.encode(), b"x"),
        line().encode().replace(SERIAL.encode(), b"a/b"),
        line().encode().replace(b"sha256", b"rmd160"),
        line().encode()[:-9],
        b'[1,{"x":7}]',
        b'[1,{"x":"y"}',
        "del01: ñ".encode(),
    ],
    ids=[
        "a lease",
        "version",
        "uuid",
        "serial",
        "digest",
        "cut",
        "bulk of a number",
        "bulk cut",
        "not ascii",
    ],
)
def test_files_that_are_none(bad: bytes) -> None:
    with pytest.raises(DamagedSite, match=r"d-lease\.sig: is no file of delegations"):
        parse_delegations(bad, "d-lease.sig")


def test_what_bios_crypto_delegated() -> None:
    """Its lease by delegation holds the very group that a del01 line would hold."""
    vectors = bios_crypto()
    [text] = [
        one["text"]
        for one in vectors["leases"]
        if one["name"] == "v2, one delegation (master to region)"
    ]
    chain = text.split("sig02: ")[1].split(" sha256 ")[0]
    made = f"del01: {vectors['serial']} {vectors['uuid']} sig02: {chain}\n"
    assert parse_delegation(made).chain == chain
    assert delegates(
        made,
        vector_key("region"),
        vectors["serial"],
        vectors["uuid"],
        trusted=[vector_key("master")],
        now=vectors["now"],
    )
    with pytest.raises(Malformed):
        parse_delegation(made.replace("sig02", "sig01"))


@pytest.mark.parametrize("vector", bios_crypto()["leases"], ids=lambda one: one["name"])
def test_the_firmware_of_these_tests_agrees_with_bios_crypto(
    vector: dict[str, str],
) -> None:
    vectors = bios_crypto()
    starts = boots(
        vector["text"],
        vectors["serial"],
        vectors["uuid"],
        trusted=[vector_key("master")],
        now=vectors["now"],
    )
    assert starts == (vector["expect"] == "valid")


# --- what `check` says ------------------------------------------------------------


def findings(site: Site, now: int = NOW) -> list[str]:
    return [
        str(one.text) for one in check_site(site, now) if one.where == "d-lease.sig"
    ]


def first_page(tree: Tree, now: int) -> str:
    tree.clock.time = now
    app = create_app(tree.school.path, tree.clock)
    try:
        page = app.test_client().get("/", headers={"Accept-Language": "es"})
    finally:
        app.extensions["reports"].close()
    assert page.status_code == 200
    return page.text


def test_check_looks_at_delegations(tree: Tree) -> None:
    assert findings(tree.school) == []
    raw = made_for(tree.national, "school-lease")
    accept_delegations(tree.school, Role.LEASE, raw, national(Role.LEASE), NOW)
    soon = "1 of 1 end from 20270116T080000Z on"
    assert findings(tree.school) == [soon]
    assert findings(tree.school, NOW - 60 * DAY) == []
    spanish = "1 de 1 delegaciones vencen desde el 2027-01-16 08:00; pida otras:"
    assert spanish in first_page(tree, NOW)
    for time in (NOW - 60 * DAY, NOW + 2 * DAY):
        assert "delegaciones" not in first_page(tree, time)
    [ended] = findings(tree.school, NOW + 2 * DAY)
    assert "has ended" in ended
    list_laptops(tree.school, LAPTOP._replace(uuid=UUID.lower()), Laptop("SHC2"))
    assert sorted(findings(tree.school)) == [
        soon,
        f"{SERIAL} has another UUID in it than in laptops.csv",
        "it has none for SHC2",
    ]
    list_laptops(tree.school, LAPTOP)
    (tree.school.keys / "above-lease.public").write_bytes(signer("stranger").public)
    assert soon in findings(tree.school)
    [wrong] = [text for text in findings(tree.school) if text != soon]
    assert "no trusted key has signed it" in wrong
    (tree.school.keys / "d-lease.sig").write_bytes(b"junk")
    [damaged] = findings(tree.school)
    assert "no file of delegations" in damaged
