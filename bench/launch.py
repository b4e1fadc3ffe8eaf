"""Fork a command and write its cost to a descriptor; see ``measure.py``.

    python3 -ISE launch.py DESCRIPTOR SAMPLE COMMAND [ARGUMENT ...]

The kernel counts a parent's memory as its child's until the child's program is
loaded. So this process is as small as Python gets: it imports what is built in.
"""

import os
import sys
import time

_PAUSE = 0.03


def _children(pid: str) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def _tree(pid: str) -> list[str]:
    found = [pid]
    for parent in found:
        found.extend(_children(parent))
    return found


def _memory(pid: str) -> int:
    """Return the proportional set of a process in KiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for row in file:
            if row.startswith("Pss:"):
                return int(row.split()[1])
    return 0


def _watch(pid: int) -> int:
    """Sample a process and its descendants until it has ended."""
    peak = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        try:
            peak = max(peak, sum(map(_memory, _tree(str(pid)))))
        except OSError:
            continue  # one of them ended while we looked
        time.sleep(_PAUSE)
    return peak


def _start(command: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.execvp(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(127)
    return pid


def main() -> None:
    """Run the command of the command line and write its figures."""
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    begin = time.perf_counter()
    pid = _start(sys.argv[3:])
    together = _watch(pid) if sys.argv[2] == "sample" else 0
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - begin
    code = os.waitstatus_to_exitcode(status)
    processor = usage.ru_utime + usage.ru_stime
    figures = f"{code} {seconds} {processor} {usage.ru_maxrss} {together}"
    os.write(report, figures.encode())


if __name__ == "__main__":
    main()
