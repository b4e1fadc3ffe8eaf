"""Short writes, by the kernel: a write to a file below a directory writes only half.

strace cannot do that: it either lets a call through or pretends. So a seccomp filter
sends each call that writes to us, before it is made; the one that is to be short we
make ourselves, on the same open file with half the bytes, and say how many they were.
All processes that a job starts are under the filter as well.
"""

import contextlib
import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from tests.crash.record import Injected, begin, finish

_CALLS = {"x86_64": (317, 1, 18), "aarch64": (277, 64, 68)}
"""Numbers of ``seccomp``, ``write`` and ``pwrite64``, by machine."""
_SET_FILTER, _NEW_LISTENER = 1, 8
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls: struct seccomp_notif, _resp
_NOTICE = struct.Struct("=QII iIQ 6Q")  # id, pid, flags; number, machine, at, arguments
_REPLY = struct.Struct("=QqiI")  # id, result, error, flags
_CONTINUE = 1
_PAUSE = 50  # milliseconds
_PIDFD_GETFD = 438  # the same on every machine
_LOAD, _EQUALS, _RETURN = 0x20, 0x15, 0x06  # of BPF
_ASK_US, _ALLOW = 0x7FC00000, 0x7FFF0000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def run_shortened(
    job: Callable[[], int], log: Path, root: Path, number: int
) -> Injected:
    """Run a job; its ``number``-th write of two bytes or more below ``root`` is short.

    Raises:
        OSError: The kernel has no such filters, or we are not root.
    """
    ours, theirs = socket.socketpair()

    def filtered() -> int:
        listener = _filter_writes()
        socket.send_fds(theirs, [b"."], [listener])
        os.close(listener)
        return job()

    with ours, theirs:
        pid = begin(filtered, log)
        theirs.close()
        _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
    try:
        is_hit = _supervise(listener, pid, os.fsencode(root), number)
    finally:
        os.close(listener)  # whoever still waits for us gets an error
    return Injected(finish(pid, log), is_hit)


def _filter_writes() -> int:
    """Put this process under the filter; return what tells of its calls."""
    seccomp, *writes = _CALLS[platform.machine()]
    steps = [(_LOAD, 0, 0, 0)]
    steps += [(_EQUALS, len(writes) - at, 0, call) for at, call in enumerate(writes)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ASK_US)]
    raw = b"".join(struct.pack("=HBBI", *step) for step in steps)
    libc = ctypes.CDLL(None, use_errno=True)
    program = ctypes.byref(_Program(len(steps), raw))
    found = libc.syscall(seccomp, _SET_FILTER, _NEW_LISTENER, program)
    if found < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(found)


def _supervise(listener: int, pid: int, root: bytes, number: int) -> bool:
    """Let calls through until the job has ended, but for one write."""
    left, is_hit = number, False
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if not any(events & select.POLLIN for _, events in poll.poll(_PAUSE)):
            continue
        with contextlib.suppress(FileNotFoundError):  # it was killed meanwhile
            notice = bytearray(_NOTICE.size)
            fcntl.ioctl(listener, _RECEIVE, notice)
            mark, thread, _, call, _, _, *arguments = _NOTICE.unpack(notice)
            left -= arguments[2] > 1 and _is_below(root, thread, arguments[0])
            result = 0
            if not left and not is_hit:
                result, is_hit = _write_half(thread, call, arguments), True
            reply = _REPLY.pack(mark, result, 0, 0 if result else _CONTINUE)
            fcntl.ioctl(listener, _SEND, reply)
    return is_hit


def _is_below(root: bytes, thread: int, descriptor: int) -> bool:
    path = os.readlink(b"/proc/%d/fd/%d" % (thread, descriptor))
    return path.startswith(root + b"/")


def _write_half(thread: int, call: int, arguments: list[int]) -> int:
    descriptor, address, size, offset = arguments[:4]
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        data = os.pread(memory.fileno(), size // 2, address)
    file = _borrow(thread, descriptor)
    try:
        if call == _CALLS[platform.machine()][2]:
            return os.pwrite(file, data, offset)
        return os.write(file, data)
    finally:
        os.close(file)


def _borrow(thread: int, descriptor: int) -> int:
    """Return another process's open file: its place and flags are the same."""
    status = Path(f"/proc/{thread}/status").read_text()
    process = os.pidfd_open(int(status.partition("Tgid:")[2].split()[0]))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        found = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    if found < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return int(found)
