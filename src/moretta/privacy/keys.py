"""Keys: what wraps a record's key, and what a pseudonym comes from. Bytes in, bytes out.

Promise   every record has a key of its own, RK, from the operating system's generator. Keys of people
          only wrap it. No secret shows in `repr`, in a log line or in an error's text.
Assumes   the machine that opens is honest; Python cannot wipe memory.
Not here  files (pipeline/custody.py), the body that RK encrypts (envelope.py).
Sources   RFC 5869 (HKDF), RFC 9106 (Argon2id), RFC 9180 (HPKE), SLIP-39; docs/envelope.md.
Checked   tests/privacy/test_keys.py: HPKE by a second implementation, Argon2id by its RFC's vector.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from moretta.errors import KeyRejected, count_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 32  # bytes of every symmetric key, seed and salt of a record
LABEL = b"ifadenv/v1/"
PASSPHRASE, KEY_FILE, RECIPIENT = 1, 2, 3  # types of slots
_PARAMETERS = struct.Struct(">16sIIB")  # of a passphrase's slot: salt, t, m in KiB, p
_NONCE, _WRAPPED = 12, SIZE + 16
_HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
BODIES = {  # type -> length of a slot's body
    PASSPHRASE: _PARAMETERS.size + _NONCE + _WRAPPED,
    KEY_FILE: 16 + _NONCE + _WRAPPED,
    RECIPIENT: 8 + 32 + _WRAPPED,
}


def derived(key: bytes, salt: bytes, label: bytes) -> bytes:
    """Return 32 bytes: HKDF-SHA256 of `key` with the label behind "ifadenv/v1/"."""
    return HKDF(hashes.SHA256(), SIZE, salt, LABEL + label).derive(key)


@dataclass(frozen=True, slots=True)
class Slot:
    """A record's key, wrapped to one holder: what stands in a sidecar."""

    type: int
    body: bytes


class Wrapper(Protocol):
    """Something that a record's key can be wrapped to."""

    def wrap(self, record_key: bytes, core: bytes) -> Slot:
        """Return the slot for a record whose core has the SHA-256 `core`."""


class Opener(Protocol):
    """Something that a record's key can be unwrapped with."""

    def unwrap(self, slot: Slot, core: bytes) -> bytes | None:
        """Return the record's key, or None if this slot is not for us."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Argon2id's parameters. The default is the second choice of RFC 9106, section 4."""

    passes: int = 3
    memory_kib: int = 64 << 10
    lanes: int = 4

    def sound(self) -> bool:
        """Whether we are ready to compute it: 19 MiB to 4 GiB, and no more than 16 passes and lanes."""
        return (
            19 << 10 <= self.memory_kib <= 4 << 20
            and 1 <= self.passes <= 16
            and 1 <= self.lanes <= 16
            and (self.passes >= 2 or self.memory_kib >= 1 << 20)
        )


@dataclass(frozen=True, slots=True)
class KeyFile:
    """32 secret bytes, as they lie in a key file."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SIZE:
            raise KeyRejected(f"a key has {SIZE} bytes", hint="make one: moretta key new FILE")

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits to tell keys apart by; they do not give the key away."""
        return derived(self.secret, b"", b"fingerprint")[:8].hex()

    @property
    def pseudonyms(self) -> bytes:
        """The master key of pseudonyms; it opens nothing."""
        return derived(self.secret, b"", b"pseudonyms")

    def wrap(self, record_key: bytes, core: bytes) -> Slot:
        """Return a slot of type 2."""
        return self.wrap_with(
            record_key, core, secrets.token_bytes(16), secrets.token_bytes(_NONCE)
        )

    def wrap_with(self, record_key: bytes, core: bytes, salt: bytes, nonce: bytes) -> Slot:
        """Do the same with the salt (16 bytes) and nonce (12) given, once each: for test vectors."""
        bound = _bound(KEY_FILE, core, salt + nonce)
        sealed = self._cipher(salt).encrypt(nonce, record_key, bound)
        return Slot(KEY_FILE, salt + nonce + sealed)

    def unwrap(self, slot: Slot, core: bytes) -> bytes | None:
        """Return the record's key, or None."""
        if slot.type != KEY_FILE:
            return None
        salt, nonce, sealed = slot.body[:16], slot.body[16:28], slot.body[28:]
        return _tried(self._cipher(salt), nonce, sealed, _bound(KEY_FILE, core, salt + nonce))

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(derived(self.secret, salt, b"slot/keyfile"))


