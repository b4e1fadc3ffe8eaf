"""Orders in genuine answers that must not be followed, by a laptop that runs 760."""

import pytest

from olpc_update_query.model.canonical import Json
from olpc_update_query.report import Answered
from olpc_update_query.run.facts import GIVEN_UP
from tests.attacks.victim import Make, Victim
from tests.cli.school import School
from tests.laptop import boots
from tests.run.polled import DIGEST

GOOD: dict[str, Json] = {
    "build": "762",
    "contents": str(DIGEST),
    "size": 1000,
    "urls": ["http://127.0.0.1:9/builds/762/"],
}


def ordered(update: Json) -> Make:
    """Make a genuine answer that says nothing but an order."""
    return lambda forge: forge.signed(
        forge.data(update=update, lease=None, message=None)
    )


OLDER = "is older than the current build 760, and the order does not allow that"
REFUSED = [
    pytest.param({"build": "759"}, OLDER, id="rollback: the build before"),
    pytest.param({"build": "1"}, OLDER, id="rollback: the first build"),
    pytest.param({"build": "0"}, OLDER, id="rollback: build 0"),
    pytest.param({"build": "0759"}, OLDER, id="rollback: with a zero before it"),
    pytest.param(
        {"build": "759", "allow_downgrade": False}, OLDER, id="rollback: false"
    ),
    pytest.param({"build": "759", "sticky": True}, OLDER, id="rollback: sticky"),
    pytest.param(
        {"build": "760"},
        "is installed with other contents",
        id="wrong software: our name",
    ),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_refused(victim: Victim, changes: dict[str, Json], says: str) -> None:
    heard = victim.is_unmoved_by(ordered({**GOOD, **changes}), 43, says, answered=True)
    assert "order" in heard.outcome.hint or "server" in heard.outcome.hint
    assert victim.server.site.names()[-1] == "", "nothing was fetched"


def test_rollback_to_a_build_that_was_given_up(victim: Victim) -> None:
    machine = victim.laptop.machine()
    machine.installer.save(GIVEN_UP, {str(DIGEST): {"build": "762", "time": 0}})
    victim.is_unmoved_by(ordered(GOOD), 43, "was given up", answered=True)


def test_wrong_software_by_a_bare_name(victim: Victim) -> None:
    says = "names build 762 but does not sign its contents"
    victim.is_unmoved_by(ordered("762"), 43, says, answered=True)


MISUNDERSTOOD = [
    pytest.param({"build": "../762"}, id="wrong software: a name with dots"),
    pytest.param({"build": ".."}, id="wrong software: the directory above"),
    pytest.param({"build": "."}, id="wrong software: the directory itself"),
    pytest.param({"build": ""}, id="wrong software: no name"),
    pytest.param({"build": "/etc"}, id="wrong software: an absolute name"),
    pytest.param({"build": "a/b"}, id="wrong software: a name with a slash"),
    pytest.param({"build": "762\n"}, id="wrong software: a name with a newline"),
    pytest.param({"build": "762\0"}, id="wrong software: a name with NUL"),
    pytest.param({"build": "\u0667\u0666\u0662"}, id="wrong software: other digits"),
    pytest.param({"build": "x" * 65}, id="wrong software: a long name"),
    pytest.param({"build": "-rf"}, id="wrong software: a name like an option"),
    pytest.param({"build": 762}, id="wrong software: a number"),
    pytest.param({"contents": "d" * 63}, id="wrong software: a short digest"),
    pytest.param({"contents": "D" * 64}, id="wrong software: a digest in capitals"),
    pytest.param({"contents": "../" + "d" * 61}, id="wrong software: a path as digest"),
    pytest.param({"contents": None}, id="wrong software: no digest"),
    pytest.param({"size": 0}, id="endless data: a manifest of nothing"),
    pytest.param({"size": -1}, id="endless data: a negative manifest"),
    pytest.param({"size": 2**31}, id="endless data: a manifest of 2 GiB"),
    pytest.param({"size": True}, id="endless data: a size that is true"),
    pytest.param({"urls": ["http://a/"] * 17}, id="endless data: too many mirrors"),
    pytest.param({"urls": ["javascript:x"]}, id="malicious mirror: a script"),
    pytest.param({"urls": ["ftp://a/762/"]}, id="malicious mirror: ftp"),
    pytest.param({"urls": ["http:///762/"]}, id="malicious mirror: no host"),
    pytest.param({"urls": "http://a/762/"}, id="malicious mirror: no list"),
    pytest.param({"urls": [["http://a/"]]}, id="malicious mirror: a list in a list"),
    pytest.param({"allow_downgrade": "yes"}, id="rollback: allowed by a word"),
    pytest.param({"allow_downgrade": 1}, id="rollback: allowed by a number"),
    pytest.param({"not_before": "soon"}, id="freeze: a time that is none"),
    pytest.param({"reboot": "now; rm"}, id="arbitrary software: a command"),
]


@pytest.mark.parametrize("changes", MISUNDERSTOOD)
def test_not_understood(victim: Victim, changes: dict[str, Json]) -> None:
    """The rest of such an answer counts; the order is left out, and told."""
    heard = victim.ignores(ordered({**GOOD, **changes}))
    (answered,) = heard.heard(Answered)
    assert answered.trusted.answer.faults
    assert answered.trusted.answer.update is None


@pytest.mark.parametrize("update", [[], [GOOD], 762, True, "../762", ""], ids=repr)
def test_orders_of_another_type(victim: Victim, update: Json) -> None:
    heard = victim.ignores(ordered(update))
    assert heard.heard(Answered)[0].trusted.answer.faults


EXTRANEOUS: dict[str, Json] = {
    "a key to trust": {"keys": {"oats-evil.public": "00"}},
    "another server": {"server": "http://evil.test/"},
    "a proxy": {"proxy": {"url": "http://evil.test:3128/"}},
    "a stream": {"stream": "testing"},
    "a hook": {"hooks": {"10-evil": "#!/bin/sh"}},
    "packages": {"packages": ["evil"], "depends": ["evil>=1"]},
    "to ignore signatures": {"oats-ignore-signature": True},
    "to be stolen in capitals": {"STOLEN": True},
    "to be stolen by a word": {"stolen": "true"},
    "to be stolen by a number": {"stolen": 1},
    "a command": {"run": "rm -rf /", "exec": ["rm"]},
    "a lease in a list": {"lease": ["act01: x"]},
}


@pytest.mark.parametrize("name", EXTRANEOUS)
def test_extraneous_dependencies(victim: Victim, name: str) -> None:
    """What no clause asks for brings nothing onto the laptop."""
    members = EXTRANEOUS[name]
    assert isinstance(members, dict)
    victim.ignores(
        lambda forge: forge.signed(
            forge.data(**{"lease": None, "message": None, **members})
        )
    )
    assert not victim.laptop.is_marked()


def test_stolen(victim: Victim) -> None:
    """The control: it counts when it is signed and `true`."""
    victim.obeys(lambda forge: forge.signed(forge.data(stolen=True)))
    assert victim.laptop.is_marked()
    assert victim.laptop.lease() is None


def test_downgrade_to_unsigned_never_calls_stolen(victim: Victim) -> None:
    """Where signatures are ignored, nobody can say that a laptop is stolen."""
    (victim.laptop.root / "etc/oats-ignore-signature").touch()
    victim.ignores(lambda forge: forge.data(lease=None, message=None, stolen=True))
    assert not victim.laptop.is_marked()
    unsigned = victim.laptop.machine().asker.load("state")
    victim.attack(lambda forge: forge.data(time="20361118T110640Z", lease=None))
    victim.laptop.ask()
    assert victim.laptop.machine().asker.load("state")["floor"] == unsigned["floor"]


def test_an_order_that_may_be_followed(customer: Victim, school: School) -> None:
    """The control: the same laptop follows a good order."""
    order = school.order().to_json()
    customer.obeys(ordered(order))
    assert boots(customer.laptop.root) == "762"


def test_obeyed_beside_a_faulty_order(victim: Victim) -> None:
    """A faulty order never costs a laptop its lease."""
    victim.obeys(
        lambda forge: forge.signed(forge.data(update={**GOOD, "build": "../762"}))
    )
