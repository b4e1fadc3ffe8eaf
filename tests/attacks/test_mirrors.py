"""Mirrors, school servers and sticks that lie about a build that was truly ordered."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from olpc_update_query.model.messages import BuildId, OrderFile
from olpc_update_query.run.by_hand import ByHand
from olpc_update_query.server.signing import make_order
from tests.attacks.forge import OTHER_SERIAL, delegated, twin_of
from tests.attacks.victim import WORK, Victim, assert_plain, without_stamps
from tests.cli.school import School
from tests.keys import SERIAL, signer
from tests.laptop import boots
from tests.run.polled import NEW, NOW
from tests.simulator import DAY, Listener
from tests.trees import Picture, difference, snapshot

SCRATCH = (
    WORK + b"/asker/downloads",
    WORK + b"/installer/stage",
    WORK + b"/installer/store",
    WORK + b"/installer/wanted",
)
"""Left out besides: what came is kept for the next mirror, by its digest; what was
begun of a tree and the contents for it; which contents proved to be damaged."""

NAMES = (
    "contents",
    "contents.zst",
    "pack",
    "pack.index",
    "pack.index.zst",
    "delta/760.pack",
)


def picture(victim: Victim) -> dict[bytes, Picture]:
    found = without_stamps(snapshot(victim.laptop.root))
    return {path: each for path, each in found.items() if not path.startswith(SCRATCH)}


Tamper = Callable[[School], object]


def files(school: School, *names: str) -> list[Path]:
    found = [school.www / "builds/762" / name for name in names or NAMES]
    return [path for path in found if path.exists()]


def rewrite(change: Callable[[bytes], bytes], *names: str) -> Tamper:
    def tamper(school: School) -> None:
        for path in files(school, *names):
            path.write_bytes(change(path.read_bytes()))

    return tamper


def remove(*names: str) -> Tamper:
    def tamper(school: School) -> None:
        for path in files(school, *names):
            path.unlink()

    return tamper


def old_as_new(school: School) -> None:
    """Serve build 760 below the name of 762."""
    shutil.rmtree(school.www / "builds/762")
    shutil.copytree(school.www / "builds/760", school.www / "builds/762")


def both(*tampers: Tamper) -> Tamper:
    def tamper(school: School) -> None:
        for each in tampers:
            each(school)

    return tamper


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


ONLY_PLAIN = remove("delta/760.pack", "pack.index.zst")
TAMPERED = [
    pytest.param(
        rewrite(flip), id="malicious mirror: a bit in the middle of every file"
    ),
    pytest.param(
        rewrite(lambda d: bytes([d[0] ^ 1]) + d[1:]),
        id="malicious mirror: the first bit of every file",
    ),
    pytest.param(
        rewrite(lambda d: d[: len(d) // 2]), id="malicious mirror: half of every file"
    ),
    pytest.param(rewrite(lambda d: b""), id="malicious mirror: empty files"),
    pytest.param(rewrite(lambda d: bytes(len(d))), id="malicious mirror: zeros"),
    pytest.param(
        rewrite(lambda d: b"<html>Welcome</html>"), id="malicious mirror: pages"
    ),
    pytest.param(rewrite(lambda d: d * 50), id="endless data: every file fifty times"),
    pytest.param(
        rewrite(lambda d: d + b"x"), id="endless data: a byte more in every file"
    ),
    pytest.param(remove(), id="malicious mirror: nothing there"),
    pytest.param(old_as_new, id="mix-and-match: the old build below the new name"),
    pytest.param(
        both(
            ONLY_PLAIN,
            lambda s: shutil.copy(
                s.www / "builds/760/contents", s.www / "builds/762/contents"
            ),
            remove("contents.zst"),
        ),
        id="mix-and-match: the old manifest, the new contents",
    ),
    pytest.param(
        both(
            ONLY_PLAIN,
            lambda s: shutil.copy(s.www / "builds/760/pack", s.www / "builds/762/pack"),
        ),
        id="mix-and-match: the new manifest, the old contents",
    ),
    pytest.param(
        both(
            ONLY_PLAIN,
            lambda s: shutil.copy(
                s.www / "builds/760/pack.index", s.www / "builds/762/pack.index"
            ),
        ),
        id="mix-and-match: the old index, the new contents",
    ),
    pytest.param(
        both(
            remove("contents", "contents.zst", "pack", "pack.index", "pack.index.zst"),
            rewrite(flip, "delta/760.pack"),
        ),
        id="malicious mirror: only a delta, with one bit wrong",
    ),
    pytest.param(
        both(ONLY_PLAIN, rewrite(lambda d: d[::-1], "pack")),
        id="wrong software: a pack of other bytes",
    ),
    pytest.param(
        both(
            ONLY_PLAIN,
            rewrite(
                lambda d: d.replace(b'olpc-update-pack",1', b'olpc-update-pack",2'),
                "pack.index",
            ),
        ),
        id="wrong software: an index of another version",
    ),
]


@pytest.mark.parametrize("tamper", TAMPERED)
def test_a_mirror_that_lies(customer: Victim, school: School, tamper: Tamper) -> None:
    kept = school.www.parent / "kept"
    shutil.copytree(school.www, kept)
    before = picture(customer)
    school.server.update = school.order()
    tamper(school)
    code, heard = customer.laptop.ask()
    assert code in {13, 14, 23, 32}, heard.outcome
    assert_plain(heard, "762")
    assert not difference(before, picture(customer))
    assert boots(customer.laptop.root) == "760"
    shutil.rmtree(school.www)
    kept.rename(school.www)
    assert customer.laptop.ask()[0] == 0, "the same without the attack"
    assert boots(customer.laptop.root) == "762"


@pytest.mark.parametrize("tamper", TAMPERED)
def test_the_next_mirror_makes_it_good(
    customer: Victim, school: School, tamper: Tamper
) -> None:
    """One honest mirror behind the liar is enough."""
    shutil.copytree(school.www / "builds/762", school.www / "builds/good")
    url = f"{school.server.url}builds/"
    school.server.update = replace(school.order(), urls=(f"{url}762/", f"{url}good/"))
    tamper(school)
    code, heard = customer.laptop.ask()
    assert code == 0, heard.outcome
    assert boots(customer.laptop.root) == "762"
    found = customer.laptop.root / "versions/pristine/762/lib/big"
    assert found.read_bytes() == (school.new.tree / "lib/big").read_bytes()


def test_wrong_software_by_a_mistaken_order(customer: Victim, school: School) -> None:
    """The order names 763, the manifest that it signs is 762's."""
    before = picture(customer)
    school.server.update = replace(school.order(), build=BuildId("763"))
    code, heard = customer.laptop.ask()
    assert code in {23, 25}, heard.outcome
    assert_plain(heard, "762")
    assert not difference(before, picture(customer))
    assert boots(customer.laptop.root) == "760"


