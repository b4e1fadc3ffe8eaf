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


class NoIdentity(ConfigError):
    """Nobody knows which laptop this is: no serial number and UUID of its own."""

    exit_code = 29
    advice = "Set serial and uuid under [identity] in config.toml, as in laptops.csv."


class NotPermitted(UpdateError):
    """The user may not touch what the run has to read or write."""

    exit_code = 4
    advice = "Run it as root, or give --root a directory of your own."

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"no permission to use {self.path}"


class StickForbidden(NotPermitted):
    """The user may not read or write what is on a stick."""

    exit_code = 39
    advice = (
        "Mount the stick so that you may read and write it, or run the command as root."
    )


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


class NotPrepared(UpdateError):
    """The installer's unit has not prepared what the asker's unit needs.

    Args:
        path: What is missing.
    """

    exit_code = 73
    retry = True
    advice = "Run `systemctl start olpc-update-installer.service`, or ask as root."

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is missing: nothing can be handed to the installer"


class HeldBack(UpdateError):
    """A gate closed while a build was being fetched; progress is kept.

    Args:
        build: The build.
        reason: What holds it back.
    """

    exit_code = 6
    retry = True
    advice = "It goes on when the gate opens; `olpc-update BUILD` does not wait for it."

    def __init__(self, build: str, reason: str) -> None:
        super().__init__(build, reason)
        self.build, self.reason = build, reason

    def __str__(self) -> str:
        return f"build {self.build} must wait: {self.reason}"


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

    def hint(self) -> str:
        """Say where to look: on a server, or at a stick."""
        if self.url.startswith(("/", "file:", "--usb")):
            return "Check what is on the stick; `olpc-update-admin usb` writes it."
        return self.advice


class SourceFailed(NetworkError):
    """Every source failed before all contents were there; progress is kept."""

    exit_code = 14
    advice = "What has arrived is kept; the next run goes on from there."


class ServerFailed(NetworkError):
    """A server is there, but says that it cannot answer now.

    Args:
        url: What was asked for.
        reason: What it said.
        retry_after: Seconds it asked us to wait, where it did.
    """

    exit_code = 15
    advice = "Its log tells more; the next run asks again, later each time."

    def __init__(self, url: str, reason: str, retry_after: int | None = None) -> None:
        super().__init__(url, reason)
        self.retry_after = retry_after


class ServerFull(NetworkError):
    """A server takes no more clients just now."""

    exit_code = 63
    advice = "It serves others meanwhile; the next run asks again."


class NoRsync(NetworkError):
    """The program rsync is missing, or too old."""

    exit_code = 64
    advice = "Install rsync 3.1.3 or later, or name an http:// source in the order."


class HashcashRefused(NetworkError):
    """A server wants more work than a laptop does, or gave nothing for it."""

    exit_code = 28
    advice = "Set hashcash_bits in the server's site.toml to 20 at most."


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


class OrderExpired(UntrustedAnswer):
    """An order is genuine, but it is good no longer."""

    exit_code = 16
    advice = "Write the stick again with `olpc-update-admin usb`, and check the clock."


class OrderForOthers(UntrustedAnswer):
    """An order is genuine, but for other laptops."""

    exit_code = 17
    advice = "Take a stick made for this laptop; `olpc-update-admin usb` says for whom."


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


class UntrustedStatement(TrustError):
    """A statement about keys is not signed by enough keys, or is not to be followed."""

    exit_code = 26
    advice = (
        "The keys stay as they are; `olpc-update-query keys list` shows them, and who "
        "made the statement can have more people sign it."
    )


class UntrustedDelegation(TrustError):
    """A delegation from a higher site does not let this site sign."""

    exit_code = 27
    advice = "Have it made again, for the public key that is in this site's keys/."


class BadHandOver(TrustError):
    """What the asker's unit left for the installer's is not what it may be."""

    exit_code = 72
    advice = (
        "It is removed, and nothing of it was used; "
        "look who can act as user olpc-update."
    )