class Passphrase:
    """Words that a person knows. What Argon2id makes of them is kept, so a run pays for it once."""

    __slots__ = ("_cost", "_known", "_salt", "_words")

    def __init__(self, words: str, cost: Cost | None = None) -> None:
        self._words = unicodedata.normalize("NFKC", words).encode("utf-8", "surrogatepass")
        if not self._words:
            raise KeyRejected("the passphrase is empty", hint="moretta key phrase makes a good one")
        self._cost = cost or Cost()
        self._salt = secrets.token_bytes(16)  # one for all slots of this object
        self._known: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return "Passphrase()"

    def prepare(self) -> None:
        """Do the slow part now, before the object is handed to worker processes."""
        self._stretched(_PARAMETERS.pack(self._salt, *self._numbers()))

    def wrap(self, record_key: bytes, core: bytes) -> Slot:
        """Return a slot of type 1."""
        parameters = _PARAMETERS.pack(self._salt, *self._numbers())
        nonce = secrets.token_bytes(_NONCE)
        bound = _bound(PASSPHRASE, core, parameters + nonce)
        sealed = self._cipher(parameters).encrypt(nonce, record_key, bound)
        return Slot(PASSPHRASE, parameters + nonce + sealed)

    def unwrap(self, slot: Slot, core: bytes) -> bytes | None:
        """Return the record's key, or None. Costs what the slot asks for, within `Cost.sound`."""
        if slot.type != PASSPHRASE or not cost_of(slot).sound():
            return None
        size = _PARAMETERS.size
        parameters, nonce = slot.body[:size], slot.body[size : size + _NONCE]
        bound = _bound(PASSPHRASE, core, parameters + nonce)
        return _tried(self._cipher(parameters), nonce, slot.body[size + _NONCE :], bound)

    def _numbers(self) -> tuple[int, int, int]:
        return self._cost.passes, self._cost.memory_kib, self._cost.lanes

    def _cipher(self, parameters: bytes) -> AESGCM:
        salt = parameters[:16]
        return AESGCM(derived(self._stretched(parameters), salt, b"slot/passphrase"))

    def _stretched(self, parameters: bytes) -> bytes:
        if parameters not in self._known:
            salt, passes, memory, lanes = _PARAMETERS.unpack(parameters)
            argon = Argon2id(
                salt=salt, length=SIZE, iterations=passes, lanes=lanes, memory_cost=memory
            )
            self._known[parameters] = argon.derive(self._words)
        return self._known[parameters]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A recipient's X25519 key: it can seal and not open."""

    raw: bytes  # 32 bytes

    @property
    def kid(self) -> bytes:
        """8 bytes that name the key in a slot."""
        return hashlib.sha256(LABEL + b"kid" + self.raw).digest()[:8]

    @property
    def fingerprint(self) -> str:
        """The same as hex digits."""
        return self.kid.hex()

    def usable(self) -> bool:
        """Whether it is no point of low order, under which everybody could open."""
        try:
            self.wrap(bytes(SIZE), bytes(SIZE))
        except ValueError:
            return False
        return True

    def wrap(self, record_key: bytes, core: bytes) -> Slot:
        """Return a slot of type 3: HPKE in base mode."""
        key = X25519PublicKey.from_public_bytes(self.raw)
        return Slot(RECIPIENT, self.kid + _HPKE.encrypt(record_key, key, _bound(RECIPIENT, core)))


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """The half of a recipient's key that opens."""

    secret: bytes = field(repr=False)  # 32 bytes

    @property
    def public(self) -> PublicKey:
        """The half that seals."""
        key = X25519PrivateKey.from_private_bytes(self.secret).public_key()
        return PublicKey(key.public_bytes_raw())

    @property
    def fingerprint(self) -> str:
        """That of the public half."""
        return self.public.fingerprint

    def wrap(self, record_key: bytes, core: bytes) -> Slot:
        """Return a slot for the public half."""
        return self.public.wrap(record_key, core)

    def unwrap(self, slot: Slot, core: bytes) -> bytes | None:
        """Return the record's key, or None."""
        if slot.type != RECIPIENT or slot.body[:8] != self.public.kid:
            return None
        key = X25519PrivateKey.from_private_bytes(self.secret)
        try:
            opened = _HPKE.decrypt(slot.body[8:], key, _bound(RECIPIENT, core))
        except (InvalidTag, ValueError):
            return None
        return bytes(opened) if len(opened) == SIZE else None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key that signs the heads of an access log."""

    secret: bytes = field(repr=False)  # 32 bytes

    @property
    def public(self) -> VerifyingKey:
        """The half that checks."""
        key = Ed25519PrivateKey.from_private_bytes(self.secret).public_key()
        return VerifyingKey(key.public_bytes_raw())

    @property
    def fingerprint(self) -> str:
        """That of the public half."""
        return self.public.fingerprint


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """The half of a signing key that everybody may have."""

    raw: bytes  # 32 bytes

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits to tell keys apart by."""
        return hashlib.sha256(LABEL + b"kid" + self.raw).hexdigest()[:16]


