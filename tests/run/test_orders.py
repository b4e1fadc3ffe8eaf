"""Orders: what is followed, what is not, and what comes of it."""

import hashlib
from collections.abc import Callable

import pytest

from olpc_update_query import errors
from olpc_update_query.model.messages import BareOrder, BuildId, Reboot, Sha256
from olpc_update_query.perform_update.install import Installed
from olpc_update_query.perform_update.trial import Mark, State, write_mark
from olpc_update_query.policy.decide import Refuse, Wait
from olpc_update_query.policy.schedule import FIRST_BACKOFF
from olpc_update_query.report import ClockSet, Decided, Result
from olpc_update_query.run import waiting
from olpc_update_query.run.carry_out import CarryOut
from olpc_update_query.run.machine import Machine, network
from olpc_update_query.system import power
from tests.run.polled import NEW, NOW, Laptop, order
from tests.simulator import (
    DAY,
    HOUR,
    Mischief,
    ServerSimulator,
    lease,
)
from tests.trees import difference, snapshot

FRESH = Mark(State.TRIAL, NEW)

# --- orders ------------------------------------------------------------------------


def hold(laptop: Laptop) -> None:
    waiting.set_hold(laptop.machine(), since=NOW, until=NOW + DAY)


def nothing(laptop: Laptop) -> None:
    """Leave the laptop as it is."""


@pytest.mark.parametrize(
    ("prepare", "changes", "decision", "expected"),
    [
        pytest.param(nothing, {"build": BuildId("759")}, Refuse, 43, id="downgrade"),
        pytest.param(hold, {}, Wait, 0, id="held"),
        pytest.param(nothing, {"not_before": NOW + 9}, Wait, 0, id="not before"),
        pytest.param(nothing, {"build": BuildId("760")}, Refuse, 43, id="name taken"),
    ],
)
def test_orders_that_are_not_followed(
    school_laptop: Laptop,
    server: ServerSimulator,
    prepare: Callable[[Laptop], None],
    changes: dict[str, object],
    decision: type,
    expected: int,
) -> None:
    prepare(school_laptop)
    server.update, server.lease = order(server, **changes), lease(NOW + DAY)
    before = snapshot(school_laptop.root / "versions/pristine")
    code, heard = school_laptop.poll()
    assert code == expected
    assert type(heard.heard(Decided)[0].decision) is decision
    assert school_laptop.lease() == server.lease, "leases come first"
    assert server.site.names() == [""], "nothing was fetched"
    assert not difference(before, snapshot(school_laptop.root / "versions/pristine"))
    assert school_laptop.wait() > HOUR


def test_a_bare_name_is_not_followed(
    school_laptop: Laptop, server: ServerSimulator
) -> None:
    server.update = BareOrder(NEW)
    code, heard = school_laptop.poll()
    assert code == 43
    assert "olpc-update 762" in heard.outcome.text