# --- orders that lie beside a build, on a stick or a mirror ------------------------


def by_hand(victim: Victim, place: str) -> tuple[int, Listener]:
    heard = Listener()
    machine = victim.laptop.machine()
    code = ByHand(machine, heard, NEW, [place]).run()
    return code, heard


def order_file(school: School, **changes: object) -> OrderFile:
    plain = replace(school.order(), **changes)  # type: ignore[arg-type]
    return OrderFile(plain, NOW)


def signed(key: str, **changes: object) -> Callable[[School], bytes]:
    return lambda school: make_order(order_file(school, **changes), signer(key).sig01)


def expired(school: School) -> bytes:
    file = replace(order_file(school), expiry=NOW - 1)
    return make_order(file, signer("oats").sig01)


def for_others(school: School) -> bytes:
    file = replace(order_file(school), serials=frozenset({OTHER_SERIAL}))
    return make_order(file, signer("oats").sig01)


def bound(school: School) -> bytes:
    return make_order(
        order_file(school),
        lambda data: signer("oats").sig02(data, serial=OTHER_SERIAL, expiry=None),
    )


def altered(old: bytes, new: bytes) -> Callable[[School], bytes]:
    def make(school: School) -> bytes:
        genuine = signed("oats")(school)
        assert old in genuine
        return genuine.replace(old, new, 1)

    return make


def as_answer(school: School) -> bytes:
    return signed("oats")(school).replace(
        b"olpc-update-signed-order", b"oatc-signed-resp"
    )


