"""Expanding downloaded contents without believing, or even reading, what is in them.

Indexes, frames and patches were written by somebody unprivileged, so a child process
(`expander`) reads them that is as unprivileged. It says what it could make; the
parent says what it wants, hands over the file that a patch starts from, and hashes
what comes back while writing it to where nobody else can write. A hostile pack can
make the child die or send wrong bytes: then there is one content less, and no harm.

Messages on the socket, one packet each, begin with a letter. From the child: ``F`` a
content is at hand (digest, size, the base's digest or zeros, where it lies in the file,
behind all that came before); ``D`` bytes of it;
``L`` the last bytes of it; ``C`` another content of the build is needed for it
(digest); ``X`` it cannot be made; ``B`` the rest of the file is damaged; ``Q`` that was
all. From the parent: ``N`` not that one; ``Y`` send it, with the base's descriptor if
it needs one, or the descriptor of what was asked for.
"""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Final, NamedTuple

from olpc_update_query.errors import CorruptContent
from olpc_update_query.model.inside import MAX_COPIES
from olpc_update_query.perform_update.expander import NO_BASE, OFFER, PACKET, live
from olpc_update_query.perform_update.store import DELTA, INSIDE, SPOOL, Downloads
from olpc_update_query.perform_update.vault import Vault
from olpc_update_query.system.closing import Closing
from olpc_update_query.system.files import sync_filesystem

_log = logging.getLogger(__name__)

_MOST_DEATHS: Final = 3
_RELEASED = 4 << 20  # bytes of a pack whose room is given back at once
_SILENCE: Final = (
    300  # seconds; a child that says nothing for so long is as good as dead
)


class Offer(NamedTuple):
    """A content that the child says it can make.

    Attributes:
        digest: What it is said to be.
        size: Its length in bytes.
        base: Digest of the content it is a patch of; None when it is whole.
        position: Where it lies; nothing before it is needed any more.
    """

    digest: bytes
    size: int
    base: bytes | None
    position: int


class Expanded:
    """What came of the downloads.

    Attributes:
        patched: Contents made by patches.
        fetched: Contents that came whole.
        bad: Files (`DELTA`, `SPOOL`, `INSIDE`) that gave a wrong content or none.
    """

    def __init__(self) -> None:
        self.patched = self.fetched = 0
        self.bad: set[str] = set()


class Wishes(NamedTuple):
    """What the parent wants of the child.

    Attributes:
        size_of: The size of a content that is wanted, None for any other.
        open_base: Opens an installed file of that content; None when there is none.
        refuse: Digests for which a delta pack is not to be used.
        most: How many contents the build can have; a pack that offers more is hostile.
    """

    size_of: Callable[[bytes], int | None]
    open_base: Callable[[bytes], int | None]
    refuse: Collection[bytes]
    most: int


def expand(downloads: Downloads, vault: Vault, wishes: Wishes) -> Expanded:
    """Make every wanted content that the downloads can give.

    A child that dies is replaced by one that goes on behind the content it died of.

    Args:
        downloads: What was fetched.
        vault: Where proven contents go.
        wishes: What is wanted.

    Returns:
        What was made. That something is missing is for the caller to find.

    Raises:
        OSError: The disk is full or failing.
    """
    result = Expanded()
    for file in (DELTA, SPOOL, INSIDE):
        if file in downloads.descriptors():
            _exhaust(downloads, file, vault, wishes, result)
    return result


def _exhaust(
    downloads: Downloads, file: str, vault: Vault, wishes: Wishes, result: Expanded
) -> None:
    """Take all that one file can give, with as many children as that needs."""
    seen, used = 0, _Used(downloads, file, vault)
    for _ in range(_MOST_DEATHS):
        with _Child(downloads, file, wishes.refuse, seen) as child:
            _converse(child, used, vault, wishes, result)
        seen += child.offers
        if child.is_done:
            return
        if not child.offers or seen > wishes.most:
            break
    result.bad.add(file)


class _Used:
    """What of a packed file is used up: its room goes back while there is more to make.

    So contents and the pack they come from never lie on the disk both, but for a
    little. What is given back was synced elsewhere before.

    Args:
        downloads: What was fetched.
        file: Which packed file of it.
        vault: Where proven contents are.
    """

    def __init__(self, downloads: Downloads, file: str, vault: Vault) -> None:
        self._downloads, self.file, self._vault = downloads, file, vault
        self._start: int | None = None
        self._can_release = True
        self._proven: list[bytes] = []

    def up_to(self, position: int) -> None:
        """Note that everything before this offset has been made, or is not wanted."""
        start = position if self._start is None else self._start
        self._start = start
        if position - start < _RELEASED or not self._can_release:
            return
        self._start = position
        proven, self._proven = self._proven, []
        sync_filesystem(self._vault.directory)
        try:
            self._downloads.release(self.file, start, position, proven)
        except OSError as error:
            _log.debug("%s keeps its room: %s", self.file, error)
            self._can_release = False

    def add(self, digest: bytes) -> None:
        """Note that a content is in the vault."""
        self._proven.append(digest)


