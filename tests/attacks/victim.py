"""A laptop that is attacked, and the rule that nothing on its disk may change."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from olpc_update_query.report import Answered
from tests.attacks.forge import Forge
from tests.http_server import Reply, Seen
from tests.run.polled import Laptop
from tests.simulator import Listener, ServerSimulator
from tests.trees import Picture, difference, snapshot

WORK: Final = b"versions/updates/olpc-update-query"
MAY_CHANGE: Final = {
    WORK + name
    for name in (
        b"/lock",
        b"/asker.lock",
        b"/asker/due",
        b"/asker/history.jsonl",
        b"/asker/sources.json",
        b"/asker/state.json",
        b"/asker/status.json",
        b"/installer/history.jsonl",
        b"/installer/status.json",
    )
}
"""What a run that obeys nothing may write: stamps, status and history.

Of ``state.json`` only the count of failures; see `Victim.belief`. Not in the list: the
floor of the installer, the lease, the downloads."""

_DIRECTORIES: Final = {WORK, WORK + b"/asker", WORK + b"/installer"}
"""Where these are replaced: their times change."""

Make = Callable[[Forge], bytes | Reply]


@dataclass
class Victim:
    """A laptop with a lease, which has asked once and been answered.

    Attributes:
        laptop: The laptop.
        server: Whom it asks; ``server.site.reply`` is what the attacker replaces.
    """

    laptop: Laptop
    server: ServerSimulator
    overheard: bytes = b""

    def settle(self) -> None:
        """Poll once, undisturbed; the attacker listens."""

        def listen(seen: Seen) -> Reply:
            reply = self.server.reply(seen)
            self.overheard = reply.body
            return reply

        self.server.site.reply = listen
        code, _ = self.laptop.ask()
        assert code == 0
        self.server.site.reply = self.server.reply

    def picture(self) -> dict[bytes, Picture]:
        """Return the whole tree, but for what `MAY_CHANGE` names."""
        return without_stamps(snapshot(self.laptop.root))

    def belief(self) -> tuple[object, ...]:
        """Return what the asker believes because somebody signed it."""
        kept = self.laptop.machine().asker.load("state")
        return tuple(kept.get(name) for name in ("floor", "interval", "message"))

    def attack(self, make: Make) -> None:
        """Let somebody else answer from now on."""

        def reply(seen: Seen) -> Reply:
            self.server.reply(seen)  # for the record of queries
            *_, earlier, query = self.server.queries
            made = make(Forge(query, earlier, self.overheard))
            return made if isinstance(made, Reply) else Reply(body=made)

        self.server.site.reply = reply

    def is_unmoved_by(
        self, make: Make, code: int, says: str, *, answered: bool = False
    ) -> Listener:
        """Attack it, and check that it refuses and that nothing changed.

        Args:
            make: What it is answered.
            code: The exit code.
            says: A pattern of the one line that tells why.
            answered: Whether the answer is genuine, and only a part of it is not.
        """
        before, believed = self.picture(), self.belief()
        self.attack(make)
        found, heard = self.laptop.ask()
        changed = difference(before, self.picture())
        assert not changed, changed
        assert self.belief() == believed
        assert found == code, heard.outcome
        assert_plain(heard, says)
        assert bool(heard.heard(Answered)) is answered
        return heard

    def ignores(self, make: Make) -> Listener:
        """Let a genuine answer say what is not understood: nothing may change."""
        before, believed = self.picture(), self.belief()
        self.attack(make)
        code, heard = self.laptop.ask()
        changed = difference(before, self.picture())
        assert not changed, changed
        assert self.belief() == believed
        assert code == 0, heard.outcome
        return heard

    def obeys(self, make: Make) -> None:
        """Check that the same without the attack is obeyed: the control."""
        before = self.picture()
        self.attack(make)
        code, heard = self.laptop.ask()
        assert code == 0, heard.outcome
        assert difference(before, self.picture()), "it says something new"


def without_stamps(found: Mapping[bytes, Picture]) -> dict[bytes, Picture]:
    """Leave out what `MAY_CHANGE` names, and the times of its directories."""
    return {
        path: picture._replace(mtime_ns=0) if path in _DIRECTORIES else picture
        for path, picture in found.items()
        if path not in MAY_CHANGE
    }


def assert_plain(heard: Listener, says: str) -> None:
    """Check that a refusal is one plain line that says why, and tells what to do."""
    outcome = heard.outcome
    assert outcome.exit_code
    assert re.search(says, outcome.text), outcome.text
    assert outcome.text.isprintable(), "one plain line"
    assert len(outcome.text) < 400
    assert outcome.hint.isprintable()
    assert outcome.hint