AnyKey = KeyFile | PublicKey | PrivateKey | SigningKey | VerifyingKey
Kind = Literal["file", "recipient", "signing"]


def new(kind: Kind = "file") -> KeyFile | PrivateKey | SigningKey:
    """Return a fresh key: symmetric, a recipient's, or one that signs logs."""
    secret = secrets.token_bytes(SIZE)
    if kind == "file":
        return KeyFile(secret)
    return PrivateKey(secret) if kind == "recipient" else SigningKey(secret)


def to_bytes(key: AnyKey) -> bytes:
    """Return what lies in the key's file: 32 bytes, or PEM (PKCS #8, SubjectPublicKeyInfo)."""
    if isinstance(key, KeyFile):
        return key.secret
    pem = serialization.Encoding.PEM
    if isinstance(key, PublicKey):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return X25519PublicKey.from_public_bytes(key.raw).public_bytes(pem, form)
    if isinstance(key, VerifyingKey):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return Ed25519PublicKey.from_public_bytes(key.raw).public_bytes(pem, form)
    private = X25519PrivateKey if isinstance(key, PrivateKey) else Ed25519PrivateKey
    loaded = private.from_private_bytes(key.secret)
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return loaded.private_bytes(pem, pkcs8, plain)


def from_bytes(content: bytes) -> AnyKey:
    """Return the key in a file's bytes. Raises KeyRejected for anything but exactly one key."""
    if len(content) == SIZE:
        return KeyFile(content)
    if not content.startswith(b"-----BEGIN "):
        raise KeyRejected(
            f"it holds {count_of(len(content), 'byte')}; a key file holds exactly {SIZE}, or PEM",
            hint="make one: moretta key new FILE",
        )
    try:
        if b" PRIVATE KEY-----" in content:
            private = serialization.load_pem_private_key(content, None)
            if isinstance(private, X25519PrivateKey):
                return PrivateKey(private.private_bytes_raw())
            if isinstance(private, Ed25519PrivateKey):
                return SigningKey(private.private_bytes_raw())
        else:
            public = serialization.load_pem_public_key(content)
            if isinstance(public, X25519PublicKey):
                return PublicKey(public.public_bytes_raw())
            if isinstance(public, Ed25519PublicKey):
                return VerifyingKey(public.public_bytes_raw())
    except (ValueError, TypeError):
        raise KeyRejected(
            "its PEM cannot be read", hint="an unencrypted X25519 or Ed25519 key is needed"
        ) from None
    raise KeyRejected("its PEM is another kind of key", hint="X25519 or Ed25519 is needed")


def cost_of(slot: Slot) -> Cost:
    """Return what a passphrase's slot asks Argon2id to do."""
    _, passes, memory, lanes = _PARAMETERS.unpack(slot.body[: _PARAMETERS.size])
    return Cost(passes, memory, lanes)


