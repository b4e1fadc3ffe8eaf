"""What the fuzzers begin with: a few good inputs of each format, and some bad ones.

A name that begins with ``good`` is one that its target accepts. The others are
genuine as well, but for somebody else: they lend their parts to mutations.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import NEVER_EXPIRES, Answer, Query
from olpc_update_query.model.orders import BareOrder, Order, OrderFile, Reboot
from olpc_update_query.model.wire import parse_build_id, parse_sha256
from olpc_update_query.server.signing import (
    Sign,
    bulk_leases,
    make_answer,
    make_lease,
    make_order,
    sign_statement,
    statement_data,
)
from olpc_update_query.trust.keys import ID_BYTES, Role, digest_of
from olpc_update_query.trust.rotation import Statement, join_statements
from tests.fuzz.facts import NONCE, NOW, SERIAL, UUID
from tests.fuzz.fixed import FixedSigner, signer
from tests.fuzz.plain_seeds import deltas, frames, manifests, packs

Seeds = Mapping[str, bytes]

KEYS: Final = ("oats", "lease", "delegate", "thief")
"""The first two are trusted, each for what it is named after."""

_FAR: Final = NOW + 10**9
_OTHER_SERIAL: Final = "SHC00000001"
_LISTED: Final = frozenset({SERIAL, _OTHER_SERIAL})

_ORDER: Final = Order(
    parse_build_id("762"),
    parse_sha256("0d295ca5caeea91702f78d3af762a057e475a0a0bc55fa0ad0acf12c2915d15a"),
    1989,
    ("http://school.example/builds/762/", "file:///media/stick/builds/762/"),
)
_FULL_ORDER: Final = replace(
    _ORDER,
    urls=(*_ORDER.urls, "rsync://[2001:db8::1]:8873/builds/762"),
    allow_downgrade=True,
    not_before=NOW - 3600,
    reboot=Reboot.IDLE,
    sticky=True,
)
_ANSWER: Final = Answer(NONCE, NOW)


def all_seeds() -> dict[str, Seeds]:
    """Return the seeds by target, and the public keys that judge them."""
    return {
        "keys": {f"{name}.public": signer(name).public for name in KEYS},
        "answer": _answers(),
        "order": _orders(),
        "lease": _leases(),
        "statement": _statements(),
        "query": _queries(),
        "manifest": manifests(),
        "pack": packs(),
        "delta": deltas(),
        "frame": frames(),
    }


# --- how things are signed --------------------------------------------------------


def _bound(name: str, *, serial: str = SERIAL, expiry: int | None = _FAR) -> Sign:
    def sign(data: bytes) -> str:
        return signer(name).sig02(data, serial=serial, expiry=expiry)

    return sign


def _delegated(name: str, *, links: int = 1, until: int | None = _FAR) -> Sign:
    """Sign by a key that the named one vouches for, over so many links."""

    def sign(data: bytes) -> str:
        holder, chain = signer(name), ""
        for link in range(links):
            heir = signer("thief" if link % 2 else "delegate")
            chain = holder.delegate(
                heir.public, serial=SERIAL, expiry=until, chain=chain
            )
            holder = heir
        return holder.sig02(data, serial=SERIAL, expiry=None, chain=chain)

    return sign


def _with_more_lines(holder: FixedSigner) -> Sign:
    """Sign as firmware images are signed: with lines that say nothing to us."""

    def sign(data: bytes) -> str:
        strange = f"sig01: rmd160 {'0' * 2 * ID_BYTES} {'1' * 512}\n"
        return strange + signer("thief").sig01(data) + holder.sig01(data) + "sig03: - -"

    return sign


# --- one format after another -----------------------------------------------------


def _answers() -> Seeds:
    oats, thief = signer("oats"), signer("thief")
    lease = make_lease(SERIAL, UUID, _FAR, signer("lease").sig01)
    full = replace(
        _ANSWER,
        lease=lease,
        stolen=True,
        interval=7200,
        update=_FULL_ORDER,
        message='Gr\u00fc\u00dfe: "hello"\n\\ \U0001f9d2',
    )
    ordered = replace(_ANSWER, update=_ORDER)
    return {
        "good-small": make_answer(_ANSWER, oats.sig01),
        "good-full": make_answer(full, oats.sig01),
        "good-ordered": make_answer(ordered, oats.sig01),
        "good-named": make_answer(
            replace(_ANSWER, update=BareOrder(parse_build_id("767"))), oats.sig01
        ),
        "good-newline": make_answer(replace(_ANSWER, time=0), oats.sig01) + b"\n",
        "good-bound": make_answer(replace(ordered, interval=900), _bound("oats")),
        "good-delegated": make_answer(
            replace(ordered, interval=901), _delegated("oats")
        ),
        "good-lines": make_answer(
            replace(_ANSWER, message="lines"), _with_more_lines(oats)
        ),
        "good-faults": _faulty_answer(oats),
        "other-nonce": make_answer(replace(full, nonce="314159"), oats.sig01),
        "other-key": make_answer(full, thief.sig01),
        "other-key-whole": make_answer(
            full, lambda data: thief.sig01(data).replace(thief.key_id, oats.key_id)
        ),
        "other-role": make_answer(ordered, signer("lease").sig01),
        "other-serial": make_answer(ordered, _bound("oats", serial=_OTHER_SERIAL)),
        "other-time": make_answer(ordered, _bound("oats", expiry=NOW)),
        "other-chain": make_answer(ordered, _delegated("thief", links=2)),
        "other-bare": canonical.encode(["oatc-resp", 1, full.to_json()]),
        "other-order": make_order(OrderFile(_ORDER, NOW), oats.sig01),
    }


def _faulty_answer(holder: FixedSigner) -> bytes:
    """Return a good answer, all of whose members but two cannot be understood."""
    data: dict[str, Json] = {
        "": [{}, [], {"a": None}, -1, 2**63 - 1],
        "interval": "soon",
        "lease": [],
        "message": "\x1b[2J\x7f\u202e\u2028\n",
        "nonce": NONCE,
        "stolen": "yes",
        "time": "20261224T180000Z",
        "update": _ORDER.to_json() | {"urls": ["http://\x07/"]},
        "\U0001f9d2": False,
    }
    inner: list[Json] = ["oatc-resp", 1, data]
    line = holder.sig01(canonical.encode(inner))
    return canonical.encode(["oatc-signed-resp", 1, [inner, ["sig", 1, [line]]]])


def _orders() -> Seeds:
    oats = signer("oats")
    full = OrderFile(_FULL_ORDER, NOW, _FAR)
    return {
        "good-small": make_order(OrderFile(_ORDER, NOW), oats.sig01),
        "good-full": make_order(full, oats.sig01),
        "good-bound": make_order(replace(full, time=NOW - 1), _bound("oats")),
        "good-delegated": make_order(
            replace(full, expiry=_FAR - 1), _delegated("oats", links=2)
        ),
        "good-lines": make_order(OrderFile(_ORDER, NOW - 2), _with_more_lines(oats)),
        "good-listed": make_order(replace(full, serials=_LISTED), oats.sig01),
        "other-listed": make_order(
            replace(full, serials=_LISTED - {SERIAL}), oats.sig01
        ),
        "other-key": make_order(full, signer("thief").sig01),
        "other-role": make_order(full, signer("lease").sig01),
        "other-time": make_order(replace(full, expiry=NOW), oats.sig01),
        "other-answer": make_answer(replace(_ANSWER, update=_ORDER), oats.sig01),
    }


def _leases() -> Seeds:
    key, thief = signer("lease"), signer("thief")
    plain = make_lease(SERIAL, UUID, _FAR, key.sig01)
    for_ever = make_lease(SERIAL, UUID, None, _bound("lease"))
    delegated = make_lease(SERIAL, UUID, _FAR + 1, _delegated("lease", links=2))
    stale = make_lease(SERIAL, UUID, NOW, key.sig01)
    foreign = make_lease(_OTHER_SERIAL, UUID, None, key.sig01)
    stolen = make_lease(SERIAL, UUID, None, thief.sig01)
    return {
        "good-plain": plain.encode(),
        "good-for-ever": for_ever.encode(),
        "good-delegated": delegated.encode(),
        "good-last": f"# leases\n{foreign}{stale}{stolen}{plain}".encode(),
        "good-best": f"{plain}{delegated}".encode(),
        "good-bulk": bulk_leases({_OTHER_SERIAL: foreign, SERIAL: stale + plain}),
        "other-serial": foreign.encode(),
        "other-uuid": make_lease(SERIAL, UUID.lower(), _FAR, key.sig01).encode(),
        "other-time": stale.encode(),
        "other-key": stolen.encode(),
        "other-role": make_lease(SERIAL, UUID, _FAR, signer("oats").sig01).encode(),
        "other-bulk": bulk_leases({_OTHER_SERIAL: foreign}),
    }


def _statements() -> Seeds:
    added, oats = signer("delegate").public, signer("oats")
    plain = Statement(Role.OATS, 1, NOW, 1, (added,))
    more = replace(plain, number=7, threshold=2, retire=("0" * 64,))
    gone = Statement(Role.OATS, 2, NOW, 1, (), (digest_of(oats.public),))
    lease = replace(plain, role=Role.LEASE)

    def signed(content: Statement, *holders: str) -> bytes:
        data = statement_data(content)
        return sign_statement(data, [signer(name).sig01(data) for name in holders])

    first, last = signed(plain, "oats"), signed(more, "oats", "thief")
    return {
        "good-plain": first,
        "good-more": last,
        "good-newline": signed(replace(plain, number=3), "oats") + b"\n",
        "other-list": join_statements([first, last, signed(gone, "delegate")]),
        "other-key": signed(plain, "thief"),
        "other-role": signed(lease, "oats"),
        "other-nobody": signed(gone, "oats"),
        "other-order": make_order(OrderFile(_ORDER, NOW), oats.sig01),
    }


def _queries() -> Seeds:
    small = Query(SERIAL, NONCE)
    full = replace(
        small,
        stream="stable",
        build=parse_build_id("760"),
        lease=make_lease(SERIAL, UUID, _FAR, signer("lease").sig01),
        report={"build": "760", "free": 734003200, "result": 'caf\u00e9 "done"\n'},
    )
    return {
        "good-firmware": small.encode(),
        "good-full": full.encode(),
        "good-expiry": replace(full, lease=None, lease_expiry=NOW).encode(),
        "good-for-ever": replace(small, lease_expiry=NEVER_EXPIRES).encode(),
        "good-order": b"nonce=%F0%9F%A7%92&x=&serialnum=A&version=1&y=%20+",
        "other-version": small.encode().replace(b"version=1", b"version=2"),
        "other-twice": small.encode() + b"&nonce=1",
    }
