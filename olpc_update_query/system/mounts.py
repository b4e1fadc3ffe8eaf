"""What the kernel tells of mounted file systems (proc_pid_mountinfo(5))."""

import os
from pathlib import Path
from typing import Final

_MOUNTS: Final = Path("/proc/self/mountinfo")


def type_of_file_system(path: Path) -> str:
    """Return the type of the file system that ``path`` is on; empty if unknown."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return ""
    here = os.path.realpath(os.fsencode(path)) + b"/"
    found = (0, "")
    for line in lines:
        fields, _, rest = line.partition(b" - ")
        point = _unescape(fields.split(b" ")[4]).rstrip(b"/") + b"/"
        if here.startswith(point) and len(point) >= found[0]:
            found = (len(point), rest.split(b" ")[0].decode("ascii", "replace"))
    return found[1]


def _unescape(name: bytes) -> bytes:
    for code in (b"040", b"011", b"012", b"134"):
        name = name.replace(b"\\" + code, bytes([int(code, 8)]))
    return name
