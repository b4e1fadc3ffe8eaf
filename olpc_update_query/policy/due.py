"""What the ``due`` file holds, and the one rule a run that is not due must apply.

The file is one line, ``DRAWN DUE``: when the due time was drawn and what it is, in
decimal seconds since the epoch. It is read before anything else, so this module
imports nothing: such a run may cost hardly more than starting Python.
"""

Due = tuple[int, int]  # (when it was drawn, when to ask next), seconds since the epoch

LONGEST = 31 * 24 * 3600  # the greatest interval is 30 days, and a lease's pull is less
EARLIEST = 1_793_491_200  # as in trust.moment: a clock before it is wrong
_DIGITS = 12


def parse_due(text: str) -> Due | None:
    """Return what the file says, or None when it is damaged."""
    drawn, _, due = text.removesuffix("\n").partition(" ")
    if not (_is_number(drawn) and _is_number(due)):
        return None
    return int(drawn), int(due)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def format_due(due: Due) -> str:
    """Return the content of the file."""
    return f"{due[0]} {due[1]}\n"


def may_skip(text: str, now: int) -> bool:
    """Tell whether a run at ``now`` has nothing to do.

    A damaged file, a draw in the future (the clock was set back) and a due time
    further off than any interval allows all count as none: then the run asks. With a
    clock that is surely wrong it is not for this rule to tell: see `schedule.judge`.

    Args:
        text: Content of the ``due`` file, empty when there is none.
        now: The clock, in seconds since the epoch.
    """
    found = parse_due(text)
    if found is None:
        return False
    drawn, due = found
    return EARLIEST <= drawn <= now < due and due - drawn <= LONGEST
