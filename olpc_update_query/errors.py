"""Everything that can go wrong, named by who must act.

Each class has its own exit code (``docs/exit-codes.md`` lists them), says whether
the same run may succeed later without anybody's help (``retry``), and carries its
facts as attributes: ``__str__`` formats one plain line, ``hint`` says what to do.
Bugs are ``ValueError`` or ``RuntimeError`` and end in a traceback.
"""

from typing import ClassVar


class UpdateError(Exception):
    """Base of all expected failures.

    Attributes:
        exit_code: The process exit code for this kind of failure.
        retry: Whether the next run may succeed without anybody's help.
    """

    exit_code: ClassVar[int]
    retry: ClassVar[bool] = False
    advice: ClassVar[str] = ""

    def hint(self) -> str:
        """Return what the person should do, or an empty string."""
        return self.advice


class ConfigError(UpdateError):
    """A configuration file or an identity is unusable.

    Args:
        where: File name, with the line where it is known.
        reason: What is wrong with it.
    """

    exit_code = 3
    advice = (
        "Correct it; docs/configuration.md and the commented sample list every key."
    )

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class NotPermitted(UpdateError):
    """The user may not touch what the run has to write."""

    exit_code = 4
    advice = "Run it as root, or give --root a directory of your own."

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no permission to write {self.path}"


class Busy(UpdateError):
    """Another run holds the lock.

    Args:
        holder: What is known of it, such as ``process 4711 (olpc-update)``.
    """

    exit_code = 5
    retry = True
    advice = "Wait until it has ended; olpc-update-query status shows what it does."

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder

    def __str__(self) -> str:
        return f"another run is at work: {self.holder}"


# --- the network: try again ---------------------------------------------------


class NetworkError(UpdateError):
    """No server could be reached.

    Args:
        url: What was asked for.
        reason: What the network said.
    """

    exit_code = 10
    retry = True
    advice = (
        "Check the link, the server's name and the proxy; the next run tries again."
    )

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class NoAnswer(NetworkError):
    """Somebody replied, but not with an answer: a portal, an error page, HTML."""

    exit_code = 11
    advice = (
        "A captive portal, a proxy or a wrong address is in between; "
        "open the address in a browser to see what it says."
    )


class ProxyRefused(NetworkError):
    """The proxy wants a user name and a password, or refused them."""

    exit_code = 12
    advice = "Set [proxy] user and password in config.toml."


class BuildNotFound(NetworkError):
    """No source has the build that was asked for."""

    exit_code = 13
    advice = "Check the build's name, and that it is published on that server."


class SourceFailed(NetworkError):
    """Every source failed before all contents were there; progress is kept."""

    exit_code = 14
    advice = "What has arrived is kept; the next run goes on from there."


# --- trust: never obey this -----------------------------------------------------


class TrustError(UpdateError):
    """Something does not prove what it claims.

    Args:
        what: The thing refused, such as ``answer`` or ``lease``.
        reason: Why, in plain words.
    """

    exit_code = 20

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"{self.what} refused: {self.reason}"


class UntrustedAnswer(TrustError):
    """An answer is unsigned, wrongly signed, stale or not for this laptop."""

    exit_code = 21
    advice = (
        "Compare the server's key with `olpc-update-query keys list`; "
        "a new deployment key goes to /etc/olpc-update-query/keys.d."
    )


class UntrustedLease(TrustError):
    """A lease does not verify, or is for another laptop."""

    exit_code = 22
    advice = "The installed lease stays; check the server's lease key and laptops.csv."


class UntrustedContents(TrustError):
    """A manifest is not the one that the order signs."""

    exit_code = 23
    advice = "The server's copy is stale or damaged; publish it again or use another."


class UntrustedKey(TrustError):
    """A key file is not a usable RSA public key."""

    exit_code = 24
    advice = "A key file is an RSA-2048 public key, PKCS#1 DER or PEM."


class Malformed(TrustError):
    """Bytes do not follow their format.

    Args:
        what: The thing refused.
        reason: The rule that is broken, with the offset or line where known.
    """

    exit_code = 25
    advice = "It was damaged on the way or made by a faulty program."


# --- the tree: path, expected, found ---------------------------------------------


class TreeError(UpdateError):
    """A tree on disk is not what its manifest says.

    Args:
        path: The path, relative to the tree.
        expected: What should be there.
        found: What is there.
    """

    exit_code = 30
    advice = "olpc-update --verify --repair fetches the damaged files again."

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(path, expected, found)
        self.path, self.expected, self.found = path, expected, found

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, found {self.found}"


class UnsafePath(TreeError):
    """A path tries to leave its tree."""

    exit_code = 31
    advice = "The build is faulty or hostile; nothing of it was installed."

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, "a path inside the tree", reason)


class CorruptContent(TreeError):
    """Bytes do not have the digest they are named by."""

    exit_code = 32
    retry = True
    advice = "The damaged part is dropped and fetched again by the next run."


class NoSpace(TreeError):
    """It cannot fit.

    Args:
        path: The file system.
        needed: Bytes needed.
        free: Bytes free.
    """

    exit_code = 33
    retry = True
    advice = "Delete files, or an old build with olpc-update --purge BUILD."

    def __init__(self, path: str, needed: int, free: int) -> None:
        super().__init__(path, f"{needed} bytes free", f"{free}")
        self.needed, self.free = needed, free

    def __str__(self) -> str:
        return (
            f"not enough space on {self.path}: {self.needed:,} bytes needed, "
            f"{self.free:,} free"
        )


class NoVersions(TreeError):
    """This machine does not keep builds side by side."""

    exit_code = 34
    advice = (
        "Updates need /versions/pristine; leases work without. "
        "docs/disk-layout.md tells how a laptop is laid out."
    )

    def __init__(self, path: str) -> None:
        super().__init__(path, "a directory of builds", "none")

    def __str__(self) -> str:
        return f"{self.path} is missing: this machine cannot hold two builds"


class DiskFailed(TreeError):
    """The disk refused to read or write."""

    exit_code = 35
    retry = True
    advice = "Look at the kernel's log; the disk may be failing or mounted read-only."

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, "a working disk", reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.found}"


class NotInstalled(TreeError):
    """The build is not on this laptop."""

    exit_code = 36
    advice = "olpc-update --installed lists the builds that are."

    def __init__(self, build: str) -> None:
        super().__init__(build, "an installed build", "none")

    def __str__(self) -> str:
        return f"build {self.path} is not installed"


# --- activation ------------------------------------------------------------------


class ActivationError(UpdateError):
    """The boot link could not be moved; the old build boots."""

    exit_code = 40

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NoAlternate(ActivationError):
    """There is no build to go back to."""

    exit_code = 41
    advice = "A laptop has an alternate build after its first update."

    def __init__(self) -> None:
        super().__init__("there is no alternate build to roll back to")


class HookFailed(ActivationError):
    """A site hook failed; the build was not activated."""

    exit_code = 42
    advice = "Run the hook by hand; hooks are in /etc/olpc-update-query/hooks.d."


class OrderRefused(ActivationError):
    """The order is genuine, but this laptop may not follow it now."""

    exit_code = 43
    advice = "Change the assignment on the server, e.g. with --allow-downgrade."
