"""The sidecar "IFADENV1": an original sealed beside its protected picture. Streams of bytes only.

Promise   it opens to the very bytes that were sealed, or not at all; under one record key only; and
          it says which picture it belongs to. Memory does not grow with the payload.
Assumes   what `open_body` has written is kept from everybody until it returns.
Not here  files, the picture's decoding, the access log (pipeline/recover.py).
Format    docs/envelope.md, with a vector that tests/privacy/test_envelope.py makes again.
Sources   RFC 5116 (AEAD), Albertini et al. 2022 (key commitment), Nikitin et al. 2019 (Padmé).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from moretta.errors import CannotOpen, NotAnEnvelope
from moretta.privacy.keys import BODIES, PASSPHRASE, SIZE, Slot, cost_of, derived

if TYPE_CHECKING:
    from moretta.privacy.keys import Opener, Wrapper

MAGIC = b"IFADENV1"
VERSION = 1
CIPHERS: dict[int, type[AESGCM | ChaCha20Poly1305]] = {1: AESGCM, 2: ChaCha20Poly1305}
WHOLE_FILE, CROPS = 1, 2  # payload types
PADDED, SHREDDABLE = 1, 2  # flags
PIXELS, FILE = 0, 1  # kinds of binding
TAG = 16
CHUNK_LOG2 = range(12, 21)
FLOOR = 64 << 10  # least length of a padded plaintext
MANIFEST_LIMIT = 1 << 20  # bytes of a manifest
SLOTS_LIMIT = 65_536
_CORE = struct.Struct(">8sBBBBBB2s16s32s32s32s32sQ24s")
_SLOTS = struct.Struct(">HHI")
_SLOT = struct.Struct(">BBH")
_MAC = 32


@dataclass(frozen=True, slots=True)
class Record:
    """One record's own key, salt and number: drawn afresh, used once, never given by a caller."""

    key: bytes = field(repr=False)
    salt: bytes
    id: bytes

    @classmethod
    def fresh(cls) -> Record:
        """Draw a record from the operating system's generator."""
        return cls(secrets.token_bytes(SIZE), secrets.token_bytes(SIZE), secrets.token_bytes(16))


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The 192 bytes that never change while a body lives."""

    record_id: bytes
    record_salt: bytes
    commitment: bytes
    bind: bytes
    model_digest: bytes
    padded_len: int
    bind_kind: int = PIXELS
    suite: int = 1
    payload_type: int = WHOLE_FILE
    flags: int = PADDED
    chunk_log2: int = 16

    def pack(self) -> bytes:
        """Return the bytes."""
        return _CORE.pack(
            MAGIC,
            VERSION,
            self.suite,
            self.payload_type,
            self.flags,
            self.bind_kind,
            self.chunk_log2,
            bytes(2),
            self.record_id,
            self.record_salt,
            self.commitment,
            self.bind,
            self.model_digest,
            self.padded_len,
            bytes(24),
        )

    @property
    def chunks(self) -> int:
        """How many chunks the body has."""
        return -(-self.padded_len >> self.chunk_log2)

    @property
    def shreddable(self) -> bool:
        """Whether a row of a key table is needed besides a key."""
        return bool(self.flags & SHREDDABLE)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the body: core, slots, and their MAC."""

    core: Core
    slots: tuple[Slot, ...]
    mac: bytes

    def signed(self) -> bytes:
        """Return the bytes that the MAC covers."""
        return self.core.pack() + _packed(self.slots)

    @property
    def size(self) -> int:
        """Where the body begins."""
        return len(self.signed()) + _MAC

    @property
    def digest(self) -> bytes:
        """SHA-256 of the core, which slots and chunks are bound to."""
        return hashlib.sha256(self.core.pack()).digest()


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A record's keys, found and checked against the header."""

    header: Header
    slot_key: bytes = field(
        repr=False
    )  # what slots wrap; without a key table it is the record's key
    key: bytes = field(repr=False)
    opened: int  # place of the slot that opened


def padme(length: int) -> int:
    """Return the padded length: it tells no more than about the length's leading bits.

    >>> padme(100_000), padme(1_000_000), padme(5_000_000), padme(1)
    (100352, 1015808, 5111808, 65536)
    """
    length = max(length, FLOOR)
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def pixel_hash(width: int, height: int, channels: int, samples: bytes | memoryview) -> bytes:
    """Return the canonical hash of a picture's 8-bit samples, row by row.

    No colour management and no turning: what a lossless file holds, however it is compressed.
    """
    head = b"IFPX1" + struct.pack(">IIBB", width, height, channels, 8)
    digest = hashlib.sha256(head)
    digest.update(samples)
    return digest.digest()


