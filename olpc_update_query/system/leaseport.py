"""The school server's TCP port 191, where the initramfs gets its leases.

We send the serial number, close our side and read to the end. Nothing that comes is
believed, and nothing is waited for long.
"""

import socket
from typing import Final

from olpc_update_query import errors
from olpc_update_query.system.http import within

STOLEN: Final = b"STOLEN"
"""The whole reply to a laptop that was reported stolen; nobody has signed it."""

LARGEST_REPLY: Final = 64 * 1024

_CONNECT: Final = 3.0  # seconds, as the initramfs
_WHOLE: Final = 10.0


def fetch_lease(host: str, port: int, serial: str) -> bytes:
    """Ask for a lease.

    Args:
        host: Name or address of the server.
        port: 191 as a rule.
        serial: The laptop's serial number.

    Returns:
        Whatever came, at most 64 KiB.

    Raises:
        NetworkError: Nobody is there, or nothing came in time.
    """
    where = f"{host}, port {port}"
    return within(_WHOLE, where, lambda: _fetch(where, host, port, serial))


def _fetch(where: str, host: str, port: int, serial: str) -> bytes:
    data = bytearray()
    try:
        with socket.create_connection((host, port), timeout=_CONNECT) as link:
            link.settimeout(_WHOLE)
            link.sendall(serial.encode())
            link.shutdown(socket.SHUT_WR)
            while piece := link.recv(LARGEST_REPLY + 1 - len(data)):
                data += piece
                if len(data) > LARGEST_REPLY:
                    reason = f"more than {LARGEST_REPLY} bytes came"
                    raise errors.NoAnswer(where, reason)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.NetworkError(where, reason) from error
    return bytes(data)