class StaleHandOver(TrustError):
    """What the asker's unit left may be too old to be obeyed."""

    exit_code = 74
    retry = True
    advice = "Nothing of it was used; the asker will ask again in a few minutes."


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
        used_up: What else is used up, if it is not the bytes.
    """

    exit_code = 33
    retry = True
    advice = "Delete files, or an old build with olpc-update --purge BUILD."

    def __init__(self, path: str, needed: int, free: int, used_up: str = "") -> None:
        super().__init__(path, f"{needed} bytes free", f"{free}")
        self.needed, self.free, self.used_up = needed, free, used_up

    def __str__(self) -> str:
        if self.used_up:
            return f"no more files fit on {self.path}: {self.used_up}"
        if self.needed <= self.free:  # what had filled it is deleted again
            return f"not enough space on {self.path}; {self.free:,} bytes are free now"
        if self.needed <= 1:  # nobody knows how many
            return f"no space is left on {self.path}: {self.free:,} bytes are free"
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


class InTheWay(DiskFailed):
    """Something else is where a file or a directory of ours has its place."""

    exit_code = 75
    retry = False
    advice = "Look at what is there, and move it away; the program makes its own."


class StickFailed(DiskFailed):
    """A stick was pulled out, or refuses to be read or written."""

    exit_code = 38
    advice = (
        "Put the stick in again and repeat the same command: what is whole on it "
        "stays. If it fails once more, take another stick."
    )

    def hint(self) -> str:
        """Say what to do; one that cannot be written may be a sound one."""
        if self.found == "Read-only file system":
            return "Slide the lock on it, or mount it so that it can be written."
        return self.advice


class NotInstalled(TreeError):
    """The build is not on this laptop."""

    exit_code = 36
    advice = "olpc-update --installed lists the builds that are."

    def __init__(self, build: str) -> None:
        super().__init__(build, "an installed build", "none")

    def __str__(self) -> str:
        return f"build {self.path} is not installed"


class Incomplete(TreeError):
    """Contents of a build are missing, or proved to be damaged.

    Which ones is noted in the installer's work area, for the next fetch.

    Args:
        build: The build.
        count: How many contents.
    """

    exit_code = 37
    retry = True
    advice = "The next run fetches them; nothing that is good is fetched again."

    def __init__(self, build: str, count: int) -> None:
        super().__init__(build, "every content", f"{count} missing or damaged")
        self.count = count

    def __str__(self) -> str:
        return f"build {self.path}: {self.found}, to be fetched again"


class Unrepaired(TreeError):
    """Something of a build is still not what its manifest says after mending it.

    Args:
        build: The build.
        count: How many differences are left.
        first: The first of them, in plain words.
    """

    exit_code = 66
    retry = True
    advice = "The disk may be failing: look at the kernel's log, install a build anew."

    def __init__(self, build: str, count: int, first: str) -> None:
        super().__init__(build, "a whole build", first)
        self.count = count

    def __str__(self) -> str:
        return f"build {self.path}: {self.count} differences are left: {self.found}"


# --- activation ------------------------------------------------------------------


class ActivationError(UpdateError):
    """The boot link could not be moved; the old build boots."""

    exit_code = 40
    advice = "`olpc-update --installed` shows which builds run, boot, and are sticky."

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


class TrialFailed(ActivationError):
    """A build did not come up when it was tried, and the laptop went back.

    Args:
        build: The build that failed.
        tries: How often it was booted.
        now: The build that boots instead.
    """

    exit_code = 69
    advice = "`olpc-update -f` tries it again; docs/boot.md says what counts as up."

    def __init__(self, build: str, tries: int, now: str) -> None:
        super().__init__(
            f"build {build} did not come up in {tries} tries; build {now} boots again"
        )
        self.build, self.tries, self.now = build, tries, now


class NotUp(ActivationError):
    """The running build is on trial, and a check of the site says it is not well."""

    exit_code = 71
    advice = "It is asked again in a minute; the checks are in checks.d."
    retry = True


class OrderRefused(ActivationError):
    """The order is genuine, but this laptop may not follow it now."""

    exit_code = 43
    advice = "Change the assignment on the server, e.g. with --allow-downgrade."


# --- the site: what its administrator has to set right -----------------------------


class SiteError(UpdateError):
    """A site directory cannot be used as it is.

    Args:
        where: The file or directory, with the line where it is known.
        reason: What is wrong with it.
        mend: What to do about it, if it is not what is done about its like.
    """

    exit_code = 50
    advice = "`olpc-update-admin check SITE` lists everything that is wrong."

    def __init__(self, where: str, reason: str, mend: str = "") -> None:
        super().__init__(where, reason)
        self.where, self.reason, self.mend = where, reason, mend

    def hint(self) -> str:
        """Say what mends it."""
        return self.mend or self.advice

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class NoSite(SiteError):
    """The directory is not a site."""

    exit_code = 51
    advice = "`olpc-update-admin init SITE` makes one."


class SiteExists(SiteError):
    """Something is there already and is not written over."""

    exit_code = 52
    advice = "Choose another place, or move the old one away first."


class DamagedSite(SiteError):
    """A file of the site does not follow its format."""

    exit_code = 53
    advice = "Correct it by hand or from your backup; docs/server.md shows its format."


class BadImport(DamagedSite):
    """A list of laptops is malformed; nothing of it was imported.

    Args:
        where: File name, line and column.
        reason: What is wrong there.
    """

    exit_code = 54
    advice = "Correct the file and import it again; nothing was changed."


class UnknownBuild(SiteError):
    """The build is not published on this site."""

    exit_code = 55

    def __init__(self, build: str, published: str) -> None:
        super().__init__(f"build {build}", "not published on this site")
        self.build, self.published = build, published

    def hint(self) -> str:
        """Name the builds there are."""
        if not self.published:
            return "None is: `olpc-update-admin publish SITE TREE --build NAME`."
        return f"There are: {self.published}."


class UnknownLaptop(SiteError):
    """The laptop is not in laptops.csv, or is there without what is needed."""

    exit_code = 56
    advice = "`olpc-update-admin laptops list SITE` shows all; `import` adds more."


class NoAssignment(SiteError):
    """Nothing is assigned there."""

    exit_code = 57
    advice = "`olpc-update-admin status SITE` shows the assignments there are."


class MissingKey(SiteError):
    """The site has no private key of that kind."""

    exit_code = 58
    advice = "`olpc-update-admin keygen SITE` makes the keys."


class UnsafeKey(SiteError):
    """A private key can be read by others, or is not a private key.

    Args:
        where: The file or directory.
        reason: What is wrong with it.
        is_open: Whether it is that others can use it.
    """

    exit_code = 59
    advice = "Make it yours alone: `chmod 700 keys; chmod 600 keys/*.private`."

    def __init__(self, where: str, reason: str, *, is_open: bool = False) -> None:
        super().__init__(where, reason)
        self.is_open = is_open

    def hint(self) -> str:
        """Say how it is closed to others, or what has to lie there instead."""
        if self.is_open:
            return self.advice
        return (
            "Bring it back from a backup (RSA-2048, PKCS#1 or PKCS#8, DER or PEM); if "
            "no laptop trusts it yet, delete it and let `keygen` make another."
        )


class PortTaken(SiteError):
    """The server cannot listen where it was told to."""

    exit_code = 60
    advice = (
        "Another server runs there, the port needs root, or this machine has no such "
        "address: give another --port or --host."
    )


class MissingExtra(SiteError):
    """A library that only the server needs is not installed.

    Args:
        module: The library.
        extra: The extra of this project that it comes with.
    """

    exit_code = 61

    def __init__(self, module: str, extra: str = "server") -> None:
        super().__init__(module, "this Python package is not installed")
        self.extra = extra

    def hint(self) -> str:
        """Tell the command that installs it."""
        return (
            f"`pip install '.[{self.extra}]'` in a clone of this project installs it."
        )


class StillNeeded(SiteError):
    """A build cannot be deleted: laptops may be told to run it."""

    exit_code = 65
    advice = "`olpc-update-admin unassign` takes an assignment back; see `status`."


class MissingUpstreamKey(SiteError):
    """A site cannot mirror another one whose key it does not have."""

    exit_code = 68
    advice = "Give the other site's keys/oats.public once: --key FILE."


class UnfitStick(SiteError):
    """A stick cannot hold what is to be written on it; nothing was written."""

    exit_code = 67
    advice = "Format it as ext4 or exFAT, which hold files of any size."


class UnfitTree(SiteError):
    """A tree cannot be published as it is; nothing was published.

    Args:
        path: The path in the tree.
        reason: What is wrong with it.
    """

    exit_code = 62
    advice = (
        "Correct the tree, copy its archive again if it is damaged, or read the tree "
        "as root; then publish again."
    )
