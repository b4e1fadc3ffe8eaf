r"""Delegations: a higher site lets a lower one sign for its laptops.

::

    del01: SERIAL UUID sig02: sha256 KEY EXPIRY SIGNATURE[ ...]

``d-lease.sig`` and ``d-oats.sig`` hold such lines for a school's server, or canonical
JSON ``[1,{"SERIAL":"del01: ...\n"}]``. The last group signs ``key01:`` and the school's
key, which is not in the line: the school appends a group of its own to what it signs.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from olpc_update_query.errors import DamagedSite, Malformed
from olpc_update_query.model import canonical
from olpc_update_query.model.wire import parse_serial, parse_uuid
from olpc_update_query.server.signing import Sign, Signer
from olpc_update_query.trust.keys import Role
from olpc_update_query.trust.lease import BULK_START
from olpc_update_query.trust.signature import parse_signature

FOREVER: Final = float("inf")
_IN_TIME: Final = 60 * 24 * 3600
"""How long before they end somebody is told: longer than holidays."""

_LINE: Final = re.compile(r"del01: (\S+) (\S+) sig02: ([ -~]+)")


class Delegation(NamedTuple):
    """What lets a site sign for one laptop.

    Attributes:
        serial: The laptop.
        uuid: Its UUID.
        chain: The groups to which the site appends its own.
        expiry: When the first of them ends; ``FOREVER`` is possible.
    """

    serial: str
    uuid: str
    chain: str
    expiry: float

    @property
    def root(self) -> str:
        """The name of the key that begins the chain, which laptops must trust."""
        return self.chain.split(" ")[1]


def file_name(role: Role) -> str:
    """Return the name that the file of a role's delegations has everywhere."""
    return f"d-{role}.sig"


def make_delegation(
    key: bytes,
    *,
    serial: str,
    uuid: str,
    expiry: int | None,
    signer: Signer,
    chain: str = "",
) -> str:
    """Let another key sign for a laptop.

    Args:
        key: The other key, PKCS#1 DER.
        serial: The laptop.
        uuid: Its UUID.
        expiry: Until when; None for ever.
        signer: The key of this site.
        chain: What was delegated to this site itself, empty when its key is trusted.

    Returns:
        One ``del01:`` line, newline included.
    """
    made = signer.delegate(key, serial=serial, expiry=expiry, chain=chain)
    return f"del01: {serial} {uuid} sig02: {made}\n"


def parse_delegation(line: str) -> Delegation:
    """Read a line; nothing is proved by it.

    Raises:
        Malformed: It is no such line.
    """
    found = _LINE.fullmatch(line.removesuffix("\n"))
    if found is None:
        raise Malformed("delegation", "it is no del01 line")
    serial, uuid, chain = found.groups()
    signature = parse_signature(f"sig02: {chain}")
    if signature is None:
        raise Malformed("delegation", "it is not by sha256")
    ends = [FOREVER if one.expiry is None else one.expiry for one in signature.groups]
    return Delegation(parse_serial(serial), parse_uuid(uuid), chain, min(ends))


def parse_delegations(data: bytes, where: str) -> dict[str, Delegation]:
    """Read a file of delegations; of several for a laptop the last to end counts.

    Args:
        data: Its bytes.
        where: Its name, for the error.

    Raises:
        DamagedSite: It is malformed.
    """
    found: dict[str, Delegation] = {}
    try:
        for line in _lines(data):
            one = parse_delegation(line)
            if one.serial not in found or one.expiry > found[one.serial].expiry:
                found[one.serial] = one
    except (Malformed, UnicodeDecodeError) as error:
        reason = error.reason  # both have one
        raise DamagedSite(where, f"is no file of delegations: {reason}") from error
    return found


def _lines(data: bytes) -> Iterable[str]:
    if not data.startswith(BULK_START):
        return filter(None, data.decode("ascii").split("\n"))
    value = canonical.decode(data.removesuffix(b"\n"))
    content = value[1] if isinstance(value, list) and len(value) == 2 else None
    if not isinstance(content, dict):
        raise Malformed("delegation", "it is no list by serial number")
    return [line for text in content.values() for line in str(text).split("\n") if line]


class Ending(NamedTuple):
    """Delegations that end soon: new ones come by hand.

    Attributes:
        number: How many of those that are good.
        whole: How many are good.
        first: When the first of them ends.
    """

    number: int
    whole: int
    first: int


class SiteKey(NamedTuple):
    """What a site signs with.

    Attributes:
        signer: Its own key.
        delegations: What lets that key sign, by laptop; empty where laptops trust it.
    """

    signer: Signer
    delegations: Mapping[str, Delegation]

    def can_sign_for(self, serial: str, now: int) -> bool:
        """Tell whether laptops would believe it, as far as this site knows."""
        return not self.delegations or self._current(serial, now) is not None

    def end_for(self, serial: str, now: int) -> float:
        """Return until when this key can sign for a laptop, ``FOREVER`` if it is so."""
        found = self._current(serial, now)
        return FOREVER if found is None else found.expiry

    def sign_for(self, serial: str, now: int, expiry: int | None = None) -> Sign:
        """Return what signs for a laptop: by delegation where there is one.

        Args:
            serial: The laptop.
            now: The present.
            expiry: Until when a delegated signature is good; as long as the
                delegation if None.
        """
        found = self._current(serial, now)
        if found is None:
            return self.signer.sig01
        end = found.expiry if expiry is None else min(expiry, found.expiry)

        def sign(data: bytes) -> str:
            until = None if end == FOREVER else int(end)
            return self.signer.sig02(
                data, serial=serial, expiry=until, chain=found.chain
            )

        return sign

    def ending(self, now: int) -> Ending | None:
        """Return which delegations end soon, None if none does."""
        ends = [one.expiry for one in self.delegations.values() if one.expiry > now]
        soon = [int(end) for end in ends if end < now + _IN_TIME]
        return Ending(len(soon), len(ends), min(soon)) if soon else None

    def _current(self, serial: str, now: int) -> Delegation | None:
        found = self.delegations.get(serial)
        return found if found is not None and found.expiry > now else None
