"""systemd's journal, by its own protocol: records with fields, not lines.

A record is one datagram of ``NAME=value`` lines. A value with a line break is sent as
``NAME``, its length as 64 bits in little-endian order, and the value
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
"""

import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
LONGEST = 16 * 1024
"""Bytes of a value that are sent: what is longer says nothing more to a reader."""

_LENGTH = struct.Struct("<Q")


def is_listening() -> bool:
    """Tell whether our standard error stream ends in the journal.

    A unit's variable is inherited by whatever is started from it, terminals included,
    so what it names is compared with what is really there.
    """
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def send(fields: Mapping[str, str | int], place: Path = SOCKET) -> bool:
    """Write one record.

    Args:
        fields: Names of upper-case letters, digits and ``_``, not beginning with
            ``_``; MESSAGE and PRIORITY should be among them.
        place: Where the journal listens.

    Returns:
        Whether it was taken.
    """
    record = b"".join(_field(name, str(value)) for name, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(record, socket.MSG_DONTWAIT, str(place))
    except OSError:
        return False
    return True


def _field(name: str, value: str) -> bytes:
    octets = value.encode("utf-8", "replace")[:LONGEST]
    if b"\n" not in octets:
        return b"%s=%s\n" % (name.encode(), octets)
    return b"%s\n%s%s\n" % (name.encode(), _LENGTH.pack(len(octets)), octets)
