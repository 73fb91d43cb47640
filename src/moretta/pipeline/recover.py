"""The way back: from protected photos and their sidecars to the originals, for the key holder alone.

The order of events for one sidecar:
1. parse it; write to the access log who wants it opened and why, and wait for the disk;
2. unlock it, decrypt into a file of mode 0600 under a name of ours, check every byte;
3. compare the picture it is bound to with the protected photo: BOUND, SOFT or UNBOUND;
4. only then give the file its name, and write the outcome to the log.

Not here  the format (privacy/envelope.py), keys and log (custody.py).
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from moretta.errors import (
    CannotOpen,
    MorettaError,
    NotAnEnvelope,
    PhotoError,
    UsageError,
    one_line,
)
from moretta.photos import PART
from moretta.photos.files import sha256_of, whole_file
from moretta.photos.fingerprint import dhash, near
from moretta.photos.manifest import SIDECAR, folder_for
from moretta.pipeline.custody import AccessLog, KeyTable
from moretta.pipeline.sealing import bound_hash, sidecar_of
from moretta.privacy import envelope
from moretta.privacy.keys import (
    KeyFile,
    Passphrase,
    PrivateKey,
    Pseudonyms,
    record_seed,
)

if TYPE_CHECKING:
    from moretta.photos.manifest import Beside
    from moretta.privacy.envelope import Core, Header, Unlocked
    from moretta.privacy.keys import Opener, Wrapper

Status = Literal["BOUND", "SOFT", "UNBOUND"]
Outcome = Literal["recovered", "kept", "drawn", "unbound", "closed", "failed"]
HELD = f"{PART}back-"  # names of originals that are being written begin so
PHOTO_LIMIT = 4 << 30  # bytes of a protected photo that is compared


@dataclass(frozen=True, slots=True)
class Sealed:
    """One sidecar to open, and where its protected photo should be."""

    sidecar: Path
    photo: Path
    name: str  # of the photo, relative, with "/"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one sidecar."""

    name: str
    outcome: Outcome
    reason: str
    status: Status | None = None
    original: str = ""  # name of the original below the output folder


@dataclass(slots=True)
class Recovery:
    """Counts that add up."""

    output: str
    sealed: int = 0
    recovered: int = 0
    kept: int = 0  # the very same file was there already
    drawn: int = 0  # an approximate likeness was written
    unbound: int = 0  # opened, but not bound to the picture: nothing was written
    closed: int = 0  # did not open
    failed: int = 0  # could not be read or written

    @property
    def exit_code(self) -> int:
        """0 all are there; 3 something did not open; 4 something was unbound, unreadable, unwritten."""
        if self.closed:
            return 3
        return 4 if self.unbound or self.failed else 0


def listed(inputs: Sequence[Path], sidecars: Path | None = None) -> list[Sealed]:
    """Return every sidecar of photos and folders. Raises UsageError when there is none.

    sidecars: the folder they lie in, if that is not beside the photos.
    """
    found: dict[Path, Sealed] = {}
    for given in inputs:
        if given.is_dir():
            root = sidecars or given
            several = list(_below(root, given))
            if not several:
                raise UsageError(
                    f"there is no sidecar in {root}", hint="they end in .ifad; see --sidecars"
                )
        else:
            several = [_one(given, sidecars)]
        for one in several:
            found.setdefault(one.sidecar.absolute(), one)
    return list(found.values())