def _converse(
    child: "_Child", used: _Used, vault: Vault, wishes: Wishes, result: Expanded
) -> None:
    """Take what one child offers, until it has no more or is dead."""
    file = used.file
    while (offer := child.next_offer()) is not None:
        used.up_to(offer.position)
        if child.offers > wishes.most:
            _log.warning("%s offers more contents than the build has", file)
            return
        is_wanted, base = _consider(offer, vault, wishes)
        child.answer(b"Y" if is_wanted else b"N", base)
        if not is_wanted:
            continue
        try:
            with vault.receive(offer.digest, offer.size) as receiver:
                for data in child.content(partial(_open, vault, wishes)):
                    receiver.write(data)
        except CorruptContent as wrong:
            _log.warning("%s: content %s: %s", file, offer.digest.hex(), wrong)
            result.bad.add(file)
            if not child.is_in_step:
                return
        else:
            used.add(offer.digest)
            result.patched += offer.base is not None
            result.fetched += offer.base is None


def _consider(offer: Offer, vault: Vault, wishes: Wishes) -> tuple[bool, int | None]:
    """Say whether a content is wanted; open the base that it needs."""
    if wishes.size_of(offer.digest) != offer.size or vault.has(offer.digest):
        return False, None
    if offer.base is None:
        return True, None
    base = wishes.open_base(offer.base)
    return base is not None, base


def _open(vault: Vault, wishes: Wishes, digest: bytes) -> int | None:
    """Open a content of the build: one that was made already, or an installed one."""
    made = vault.open(digest)
    return made if made is not None else wishes.open_base(digest)


class _Child(Closing):
    """The parent's end of the conversation.

    Attributes:
        offers: How many contents the child has offered.
        is_in_step: Whether it is alive and keeps to the protocol.
        is_done: Whether it has come to its end.
    """

    def __init__(
        self, downloads: Downloads, file: str, refuse: Collection[bytes], skip: int
    ) -> None:
        self.offers = 0
        self.is_in_step, self.is_done = True, False
        self._buffer = memoryview(bytearray(PACKET + 1))
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_SILENCE)
        self._pid = os.fork()
        if self._pid == 0:
            live(theirs, downloads, file, refuse, skip)
        theirs.close()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def next_offer(self) -> Offer | None:
        """Return what the child offers next; None when there is no more to come."""
        letter, body = self._receive()
        if letter == b"F" and len(body) == OFFER.size:
            digest, size, base, position = OFFER.unpack(body)
            self.offers += 1
            return Offer(digest, size, None if base == NO_BASE else base, position)
        self.is_done = letter == b"Q"
        self.is_in_step = False
        return None

    def answer(self, letter: bytes, base: int | None) -> None:
        """Say what is to become of the latest offer; closes the base."""
        try:
            socket.send_fds(self._socket, [letter], [] if base is None else [base])
        except (ConnectionError, TimeoutError):
            _log.debug("the child is dead; the next packet will say so")
        finally:
            if base is not None:
                os.close(base)

    def content(self, find: Callable[[bytes], int | None]) -> Iterator[memoryview]:
        """Yield the bytes of the content that was asked for.

        Args:
            find: Opens another content of the build; None when it is not there.

        Raises:
            CorruptContent: The child could not make it, or is dead.
        """
        self.is_in_step = False  # whoever stops in the middle leaves it so
        letter, copies = b"D", 0
        while letter == b"D":
            letter, body = self._receive()
            while letter == b"C" and (copies := copies + 1) <= MAX_COPIES:
                found = find(bytes(body))
                self.answer(b"N" if found is None else b"Y", found)
                letter, body = self._receive()
            self.is_in_step = letter in {b"L", b"X"}
            if letter not in {b"D", b"L"}:
                raise CorruptContent("packed content", "a content", "something else")
            yield body

    def _receive(self) -> tuple[bytes, memoryview]:
        """Return the next packet's letter and the rest of it; empty after a death."""
        try:
            count = self._socket.recv_into(self._buffer)
        except (ConnectionError, TimeoutError):
            count = 0
        return bytes(self._buffer[: min(count, 1)]), self._buffer[1:count]
