"""What the asker remembers from one run to the next."""

from dataclasses import asdict, dataclass, fields

from olpc_update_query.model.canonical import Json
from olpc_update_query.policy.schedule import DEFAULT_INTERVAL
from olpc_update_query.system.state import StateStore

NAME = "state"


@dataclass(frozen=True, slots=True)
class Memory:
    """Facts of the asker.

    Attributes:
        floor: The greatest signed time that counts.
        interval: How often to ask, as the server last said.
        answered: When the last answer came that verified, 0 for never.
        server: Who gave it.
        message: What that server wants the administrator to read.
        failures: How many queries in a row met a server that failed.
        setbacks: How many downloads in a row brought hardly anything.
        boot: In which boot a server was asked last.
    """

    floor: int = 0
    interval: int = DEFAULT_INTERVAL
    answered: int = 0
    server: str = ""
    message: str = ""
    failures: int = 0
    setbacks: int = 0
    boot: str = ""


def recall(store: StateStore) -> Memory:
    """Return what is remembered; what is damaged is forgotten."""
    found = store.load(NAME)
    kept = {
        field.name: found[field.name]
        for field in fields(Memory)
        if type(found.get(field.name)) is field.type
    }
    return Memory(**kept)  # type: ignore[arg-type]  # each was compared with its type


def remember(store: StateStore, memory: Memory) -> None:
    """Keep it.

    Raises:
        NotPermitted: The user may not write there.
        TreeError: The disk refused.
    """
    facts: dict[str, Json] = asdict(memory)
    store.save(NAME, facts)
