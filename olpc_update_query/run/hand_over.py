"""Where an asker and an installer that are two units leave things for each other.

``/run/olpc-update-query`` is in memory, so a full disk keeps no lease from being
renewed, and what a power cut interrupts begins anew with the next query::

    asker/answer    of the asker: the salt of its nonce, then the answer's octets
    asker/lease     of the asker: a lease that came by port 191, from nobody's answer
    asker/fetched   of the asker: all that was ordered has arrived; what it cost
    seed            of the installer: what the nonce of the next query is made from
    fresh           of the installer: until when an answer to such a query counts
    order           of the installer: the answer whose order is being fetched
    identity/       of the installer: who this laptop is, where only root can read it

The installer reads the asker's files whole, once, bounded, through no link, and never
moves one anywhere: what it looked at is what it works with.

An answer is younger than the seed that its nonce is made from. So a seed counts for two
of the intervals in which the servers want to be asked, and an order for two days; both
by the clock that nobody sets. Whatever is older is refused, and the asker asks again.
"""

import contextlib
import os
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query import errors
from olpc_update_query.model.messages import MAX_ANSWER
from olpc_update_query.perform_update.walk import remove_tree
from olpc_update_query.policy.schedule import DAY
from olpc_update_query.ports import Clock
from olpc_update_query.system.files import disk_errors, read_bounded, replace_file
from olpc_update_query.system.host import KEPT_IDENTITY, Identity
from olpc_update_query.system.work import IN_MEMORY, give_to_asker
from olpc_update_query.trust.lease import MAX_LEASE_LINE
from olpc_update_query.trust.nonce import SALT, SEED, derive_nonce

ANSWER: Final = "answer"
FETCHED: Final = "fetched"
LEASE: Final = "lease"
LONGEST_ORDER: Final = 2 * DAY
"""How long an order may be fetched before it is asked for again."""

_SEED, _ORDER, _FRESH = "seed", "order", "fresh"
_LONGEST_NONCE = 64
_LONGEST_TIME = 32


class Taken(NamedTuple):
    """An answer, and the nonce that its query must have had."""

    nonce: str
    octets: bytes