def trace(key: bytes, salt: bytes) -> str:
    """Return sixteen hex digits that tell, under this salt, another key from this one, and no more.

    key: 32 bytes, secret or public. A secret one cannot be found by it, and under two salts nobody who
    lacks the key sees that it is the same; a public key can be tried by whoever has it.
    """
    return derived(key, salt, b"trace")[:8].hex()


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Where the secrets of one record's faces come from.

    scope: "record", every face of every record its own and unlinkable; "subject", one for each person
    that `subject` names, linkable by design; "collection", one for all.
    """

    scope: Literal["record", "subject", "collection"]
    salt: bytes  # of the record, 32 bytes, public
    seed: bytes = field(repr=False)  # of the record
    master: bytes = field(default=b"", repr=False)  # KeyFile.pseudonyms, for the other scopes

    def of(self, face: int, subject: int | None = None) -> bytes:
        """Return the 32 secret bytes of the record's face number `face`, from 0.

        A face of nobody in particular has a secret of its own in scope "subject" too.
        """
        if self.scope == "collection":
            return derived(self.master, b"", b"collection")
        if self.scope == "subject" and subject is not None:
            return derived(self.master, b"", b"subject|" + str(subject).encode())
        return derived(self.seed, self.salt, b"face" + face.to_bytes(2, "big"))


def record_seed(record_key: bytes, salt: bytes) -> bytes:
    """Return the seed of a sealed record's pseudonyms: it dies with the record's key."""
    return derived(record_key, salt, b"rot")


def seed_without_envelope(master: bytes, salt: bytes) -> bytes:
    """Return the seed of a record that has no sidecar: the key and the public salt give it again."""
    return derived(master, salt, b"record")


def split(key: KeyFile | PrivateKey, need: int, of: int) -> list[str]:
    """Return `of` SLIP-39 shares of 33 words, any `need` of which give the key back.

    Raises KeyRejected for numbers that SLIP-39 does not know, and without the extra `escrow`.
    """
    if not 1 <= need <= of <= 16 or (need == 1 and of > 1):
        raise KeyRejected(
            f"{need} of {of} is no way to split a key", hint="such as --need 3 --of 5; at most 16"
        )
    (shares,) = _slip39().generate_mnemonics(1, [(need, of)], key.secret)
    return list(shares)


def combine(shares: Sequence[str]) -> bytes:
    """Return the 32 bytes that were split; of more shares than are needed, the first are used.

    Raises KeyRejected when shares are wrong or too few.
    """
    library = _slip39()
    try:
        texts = [" ".join(share.split()) for share in shares]
        secret = bytes(library.combine_mnemonics(_enough(library, texts)))
    except library.MnemonicError as fault:
        reason = str(fault).split(".")[0]
        if "mnemonic word" in reason:  # it would print a word of a share
            reason = "a word is not of SLIP-39's list"
        raise KeyRejected(
            f"the shares do not fit together: {reason}", hint="each share is 33 words, once"
        ) from None
    if len(secret) != SIZE:
        raise KeyRejected("the shares hold something else than a key", hint="check them")
    return secret


def _enough(library: Any, texts: Sequence[str]) -> list[str]:
    """Return exactly as many different shares as are needed: SLIP-39 is not defined for more.

    All of them have to be of one splitting. The secret carries a digest, so any subset gives it or nothing.
    """
    found = list(dict.fromkeys(library.Share.from_mnemonic(text) for text in texts))
    if not found or found[0].group_threshold > 1:  # of no splitting of ours: the library's to say
        return list(texts)
    sets = len({share.group_parameters() for share in found})
    if sets > 1:
        raise KeyRejected(
            f"the shares do not fit together: they are of {sets} splittings",
            hint="the shares of one splitting begin with the same three words",
        )
    need, given = found[0].member_threshold, len(found)
    if given < need:
        raise KeyRejected(
            f"{count_of(given, 'different share')} given, of {need} that are needed",
            hint="each share is 33 words and counts once",
        )
    return [share.mnemonic() for share in found[:need]]


def _slip39() -> Any:
    try:
        import shamir_mnemonic
    except ImportError:
        raise KeyRejected(
            "splitting keys needs shamir-mnemonic", hint='pip install "moretta[escrow]"'
        ) from None
    return shamir_mnemonic


def _bound(kind: int, core: bytes, parameters: bytes = b"") -> bytes:
    """Return what a slot is bound to, so that it fits one record and one set of parameters."""
    return LABEL + b"slot" + bytes([kind]) + core + parameters


def _tried(cipher: AESGCM, nonce: bytes, sealed: bytes, bound: bytes) -> bytes | None:
    try:
        return cipher.decrypt(nonce, sealed, bound)
    except InvalidTag:
        return None
