"""A build on an rsync daemon, by the real ``rsync`` program.

Which files to ask for is known from the manifests, so the server need not walk its
tree, and a file of the same size and time as ours is not taken for the same file.
Installed files are the basis. What comes is believed when its digest is right.
"""

import contextlib
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from olpc_update_query import errors
from olpc_update_query.model.manifest import Kind, ManifestReader, TreePath
from olpc_update_query.perform_update.sources.intake import Intake
from olpc_update_query.perform_update.sources.spool import need_room
from olpc_update_query.system.files import disk_errors, free_bytes
from olpc_update_query.system.host import draw_fraction
from olpc_update_query.system.network import rsync_proxy

AREA: Final = "rsync"
_LIST: Final = "wanted"
_TREE: Final = "tree"
_CONTENTS: Final = "contents"
_BASES: Final = 3  # trees that rsync looks into; it takes at most 20
_INTERRUPTED: Final = (10, 12, 30, 35)  # socket, protocol stream, two time-outs
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
_POLL: Final = 0.5  # seconds between two looks at what has come
_MOST_WORDS: Final = 64 * 1024
_LONGEST_PAUSE: Final = 60.0  # seconds, before a random share is added
_PARTIAL: Final = (23, 24)  # some files could not be sent
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

    def draw_pause(self, number: int) -> float:
        """Draw how long to wait before a full server is asked for the nth time."""
        return min(self.pause * 2.0**number, _LONGEST_PAUSE) * (1 + 2 * draw_fraction())


class _Run(NamedTuple):
    """What a run of rsync came to."""

    code: int
    message: str