def combined(slot_key: bytes, table_key: bytes, salt: bytes) -> bytes:
    """Return the key of a shreddable record: without its row of the key table nothing opens it."""
    return derived(slot_key + table_key, salt, b"combine")


def seal(
    out: IO[bytes],
    payload: IO[bytes],
    *,
    record: Record,
    manifest: Mapping[str, Any],
    wrappers: Sequence[Wrapper] | Callable[[bytes], Sequence[Slot]],
    bind: bytes,
    bind_kind: int,
    model_digest: bytes,
    table_key: bytes | None = None,
    suite: int = 1,
    chunk_log2: int = 16,
) -> Header:
    """Write an envelope of the `manifest["len"]` bytes of `payload`.

    record: drawn by `Record.fresh`, for this envelope alone. manifest: JSON types; its "len" and
    "sha256" speak of the payload. table_key: the row of a key table, for a shreddable record.
    Raises ValueError when the payload is empty or is not what the manifest says: nothing that was
    written may then be kept.
    """
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    length = int(manifest["len"])
    if length < 1 or len(text) > MANIFEST_LIMIT:
        raise ValueError("an empty payload, or too long a manifest, cannot be sealed")
    key = record.key if table_key is None else combined(record.key, table_key, record.salt)
    core = Core(
        record_id=record.id,
        record_salt=record.salt,
        commitment=derived(key, record.salt, b"commit"),
        bind=bind,
        model_digest=model_digest,
        padded_len=padme(4 + len(text) + length),
        bind_kind=bind_kind,
        suite=suite,
        flags=PADDED | (SHREDDABLE if table_key is not None else 0),
        chunk_log2=chunk_log2,
    )
    digest = hashlib.sha256(core.pack()).digest()
    if callable(wrappers):
        slots = tuple(wrappers(digest))
    else:
        slots = tuple(one.wrap(record.key, digest) for one in wrappers)
    header = _signed(core, slots, key)
    out.write(header.signed() + header.mac)
    said = hashlib.sha256()
    pieces = _plaintext(text, payload, length, core.padded_len, said)
    cipher = CIPHERS[suite](derived(key, record.salt, b"body"))
    for i, piece in enumerate(_cut(pieces, 1 << chunk_log2)):
        nonce, bound = _place(i, core, digest)
        out.write(cipher.encrypt(nonce, piece, bound))
    if said.hexdigest() != manifest["sha256"]:
        raise ValueError("the payload changed while it was being sealed")
    return header


def read_header(stream: IO[bytes], size: int) -> Header:
    """Return the header, strictly parsed. stream: at its start; size: of the whole, in bytes.

    Raises NotAnEnvelope for anything that this version does not write.
    """
    raw = stream.read(_CORE.size)
    if not raw.startswith(MAGIC):
        raise NotAnEnvelope("it is no sidecar of ours", hint="sidecars begin with IFADENV1")
    if len(raw) < _CORE.size:
        raise _damaged("its header is cut off")
    core = _core(raw)
    counts = stream.read(_SLOTS.size)
    if len(counts) < _SLOTS.size:
        raise _damaged("its header is cut off")
    number, zero, length = _SLOTS.unpack(counts)
    if zero or not 1 <= number <= 32 or length > SLOTS_LIMIT:
        raise _damaged("its list of slots is not well formed")
    slots = _slots(stream.read(length), number, length)
    mac = stream.read(_MAC)
    header = Header(core, slots, mac)
    if size != header.size + core.padded_len + TAG * core.chunks:
        raise _damaged("it is cut off, or something was added to it")
    return header


def unlock(header: Header, keys: Sequence[Opener], table_key: bytes | None = None) -> Unlocked:
    """Return the record's keys. Raises CannotOpen: wrong key, altered header, all the same.

    table_key: the record's row of the key table, if it is shreddable.
    """
    core, digest = header.core, header.digest
    if core.shreddable and table_key is None:
        raise CannotOpen(
            "its row in the key table is not there: the keys were erased, or --key-table is missing"
        )
    candidates = []
    for key in keys:
        for place, slot in enumerate(header.slots):
            found = key.unwrap(slot, digest)
            if found is not None:
                candidates.append((found, place))
    nobody = [(secrets.token_bytes(SIZE), -1)]  # so that every refusal takes the same steps
    for slot_key, place in candidates or nobody:
        key_ = slot_key
        if table_key is not None and core.shreddable:
            key_ = combined(slot_key, table_key, core.record_salt)
        committed = derived(key_, core.record_salt, b"commit")
        good = hmac.compare_digest(committed, core.commitment)
        good &= hmac.compare_digest(_mac(header.signed(), key_, core), header.mac)
        if good and place >= 0:
            return Unlocked(header, slot_key, key_, place)
    raise cannot_open()


