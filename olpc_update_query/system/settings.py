"""The laptop's configuration, validated; ``config`` makes it from files."""

from dataclasses import dataclass, field

from olpc_update_query.policy.gates import Gates
from olpc_update_query.system.network import ProxyConfig

SCHOOL_SERVER = "http://schoolserver/"
DEFAULT_SERVER = "http://antitheft.laptop.org/"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator of this laptop wants.

    Attributes:
        servers: Whom to ask, in this order: URLs that end in a slash.
        stream: What to tell the server; `none` means no updates. Empty: nothing.
        set_clock: Whether a trusted answer sets the system clock.
        bandwidth_limit: Bytes a second of a download; 0 for no limit.
        proxy: The proxy to go through.
        gates: What holds builds back, and for how long.
        serial: Serial number, where the machine does not know it; may be empty.
        uuid: UUID, likewise.
        lease_port: Where servers give leases when HTTP gives no answer; 0: nowhere.
        key_threshold: How many keys must sign the first statement about keys.
        ignore_signature: Whether unsigned answers are believed (never `stolen`).
    """

    servers: tuple[str, ...] = (SCHOOL_SERVER, DEFAULT_SERVER)
    stream: str = ""
    set_clock: bool = False
    bandwidth_limit: int = 0
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    gates: Gates = field(default_factory=Gates)
    serial: str = ""
    uuid: str = ""
    lease_port: int = 191
    key_threshold: int = 1
    ignore_signature: bool = False