def recover(
    sealed: Sequence[Sealed],
    output: Path,
    openers: Sequence[Opener],
    *,
    purpose: str,
    log: AccessLog,
    table: KeyTable | None = None,
    allow_unbound: bool = False,
    listener: Callable[[Recovered], None] | None = None,
) -> Recovery:
    """Open sidecars and write the originals below `output`. Returns the counts.

    purpose: why, for the access log. Raises UsageError when the output cannot be made, and LogBroken
    when the log cannot be written: nothing is opened without it.
    """
    for part in output.glob(HELD + "*"):  # what an interrupted recovery left
        part.unlink(missing_ok=True)

    def original(one: Sealed, stream: IO[bytes], unlocked: Unlocked) -> Recovered:
        return _written(one, stream, unlocked, output, allow_unbound=allow_unbound)

    visit = Visit(
        counts=Recovery(output=str(output), sealed=len(sealed)),
        verb="open",
        purpose=purpose,
        log=log,
        listener=listener,
    )
    with folder_for(output):
        each_of(sealed, openers, table, original, visit)
    return visit.counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One call of the way back: who asked for what, and what became of it, in the log and in counts."""

    counts: Recovery
    verb: Literal["open", "likeness"]
    purpose: str
    log: AccessLog
    listener: Callable[[Recovered], None] | None = None

    def asks(self, record: str) -> None:
        """Write down that a record is wanted: before anything of it is opened."""
        self.log.write(self.verb, record=record, purpose=self.purpose, result="asked")

    def ends(self, record: str, done: Recovered) -> None:
        """Write the outcome to the log, count it and tell whoever listens."""
        told = f"{done.outcome} {done.status}" if done.status else done.outcome
        self.log.write(self.verb, record=record, purpose=self.purpose, result=told)
        setattr(self.counts, done.outcome, getattr(self.counts, done.outcome) + 1)
        if self.listener is not None:
            self.listener(done)


def each_of(
    sealed: Sequence[Sealed],
    openers: Sequence[Opener],
    table: KeyTable | None,
    handle: Callable[[Sealed, IO[bytes], Unlocked], Recovered],
    visit: Visit,
) -> None:
    """Unlock one sidecar after the other for `handle`, each with its two lines in the log."""
    for one in sealed:
        record = "unknown"
        try:
            with _opened(one.sidecar) as (stream, size):
                header = envelope.read_header(stream, size)
                record = header.core.record_id.hex()
                visit.asks(record)
                row = _row(table, header.core.record_id)
                done = handle(one, stream, envelope.unlock(header, openers, row))
        except CannotOpen as fault:
            done = refused(one.name, "closed", fault)
        except PhotoError as fault:
            done = refused(one.name, "failed", fault)
        except MemoryError:
            reason = "not enough memory for what Argon2id was told to use"
            done = Recovered(one.name, "failed", reason)
        visit.ends(record, done)


def refused(name: str, outcome: Outcome, fault: MorettaError) -> Recovered:
    """Return the outcome of a fault, with its hint."""
    return Recovered(name, outcome, f"{fault.fault}; {fault.hint}".rstrip("; "))


def rewrap(
    sidecar: Path,
    openers: Sequence[Opener],
    wrappers: Sequence[Wrapper],
    *,
    keep: Literal["others", "all", "none"],
    table: KeyTable | None = None,
) -> int:
    """Give a sidecar other slots without touching its body; return how many it has.

    keep: which of the old slots stay: all but the one that opened it, all, or none.
    Raises CannotOpen, PhotoError and UsageError; the sidecar is then as it was.
    """
    with _unlocked(sidecar, openers, table) as (stream, unlocked):
        stays = {
            "others": lambda place: place != unlocked.opened,
            "all": lambda _: True,
            "none": lambda _: False,
        }[keep]
        with whole_file(sidecar) as out:
            try:
                header = envelope.rewrap(stream, out, unlocked, wrappers, keep=stays)
            except ValueError as fault:
                raise UsageError(f"it would have {fault}", hint="give other keys") from None
            size = out.tell()
            for one in wrappers:  # those that we can try open again, or the old one stays
                if isinstance(one, KeyFile | PrivateKey | Passphrase):
                    out.seek(0)
                    row = _row(table, header.core.record_id)
                    envelope.unlock(envelope.read_header(out, size), [one], row)
    return len(header.slots)


def header_of(sidecar: Path) -> Header:
    """Return a sidecar's header. Raises NotAnEnvelope and PhotoError; no key is needed."""
    with _opened(sidecar) as (stream, size):
        return envelope.read_header(stream, size)


def beside(photo: Path, line: Mapping[str, Any]) -> Beside:
    """Return what lies in the place of the sidecar that a manifest's line names; no key is needed.

    A sidecar that other keys were given to since is still the one: its core tells. A line of a version
    that did not note the core is settled by what the sidecar is bound to. Raises PhotoError.
    """
    sidecar = sidecar_of(photo)
    if not os.path.lexists(sidecar):
        return "missing"
    try:
        header = header_of(sidecar)
    except NotAnEnvelope:
        return "cut"
    said = line.get("sidecar_core")
    if said:
        return "whole" if header.digest.hex() == said else "other"
    return "whole" if status_of(header.core, {}, photo) == "BOUND" else "other"


def pseudonyms_of(
    sidecar: Path,
    openers: Sequence[Opener],
    *,
    master: KeyFile | None = None,
    table: KeyTable | None = None,
) -> tuple[Pseudonyms, dict[str, Any], Core]:
    """Return where a record's faces got their secrets from, its manifest, and its core.

    master: the key file of the run, for the scopes subject and collection. Nothing is written.
    Raises CannotOpen and PhotoError.
    """
    with _unlocked(sidecar, openers, table) as (stream, unlocked):
        return *pseudonyms_in(sidecar, stream, unlocked, master), unlocked.header.core


def pseudonyms_in(
    sidecar: Path, stream: IO[bytes], unlocked: Unlocked, master: KeyFile | None
) -> tuple[Pseudonyms, dict[str, Any]]:
    """Return where a record's faces got their secrets from, and its manifest: see `pseudonyms_of`."""
    manifest = envelope.open_body(stream, unlocked, cast("IO[bytes]", _Nowhere()))
    scope = manifest.get("scope")
    if scope not in ("record", "subject", "collection"):
        raise PhotoError(
            f"{sidecar.name}: its photo was drawn without a key",
            hint="nothing can be turned back; moretta recover without --neural gives the original",
        )
    salt = unlocked.header.core.record_salt
    key = b"" if master is None else master.pseudonyms
    return Pseudonyms(scope, salt, record_seed(unlocked.key, salt), key), manifest


