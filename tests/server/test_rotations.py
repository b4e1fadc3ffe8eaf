"""A site that changes its keys."""

import hashlib
from pathlib import Path

import pytest

from olpc_update_query.errors import (
    DamagedSite,
    MissingKey,
    SiteError,
    SiteExists,
    UntrustedStatement,
)
from olpc_update_query.model.messages import Query
from olpc_update_query.model.wire import BuildId, Sha256
from olpc_update_query.server import rotating
from olpc_update_query.server.answers import Answerer
from olpc_update_query.server.keys import load_key, make_keys, site_ring
from olpc_update_query.server.orders import order_for, own_orders, sign_orders_again
from olpc_update_query.server.publish import OrderFacts
from olpc_update_query.server.reports import Reports
from olpc_update_query.server.rotations import Made, needed, parse_statements
from olpc_update_query.server.site import Site
from olpc_update_query.server.stick import statement_files
from olpc_update_query.trust.answer import open_answer, open_order
from olpc_update_query.trust.keys import KeyRing, PublicKey, Role
from olpc_update_query.trust.rotation import follow, read_statement, split_statements
from tests.keys import SERIAL, public, ring, signer
from tests.rotations import statement
from tests.server.sites import (
    LAPTOP,
    NOW,
    HandClock,
    add_build,
    list_laptops,
    make_site,
)

CHAIN = (
    statement(1, "oats", add="new", retire="oats"),
    statement(2, "new", add="newer", retire="new"),
)
MADE = tuple(Made(read_statement(raw), raw) for raw in CHAIN)


def held(*oats: str, lease: str = "lease") -> str:
    leases = (lease,) if lease else ()
    return ring(oats=oats, lease=leases).fingerprints()


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        pytest.param(held("oats"), CHAIN, id="slept"),
        pytest.param(held("new"), CHAIN, id="slept through one"),
        pytest.param(held("oats", "newer"), CHAIN, id="still trusts the retired"),
        pytest.param(held("newer"), (), id="up to date"),
        pytest.param(held("newer", "school"), (), id="and a key of its own"),
        pytest.param(held("school"), CHAIN, id="lacks the new one"),
        pytest.param(held(), (), id="trusts none, so could not verify them"),
        pytest.param(None, (), id="an old client"),
    ],
)
def test_who_is_sent_statements(keys: str | None, wanted: tuple[bytes, ...]) -> None:
    assert needed(MADE, keys) == wanted
    assert needed((), keys) == ()


def test_the_roles_are_apart() -> None:
    made = Made(read_statement(CHAIN[0]), CHAIN[0])
    assert needed([made], held("new", lease="oats")) == ()


