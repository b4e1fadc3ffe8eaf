"""Key rotation: signed statements that add keys to those trusted, and retire keys.

::

    ["olpc-update-signed-keys",1,[["olpc-update-keys",1,{
      "add":["KEY IN HEX"],"number":2,"retire":["SHA-256 OF A KEY"],"role":"oats",
      "threshold":1,"time":"20261125T120000Z"}],["sig",1,["sig01: ..."]]]]

A statement proves itself: it is believed on whatever way it came. Its number only ever
rises, so an old one changes nothing, and a laptop that slept through several follows
them one after the other. A file is one statement, or a list of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from olpc_update_query.errors import Malformed, TrustError, UntrustedStatement
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.wire import (
    Fields,
    format_time,
    parse_sha256,
    parse_time,
    shown,
)
from olpc_update_query.trust.envelope import STATEMENT, Opened, open_envelope
from olpc_update_query.trust.keys import (
    KeyRing,
    Role,
    Standing,
    digest_of,
    modulus,
)
from olpc_update_query.trust.signature import verify_credential

MAX_STATEMENTS: Final = 24
"""How many statements are looked at, all roles together."""

MAX_KEYS: Final = 8
"""How many keys a statement may add, how many it may retire, and its threshold."""

MAX_NUMBER: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Statement:
    """What the holders of a role's keys say about its keys.

    Attributes:
        role: What the keys sign.
        number: Greater than that of every earlier statement about the role.
        time: When it was made, for people.
        threshold: How many of the keys must sign the next statement.
        add: Keys that are trusted from now on, PKCS#1 DER.
        retire: Digests of keys that are never trusted again.
    """

    role: Role
    number: int
    time: int
    threshold: int
    add: tuple[bytes, ...] = ()
    retire: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, value: Json) -> "Statement":
        """Read the data of an ``olpc-update-keys``.

        Raises:
            Malformed: A member is missing or wrong.
        """
        fields = Fields("keys", value)
        statement = cls(
            role=_role(fields.need("role", str)),
            number=_within("number", fields.need("number", int), MAX_NUMBER),
            time=parse_time(fields.need("time", str)),
            threshold=_within("threshold", fields.need("threshold", int), MAX_KEYS),
            add=tuple(map(_key, _texts(fields, "add"))),
            retire=tuple(map(parse_sha256, _texts(fields, "retire"))),
        )
        _check_sense(statement)
        return statement

    def to_json(self) -> dict[str, Json]:
        """Return the object that ``from_json`` reads."""
        return {
            "add": [der.hex() for der in self.add],
            "number": self.number,
            "retire": list(self.retire),
            "role": str(self.role),
            "threshold": self.threshold,
            "time": format_time(self.time),
        }


class Followed(NamedTuple):
    """What became of statements.

    Attributes:
        ring: The keys that are trusted now.
        statements: Those that were followed, in order.
        refused: Why others were not; those that are merely old are not among them.
    """

    ring: KeyRing
    statements: tuple[Statement, ...]
    refused: tuple[TrustError, ...]


class _Read(NamedTuple):
    statement: Statement
    opened: Opened


def split_statements(raw: bytes) -> tuple[bytes, ...]:
    """Take a file of statements apart.

    Args:
        raw: One statement, or a list of them in canonical JSON; one newline is
            tolerated after the final bracket.

    Returns:
        The octets of each.

    Raises:
        Malformed: It is neither.
    """
    text = raw.removesuffix(b"\n")
    if text.startswith(b'["%s",' % STATEMENT[0].encode()):
        return (text,)
    found = canonical.decode(text)
    if not isinstance(found, list) or not all(isinstance(item, list) for item in found):
        raise Malformed("keys", "it is no list of statements")
    return tuple(map(canonical.encode, found))


def join_statements(statements: Iterable[bytes]) -> bytes:
    """Put statements into one file, as ``split_statements`` reads it."""
    return b"[" + b",".join(statements) + b"]\n"


def read_statement(raw: bytes) -> Statement:
    """Read a statement without believing it.

    Raises:
        Malformed: It is none.
    """
    return _read(raw).statement


def open_statement(raw: bytes, ring: KeyRing) -> Statement:
    """Decide whether a statement is to be followed.

    1. Form and meaning: strictly canonical, nothing added that is retired as well.
    2. Number: greater than that of the last statement that was followed.
    3. Signatures: ``sig01`` by as many different trusted keys of the role as the last
       statement, or the configuration, asks for. Each line by a trusted key must
       hold. Delegations do not count: who may sign for a laptop may not appoint.
    4. Sense: no key that was retired comes back, and enough keys remain to sign the
       next statement.

    Args:
        raw: Its octets.
        ring: The keys that are trusted so far.

    Returns:
        The statement.

    Raises:
        Malformed: It is none.
        UntrustedStatement: It is one, but is not to be followed.
    """
    return _judge(_read(raw), ring)


def apply(statement: Statement, ring: KeyRing) -> KeyRing:
    """Return the keys that are trusted when a statement is followed."""
    number, before = statement.number, ring.standing(statement.role)
    added = {**before.added, **dict.fromkeys(statement.add, number)}
    retired = {**before.retired, **dict.fromkeys(statement.retire, number)}
    kept = {der: at for der, at in added.items() if digest_of(der) not in retired}
    standing = Standing(number, statement.threshold, kept, retired)
    return ring.with_standing(statement.role, standing)


def follow(raws: Iterable[bytes], ring: KeyRing) -> Followed:
    """Follow statements in the order of their numbers.

    One that cannot be followed does not stop the others: a laptop that was given a
    later key by hand cannot verify the earlier statements, and need not.

    Args:
        raws: Their octets, in any order; at most 24 are looked at.
        ring: The keys that are trusted so far.

    Returns:
        The keys that are trusted then, and what was followed.
    """
    found: list[_Read] = []
    refused: list[TrustError] = []
    for raw in list(raws)[:MAX_STATEMENTS]:
        try:
            found.append(_read(raw))
        except Malformed as error:
            refused.append(error)
    followed: list[Statement] = []
    for read in sorted(found, key=lambda one: one.statement.number):
        if read.statement.number <= ring.standing(read.statement.role).number:
            continue
        try:
            followed.append(_judge(read, ring))
        except TrustError as error:
            refused.append(error)
        else:
            ring = apply(read.statement, ring)
    return Followed(ring, tuple(followed), tuple(refused))


def _read(raw: bytes) -> _Read:
    opened = open_envelope(raw, STATEMENT)
    return _Read(Statement.from_json(opened.data), opened)


def _judge(read: _Read, ring: KeyRing) -> Statement:
    statement, standing = read.statement, ring.standing(read.statement.role)
    if statement.number <= standing.number:
        raise _refused(statement, f"number {standing.number} was followed already")
    signers = _signers(read, ring)
    if len(signers) < standing.threshold:
        wanted = f"{standing.threshold} trusted keys must sign it"
        raise _refused(statement, f"{wanted}, {len(signers)} did")
    if any(ring.is_retired(statement.role, der) for der in statement.add):
        raise _refused(statement, "it adds a key that is retired")
    left = [key for key in apply(statement, ring) if key.role is statement.role]
    if len(left) < statement.threshold:
        raise _refused(
            statement, f"it leaves {len(left)} keys of which {statement.threshold} sign"
        )
    return statement


def _signers(read: _Read, ring: KeyRing) -> set[bytes]:
    statement, opened = read
    try:
        verified = verify_credential(
            opened.octets, opened.lines, ring, statement.role, serial=None, now=0
        )
    except Malformed:
        raise
    except TrustError as error:
        raise _refused(statement, error.reason) from error
    return {key.der for key in verified.keys}


def _refused(statement: Statement, reason: str) -> UntrustedStatement:
    what = f"statement {statement.number} about {statement.role} keys"
    return UntrustedStatement(what, reason)


def _check_sense(statement: Statement) -> None:
    if not statement.add and not statement.retire:
        raise Malformed("keys", "it neither adds nor retires a key")
    both = {digest_of(der) for der in statement.add} & set(statement.retire)
    if both:
        raise Malformed("keys", "it adds and retires the same key")


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise Malformed("keys", f"there is no role {shown(text)}") from None


def _within(name: str, number: int, most: int) -> int:
    if not 0 < number <= most:
        raise Malformed("keys", f"its {name} is not 1 to {most}")
    return number


def _texts(fields: Fields, name: str) -> Iterator[str]:
    items = fields.get(name, list) or []
    if len(items) > MAX_KEYS:
        raise Malformed("keys", f"{name} has more than {MAX_KEYS} members")
    for item in items:
        if not isinstance(item, str):
            raise Malformed("keys", f"{name} is no list of texts")
        yield item


def _key(text: str) -> bytes:
    try:
        der = bytes.fromhex(text)
        modulus(der)
    except (ValueError, TrustError):
        raise Malformed("keys", "it adds something that is no RSA-2048 key") from None
    if der.hex() != text:
        raise Malformed("keys", "a key is not in lower-case hex digits")
    return der


# --- what is kept on the disk --------------------------------------------------------


def standing_to_json(standing: Standing) -> dict[str, Json]:
    """Return what ``standing_from_json`` reads."""
    return {
        "added": {der.hex(): number for der, number in standing.added.items()},
        "number": standing.number,
        "retired": dict(standing.retired),
        "threshold": standing.threshold,
    }


def standing_from_json(value: Json) -> Standing:
    """Read what is kept of a role.

    Raises:
        Malformed: It is damaged.
    """
    fields = Fields("keys", value)
    added = _numbered(fields.raw("added"))
    return Standing(
        _within("number", fields.need("number", int), MAX_NUMBER),
        _within("threshold", fields.need("threshold", int), MAX_KEYS),
        {_key(text): number for text, number in added.items()},
        {
            parse_sha256(text): number
            for text, number in _numbered(fields.raw("retired")).items()
        },
    )


def _numbered(value: Json) -> dict[str, int]:
    if not isinstance(value, dict):
        raise Malformed("keys", "a member is no object")
    return {
        name: _within("number", number, MAX_NUMBER)
        for name, number in value.items()
        if isinstance(number, int)
    }
