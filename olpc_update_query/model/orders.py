"""Orders: which build a laptop is to install."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from olpc_update_query.errors import Malformed
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.wire import (
    BuildId,
    Fields,
    Sha256,
    format_time,
    parse_build_id,
    parse_expiry,
    parse_serial,
    parse_sha256,
    parse_time,
    parse_url,
)

MAX_MANIFEST: Final = 1 << 30
_MAX_URLS: Final = 16


class Reboot(StrEnum):
    """When a laptop restarts into a build that has just been activated."""

    NEVER = "never"
    IDLE = "idle"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class Order:
    """Which build to install, and what exactly it is.

    Attributes:
        build: Its name.
        contents: Digest of its manifest, which names the digest of every file.
        size: Bytes of the manifest, at most 1 GiB.
        urls: Directories that hold the build, best first, at most 16.
        allow_downgrade: Whether to install it although a newer one is there.
        not_before: When it may be activated.
        reboot: When to restart into it.
        sticky: Whether the laptop keeps it when it makes room.
    """

    build: BuildId
    contents: Sha256
    size: int
    urls: tuple[str, ...]
    allow_downgrade: bool = False
    not_before: int | None = None
    reboot: Reboot = Reboot.NEVER
    sticky: bool = False

    @classmethod
    def from_json(cls, value: Json) -> "Order":
        """Read an order; unknown members are skipped.

        Args:
            value: A decoded object.

        Returns:
            The order.

        Raises:
            Malformed: A member is missing or wrong.
        """
        fields = Fields("order", value)
        not_before = fields.get("not_before", str)
        return cls(
            build=parse_build_id(fields.need("build", str)),
            contents=parse_sha256(fields.need("contents", str)),
            size=_manifest_size(fields.need("size", int)),
            urls=_urls(fields.need("urls", list)),
            allow_downgrade=fields.get("allow_downgrade", bool) or False,
            not_before=None if not_before is None else parse_time(not_before),
            reboot=_reboot(fields.get("reboot", str)),
            sticky=fields.get("sticky", bool) or False,
        )

    def to_json(self) -> dict[str, Json]:
        """Return the object that ``from_json`` reads; defaults are left out."""
        members: dict[str, Json] = {
            "build": self.build,
            "contents": self.contents,
            "size": self.size,
            "urls": list(self.urls),
        }
        if self.allow_downgrade:
            members["allow_downgrade"] = True
        if self.not_before is not None:
            members["not_before"] = format_time(self.not_before)
        if self.reboot is not Reboot.NEVER:
            members["reboot"] = str(self.reboot)
        if self.sticky:
            members["sticky"] = True
        return members


@dataclass(frozen=True, slots=True)
class BareOrder:
    """A build that is only named, as old servers did; its contents are not signed."""

    build: BuildId


@dataclass(frozen=True, slots=True)
class OrderFile:
    """An order that lies beside its build, for mirrors, sticks and ``olpc-update``.

    Attributes:
        order: The order.
        time: When it was signed.
        expiry: Until when it is good, None for ever.
        serials: The laptops it is for, None for every laptop.
    """

    order: Order
    time: int
    expiry: int | None = None
    serials: frozenset[str] | None = None

    @classmethod
    def from_json(cls, value: Json) -> "OrderFile":
        """Read the data of an ``olpc-update-order``.

        Args:
            value: A decoded object.

        Returns:
            The order with its times.

        Raises:
            Malformed: A member is missing or wrong.
        """
        fields = Fields("order", value)
        expiry = fields.get("expiry", str)
        return cls(
            order=Order.from_json(fields.raw("order")),
            time=parse_time(fields.need("time", str)),
            expiry=None if expiry is None else parse_expiry(expiry),
            serials=_serials(fields.get("serials", list)),
        )

    def to_json(self) -> dict[str, Json]:
        """Return the object that ``from_json`` reads."""
        members: dict[str, Json] = {
            "order": self.order.to_json(),
            "time": format_time(self.time),
        }
        if self.expiry is not None:
            members["expiry"] = format_time(self.expiry)
        if self.serials is not None:
            members["serials"] = list[Json](sorted(self.serials))
        return members


def _manifest_size(size: int) -> int:
    if not 1 <= size <= MAX_MANIFEST:
        raise Malformed("order", f"size is not 1 to {MAX_MANIFEST} bytes")
    return size


def _urls(items: list[Json]) -> tuple[str, ...]:
    if len(items) > _MAX_URLS:
        raise Malformed("order", f"it names more than {_MAX_URLS} URLs")
    return tuple(parse_url(item if isinstance(item, str) else "") for item in items)


def _serials(items: list[Json] | None) -> frozenset[str] | None:
    if items is None:
        return None
    if not items:
        raise Malformed("order", "it is for no laptop")
    return frozenset(
        parse_serial(item if isinstance(item, str) else "") for item in items
    )


def _reboot(text: str | None) -> Reboot:
    try:
        return Reboot(Reboot.NEVER if text is None else text)
    except ValueError:
        raise Malformed("order", "reboot is not never, idle or now") from None