def open_body(stream: IO[bytes], unlocked: Unlocked, out: IO[bytes]) -> dict[str, Any]:
    """Decrypt the body into `out` and return the manifest.

    stream: the envelope, anywhere. Raises CannotOpen for every fault; what `out` holds is then not
    the original and has to be destroyed.
    """
    header = unlocked.header
    core, digest = header.core, header.digest
    stream.seek(header.size)
    cipher = CIPHERS[core.suite](derived(unlocked.key, core.record_salt, b"body"))
    sink = _Sink(out, core.padded_len)
    left = core.padded_len
    for i in range(core.chunks):
        size = min(left, 1 << core.chunk_log2)
        nonce, bound = _place(i, core, digest)
        try:
            sink.take(cipher.decrypt(nonce, stream.read(size + TAG), bound))
        except InvalidTag:
            raise cannot_open() from None
        left -= size
    return sink.finished()


def rewrap(
    stream: IO[bytes],
    out: IO[bytes],
    unlocked: Unlocked,
    wrappers: Sequence[Wrapper],
    *,
    keep: Callable[[int], bool],
) -> Header:
    """Write the envelope with other slots; the body is copied as it is.

    keep: by the place of each old slot, whether it stays. Raises ValueError when no slot is left.
    """
    old = unlocked.header
    kept = [slot for place, slot in enumerate(old.slots) if keep(place)]
    slots = (*kept, *(one.wrap(unlocked.slot_key, old.digest) for one in wrappers))
    if not 1 <= len(slots) <= 32:
        raise ValueError(f"{len(slots)} slots; an envelope has 1 to 32")
    header = _signed(old.core, slots, unlocked.key)
    out.write(header.signed() + header.mac)
    stream.seek(old.size)
    while block := stream.read(1 << 20):
        out.write(block)
    return header


def cannot_open() -> CannotOpen:
    """Return the one error for every cryptographic failure."""
    return CannotOpen(
        "it does not open: the key is another one, or the sidecar was altered",
        hint="moretta key show SIDECAR and moretta key show KEY say whether they belong together",
    )


