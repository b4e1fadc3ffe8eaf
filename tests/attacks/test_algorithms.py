"""Other algorithms, and none at all."""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512

from tests.attacks.cases import (
    FORM,
    GRAMMAR,
    STRANGE,
    WRONG,
    Case,
    line,
    table,
)
from tests.attacks.forge import (
    Forge,
    padded,
)
from tests.attacks.victim import Make, Victim
from tests.keys import signer

OATS, THIEF, REGION = signer("oats"), signer("thief"), signer("region")


def tagged(tag: str, digest: str = "sha256") -> Make:
    def make(forge: Forge) -> bytes:
        data = forge.data()
        made = OATS.sig01(data).replace("sig01", tag).replace("sha256", digest)
        return forge.wrap(data, made)

    return make


def with_secret(data: bytes) -> str:
    """As for tokens whose reader takes a public key for a secret."""
    mac = hmac.digest(OATS.public, data, "sha256")
    return f"sig01: sha256 {OATS.key_id} {mac.hex()}\n"


def without_padding(data: bytes) -> str:
    numbers = OATS._key.private_numbers()
    number = int.from_bytes(hashlib.sha256(data).digest(), "big")
    made = pow(number, numbers.d, numbers.public_numbers.n).to_bytes(256, "big")
    return f"sig01: sha256 {OATS.key_id} {made.hex()}\n"


def by_ed25519(data: bytes) -> str:
    made = ed25519.Ed25519PrivateKey.generate().sign(data)
    return f"sig01: sha256 {OATS.key_id} {made.hex()}\n"


ALGORITHMS: list[Case] = [
    ("sha1", tagged("sig01", "sha1"), 21, STRANGE),
    ("md5", tagged("sig01", "md5"), 21, STRANGE),
    ("sha512", tagged("sig01", "sha512"), 21, STRANGE),
    ("rmd160, as firmware images carry", tagged("sig01", "rmd160"), 21, STRANGE),
    ("no digest", tagged("sig01", "none"), 21, STRANGE),
    ("SHA256 in capitals", tagged("sig01", "SHA256"), 21, STRANGE),
    ("sig00", tagged("sig00"), 21, STRANGE),
    ("sig03", tagged("sig03"), 21, STRANGE),
    ("SIG01", tagged("SIG01"), 25, GRAMMAR),
    ("sig1", tagged("sig1"), 25, GRAMMAR),
    ("a tag in other digits", tagged("sig\uff10\uff11"), 25, GRAMMAR),
    line(lambda d: padded(d, old=True), 21, WRONG, "PKCS1 v1.5"),
    line(lambda d: padded(d, salt=0), 21, WRONG, "no salt"),
    line(lambda d: padded(d, salt=20), 21, WRONG, "a salt of 20 bytes"),
    line(lambda d: padded(d, salt=32), 21, WRONG, "a salt of 32 bytes"),
    line(lambda d: padded(d, salt=222), 21, WRONG, "the longest salt"),
    line(lambda d: padded(d, digest=SHA1()), 21, WRONG, "SHA-1 inside"),
    line(lambda d: padded(d, digest=SHA384()), 21, WRONG, "SHA-384 inside"),
    line(lambda d: padded(d, digest=SHA512()), 21, WRONG, "SHA-512 inside"),
    line(
        lambda d: padded(d, digest=SHA256(), mask=SHA1()),
        21,
        WRONG,
        "SHA-1 in the mask",
    ),
    line(without_padding, 21, WRONG, "the bare digest, no padding"),
    line(with_secret, 25, GRAMMAR, "a MAC with the public key as its secret"),
    line(by_ed25519, 25, GRAMMAR, "Ed25519"),
    line(lambda d: OATS.sig01(d).strip()[:-2], 25, GRAMMAR, "a signature of 255 bytes"),
    line(
        lambda d: OATS.sig01(d).strip() + "00", 25, GRAMMAR, "a signature of 257 bytes"
    ),
    line(
        lambda d: OATS.sig01(d)[:-513] + OATS.sig01(d)[-513:].upper(),
        25,
        GRAMMAR,
        "a signature in capitals",
    ),
]


@table("algorithm substitution", ALGORITHMS)
def test_algorithm_substitution(
    victim: Victim, make: Make, code: int, says: str
) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)


