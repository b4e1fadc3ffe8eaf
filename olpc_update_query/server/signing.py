"""The private half of trust: keys, and everything they sign.

A private key is a file of mode 0600 in the site's ``keys`` directory and never leaves
it. What is signed here is laid out by the functions that ``trust`` verifies with.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from olpc_update_query.errors import ConfigError, UntrustedKey
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import MAX_ANSWER, Answer
from olpc_update_query.model.orders import OrderFile
from olpc_update_query.model.wire import format_expiry
from olpc_update_query.system.files import fsync_directory, replace_file
from olpc_update_query.trust.envelope import ANSWER, ORDER, STATEMENT
from olpc_update_query.trust.keys import EXPONENT, ID_BYTES, modulus
from olpc_update_query.trust.lease import MAX_LEASE_LINE, lease_text
from olpc_update_query.trust.rotation import Statement
from olpc_update_query.trust.signature import (
    MAX_GROUPS,
    SALT_BYTES,
    delegation_text,
    sig02_prefix,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

Sign: TypeAlias = Callable[[bytes], str]
"""Makes the signature line for some data: ``signer.sig01``, or a ``sig02`` closure."""

_MAX_KEY_FILE: Final = 16 * 1024


class Signer:
    """A private key.

    Args:
        key: An RSA-2048 key with exponent 65537.

    Attributes:
        public: The public half, PKCS#1 DER.
        key_id: The key's name: the last 32 bytes of its public half, in hex.

    Raises:
        UntrustedKey: It is of another size or exponent.
    """

    def __init__(self, key: "RSAPrivateKey") -> None:
        from cryptography.hazmat.primitives import serialization as form

        self._key = key
        self.public = key.public_key().public_bytes(
            form.Encoding.DER, form.PublicFormat.PKCS1
        )
        modulus(self.public)
        self.key_id = self.public[-ID_BYTES:].hex()

    def sign(self, data: bytes) -> bytes:
        """Return the 256 bytes of an RSASSA-PSS signature."""
        from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
        from cryptography.hazmat.primitives.hashes import SHA256

        padding = PSS(mgf=MGF1(SHA256()), salt_length=SALT_BYTES)
        return self._key.sign(data, padding, SHA256())

    def sig01(self, data: bytes) -> str:
        """Return the ``sig01`` line for data, newline included."""
        return f"sig01: sha256 {self.key_id} {self.sign(data).hex()}\n"

    def sig02(
        self, data: bytes, *, serial: str, expiry: int | None, chain: str = ""
    ) -> str:
        """Return the ``sig02`` line for data, newline included.

        Args:
            data: What is signed.
            serial: The one laptop it is for.
            expiry: Until when it is good, None for ever.
            chain: What the holder of a trusted key made with ``delegate`` for this
                key; empty when this key is trusted itself.
        """
        return f"sig02: {self._group(data, serial, expiry, chain)}\n"

    def delegate(
        self, key: bytes, *, serial: str, expiry: int | None, chain: str = ""
    ) -> str:
        """Let another key sign in this one's place, for one laptop.

        Args:
            key: The other public key, PKCS#1 DER.
            serial: The laptop.
            expiry: Until when.
            chain: What was delegated to this key itself, empty when it is trusted.

        Returns:
            The ``chain`` for the other key's ``sig02`` or ``delegate``.

        Raises:
            UntrustedKey: ``key`` is not an RSA-2048 key.
        """
        modulus(key)
        return self._group(delegation_text(key), serial, expiry, chain)

    def _group(self, data: bytes, serial: str, expiry: int | None, chain: str) -> str:
        if chain.count("sha256 ") >= MAX_GROUPS:
            raise ValueError(f"a chain has at most {MAX_GROUPS} groups")
        signature = self.sign(sig02_prefix(serial, expiry) + data).hex()
        name = self.public.hex() if chain else self.key_id
        group = f"sha256 {name} {format_expiry(expiry)} {signature}"
        return f"{chain} {group}" if chain else group

    def private_bytes(self) -> bytes:
        """Return the private key as PKCS#1 ``RSAPrivateKey`` DER."""
        from cryptography.hazmat.primitives import serialization as form

        return self._key.private_bytes(
            form.Encoding.DER,
            form.PrivateFormat.TraditionalOpenSSL,
            form.NoEncryption(),
        )


def generate() -> Signer:
    """Make a new key."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    return Signer(generate_private_key(EXPONENT, 2048))


def store_private(path: Path, signer: Signer) -> None:
    """Write a private key that nobody else may read; no file is ever overwritten.

    Args:
        path: The file to create, mode 0600.
        signer: The key.

    Raises:
        ConfigError: The file exists.
        OSError: It cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(6).hex()}.new")
    try:
        replace_file(fresh, signer.private_bytes(), mode=0o600)
        os.link(fresh, path)  # whole or not at all, and never over another
    except FileExistsError:
        raise ConfigError(str(path), "it exists; a key is not overwritten") from None
    finally:
        fresh.unlink(missing_ok=True)  # a part of a key is of no use to anybody
    fsync_directory(path.parent)


