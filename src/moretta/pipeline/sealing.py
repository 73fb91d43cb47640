"""One photo's sidecar, and where the secrets of its faces come from.

Promise   a sidecar stands only after it was opened again and gave the original's very bytes, with the
          record's own key and with every key of the run that can open.
Not here  the format (privacy/envelope.py), key files (custody.py), the way back (recover.py).
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import cv2
import PIL

from moretta import __version__
from moretta.errors import CannotOpen, PhotoError, UsageError
from moretta.methods import method
from moretta.photos.files import whole_file
from moretta.photos.fingerprint import dhash, exact_samples, lossless
from moretta.photos.manifest import SIDECAR
from moretta.pipeline.custody import KeyTable, now
from moretta.privacy import envelope, keys
from moretta.privacy.envelope import FILE, PIXELS, Record
from moretta.privacy.keys import Pseudonyms
from moretta.weights import load

if TYPE_CHECKING:
    from moretta.pipeline.custody import Keyring
    from moretta.pipeline.options import Options
    from moretta.records import FaceRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What one photo is sealed with, drawn before its faces are."""

    record: Record
    row: bytes | None = field(default=None, repr=False)  # of the key table
    pseudonyms: Pseudonyms | None = None

    @property
    def public(self) -> dict[str, str]:
        """What the manifest says of pseudonyms: the scope and the record's salt."""
        if self.pseudonyms is None:
            return {}
        return {"scope": self.pseudonyms.scope, "salt": self.record.salt.hex()}


def check(options: Options, keyring: Keyring | None) -> None:
    """Raise UsageError when a key is missing, or given and of no use."""
    chosen = method(options.method)
    ring = keyring is not None and bool(keyring.wrappers)
    if options.reversible and not ring:
        raise UsageError(
            "--reversible needs something to seal with",
            hint="--key FILE, --to PUBLIC.pem or --passphrase prompt; moretta key new makes a key",
        )
    if keyring is not None and keyring.given and not options.reversible and not chosen.keyed:
        names = " and ".join(keyring.given)
        are, them = ("is", "it") if len(keyring.given) == 1 else ("are", "them")
        raise UsageError(
            f"{names} {are} given, and {chosen.name} without --reversible has no use for {them}",
            hint=f"add --reversible, or leave {them} out",
        )
    for_sidecars = [one for one in keyring.given if one != "--key"] if keyring is not None else []
    if for_sidecars and not options.reversible:
        raise UsageError(
            f"without --reversible there is no sidecar for {' and '.join(for_sidecars)}",
            hint=f"add --reversible, or leave that out: {chosen.name} draws from --key alone",
        )
    needs_master = chosen.keyed and (options.scope != "record" or not options.reversible)
    if needs_master and not (keyring and keyring.master):
        raise UsageError(
            f"{chosen.name} draws pseudonyms from a key, and no --key is given",
            hint="moretta key new FILE makes one, --key FILE gives it; in Python keyring=FILE",
        )


def check_places(
    keyring: Keyring | None, folder: Path, options: Options, boxes: Path | None
) -> None:
    """Raise UsageError when a secret lies in the output folder, or in it by a link of that name.

    Secret are keys, the names of people (`--persons`) and those of the inputs (`--boxes`).
    """
    secret: dict[str, Path] = {}
    if keyring is not None:
        secret.update(keyring.files)
        if keyring.table is not None:
            secret["--key-table"] = keyring.table
    if options.persons not in (None, "folders", "group"):
        secret["--persons"] = Path(str(options.persons))
    if boxes is not None:
        secret["--boxes"] = boxes
    place = folder.resolve()
    for option, path in secret.items():
        ways = (path.resolve(), path.parent.resolve() / path.name)
        if any(place in way.parents for way in ways):
            raise UsageError(
                f"{option} {path} lies in the output folder",
                hint="who gets the photos must not get it with them: keep it elsewhere",
            )


def begin(options: Options, keyring: Keyring | None) -> Begun | None:
    """Draw a record for one photo, or None when the run has no use for one."""
    keyed = method(options.method).keyed
    if keyring is None or not (options.reversible or keyed):
        return None
    record = Record.fresh()
    row = secrets.token_bytes(keys.SIZE) if keyring.table is not None else None
    if not keyed:
        return Begun(record=record, row=row)
    if options.reversible:
        key = record.key if row is None else envelope.combined(record.key, row, record.salt)
        seed = keys.record_seed(key, record.salt)
    else:
        seed = keys.seed_without_envelope(keyring.master, record.salt)
    made = Pseudonyms(options.scope, record.salt, seed, keyring.master)
    return Begun(record=record, row=row, pseudonyms=made)


