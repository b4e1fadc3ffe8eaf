"""NetworkManager's properties, in any order, and what they are a reason for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olpc_update_query.daemon.links import FULL, PORTAL, Link, LinkWatch
from olpc_update_query.policy.schedule import Trigger

DOWN = Link(20, 1)
UP, ONLINE = Link(60, 0, "/a"), Link(70, 4, "/a")
BEHIND = Link(60, 2, "/a")
LIMITED = Link(60, 3, "/a")
NET, THROUGH, GATE = Trigger.NETWORK, Trigger.PORTAL, Trigger.GATE


@pytest.mark.parametrize(
    ("links", "triggers"),
    [
        pytest.param([ONLINE], [NET], id="it was there already"),
        pytest.param([DOWN, UP, ONLINE], [None, NET, NET], id="as NetworkManager does"),
        pytest.param([ONLINE, ONLINE], [NET, None], id="70 twice"),
        pytest.param(
            [UP, BEHIND, UP, ONLINE], [NET, None, None, THROUGH], id="a portal"
        ),
        pytest.param(
            [BEHIND, LIMITED, BEHIND, ONLINE], [None] * 3 + [THROUGH], id="it flaps"
        ),
        pytest.param(
            [BEHIND, DOWN, ONLINE], [None, None, NET], id="another link, no portal"
        ),
        pytest.param(
            [BEHIND, Link(70, 4, "/b")], [None, NET], id="another link at once"
        ),
        pytest.param([LIMITED], [NET], id="a school server needs no Internet"),
        pytest.param([LIMITED, ONLINE], [NET, NET], id="the Internet came back"),
        pytest.param([ONLINE, LIMITED], [NET, None], id="the Internet went"),
        pytest.param([ONLINE, Link(70, 4, "/b")], [NET, NET], id="primary changed"),
        pytest.param(
            [ONLINE._replace(metered=1), ONLINE], [NET, GATE], id="metered no more"
        ),
        pytest.param(
            [ONLINE, ONLINE._replace(metered=3)], [NET, None], id="metered now"
        ),
        pytest.param(
            [ONLINE._replace(metered=1), DOWN, UP, Link(70, 4, "/b")],
            [NET, None, GATE, NET],
            id="from a link that costs to one that does not",
        ),
    ],
)
def test_triggers(links: list[Link], triggers: list[Trigger | None]) -> None:
    watch = LinkWatch()
    assert [watch.see(link) for link in links] == triggers


any_link = st.builds(
    Link,
    state=st.sampled_from([0, 10, 20, 30, 40, 50, 60, 70]),
    connectivity=st.integers(0, 4),
    primary=st.sampled_from(["/", "/a", "/b"]),
    metered=st.integers(0, 4),
)


@given(st.lists(any_link, max_size=30))
def test_in_any_order(links: list[Link]) -> None:
    watch = LinkWatch()
    for link in links:
        trigger = watch.see(link)
        assert trigger is None or link.is_usable, "no run without a link"
        assert watch.see(link) is None, "the same again is no news"
        if trigger is Trigger.PORTAL:
            assert link.connectivity == FULL


@given(st.lists(any_link, max_size=10))
def test_whoever_logs_in_is_noticed(links: list[Link]) -> None:
    watch = LinkWatch()
    for link in links:
        watch.see(link)
    watch.see(Link(60, PORTAL, "/c"))
    assert watch.see(Link(70, FULL, "/c")) is Trigger.PORTAL


def test_only_what_changed_is_said() -> None:
    link = ONLINE.merged({"Connectivity": 2, "Metered": 1, "Version": "1.42.4"})
    assert link == Link(70, 2, "/a", 1)
    assert link.merged({"PrimaryConnection": "/", "State": 20}) == Link(20, 2, "/", 1)