class HandOver:
    """The place where both leave things.

    Args:
        root: Where the laptop's file system begins.
        clock: The machine's clocks; the one that goes on in suspend is looked at.
    """

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root, self._top, self._clock = root, root / IN_MEMORY, clock
        self._asker = self._top / "asker"

    # --- the asker ------------------------------------------------------------------

    def draw_salt(self) -> tuple[bytes, str]:
        """Return the salt of a new query, and the query's nonce.

        Raises:
            NotPrepared: The installer has drawn no seed since the machine was started.
        """
        salt = os.urandom(SALT)
        return salt, derive_nonce(self._seed(), salt)

    def leave_answer(self, salt: bytes, octets: bytes) -> None:
        """Leave an answer for the installer.

        Raises:
            NotPermitted: This user is not the asker.
            TreeError: No memory is left for it.
        """
        self._leave(ANSWER, salt + octets)

    def leave_fetched(self, numbers: bytes) -> None:
        """Tell the installer that all has arrived which the order needs."""
        self._leave(FETCHED, numbers)

    def leave_lease(self, octets: bytes) -> None:
        """Leave a lease that is no part of an answer."""
        self._leave(LEASE, octets)

    def _leave(self, name: str, data: bytes) -> None:
        path = self._asker / name
        with disk_errors(path, needed=len(data)):
            replace_file(path, data, mode=0o600)

    # --- the installer --------------------------------------------------------------

    def prepare(self) -> None:
        """Make the place, and draw a seed unless there is one.

        Raises:
            NotPermitted: The user may not write there.
            TreeError: No memory is left for it.
        """
        with disk_errors(self._top):
            self._top.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._asker.mkdir(mode=0o700, exist_ok=True)
            give_to_asker(self._asker)
            if not (self._top / _SEED).exists():
                self._draw_seed(DAY)

    def keep_identity(self, identity: Identity) -> None:
        """Tell the asker who this laptop is, where the firmware tells only root."""
        place = self._root / KEPT_IDENTITY
        with disk_errors(place):
            place.mkdir(mode=0o750, parents=True, exist_ok=True)
            give_to_asker(place, to_read=True)
            replace_file(place / "SN", identity.serial.encode())
            replace_file(place / "U#", identity.uuid.encode())

    def holds(self, name: str) -> bool:
        """Tell whether the asker left something under that name."""
        return os.path.lexists(self._asker / name)

    def take_answer(self) -> Taken:
        """Take the asker's answer away, good or bad.

        Raises:
            BadHandOver: It is no file of a possible size.
            NotPrepared: There is no seed.
            StaleHandOver: The seed counts no more; there is a new one.
        """
        data = self._take(ANSWER, SALT + MAX_ANSWER)
        if len(data) < SALT:
            raise errors.BadHandOver(ANSWER, "it is too short")
        seed = self._seed()
        if self._renew_seed():
            raise errors.StaleHandOver(ANSWER, "nobody can tell any more how old it is")
        return Taken(derive_nonce(seed, data[:SALT]), data[SALT:])

    def take_fetched(self, size: int) -> bytes:
        """Take the asker's word that everything has arrived; it is for the report.

        Raises:
            BadHandOver: It is no file of this size.
        """
        data = self._take(FETCHED, size)
        if len(data) != size:
            raise errors.BadHandOver(FETCHED, "it is too short")
        return data

    def take_lease(self) -> bytes:
        """Take a lease that proves itself, and is not fresh.

        Raises:
            BadHandOver: It is no file of a possible size.
        """
        return self._take(LEASE, MAX_LEASE_LINE)

    def _take(self, name: str, limit: int) -> bytes:
        path = self._asker / name
        try:
            return read_bounded(path, limit)
        except OSError as error:
            raise errors.BadHandOver(name, error.strerror or str(error)) from None
        except ValueError:
            raise errors.BadHandOver(name, f"it has more than {limit} bytes") from None
        finally:
            with disk_errors(path):
                remove_tree(path)

    def supersede(self, interval: int) -> None:
        """Let no earlier answer count any more: a newer one was verified.

        Without a seed nobody hands anything over here, and there is nothing to do.

        Args:
            interval: How often the server wants to be asked, in seconds.

        Raises:
            NotPermitted: The user may not write there.
            TreeError: No memory is left for a new seed.
        """
        if not (self._top / _SEED).exists():
            return
        with disk_errors(self._top):
            remove_tree(self._top / _ORDER)
            self._draw_seed(interval)

    def keep_order(self, taken: Taken) -> None:
        """Keep a verified answer until all that it orders has arrived."""
        path = self._top / _ORDER
        with disk_errors(path, needed=len(taken.octets)):
            until = self._from_now(LONGEST_ORDER)
            data = b"%s\n%s\n%s" % (taken.nonce.encode(), until, taken.octets)
            replace_file(path, data, mode=0o600)

    def take_order(self) -> Taken | None:
        """Return the answer that was kept, and keep it no longer; None without one.

        Raises:
            StaleHandOver: It was kept for too long.
        """
        path = self._top / _ORDER
        with contextlib.suppress(OSError, ValueError):
            kept = read_bounded(path, _LONGEST_NONCE + _LONGEST_TIME + 2 + MAX_ANSWER)
            os.unlink(path)
            nonce, until, octets = kept.split(b"\n", 2)
            if not self._is_to_come(until):
                self._renew_seed()
                raise errors.StaleHandOver(
                    _ORDER, "it took days to fetch what it orders"
                )
            return Taken(nonce.decode(), octets)
        return None

    # --- the seed -------------------------------------------------------------------

    def _seed(self) -> bytes:
        with contextlib.suppress(OSError, ValueError):
            seed = read_bounded(self._top / _SEED, SEED)
            if len(seed) == SEED:
                return seed
        raise errors.NotPrepared(str(self._top / _SEED))

    def _renew_seed(self) -> bool:
        """Draw a new seed if the old one counts no more; tell whether that was so."""
        with contextlib.suppress(OSError, ValueError):
            if self._is_to_come(read_bounded(self._top / _FRESH, _LONGEST_TIME)):
                return False
        with disk_errors(self._top):
            self._draw_seed(DAY)
        return True

    def _draw_seed(self, interval: int) -> None:
        replace_file(self._top / _SEED, os.urandom(SEED))
        replace_file(self._top / _FRESH, self._from_now(2 * max(interval, DAY)))

    # --- how old --------------------------------------------------------------------

    def _from_now(self, seconds: int) -> bytes:
        return b"%d" % (self._clock.boottime() + seconds)

    def _is_to_come(self, moment: bytes) -> bool:
        return moment.isdigit() and self._clock.boottime() < int(moment)