def credential(raw: bytes) -> Make:
    """Put something else in the place of the credential."""
    return lambda forge: b'["oatc-signed-resp",1,[%s,%s]]' % (forge.data(), raw)


UNSIGNED: list[Case] = [
    ("bare data", lambda forge: forge.data(), 25, FORM),
    (
        "bare data in the envelope",
        lambda f: b'["oatc-signed-resp",1,%s]' % f.data(),
        25,
        "refused: ",
    ),
    (
        "data alone",
        lambda f: b'["oatc-signed-resp",1,[%s]]' % f.data(),
        25,
        "not data and a signature",
    ),
    ("no line", lambda forge: forge.wrap(forge.data()), 21, STRANGE),
    ("an empty line", lambda forge: forge.wrap(forge.data(), ""), 25, GRAMMAR),
    ("a newline", lambda forge: forge.wrap(forge.data(), "\n"), 25, GRAMMAR),
    ("the word none", lambda forge: forge.wrap(forge.data(), "none"), 25, GRAMMAR),
    ("a comment", lambda forge: forge.wrap(forge.data(), "# trust me\n"), 25, GRAMMAR),
    (
        "only lines of the future",
        lambda f: f.wrap(f.data(), "sig99: sha256 a b"),
        21,
        STRANGE,
    ),
    ("null", credential(b"null"), 25, FORM),
    ("false", credential(b"false"), 25, FORM),
    ("an empty list", credential(b"[]"), 25, FORM),
    ("a string", credential(b'"sig"'), 25, FORM),
    ("lines that are no list", credential(b'["sig",1,{}]'), 25, "not a list of lines"),
    (
        "a number in the place of a line",
        credential(b'["sig",1,[1]]'),
        25,
        "not a list of lines",
    ),
    ("a credential of version 0", credential(b'["sig",0,[]]'), 25, FORM),
    ("a credential of version true", credential(b'["sig",true,[]]'), 25, FORM),
    ("a credential of another kind", credential(b'["nosig",1,[]]'), 25, FORM),
    (
        "more lines than are read",
        lambda f: f.wrap(f.data(), *["sig03: sha256 a b"] * 17),
        25,
        "more than 16 lines",
    ),
    (
        "an answer that says no signature is needed",
        lambda f: f.wrap(f.data(**{"oats-ignore-signature": True})),
        21,
        STRANGE,
    ),
    (
        "an envelope of version 0",
        lambda f: f.genuine().replace(b'resp",1', b'resp",0', 1),
        25,
        FORM,
    ),
    (
        "an envelope of version 2",
        lambda f: f.genuine().replace(b'resp",1', b'resp",2', 1),
        25,
        FORM,
    ),
    (
        "data of version 2",
        lambda f: f.signed(f.data().replace(b'resp",1', b'resp",2', 1)),
        25,
        FORM,
    ),
    (
        "data of another kind",
        lambda f: f.signed(f.data().replace(b"oatc-", b"oats-")),
        25,
        FORM,
    ),
    (
        "a genuine answer below a false one",
        lambda f: (
            b'["oatc-signed-resp",1,[%s,%s]]' % (f.data(message="false"), f.genuine())
        ),
        25,
        FORM,
    ),
    (
        "a false answer in front of a genuine one",
        lambda f: f.wrap(f.data(message="false")) + f.genuine(),
        25,
        "refused",
    ),
    (
        "a genuine answer in front of a false one",
        lambda f: f.genuine() + f.wrap(f.data(message="false")),
        25,
        "refused",
    ),
    ("a genuine answer and NUL", lambda f: f.genuine() + b"\0", 25, "refused: "),
    (
        "a genuine answer and two newlines",
        lambda f: f.genuine() + b"\n\n",
        25,
        "refused: ",
    ),
    ("a genuine answer and CRLF", lambda f: f.genuine() + b"\r\n", 25, "refused: "),
]


@table("downgrade to unsigned", UNSIGNED)
def test_downgrade_to_unsigned(
    victim: Victim, make: Make, code: int, says: str
) -> None:
    victim.is_unmoved_by(make, code, says)
    victim.obeys(Forge.genuine)