def test_a_site_rotates(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    private, made = rotating.rotate(site, Role.OATS, "2027", NOW)
    assert private == site.keys / "oats-2027.private"
    assert private.stat().st_mode & 0o777 == 0o600
    new = load_key(site, Role.OATS)
    assert new.public != signer("oats").public
    assert (site.keys / "oats-2027.public").read_bytes() == new.public
    assert (made.number, made.add) == (1, (new.public,))
    assert load_key(site, Role.LEASE).public == signer("lease").public
    rotating.rotate(site, Role.OATS, "2028", NOW)
    newest = load_key(site, Role.OATS)
    raw = (site.keys / "keys.sig").read_bytes()
    done = follow(split_statements(raw), ring())
    assert [key.der for key in done.ring if key.role is Role.OATS] == [newest.public]
    assert not list(site.keys.glob("new-*"))


def test_a_laptop_catches_up_from_the_answer(tmp_path: Path) -> None:
    site = make_site(tmp_path, clock=HandClock())
    list_laptops(site, LAPTOP)
    rotating.rotate(site, Role.OATS, "2027", NOW)
    rotating.rotate(site, Role.OATS, "2028", NOW)
    reports = Reports(site.reports)
    answerer = Answerer(site, reports, HandClock())

    def ask(keys: KeyRing) -> KeyRing:
        query = Query(SERIAL, "42", keys=keys.fingerprints())
        raw = answerer.answer(query.encode(), base="http://x/", address="10.0.0.7")
        assert raw is not None
        opened = open_answer(
            raw, nonce="42", ring=keys, serial=SERIAL, now=NOW, floor=0
        )
        counts.append(len(opened.answer.keys))
        return opened.keys.ring

    counts: list[int] = []
    ask(ask(ring()))
    reports.close()
    assert counts == [2, 0], "no statement is sent twice"


def test_a_rotation_that_more_must_sign_leaves_nothing_behind(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (site.keys / "oats-ben.public").write_bytes(signer("school").public)
    change = rotating.Change(Role.OATS, (signer("new").public,), threshold=2)
    raw = rotating.add_signature(rotating.draft(site, change, NOW), signer("oats"))
    rotating.publish(site, raw, NOW)
    before = sorted(site.keys.iterdir())
    with pytest.raises(UntrustedStatement, match="2 trusted keys must sign it, 1 did"):
        rotating.rotate(site, Role.OATS, "2027", NOW)
    assert sorted(site.keys.iterdir()) == before
    change = rotating.Change(Role.OATS, (signer("newer").public,))
    raw = rotating.draft(site, change, NOW)
    for name in ("oats", "school", "oats"):
        raw = rotating.add_signature(raw, signer(name))
    assert set(rotating.signers_of(raw)) == {
        signer("oats").key_id,
        signer("school").key_id,
    }
    assert rotating.publish(site, raw, NOW).threshold == 2, "as before"


def test_a_key_that_nobody_trusts_yet_signs_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    _, new = rotating.make_pair(site, Role.OATS, "2027")
    assert new.public not in {key.der for key in site_ring(site)}
    change = rotating.Change(Role.OATS, (new.public,))
    raw = rotating.add_signature(rotating.draft(site, change, NOW), new)
    with pytest.raises(UntrustedStatement, match="no trusted key"):
        rotating.publish(site, raw, NOW)
    assert load_key(site, Role.OATS).public == signer("oats").public
    with pytest.raises(SiteExists):
        rotating.make_pair(site, Role.OATS, "2027")


def test_a_publish_that_was_cut_short_still_has_a_key(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    private, _ = rotating.rotate(site, Role.OATS, "2027", NOW)
    for path in (private, private.with_suffix(".public")):
        path.rename(path.with_name(f"new-{path.name}"))
    assert load_key(site, Role.OATS).public in {key.der for key in site_ring(site)}


@pytest.mark.parametrize("left", [(".private", ".public"), (".public",), (".private",)])
def test_a_rotation_that_was_cut_short_is_finished(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    site = make_site(tmp_path)
    private, made = rotating.rotate(site, Role.OATS, "2027", NOW)
    key = private.read_bytes()
    for suffix in left:
        path = private.with_suffix(suffix)
        path.rename(path.with_name(f"new-{path.name}"))
    add_build(site, "762")
    (site.builds / "762/order").write_bytes(b"by a key that is retired")
    assert rotating.rotate(site, Role.OATS, "2027", NOW) == (private, made)
    assert private.read_bytes() == key
    assert not list(site.keys.glob("new-*"))
    assert (site.builds / "762/order").read_bytes().startswith(b"[")
    with pytest.raises(SiteExists):
        rotating.rotate(site, Role.OATS, "2027", NOW)


@pytest.mark.parametrize("left", [(".private", ".public"), (".public",), (".private",)])
def test_a_publish_that_was_cut_short_is_finished(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    site = make_site(tmp_path)
    private, new = rotating.make_pair(site, Role.OATS, "2027")
    change = rotating.Change(Role.OATS, (new.public,), (signer("oats").public,))
    raw = rotating.add_signature(rotating.draft(site, change, NOW), signer("oats"))
    made = rotating.publish(site, raw, NOW)
    for suffix in left:
        path = site.keys / f"oats-2027{suffix}"
        path.rename(private.with_suffix(suffix))
    add_build(site, "762")
    (site.builds / "762/order").write_bytes(b"by a key that is retired")
    assert rotating.publish(site, raw, NOW) == made
    assert len(site.statements()) == 1
    assert not list(site.keys.glob("new-*"))
    beside = (site.builds / "762/order").read_bytes()
    open_order(beside, ring=site_ring(site), serial=SERIAL, now=NOW)


def test_a_key_that_was_made_before_is_rotated_to(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    private, new = rotating.make_pair(site, Role.OATS, "2027")
    private.with_suffix(".public").unlink()  # the power failed in between
    rotating.rotate(site, Role.OATS, "2027", NOW)
    assert load_key(site, Role.OATS).public == new.public
    assert not list(site.keys.glob("new-*"))


def test_a_retired_key_signs_nothing(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    other = rotating.Change(
        Role.OATS, (signer("new").public,), (signer("oats").public,)
    )
    raw = rotating.add_signature(rotating.draft(site, other, NOW), signer("oats"))
    rotating.publish(site, raw, NOW)
    with pytest.raises(MissingKey, match="no private key for oats in use"):
        load_key(site, Role.OATS)


def test_drafts_that_make_no_sense(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    oats, new = signer("oats").public, signer("new").public
    for change, reason in (
        (rotating.Change(Role.OATS), "neither adds nor retires"),
        (rotating.Change(Role.OATS, retire=(oats,)), "leave 0 keys"),
        (rotating.Change(Role.OATS, (new,), threshold=3), "leave 2 keys of which 3"),
        (rotating.Change(Role.OATS, (new,), (new,)), "adds and retires the same"),
    ):
        with pytest.raises(SiteError, match=reason):
            rotating.draft(site, change, NOW)


def test_keys_are_found_by_file_or_id(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    oats = signer("oats")
    for wanted in ("oats.public", "somewhere/oats.public", oats.key_id[:16]):
        assert rotating.find_key(site, Role.OATS, wanted) == oats.public
    for wanted in ("lease.public", "ffff", "new.public"):
        with pytest.raises(SiteError, match="is no key for oats"):
            rotating.find_key(site, Role.OATS, wanted)


def test_orders_are_signed_again(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    add_build(site, "760")
    add_build(site, "762")
    (site.builds / "762/order").write_bytes(b"by a key that is retired")
    sign_orders_again(site, signer("new"), NOW)
    raw = (site.builds / "762/order").read_bytes()
    keys = KeyRing([public("new", Role.OATS)])
    assert open_order(raw, ring=keys, serial=SERIAL, now=NOW).order.build == "762"
    assert not (site.builds / "760/order").exists()


def test_orders_of_the_higher_site_stay_as_they_are(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    facts = OrderFacts(BuildId("762"), sha256_of(add_build(site, "762")), 99)
    (site.keys / "above-oats.public").write_bytes(signer("school").public)
    theirs = order_for(facts, signer("school"), NOW)
    (site.builds / "762/order").write_bytes(theirs)
    add_build(site, "mine")
    facts = OrderFacts(BuildId("mine"), facts.contents, 99)
    (site.builds / "mine/order").write_bytes(order_for(facts, signer("oats"), NOW))
    for name in ("2027", "2028"):
        rotating.rotate(site, Role.OATS, name, NOW)
        sign_orders_again(site, load_key(site, Role.OATS), NOW)
        assert [build.build for build in own_orders(site)] == ["mine"]
    assert (site.builds / "762/order").read_bytes() == theirs
    raw, keys = (site.builds / "mine/order").read_bytes(), site_ring(site)
    assert open_order(raw, ring=keys, serial=SERIAL, now=NOW).order.build == "mine"


def sha256_of(data: bytes) -> Sha256:
    return Sha256(hashlib.sha256(data).hexdigest())


def test_sticks_carry_the_statements(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    assert statement_files(site) == {}
    rotating.rotate(site, Role.LEASE, "2027", NOW)
    raws = split_statements(statement_files(site)["keys.sig"])
    keys = KeyRing([PublicKey(Role.LEASE, signer("lease").public, "x")])
    assert len(follow(raws, keys).statements) == 1


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    site: Site = make_site(tmp_path)
    (site.keys / "keys.sig").write_bytes(b"[[]]")
    with pytest.raises(DamagedSite, match=r"keys\.sig: is no file of statements"):
        site.statements()
    (site.keys / "above-keys.sig").write_bytes(b"junk")
    with pytest.raises(DamagedSite, match=r"above-keys\.sig: is no file of statements"):
        site.above_statements()
    with pytest.raises(DamagedSite, match="more than 24"):
        parse_statements(b"[" + b",".join([CHAIN[0]] * 25) + b"]")


def test_keygen_after_a_rotation_makes_no_key_that_nobody_trusts(
    tmp_path: Path,
) -> None:
    """Even where the old private key was thrown away, as it may be."""
    site = make_site(tmp_path)
    rotating.rotate(site, Role.OATS, "2027", NOW)
    signs = load_key(site, Role.OATS).public
    (site.keys / "oats.private").unlink()
    assert make_keys(site) == {}
    assert load_key(site, Role.OATS).public == signs


def test_a_file_that_is_no_key_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(tmp_path)
    (site.keys / "oats-junk.public").write_bytes(b"junk")
    assert len(site_ring(site)) == 2
    assert "oats-junk.public is left out" in caplog.text
