from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.model.messages import BareOrder, BuildId, Order, Sha256
from olpc_update_query.policy.decide import (
    Decision,
    Install,
    Nothing,
    Refuse,
    Situation,
    Wait,
    decide,
    is_downgrade,
)

NOW = 1_795_000_000
OLD, NEW, OTHER = BuildId("760"), BuildId("762"), BuildId("spring")
DIGEST, ANOTHER = Sha256("a" * 64), Sha256("b" * 64)
ORDER = Order(NEW, DIGEST, 1000, ("http://schoolserver/builds/762/",))
HERE = Situation(current=OLD, installed={OLD: None})


def ordered(build: str, **changes: object) -> Order:
    return replace(ORDER, build=BuildId(build), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "at", "expected"),
    [
        pytest.param(None, HERE, Nothing, id="no order"),
        pytest.param(ORDER, HERE, Install, id="a newer build"),
        pytest.param(ORDER, Situation(), Install, id="nothing known of this laptop"),
        pytest.param(ORDER, replace(HERE, stream="none"), Nothing, id="opted out"),
        pytest.param(ORDER, replace(HERE, stream="stable"), Install, id="a stream"),
        pytest.param(
            ORDER,
            replace(HERE, current=NEW, installed={NEW: DIGEST}),
            Nothing,
            id="it boots already",
        ),
        pytest.param(
            ORDER,
            replace(HERE, current=NEW, installed={NEW: ANOTHER}),
            Refuse,
            id="the name is taken by other contents",
        ),
        pytest.param(
            ORDER,
            replace(HERE, installed={OLD: None, NEW: DIGEST}),
            Install,
            id="installed, but another one boots",
        ),
        pytest.param(
            ORDER, replace(HERE, failed=frozenset({DIGEST})), Refuse, id="failed here"
        ),
        pytest.param(
            ORDER,
            replace(HERE, failed=frozenset({ANOTHER})),
            Install,
            id="another one failed here",
        ),
        pytest.param(ordered("759"), HERE, Refuse, id="downgrade"),
        pytest.param(
            ordered("759", allow_downgrade=True), HERE, Install, id="allowed downgrade"
        ),
        pytest.param(ordered("spring"), HERE, Install, id="names do not compare"),
        pytest.param(ORDER, replace(HERE, held=True), Wait, id="held"),
        pytest.param(
            ORDER, replace(HERE, held=True, held_until=NOW + 1), Wait, id="held for now"
        ),
        pytest.param(
            ORDER, replace(HERE, held=True, held_until=NOW), Install, id="hold is over"
        ),
        pytest.param(None, replace(HERE, held=True), Nothing, id="held, no order"),
        pytest.param(
            ordered("762", not_before=NOW + 1), HERE, Wait, id="its time is to come"
        ),
        pytest.param(
            ordered("762", not_before=NOW), HERE, Install, id="its time has come"
        ),
        pytest.param(ORDER, replace(HERE, on_trial=OLD), Wait, id="on trial"),
        pytest.param(
            ordered("759"), replace(HERE, held=True), Refuse, id="refused before held"
        ),
        pytest.param(BareOrder(NEW), HERE, Refuse, id="contents are not signed"),
        pytest.param(BareOrder(OLD), HERE, Nothing, id="bare name of what boots"),
        pytest.param(
            BareOrder(NEW), replace(HERE, stream="none"), Nothing, id="bare, opted out"
        ),
    ],
)
def test_decide(
    order: Order | BareOrder | None, at: Situation, expected: type[Decision]
) -> None:
    decision = decide(order, at, NOW)
    assert type(decision) is expected
    assert len(decision.reason) > 10, "a person must be told why"


def test_installing_hands_the_order_on() -> None:
    decision = decide(ORDER, HERE, NOW)
    assert isinstance(decision, Install)
    assert decision.order is ORDER


@pytest.mark.parametrize(
    ("at", "order", "until"),
    [
        pytest.param(
            replace(HERE, held=True, held_until=NOW + 5), ORDER, NOW + 5, id="hold"
        ),
        pytest.param(replace(HERE, held=True), ORDER, None, id="hold without end"),
        pytest.param(HERE, ordered("762", not_before=NOW + 7), NOW + 7, id="order"),
    ],
)
def test_waiting_says_until_when(
    at: Situation, order: Order, until: int | None
) -> None:
    decision = decide(order, at, NOW)
    assert isinstance(decision, Wait)
    assert decision.until == until


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ("762", "760", False),
        ("760", "762", True),
        ("762", "762", False),
        ("99", "100", True),
        ("100", "99", False),
        ("13.2.10", "13.2.9", False),
        ("13.2.9", "13.2.10", True),
        ("13.1.99", "13.2.1", True),
        ("os883", "os900", True),
        ("os900", "os883", False),
        ("xo883", "os900", False),
        ("13.2", "13.2.1", False),
        ("13.2.1", "13.2", False),
        ("spring", "autumn", False),
        ("860-rc1", "860", False),
        ("860-rc1", "860-rc2", True),
        ("007", "8", True),
    ],
)
def test_downgrade(new: str, old: str, expected: bool) -> None:
    assert is_downgrade(new, old) is expected


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,12}", fullmatch=True)


@given(names, names)
def test_downgrade_is_no_circle(one: str, other: str) -> None:
    assert not (is_downgrade(one, other) and is_downgrade(other, one))
    assert not is_downgrade(one, one)
