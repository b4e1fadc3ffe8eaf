"""Where olpc-update-query begins.

Almost every run finds that no query is due. Such a run must cost hardly more than
starting Python, so before that is known nothing is imported but what the interpreter
has loaded anyway, and a module that imports nothing itself.
"""

import os
import sys
import time

_WORK = "olpc-update-query/asker/due"
_LONGEST = 64
_TRIGGERS = ("cron", "timer", "network", "boot", "dbus")


def main() -> None:
    """Leave at once if a trigger came too early; else do what the command line says."""
    root = _root_of_plain_poll(sys.argv[1:])
    if root is not None and _is_early(root):
        os._exit(0)  # nothing was opened or printed that an orderly end would need
    from olpc_update_query.cli.query import main as query

    query()


def _root_of_plain_poll(arguments: list[str]) -> str | None:
    """Return the root directory, if this is a poll that nobody waits for.

    Returns:
        None for every command line that may want to say or do something even if no
        query is due.
    """
    root, awaited, rest = "/", True, iter(arguments)
    for argument in rest:
        if argument == "--hand-over":
            continue
        if argument in {"-q", "--quiet"}:
            awaited = False
        elif argument == "--trigger":
            if next(rest, "") not in _TRIGGERS:
                return None
            awaited = False
        elif argument == "--root":
            root = next(rest, "")
        else:
            return None
    return None if awaited or not root else root


def _is_early(root: str) -> bool:
    from olpc_update_query.policy.due import may_skip

    shared = os.path.join(root, "versions/updates")
    work = shared if os.path.isdir(shared) else os.path.join(root, "var/lib")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(os.path.join(work, _WORK), flags)
    except OSError:
        return False
    try:
        text = os.read(descriptor, _LONGEST).decode("ascii", "replace")
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return may_skip(text, int(time.time()))


if __name__ == "__main__":
    main()