def test_a_machine_that_cannot_hold_two_builds(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.update, server.lease = order(server), lease(NOW + DAY)
    code, heard = laptop.poll()
    assert code == 34
    assert "/versions/pristine is missing" in heard.outcome.text
    assert laptop.lease() == server.lease
    (laptop.root / "versions/pristine").mkdir(parents=True)
    code, heard = laptop.ask()
    assert code == 34
    assert "/versions/boot is missing" in heard.outcome.text


def test_a_build_that_cannot_be_fetched(
    school_laptop: Laptop, server: ServerSimulator
) -> None:
    server.update, server.lease = order(server), lease(NOW + 21 * DAY)
    code, heard = school_laptop.poll()
    assert code == 13
    assert heard.outcome.facts["build"] == "762"
    assert school_laptop.lease() == server.lease, "no failure of an update delays it"
    assert FIRST_BACKOFF <= school_laptop.wait() <= 2 * FIRST_BACKOFF
    waits = []
    for _ in range(8):
        school_laptop.ask()
        waits.append(school_laptop.wait())
    assert waits[-1] > HOUR, "a build that nobody has is backed off"


def test_the_server_is_told_what_became_of_it(
    school_laptop: Laptop, server: ServerSimulator
) -> None:
    server.update = order(server)
    school_laptop.poll()
    school_laptop.ask()
    first, second = (query.report for query in server.queries)
    assert first is None
    assert second is not None
    assert second["build"] == "762"
    assert "762" in str(second["result"])
    assert isinstance(second["free"], int)
    assert second["code"] == 13


# --- what only the real machine does -----------------------------------------------


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the laptop take itself for the machine we run on."""
    monkeypatch.setattr(Machine, "is_real", lambda _: True)


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("wanted", "ahead", "mischief", "is_set"),
    [
        pytest.param("true", 61, None, True, id="wrong"),
        pytest.param("true", -9 * DAY, None, True, id="far ahead"),
        pytest.param("true", 60, None, False, id="right enough"),
        pytest.param("false", DAY, None, False, id="not wanted"),
        pytest.param("true", DAY, Mischief.UNSIGNED, False, id="unsigned"),
    ],
)
def test_the_clock(
    laptop: Laptop,
    server: ServerSimulator,
    monkeypatch: pytest.MonkeyPatch,
    *,
    wanted: str,
    ahead: int,
    mischief: Mischief | None,
    is_set: bool,
) -> None:
    def set_clock(seconds: int) -> None:
        laptop.clock.time = float(seconds)

    monkeypatch.setattr("olpc_update_query.run.clock.set_clock", set_clock)
    write_config(laptop, f"set_clock = {wanted}\n")
    server.time, server.mischief = NOW + ahead, mischief
    if mischief is not None:
        (laptop.root / "etc/oats-ignore-signature").touch()
    code, heard = laptop.ask()
    assert code == 0
    expected = [ClockSet(NOW, NOW + ahead)] if is_set else []
    assert heard.heard(ClockSet) == expected
    now = NOW + ahead if is_set else NOW
    assert laptop.due() == (now, now + DAY), "by the clock as it is now"


def write_config(laptop: Laptop, text: str) -> None:
    path = laptop.root / "etc/olpc-update-query/config.d/test.toml"
    path.parent.mkdir()
    path.write_text(text)


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("reboot", "idle", "mark", "restarts"),
    [
        pytest.param(Reboot.NEVER, True, FRESH, 0, id="never"),
        pytest.param(Reboot.IDLE, False, FRESH, 0, id="somebody is at work"),
        pytest.param(Reboot.IDLE, True, FRESH, 1, id="idle"),
        pytest.param(Reboot.NOW, False, FRESH, 1, id="now"),
        pytest.param(Reboot.NOW, True, FRESH._replace(tries=1), 0, id="tried before"),
    ],
)
def test_restarting(  # noqa: PLR0917 - what a row of the table holds
    school_laptop: Laptop,
    server: ServerSimulator,
    monkeypatch: pytest.MonkeyPatch,
    reboot: Reboot,
    idle: bool,
    mark: Mark,
    restarts: int,
) -> None:
    restarted: list[bool] = []
    monkeypatch.setattr(power, "is_idle", lambda: idle)
    monkeypatch.setattr(power, "restart", lambda: restarted.append(True))
    monkeypatch.setattr(CarryOut, "_fetch", lambda *_: None)
    monkeypatch.setattr(CarryOut, "_install", lambda *_: Installed(NEW))
    write_mark(school_laptop.root / "versions", mark)
    server.update = order(server, reboot=reboot)
    assert school_laptop.poll()[0] == 0
    assert len(restarted) == restarts


@pytest.mark.usefixtures("real")
def test_no_restart_into_what_is_running(
    school_laptop: Laptop, server: ServerSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "restart", lambda: pytest.fail("restarted"))
    contents = (school_laptop.root / "versions/contents/760").read_bytes()
    server.update = order(
        server,
        build=BuildId("760"),
        contents=Sha256(hashlib.sha256(contents).hexdigest()),
        reboot=Reboot.NOW,
    )
    _, heard = school_laptop.poll()
    assert heard.outcome.result is Result.NOTHING


def test_a_limited_bandwidth(laptop: Laptop, server: ServerSimulator) -> None:
    (server.site.root / "file").write_bytes(b"x" * 100_000)
    write_config(laptop, "bandwidth_limit = 1000\n")
    with network(laptop.machine()) as transport:
        assert sum(map(len, transport.get(server.url + "file").chunks)) == 100_000
    with_headers = 100 * 1500 / 1448
    assert laptop.clock.time == pytest.approx(NOW + with_headers, abs=2)


@pytest.mark.parametrize("error", [errors.HookFailed("no"), errors.NoSpace("/", 2, 1)])
def test_an_installation_that_fails(
    school_laptop: Laptop,
    server: ServerSimulator,
    monkeypatch: pytest.MonkeyPatch,
    error: errors.UpdateError,
) -> None:
    def fail(_: object, __: object) -> None:
        raise error

    monkeypatch.setattr(CarryOut, "_fetch", lambda *_: None)
    monkeypatch.setattr(CarryOut, "_install", fail)
    server.update = order(server)
    waits = []
    for _ in range(6):
        code, heard = school_laptop.ask()
        assert code == error.exit_code
        assert heard.outcome.facts["build"] == "762"
        waits.append(school_laptop.wait())
    if error.retry:
        assert waits[0] <= 2 * FIRST_BACKOFF
        assert waits == sorted(waits)
        assert waits[-1] > HOUR
    else:
        assert set(waits) == {DAY}, "it takes somebody's help"


def test_an_unknown_laptop_reads_what_the_server_says(
    laptop: Laptop, server: ServerSimulator
) -> None:
    server.mischief = Mischief.UNKNOWN
    assert "this laptop is not known here" in laptop.ask()[1].outcome.text
