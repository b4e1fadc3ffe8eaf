"""A laptop that polls in this process, and what a test asks of it."""

from dataclasses import dataclass, replace
from pathlib import Path

from olpc_update_query import config
from olpc_update_query.model.messages import BuildId, Order, Sha256
from olpc_update_query.policy.schedule import Trigger
from olpc_update_query.run.machine import Machine, this_machine
from olpc_update_query.run.poll import Poll, Wish
from tests.simulator import (
    FakeClock,
    Listener,
    ServerSimulator,
    work_of,
)

NOW = 1_795_000_000
DIGEST = Sha256("d" * 64)
NEW = BuildId("762")
CRON = Wish(Trigger.CRON)
HAND = Wish()


@dataclass
class Laptop:
    """A laptop below a directory, with a clock of its own."""

    root: Path
    clock: FakeClock
    draw: float = 0.5

    def machine(self, *servers: str) -> Machine:
        settings = config.load(self.root, servers=servers)
        machine = this_machine(self.root, settings)
        return replace(machine, clock=self.clock, draw=lambda: self.draw)

    def poll(self, wish: Wish = HAND, *servers: str) -> tuple[int, Listener]:
        listener = Listener()
        code = Poll(self.machine(*servers), listener, wish).run()
        assert len(listener.outcomes) == 1, "each run says once what it came to"
        assert code == listener.outcome.exit_code
        return code, listener

    def ask(self, *servers: str) -> tuple[int, Listener]:
        """Poll, due or not."""
        return self.poll(Wish(now=True), *servers)

    def due(self) -> tuple[int, int]:
        drawn, due = (work_of(self.root) / "asker/due").read_text().split()
        return int(drawn), int(due)

    def wait(self) -> int:
        """Return how far the next query is off."""
        return self.due()[1] - self.clock.now()

    def lease(self) -> str | None:
        path = self.root / "security/lease.sig"
        return path.read_text() if path.exists() else None

    def is_marked(self) -> bool:
        return (self.root / "security/.private/stolen").exists()

    def history(self) -> list[object]:
        machine = self.machine()
        events = machine.asker.history() + machine.installer.history()
        return [event["result"] for event in events]


def order(server: ServerSimulator, **changes: object) -> Order:
    plain = Order(NEW, DIGEST, 1000, (f"{server.url}builds/{NEW}/",))
    return replace(plain, **changes)  # type: ignore[arg-type]
