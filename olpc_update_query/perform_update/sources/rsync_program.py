"""The program ``rsync``: how it is run, and what its exit codes mean."""

import contextlib
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from olpc_update_query import errors
from olpc_update_query.system.files import no_space
from olpc_update_query.system.host import draw_fraction
from olpc_update_query.system.network import rsync_proxy

INTERRUPTED: Final = (10, 12, 30, 35)  # socket, protocol stream, two time-outs
_WORDS: Final = {
    1: "this rsync does not know an option of ours: it is older than 3.1.3",
    2: "the two rsync programs speak no common protocol: one is too old",
    4: "this rsync lacks something that was asked of it: it is too old",
    5: "the server refused at the start",
    10: "no connection",
    11: "a file could not be written or read",
    12: "the connection broke off",
    13: "an error in rsync itself",
    14: "an error between rsync's processes",
    20: "it was interrupted",
    22: "rsync ran out of memory",
    23: "some files could not be sent",
    24: "some files vanished on the server meanwhile",
    25: "rsync refused to delete so much",
    30: "silent for too long",
    35: "no connection in time",
}
"""What rsync's exit codes mean, of all versions since 3.0."""
_TOO_OLD: Final = (1, 2, 4)
_HURRY: Final = 4  # seconds of silence after which another source is asked
_POLL: Final = 0.25  # seconds between two looks at what has come
_MOST_WORDS: Final = 64 * 1024
_LONGEST_PAUSE: Final = 60.0  # seconds, before a random share is added
_REFUSED: Final = re.compile(r"HTTP/1\.[01] (401|403|407)")
_STAT: Final = re.compile(r"^Total bytes (sent|received): ([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RsyncOptions:
    """How rsync is run.

    Attributes:
        program: Its name or path.
        proxies: As ``system.network.proxies_for`` works them out.
        connect: Seconds to wait for a connection.
        silence: Seconds to wait for the next byte.
        bandwidth: Bytes a second; 0 for no limit.
        tries: How often a server is asked that cuts us off without giving anything.
        patience: How often one is asked that is full.
        pause: Seconds to wait in between, at least; at most three times that, and for
            a server that is full twice as long each time, up to a minute.
    """

    program: str = "rsync"
    proxies: Mapping[str, str] = field(default_factory=dict)
    connect: int = 10
    silence: int = 30
    bandwidth: int = 0
    tries: int = 3
    patience: int = 10
    pause: float = 5.0

    def in_a_hurry(self) -> "RsyncOptions":
        """Return how it is run while there are other sources to ask."""
        connect, silence = min(self.connect, _HURRY), min(self.silence, _HURRY)
        return replace(self, connect=connect, silence=silence, tries=1)

    def draw_pause(self, number: int) -> float:
        """Draw how long to wait before a full server is asked for the nth time."""
        return min(self.pause * 2.0**number, _LONGEST_PAUSE) * (1 + 2 * draw_fraction())


class Run(NamedTuple):
    """What a run of rsync came to."""

    code: int
    message: str


class Program:
    """rsync, for one source.

    Attributes:
        sent: Bytes sent, as rsync counts them.
        received: Bytes received, as rsync counts them.
        requests: How often it was run.
    """

    def __init__(self, url: str, options: RsyncOptions) -> None:
        self.url, self._options = url, options
        self.sent = self.received = self.requests = 0

    def run(
        self,
        words: Sequence[str],
        *,
        largest: int,
        look: Callable[[], object] = bool,
    ) -> Run:
        """Run it to its end.

        Args:
            words: Options, source and target.
            largest: Bytes of the largest file that it may write.
            look: Called twice a second meanwhile.

        Raises:
            NoRsync: It is not installed.
        """
        options = self._options
        command = [
            options.program,
            "--ignore-times",  # another content may have the same size and time
            "--no-whole-file",
            "--inplace",  # a cut transfer goes on with what it has, even after SIGKILL
            "--sparse",  # writes at once, where it would keep 256 KiB to itself
            "--compress",  # zstd where both sides can
            f"--contimeout={options.connect}",
            f"--timeout={options.silence}",
            f"--bwlimit={-(-options.bandwidth // 1024)}",
            "--no-motd",
            "--no-human-readable",
            "--stats",
            *words[:-2],
            "--",
            *words[-2:],
        ]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        if proxy := rsync_proxy(self.url, options.proxies):
            environment["RSYNC_PROXY"] = proxy
        self.requests += 1
        try:
            with _file_size_limit(largest):
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
        except FileNotFoundError:
            reason = f"the program {options.program} is not installed"
            raise errors.NoRsync(self.url, reason) from None
        with process:
            try:
                output = self._watch(process, look)
            except BaseException:
                process.terminate()
                raise
        for direction, count in _STAT.findall(output):
            if direction == "sent":
                self.sent += int(count)
            else:
                self.received += int(count)
        return Run(process.returncode, output)

    def _watch(
        self, process: "subprocess.Popen[bytes]", look: Callable[[], object]
    ) -> str:
        """Wait for rsync; return the last of what it says."""
        while True:
            try:
                output, _ = process.communicate(timeout=_POLL)
            except subprocess.TimeoutExpired:
                look()
            else:
                return output[-_MOST_WORDS:].decode("utf-8", "replace")

    def meaning(self, run: Run, area: Path) -> errors.UpdateError:
        """Say what went wrong while it wrote to ``area``."""
        url, text = self.url, run.message
        if "max connections" in text:
            return errors.ServerFull(url, "the server has too many clients just now")
        if "Unknown module" in text or "No such file or directory (2)" in text:
            return errors.BuildNotFound(url, "the server does not have it")
        if "bad response from proxy" in text and _REFUSED.search(text):
            return errors.ProxyRefused(url, _last_words(text))
        if "No space left on device" in text:
            return no_space(area, 1)
        plain = _WORDS.get(run.code, "rsync ended by a signal")
        reason = f"{plain} (rsync ended with {run.code}: {_last_words(text)})"
        kind = errors.NoRsync if run.code in _TOO_OLD else errors.NetworkError
        return kind(url, reason)


@contextlib.contextmanager
def _file_size_limit(largest: int) -> Iterator[None]:
    """Let programs started meanwhile write no file larger than any that is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = largest + 4096
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _last_words(text: str) -> str:
    """Return the line of rsync's output that says most."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    summary = ("rsync error:", "rsync warning:", "sent ", "total size")
    telling = [line for line in lines if not line.startswith(summary)]
    return (telling or lines or ["it said nothing"])[0][:200]
