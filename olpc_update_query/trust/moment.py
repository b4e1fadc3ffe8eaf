"""What time it is, for a laptop whose clock may be anything (docs/adr/0015).

The *floor* is the greatest signed time that counts: whatever has no nonce is judged by
it, or by the clock where that is later. A *fresh* answer, one that repeats our nonce,
was signed just now, so its time is the present, whatever the clock says.
"""

from typing import Final

EARLIEST: Final = 1_793_491_200
"""2026-11-01. No true time of a server is before it: this program is not older."""

SLACK: Final = 31 * 24 * 3600
"""Seconds by which a floor may be ahead of a fresh answer and still count: servers'
clocks differ, and a laptop loses nothing that matters by so much."""


def next_floor(floor: int, time: int, *, direct: bool) -> int:
    """Return the floor that a fresh, verified answer leaves.

    It rises with every answer. It falls only if it must have been wrong: a server's
    clock was years ahead, and everything that ends would be taken for ended until
    then. A trusted key has to say so itself; a key that it lent its name may not.

    Args:
        floor: The floor so far.
        time: The answer's signed time.
        direct: Whether a trusted key signed the answer itself.
    """
    heals = direct and time >= EARLIEST and floor - time > SLACK
    return time if heals else max(floor, time)