def load_private(path: Path) -> Signer:
    """Read a private key.

    Args:
        path: PKCS#1 or PKCS#8, DER or PEM, without a pass phrase.

    Returns:
        The key.

    Raises:
        ConfigError: It cannot be read, others may read it too, or it is no RSA-2048
            key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_KEY_FILE)
    except OSError as error:
        raise ConfigError(str(path), str(error.strerror)) from error
    if mode & 0o077:
        raise ConfigError(str(path), "others may read this private key; chmod 600 it")
    return _parse_private(path, data)


def _parse_private(path: Path, data: bytes) -> Signer:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    load = form.load_pem_private_key if b"-----" in data else form.load_der_private_key
    try:
        key = load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(str(path), f"it is no private key: {_kind(data)}") from None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError(str(path), "it is not an RSA key")
    try:
        return Signer(key)
    except UntrustedKey as error:
        raise ConfigError(str(path), error.reason) from error


def _kind(data: bytes) -> str:
    """Say what a file holds that should hold a private key without a pass phrase."""
    if not data.strip(b"\0"):
        return "it is empty"
    if b"ENCRYPTED" in data:
        return "it has a pass phrase"
    return "it is a public key" if b"PUBLIC KEY" in data else "it cannot be parsed"


def make_answer(answer: Answer, sign: Sign) -> bytes:
    """Sign an answer.

    Args:
        answer: What to say.
        sign: How to sign it.

    Returns:
        The body of the reply.

    Raises:
        ValueError: It is larger than 64 KiB, which no laptop reads.
    """
    return _envelope(ANSWER, answer.to_json(), sign)


def make_order(order: OrderFile, sign: Sign) -> bytes:
    """Sign the ``order`` file of a build.

    Args:
        order: The order.
        sign: How to sign it; ``sig01``, because it is for every laptop.

    Returns:
        The file.

    Raises:
        ValueError: It is larger than 64 KiB, which no laptop reads.
    """
    return _envelope(ORDER, order.to_json(), sign)


def statement_data(statement: Statement) -> bytes:
    """Return the octets that the signers of a statement about keys sign."""
    return canonical.encode([STATEMENT[1], 1, statement.to_json()])


def sign_statement(data: bytes, lines: Sequence[str]) -> bytes:
    """Put a statement about keys together with its signatures.

    Args:
        data: What ``statement_data`` returned.
        lines: One ``sig01`` line by each signer.

    Returns:
        The statement; more lines can be added by doing this again.
    """
    credential = canonical.encode(["sig", 1, list(lines)])
    return b'["%s",1,[%s,%s]]' % (STATEMENT[0].encode(), data, credential)


def make_lease(
    serial: str, uuid: str, expiry: int | None, sign: Sign, *, disposition: str = "K"
) -> str:
    """Sign a lease.

    Args:
        serial: The laptop's serial number.
        uuid: Its UUID, as the laptop spells it.
        expiry: Until when it lets the laptop boot, None for ever.
        sign: How to sign it.
        disposition: One character; the firmware knows ``K``.

    Returns:
        One ``act01:`` line, newline included.

    Raises:
        ValueError: The line is longer than the firmware reads: the chain of
            delegations is too long.
    """
    signature = sign(lease_text(serial, uuid, disposition, expiry))
    line = f"act01: {serial} {disposition} {format_expiry(expiry)} {signature}"
    if len(line) > MAX_LEASE_LINE:
        raise ValueError(f"a lease has at most {MAX_LEASE_LINE} bytes")
    return line


def bulk_leases(leases: Mapping[str, str]) -> bytes:
    r"""Put many laptops' leases into one file, for sticks and school servers.

    Args:
        leases: ``act01:`` lines by serial number.

    Returns:
        ``[1,{"SERIAL":"act01: ...\n",...}]``, canonical.
    """
    return canonical.encode([1, dict(leases)])


def _envelope(types: tuple[str, str], data: dict[str, Json], sign: Sign) -> bytes:
    signed = canonical.encode([types[1], 1, data])
    credential = canonical.encode(["sig", 1, [sign(signed)]])
    raw = b'["%s",1,[%s,%s]]' % (types[0].encode(), signed, credential)
    if len(raw) > MAX_ANSWER:
        raise ValueError(f"an answer has at most {MAX_ANSWER} bytes")
    return raw