def model_digest(method_name: str, settings: Mapping[str, Any]) -> bytes:
    """Return SHA-256 of what drew a photo: the method, its settings and its networks' files."""
    catalogue, chosen = load.catalogue(), method(method_name)
    names = (*chosen.networks, *chosen.settings(**settings).networks)
    networks = sorted((one.name, one.bytes, one.sha256) for one in (catalogue[n] for n in names))
    text = {"method": method_name, "settings": dict(settings), "networks": networks}
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).digest()


def sidecar_of(target: Path) -> Path:
    """Return where the sidecar of a protected photo lies."""
    return target.with_name(target.name + SIDECAR)


def binding(content: bytes) -> tuple[int, bytes]:
    """Return how a sidecar is bound to a protected photo with these bytes: kind and hash."""
    if lossless(content):
        return PIXELS, bound_hash(content, PIXELS) or b""
    return FILE, hashlib.sha256(content).digest()


def bound_hash(content: bytes, kind: int) -> bytes | None:
    """Return the hash of a kind; None when the bytes have none of it."""
    if kind == FILE:
        return hashlib.sha256(content).digest()
    samples = exact_samples(content)
    if samples is None:
        return None
    height, width, channels = samples.shape
    return envelope.pixel_hash(width, height, channels, samples.tobytes())


def seal_photo(
    target: Path,
    content: bytes,
    source: Path,
    *,
    digest: str,
    name: str,
    begun: Begun,
    keyring: Keyring,
    model: bytes,
    faces: Sequence[FaceRecord] = (),
    subjects: Sequence[int | None] = (),
    mtime: float | None = None,
) -> tuple[str, int, str]:
    """Write the sidecar of `target`, which will hold `content`; return its SHA-256, size and core's.

    source: the original; digest: its SHA-256 as hex digits when it was decoded. name: to be given to
    it when it comes back, with "/" between folders. Raises PhotoError; nothing then remains.
    """
    if begun.row is not None and keyring.table is not None:
        KeyTable(keyring.table).add(begun.record.id, begun.row)
    kind, bound = binding(content)
    copy = dhash(content)
    scope = begun.pseudonyms.scope if begun.pseudonyms else "none"
    manifest = {
        "len": source.stat().st_size,
        "sha256": digest,
        "name": name,
        "type": mimetypes.guess_type(name)[0] or "application/octet-stream",
        "created": now(),
        "scope": scope,
        "faces": _faces(faces, subjects if scope == "subject" else ()),
        "dhash": None if copy is None else f"{copy:016x}",
        "software": f"moretta {__version__}",
        "libraries": {"pillow": PIL.__version__, "opencv": cv2.__version__},
    }
    try:
        with (
            source.open("rb") as payload,
            whole_file(sidecar_of(target), mtime=mtime, durable=False) as out,
        ):
            header = envelope.seal(
                out,
                payload,
                record=begun.record,
                manifest=manifest,
                wrappers=keyring.wrappers,
                bind=bound,
                bind_kind=kind,
                model_digest=model,
                table_key=begun.row,
            )
            size = out.tell()
            payload.seek(0)
            _open_again(out, size, payload, begun, keyring)
            out.seek(0)
            written = hashlib.file_digest(out, "sha256").hexdigest()
    except ValueError as fault:
        raise PhotoError(f"its sidecar cannot be made: {fault}", hint="leave it alone") from None
    return written, size, header.digest.hex()


def _open_again(
    out: IO[bytes], size: int, payload: IO[bytes], begun: Begun, keyring: Keyring
) -> None:
    out.seek(0)
    header = envelope.read_header(out, size)
    try:
        unlocked = envelope.unlock(header, [_Held(begun.record.key)], begun.row)
        for one in keyring.openers:
            envelope.unlock(header, [one], begun.row)
        same = _Same(payload)
        envelope.open_body(out, unlocked, cast("IO[bytes]", same))
        if not same.whole():
            raise ValueError("it does not give the original back")
    except CannotOpen:
        raise ValueError("it does not open again") from None


class _Held:
    """Opens by the record's key itself, as we may while we seal."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def unwrap(self, slot: keys.Slot, core: bytes) -> bytes | None:  # noqa: ARG002
        return self._key


class _Same:
    """Takes bytes and compares them with a stream."""

    def __init__(self, wanted: IO[bytes]) -> None:
        self._wanted = wanted
        self._good = True

    def write(self, piece: bytes) -> int:
        self._good &= self._wanted.read(len(piece)) == piece
        return len(piece)

    def whole(self) -> bool:
        return self._good and not self._wanted.read(1)


def _faces(faces: Sequence[FaceRecord], subjects: Sequence[int | None]) -> list[dict[str, Any]]:
    """Return what is needed to find each face and its secret again; the place is its number."""
    whole = [*subjects, *[None] * (len(faces) - len(subjects))]
    return [
        {
            "box": list(face.box),
            "points": [list(point) for point in face.points],
            "method": face.method,
            "settings": dict(face.settings),
            "subject": who,
        }
        for face, who in zip(faces, whole, strict=True)
    ]