ORDERS = [
    pytest.param(
        lambda s: make_order(order_file(s), lambda d: ""),
        25,
        "signature refused",
        id="downgrade to unsigned: no signature",
    ),
    pytest.param(
        lambda s: signed("oats")(s).partition(b',["sig"')[0] + b"]]",
        25,
        "refused",
        id="downgrade to unsigned: no credential",
    ),
    pytest.param(
        signed("thief"),
        21,
        "no trusted key",
        id="arbitrary software: a stranger's order",
    ),
    pytest.param(
        lambda s: make_order(order_file(s), twin_of("oats").sig01),
        21,
        "is wrong",
        id="suffix collisions: a key of the same name",
    ),
    pytest.param(
        signed("lease"),
        21,
        "no trusted key",
        id="key-role confusion: the key for leases",
    ),
    pytest.param(
        signed("retired"), 21, "no trusted key", id="key compromise: a retired key"
    ),
    pytest.param(
        lambda s: make_order(order_file(s), lambda d: delegated(d, until=NOW - 1)),
        21,
        "expired",
        id="key compromise: an ended delegation",
    ),
    pytest.param(
        lambda s: make_order(order_file(s), lambda d: delegated(d, root="lease")),
        21,
        "no trusted key",
        id="chain splicing: a delegate of another role",
    ),
    pytest.param(
        expired, 16, "it was good until", id="freeze: an order that has ended"
    ),
    pytest.param(
        for_others,
        17,
        f"it is for laptop {OTHER_SERIAL}",
        id="replay between laptops: an order that names others",
    ),
    pytest.param(
        bound, 21, "is wrong", id="replay between laptops: an order for another laptop"
    ),
    pytest.param(
        signed("oats", build=BuildId("761")),
        21,
        "it is for build 761",
        id="rollback: another build's order",
    ),
    pytest.param(
        altered(b'"build":"762"', b'"build":"763"'),
        21,
        "is wrong",
        id="wrong software: another name",
    ),
    pytest.param(
        altered(b'"size":', b'"size":1'),
        21,
        "is wrong",
        id="endless data: another size",
    ),
    pytest.param(
        altered(b"127.0.0.1", b"127.0.0.2"),
        21,
        "is wrong",
        id="malicious mirror: another mirror",
    ),
    pytest.param(
        altered(b"sha256", b"sha1"),
        21,
        "no trusted key",
        id="algorithm substitution: sha1",
    ),
    pytest.param(
        as_answer,
        25,
        "not an envelope of this type",
        id="key-role confusion: an order as an answer",
    ),
    pytest.param(
        lambda s: signed("oats")(s)[:-20],
        25,
        "refused",
        id="arbitrary software: half an order",
    ),
    pytest.param(
        lambda s: signed("oats")(s) + b" " * 70_000,
        11,
        "longer than",
        id="endless data: spaces behind an order",
    ),
    pytest.param(
        lambda s: b"[" * 60_000,
        25,
        "canonical JSON refused",
        id="endless data: brackets",
    ),
    pytest.param(
        lambda s: b"<html>Welcome</html>",
        25,
        "canonical JSON refused",
        id="malicious mirror: a page",
    ),
]


@pytest.mark.parametrize("on_stick", [False, True], ids=["mirror", "stick"])
@pytest.mark.parametrize(("make", "code", "says"), ORDERS)
def test_a_false_order(
    customer: Victim,
    school: School,
    make: Callable[[School], bytes],
    code: int,
    says: str,
    on_stick: bool,
) -> None:
    directory = school.www / "builds/762"
    url = f"{school.server.url}builds/762/"
    place = f"file://{directory}/" if on_stick else url
    genuine = (directory / "order").read_bytes()
    before = picture(customer)
    (directory / "order").write_bytes(make(school))
    found, heard = by_hand(customer, place)
    assert found == code, heard.outcome
    assert_plain(heard, says)
    assert not difference(before, picture(customer))
    if not on_stick:  # the sticks differ from mirrors in nothing that follows
        (directory / "order").write_bytes(genuine)
        assert by_hand(customer, place)[0] == 0, "the same without the attack"
        assert boots(customer.laptop.root) == "762"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(signed("oats"), id="sig01"),
        pytest.param(
            lambda s: make_order(
                order_file(s),
                lambda d: signer("oats").sig02(d, serial=SERIAL, expiry=NOW + DAY),
            ),
            id="for this laptop",
        ),
        pytest.param(lambda s: make_order(order_file(s), delegated), id="a delegate's"),
    ],
)
def test_a_good_order_on_a_stick(
    customer: Victim, school: School, make: Callable[[School], bytes]
) -> None:
    """The controls."""
    directory = school.www / "builds/762"
    (directory / "order").write_bytes(make(school))
    assert by_hand(customer, f"file://{directory}/")[0] == 0
    assert boots(customer.laptop.root) == "762"


def test_freeze_of_an_order_by_a_clock_that_is_set_back(
    customer: Victim, school: School
) -> None:
    """An order that has ended stays ended for a laptop that knows a later time."""
    directory = school.www / "builds/762"
    (directory / "order").write_bytes(expired(school))
    customer.laptop.clock.time = 0
    code, heard = by_hand(customer, f"file://{directory}/")
    assert code == 16
    assert_plain(heard, "it was good until")
