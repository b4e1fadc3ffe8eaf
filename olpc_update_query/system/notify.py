"""What a service manager wants to be told: sd_notify(3), in a few lines."""

import os
import socket


def notify(*lines: str) -> None:
    """Tell the service manager something, if there is one and it listens.

    Args:
        lines: Such as ``READY=1`` or ``STATUS=waiting``.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto("\n".join(lines).encode(), address)
    except OSError:
        return  # it went away: nobody to tell


def watchdog_seconds() -> float | None:
    """Return how long the service manager waits for a sign of life, if it does."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isdigit() and int(text) else None
