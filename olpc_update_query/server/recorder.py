"""A queue in front of a slow writer: many small records, few commits.

Whoever must know that a record is on the disk waits for it; all that wait together
share one commit. Nobody waits longer than a few seconds: a full or broken disk must
not keep a laptop from its lease.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from olpc_update_query.errors import UpdateError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

LINGER: Final = 0.5
"""Seconds a record that nobody waits for may lie in memory."""
PATIENCE: Final = 5.0
"""Seconds anybody waits for the disk."""
BATCH: Final = 500
BACKLOG: Final = 20_000
"""Records kept while the disk does not answer; the oldest beyond that are given up."""


class Recorder(Generic[_T]):
    """Hands records to ``write`` in batches, from a thread of its own.

    The thread starts with the first record, so that a process may still fork before.

    Args:
        write: Writes and commits a batch. What it cannot write is given up.
    """

    def __init__(self, write: Callable[[Sequence[_T]], None]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._waiting: list[_T] = []
        self._taken = self._added = self._settled = self._lost = 0
        self._urgent = self._closed = self._stuck = False
        self._thread: tuple[int, threading.Thread] | None = None

    def add(self, record: _T, *, urgent: bool = False) -> int:
        """Queue a record.

        Args:
            record: What to write.
            urgent: Whether ``wait`` will be called for it.

        Returns:
            A ticket for ``wait``.
        """
        with self._changed:
            self._start()
            self._waiting.append(record)
            self._added += 1
            del self._waiting[:-BACKLOG]
            if urgent or len(self._waiting) in {1, BATCH}:
                self._urgent = self._urgent or urgent
                self._changed.notify_all()
            return self._added

    def wait(self, ticket: int) -> None:
        """Wait until a record is committed, or the disk has refused it.

        After one wait was in vain nobody waits until the disk answers again.
        """
        with self._changed:
            patience = 0.0 if self._stuck else PATIENCE
            done = self._changed.wait_for(lambda: self._settled >= ticket, patience)
            self._stuck = not done

    def flush(self) -> None:
        """Wait until everything queued so far is committed; see ``wait``."""
        with self._changed:
            ticket = self._added
            if self._settled >= ticket:
                return
            self._urgent = True
            self._changed.notify_all()
        self.wait(ticket)

    def close(self) -> None:
        """Commit what is queued and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread[0] == os.getpid():
            self._thread[1].join(PATIENCE)

    def _start(self) -> None:
        if self._thread is None or self._thread[0] != os.getpid():
            thread = threading.Thread(target=self._run, name="reports", daemon=True)
            self._thread = os.getpid(), thread
            thread.start()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._try_to_write(batch)
            with self._changed:
                self._settled, self._stuck = self._taken, False
                self._changed.notify_all()

    def _try_to_write(self, batch: Sequence[_T]) -> None:
        """Write a batch; what the disk refuses is told once, until it takes more."""
        try:
            self._write(batch)
        except UpdateError as error:
            if not self._lost:
                _log.warning("reports are not kept until this is mended: %s", error)
            self._lost += len(batch)
        except Exception:  # noqa: BLE001 - the thread must live
            _log.exception("%d reports could not be written", len(batch))
        else:
            if self._lost:
                _log.warning("reports are kept again; %d were not", self._lost)
            self._lost = 0

    def _next_batch(self) -> Sequence[_T] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._ready():
                self._changed.wait_for(self._ready, LINGER)
            if not self._waiting:
                return None
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._taken = self._added - len(self._waiting)
            self._urgent = bool(self._waiting) and self._urgent
            return batch

    def _ready(self) -> bool:
        return self._urgent or self._closed or len(self._waiting) >= BATCH