def status_of(core: Core, manifest: dict[str, Any], photo: Path) -> Status:
    """Return how a sidecar belongs to a protected photo: BOUND, SOFT (a copy) or UNBOUND."""
    try:
        if not photo.is_file() or photo.stat().st_size > PHOTO_LIMIT:
            return "UNBOUND"
        content = photo.read_bytes()
    except OSError:
        return "UNBOUND"
    if bound_hash(content, core.bind_kind) == core.bind:
        return "BOUND"
    said, found = manifest.get("dhash"), dhash(content)
    try:
        close = found is not None and near(int(str(said), 16), found)
    except ValueError:
        close = False
    return "SOFT" if close else "UNBOUND"


def _written(
    one: Sealed, stream: IO[bytes], unlocked: Unlocked, output: Path, *, allow_unbound: bool
) -> Recovered:
    """Decrypt into a part, and give it its name when all is well; otherwise nothing remains."""
    held = output / f"{HELD}{secrets.token_hex(8)}"
    try:
        with whole_file(held, mode=0o600, part_of=HELD) as out:
            manifest = envelope.open_body(stream, unlocked, out)
        status = status_of(unlocked.header.core, manifest, one.photo)
        if status != "BOUND" and not allow_unbound:
            about = "looks like, but is not," if status == "SOFT" else "is not"
            reason = f"the photo {about} the one it was sealed with; --allow-unbound opens it"
            return Recovered(one.name, "unbound", reason, status)
        name = _name(manifest.get("name"), one)
        return _placed(one, held, output, name, manifest["sha256"], status)
    finally:
        with contextlib.suppress(OSError):
            held.unlink(missing_ok=True)


def _placed(
    one: Sealed, held: Path, output: Path, name: str, sha256: str, status: Status
) -> Recovered:
    target = output.joinpath(*name.split("/"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if output.resolve() not in (target.parent.resolve(), *target.parent.resolve().parents):
            raise PhotoError("its place is a link that leads out of the output", hint="remove it")
        try:
            os.link(held, target)  # fails where something is: nothing is overwritten
        except FileExistsError:
            if target.is_file() and sha256_of(target) == sha256:
                return Recovered(one.name, "kept", "is there already", status, name)
            raise PhotoError(
                f"{one_line(name)} is there already, with another content",
                hint="choose another --output",
            ) from None
        except OSError:  # a disk without links
            if os.path.lexists(target):
                raise PhotoError(
                    f"{one_line(name)} is there already", hint="choose another"
                ) from None
            held.replace(target)
    except OSError as fault:
        raise PhotoError(f"{one_line(name)}: {fault.strerror}", hint="check the disk") from None
    return Recovered(one.name, "recovered", "byte-identical to the original", status, name)


def _name(said: object, one: Sealed) -> str:
    """Return a name below the output folder: the original's, or the photo's if that is no plain name."""
    parts = said.split("/") if isinstance(said, str) else []
    plain = all(
        part not in ("", ".", "..")
        and part.isprintable() | ("\udc80" <= max(part) <= "\udcff")
        and not set(part) & set("\\:\0\n\r")
        and not part.startswith(PART)
        and len(os.fsencode(part)) <= 255
        for part in parts
    )
    return "/".join(parts) if parts and plain else one.name


def _below(root: Path, photos: Path) -> Iterator[Sealed]:
    for sidecar in sorted(root.rglob("*" + SIDECAR)):
        name = sidecar.relative_to(root).as_posix().removesuffix(SIDECAR)
        yield Sealed(sidecar, photos.joinpath(*name.split("/")), name)


def _one(given: Path, sidecars: Path | None) -> Sealed:
    if given.name.endswith(SIDECAR):
        photo = given.with_name(given.name.removesuffix(SIDECAR))
        return Sealed(given, photo, photo.name)
    sidecar = sidecar_of(given if sidecars is None else sidecars / given.name)
    if not sidecar.is_file():
        what = "it has no sidecar" if given.exists() else "there is no such photo"
        raise UsageError(f"{given}: {what}", hint=f"{sidecar} was looked for; see --sidecars")
    return Sealed(sidecar, given, given.name)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    try:
        with path.open("rb") as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    except OSError as fault:
        raise PhotoError(
            f"{path.name}: {fault.strerror or fault}", hint="check the disk and the permissions"
        ) from None


@contextlib.contextmanager
def _unlocked(
    path: Path, openers: Sequence[Opener], table: KeyTable | None
) -> Iterator[tuple[IO[bytes], Unlocked]]:
    with _opened(path) as (stream, size):
        header = envelope.read_header(stream, size)
        yield stream, envelope.unlock(header, openers, _row(table, header.core.record_id))


def _row(table: KeyTable | None, record_id: bytes) -> bytes | None:
    return None if table is None else table.find(record_id)


class _Nowhere(io.RawIOBase):
    def write(self, piece: Any) -> int:
        return len(piece)