class _Sink:
    """Takes the plaintext piece by piece: manifest, payload, zeros."""

    def __init__(self, out: IO[bytes], padded: int) -> None:
        self._out = out
        self._padded = padded
        self._head = bytearray()
        self._manifest: dict[str, Any] | None = None
        self._left = 0
        self._digest = hashlib.sha256()
        self._zero = True

    def take(self, piece: bytes) -> None:
        if self._manifest is None:
            self._head += piece
            piece = self._begin()
        if self._manifest is None:
            return
        part = piece[: self._left]
        self._out.write(part)
        self._digest.update(part)
        self._left -= len(part)
        self._zero &= not any(piece[len(part) :])

    def finished(self) -> dict[str, Any]:
        said = (self._manifest or {}).get("sha256")
        whole = isinstance(said, str) and hmac.compare_digest(said, self._digest.hexdigest())
        if self._manifest is None or self._left or not self._zero or not whole:
            raise cannot_open()
        return self._manifest

    def _begin(self) -> bytes:
        """Read the manifest once it is there whole; return what follows it."""
        if len(self._head) < 4:
            return b""
        end = 4 + int.from_bytes(self._head[:4], "big")
        if end > 4 + MANIFEST_LIMIT:
            raise cannot_open()
        if len(self._head) < end:
            return b""
        try:
            manifest = json.loads(self._head[4:end])
            length = manifest["len"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise cannot_open() from None
        fits = isinstance(length, int) and length > 0 and padme(end + length) == self._padded
        if not isinstance(manifest, dict) or not fits:
            raise cannot_open()
        self._manifest, self._left = manifest, length
        rest = bytes(self._head[end:])
        self._head.clear()
        return rest


def _core(raw: bytes) -> Core:
    (_, version, suite, kind, flags, bind_kind, chunk, zero, *rest) = _CORE.unpack(raw)
    record_id, salt, commitment, bind, model, padded, reserved = rest
    if version != VERSION:
        age = "a newer" if version > VERSION else "no"
        raise NotAnEnvelope(
            f"it is of {age} version of the format ({version}; this one knows {VERSION})",
            hint="update moretta" if version > VERSION else "was it altered?",
        )
    if suite not in CIPHERS or kind not in (WHOLE_FILE, CROPS) or bind_kind not in (PIXELS, FILE):
        raise _damaged("it uses a cipher, payload or binding that this version does not know")
    if not flags & PADDED or flags & ~(PADDED | SHREDDABLE) or any(zero) or any(reserved):
        raise _damaged("it sets flags that this version does not know")
    if chunk not in CHUNK_LOG2 or padded >= 1 << 63 or padme(padded) != padded:
        raise _damaged("its lengths are not well formed")
    return Core(
        record_id=record_id,
        record_salt=salt,
        commitment=commitment,
        bind=bind,
        model_digest=model,
        padded_len=padded,
        bind_kind=bind_kind,
        suite=suite,
        payload_type=kind,
        flags=flags,
        chunk_log2=chunk,
    )


def _slots(raw: bytes, number: int, length: int) -> tuple[Slot, ...]:
    if len(raw) < length:
        raise _damaged("its header is cut off")
    slots, at = [], 0
    for _ in range(number):
        if at + _SLOT.size > length:
            raise _damaged("its list of slots is not well formed")
        kind, zero, size = _SLOT.unpack_from(raw, at)
        at += _SLOT.size
        body = raw[at : at + size]
        at += size
        if zero or not kind or at > length or len(body) != BODIES.get(kind, size):
            raise _damaged("its list of slots is not well formed")
        slot = Slot(kind, body)
        if kind == PASSPHRASE and not cost_of(slot).sound():
            raise NotAnEnvelope(
                "it asks Argon2id for too much or too little work",
                hint="nothing was computed; the sidecar was made to harm, or altered",
            )
        slots.append(slot)
    if at != length:
        raise _damaged("its list of slots is not well formed")
    return tuple(slots)


def _packed(slots: Sequence[Slot]) -> bytes:
    raw = b"".join(_SLOT.pack(one.type, 0, len(one.body)) + one.body for one in slots)
    return _SLOTS.pack(len(slots), 0, len(raw)) + raw


def _signed(core: Core, slots: Sequence[Slot], key: bytes) -> Header:
    if not 1 <= len(slots) <= 32:
        raise ValueError(f"{len(slots)} slots; an envelope has 1 to 32")
    signed = core.pack() + _packed(slots)
    return Header(core, tuple(slots), _mac(signed, key, core))


def _mac(signed: bytes, key: bytes, core: Core) -> bytes:
    return hmac.digest(derived(key, core.record_salt, b"header"), signed, "sha256")


def _place(i: int, core: Core, digest: bytes) -> tuple[bytes, bytes]:
    """Return chunk i's nonce and what it is bound to."""
    last = bytes([i == core.chunks - 1])
    return i.to_bytes(11, "big") + last, digest + i.to_bytes(8, "big") + last


def _plaintext(
    manifest: bytes, payload: IO[bytes], length: int, padded: int, said: Any
) -> Iterator[bytes]:
    """Yield manifest, payload and zeros in pieces of any length; `said` hashes the payload."""
    yield len(manifest).to_bytes(4, "big") + manifest
    left = length
    while left:
        piece = payload.read(min(left, 1 << 20))
        if not piece:
            break
        said.update(piece)
        left -= len(piece)
        yield piece
    if left or payload.read(1):
        raise ValueError("the payload changed while it was being sealed")
    zeros = padded - 4 - len(manifest) - length
    while zeros:
        yield bytes(min(zeros, 1 << 20))
        zeros -= min(zeros, 1 << 20)


def _cut(pieces: Iterator[bytes], size: int) -> Iterator[memoryview]:
    """Yield the same bytes in pieces of `size`; the last one may be shorter."""
    rest = b""
    for piece in pieces:
        view = memoryview(rest + piece)
        whole = len(view) - len(view) % size
        for at in range(0, whole, size):
            yield view[at : at + size]
        rest = bytes(view[whole:])
    if rest:
        yield memoryview(rest)


def _damaged(what: str) -> NotAnEnvelope:
    return NotAnEnvelope(what, hint="it was altered or cut off; take an undamaged copy")