class RsyncSource:
    """A build that an rsync daemon serves as ``contents`` and ``root/``.

    Args:
        url: ``rsync://host[:port]/module[/path]``.
        intake: What takes in what comes.
        options: How rsync is run.

    Attributes:
        sent: Bytes sent, as rsync counts them.
        received: Bytes received, as rsync counts them.
        requests: How often it was run.
    """

    def __init__(self, url: str, intake: Intake, options: RsyncOptions) -> None:
        self.url = url.rstrip("/")
        self.sent = self.received = self.requests = 0
        self._awaited = 0  # bytes of the files that are asked for
        self._intake, self._options = intake, options
        self._area = intake.directory / AREA
        parts = urlsplit(self.url)
        module, _, path = parts.path.lstrip("/").partition("/")
        self._module = f"rsync://{parts.netloc}/{module}/"
        self._below = os.fsencode(f"{path}/root/./".lstrip("/"))

    def fetch_manifest(self) -> None:
        """Fetch the build's manifest, on the basis of an installed one.

        Raises:
            NetworkError: The link or the server failed.
            UntrustedContents: It is not the one that the order signs.
            NoSpace: It cannot fit.
        """
        target = self._area / _CONTENTS
        need_room(self._intake.directory, 2 * self._intake.order.size)
        self._make(self._area)
        largest = self._intake.order.size
        if not target.exists() and self._intake.installed:
            with contextlib.suppress(OSError):
                shutil.copyfile(self._intake.installed[0].contents, target)
                largest = max(largest, target.stat().st_size)
        self._intake.progress.step(f"fetching the manifest from {self.url}")
        run = self._persist([f"{self.url}/contents", str(target)], largest)
        if run.code:
            raise self._meaning(run)
        with disk_errors(target), open(target, "rb") as file:
            self._intake.accept_manifest(iter(lambda: file.read(65536), b""))
        target.unlink()

    def fetch_files(self) -> None:
        """Fetch the files whose contents are needed, on the basis of installed ones.

        Raises:
            NetworkError: The link or the server failed; what has come is kept.
            NoSpace: It cannot fit.
        """
        tree, names = self._area / _TREE, self._area / _LIST
        self._make(tree)
        self._harvest()  # what an earlier run was killed over
        needs = self._intake.needs()
        if not needs:
            return
        need_room(self._intake.directory, needs.size)
        self._write_list(names)
        self._awaited = needs.size
        self._intake.progress.step(
            f"fetching {needs.count} files from {self.url}, "
            f"{needs.size / 1e6:.1f} MB unpacked"
        )
        bases = [f"--copy-dest={one.tree}" for one in self._intake.installed[:_BASES]]
        words = [*bases, "--from0", f"--files-from={names}", "--no-implied-dirs"]
        try:
            self._persist([*words, self._module, f"{tree}/"], needs.largest())
        finally:
            self._harvest()
        if self._intake.needs():
            count = self._intake.needs().count
            raise errors.NetworkError(
                self.url, f"{count} files did not come, or with other contents"
            )
        shutil.rmtree(self._area, ignore_errors=True)

    def _make(self, directory: Path) -> None:
        with disk_errors(directory):
            os.makedirs(directory, exist_ok=True)

    # --- which files ------------------------------------------------------------

    def _wanted(self) -> Iterator[tuple[TreePath, bytes, int]]:
        """Yield path, digest and size of one file for each content that is needed."""
        needs = self._intake.needs()
        named = bytearray(len(needs))
        contents = self._intake.contents
        with disk_errors(contents), open(contents, "rb") as file:
            for entry in ManifestReader(file):
                if entry.kind is Kind.FILE:
                    place = needs.place(entry.digest)
                    if place is not None and not named[place]:
                        named[place] = 1
                        yield entry.path, entry.digest, entry.size

    def _write_list(self, names: Path) -> None:
        with disk_errors(names), open(names, "wb") as file:
            # Named below the module itself: the daemon of rsync 3.5, when it does not
            # chroot, finds nothing that is named below a directory of a module.
            file.writelines(self._below + path + b"\0" for path, _, _ in self._wanted())

    def _harvest(self) -> None:
        """Take in the files that have come whole; drop those that came wrong."""
        top = os.fsencode(self._area / _TREE)
        for path, digest, size in self._wanted():
            source = Path(os.fsdecode(os.path.join(top, path)))
            with contextlib.suppress(OSError):
                came = source.lstat().st_size
                if self._intake.take_file(digest, source):
                    self._intake.credit("rsync", size)
                elif came >= size:
                    source.unlink()

    def _progress(self) -> int:
        """Return how many bytes have come, whole files or not."""
        return sum(facts.st_size for _, facts in self._files())

    def _files(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """Yield the files that rsync has made, whole or not."""
        for directory, _, files in os.walk(os.fsencode(self._area / _TREE)):
            for name in files:
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    yield path, os.lstat(path)

    # --- running rsync ------------------------------------------------------------

    def _persist(self, words: Sequence[str], largest: int) -> _Run:
        """Run rsync until it is done, or fails often enough without getting on."""
        failures, reached = 0, self._progress()
        while True:
            run = self._run(words, largest)
            if run.code == 0 or run.code in _PARTIAL:
                return run
            error = self._meaning(run)
            got_on = self._progress() > reached
            failures = 1 if got_on else failures + 1
            reached = max(reached, self._progress())
            if run.code not in _INTERRUPTED or "HTTP/1" in run.message:
                raise error
            if isinstance(error, errors.ServerFull) or failures >= self._options.tries:
                raise error
            pause = self._options.pause * (1 + 2 * draw_fraction())
            self._intake.progress.step(f"{error}; trying again in {pause:.0f} s")
            self._intake.clock.sleep(pause)

    def _run(self, words: Sequence[str], largest: int) -> _Run:
        options = self._options
        command = [
            options.program,
            "--ignore-times",  # another content may have the same size and time
            "--no-whole-file",
            "--inplace",  # a cut transfer goes on with what it has, even after SIGKILL
            "--sparse",  # writes at once, where it would keep 256 KiB to itself
            "--perms",
            "--chmod=D755,F644",  # a file of mode 0 must be readable here
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
                output = self._watch(process)
            except BaseException:
                process.terminate()
                raise
        for direction, count in _STAT.findall(output):
            if direction == "sent":
                self.sent += int(count)
            else:
                self.received += int(count)
        return _Run(process.returncode, output)

    def _watch(self, process: "subprocess.Popen[bytes]") -> str:
        """Wait for rsync; meanwhile tell how far it is, and sync what has come."""
        while True:
            try:
                output, _ = process.communicate(timeout=_POLL)
            except subprocess.TimeoutExpired:
                self._look()
            else:
                return output[-_MOST_WORDS:].decode("utf-8", "replace")

    def _look(self) -> None:
        """Have the file that is just coming on the disk, and tell how far it is."""
        come, latest = 0, (0, b"")
        for path, facts in self._files():
            come += facts.st_size
            latest = max(latest, (facts.st_mtime_ns, path))
        with contextlib.suppress(OSError):
            descriptor = os.open(latest[1], os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        if self._awaited:
            self._intake.progress.transferred(min(come, self._awaited), self._awaited)

    def _meaning(self, run: _Run) -> errors.UpdateError:
        """Say what went wrong."""
        url, text = self.url, run.message
        if "max connections" in text:
            return errors.ServerFull(url, "the server has too many clients just now")
        if "Unknown module" in text or "No such file or directory (2)" in text:
            return errors.BuildNotFound(url, "the server does not have it")
        if "bad response from proxy" in text and _REFUSED.search(text):
            return errors.ProxyRefused(url, _last_words(text))
        if "No space left on device" in text:
            return errors.NoSpace(str(self._area), 1, free_bytes(self._area))
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
