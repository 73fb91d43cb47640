"""Likenesses from protected photos, for the key holder: approximate, and never the original.

A face's secret comes from the sidecar of its photo or, where there is none, from the key and the salt in
the manifest's line. With a sidecar a wrong key opens nothing. Without one it draws another face, and
nothing tells right from wrong: that is what the method promises.

Not here  how a face is read and drawn (recovery.py), how sidecars are opened (recover.py).
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from moretta.errors import KeyRejected, ManifestError, PhotoError, UsageError, count_of, one_line
from moretta.methods.ifadit import METHOD, Ifadit
from moretta.photos.files import EXTENSION, SUFFIXES, read_photo, sha256_of, whole_file
from moretta.photos.manifest import MANIFEST, SIDECAR, folder_for, inside, read_lines
from moretta.pipeline.recover import (
    Recovered,
    Recovery,
    Sealed,
    Visit,
    each_of,
    listed,
    pseudonyms_in,
    refused,
    status_of,
)
from moretta.pipeline.sealing import model_digest
from moretta.privacy.keys import KeyFile, Pseudonyms, seed_without_envelope
from moretta.records import Box, Face
from moretta.weights import load

if TYPE_CHECKING:
    from moretta.pipeline.custody import AccessLog, KeyTable
    from moretta.pipeline.recover import Status
    from moretta.privacy.envelope import Unlocked
    from moretta.privacy.keys import Opener


@dataclass(frozen=True, slots=True)
class Unsealed:
    """One photo that was drawn with a key and has no sidecar."""

    photo: Path
    name: str  # of the photo, relative, with "/"
    line: Mapping[str, Any]  # of the manifest


def drawn_with_a_key(
    inputs: Sequence[Path], sidecars: Path | None = None
) -> list[Sealed | Unsealed]:
    """Return photos and folders as sidecars where these are, else as the manifest tells of them.

    Raises UsageError where there is neither.
    """
    found: list[Sealed | Unsealed] = []
    for given in inputs:
        if sidecars is not None or given.name.endswith(SIDECAR):
            found += listed([given], sidecars)
            continue
        root = given if given.is_dir() else _run_of(given)
        plain = [] if root is None else list(_unsealed(root))
        if not given.is_dir():
            plain = [one for one in plain if one.photo.absolute() == given.absolute()]
        there = given.with_name(given.name + SIDECAR).is_file()
        sealed = any(given.rglob("*" + SIDECAR)) if given.is_dir() else there
        if not plain and not sealed:
            raise UsageError(
                f"{given}: neither a sidecar nor a manifest says that a key drew it",
                hint=f"give the folder that `moretta anonymize --method ifadit` wrote, with its {MANIFEST}",
            )
        found += plain
        if sealed:
            found += listed([given])
    return found


def likenesses(
    drawn: Sequence[Sealed | Unsealed],
    output: Path,
    openers: Sequence[Opener],
    *,
    purpose: str,
    log: AccessLog,
    table: KeyTable | None = None,
    allow_unbound: bool = False,
    device: str = "cpu",
    listener: Callable[[Recovered], None] | None = None,
) -> Recovery:
    """Draw approximate likenesses from protected photos and their faces' secrets, as PNG files.

    A sidecar gives the secrets and the places of the faces; its original is not looked at. Returns the
    counts. Raises UsageError when the output cannot be made, KeyRejected when a photo without a sidecar
    is to be read and no key file is given, LogBroken as `recover`.
    """
    master = next((one for one in openers if isinstance(one, KeyFile)), None)
    plain = [one for one in drawn if isinstance(one, Unsealed)]
    if plain and master is None:
        raise KeyRejected(
            f"{plain[0].name} has no sidecar: its face comes from the key file alone",
            hint="give --key with the key file that drew it",
        )

    def likeness(one: Sealed, stream: IO[bytes], unlocked: Unlocked) -> Recovered:
        core = unlocked.header.core
        pseudonyms, manifest = pseudonyms_in(one.sidecar, stream, unlocked, master)
        status = status_of(core, manifest, one.photo)
        faces = manifest["faces"]
        settings = _settings(one.name, faces)
        if model_digest(METHOD.name, settings.model_dump()) != core.model_digest:
            raise _other_networks(one.name)
        secrets = [pseudonyms.of(i, face.get("subject")) for i, face in enumerate(faces)]
        return written(one, faces, secrets, settings, status)

    def plainly(one: Unsealed, key: KeyFile) -> Recovered:
        try:
            content = sha256_of(one.photo)
        except OSError as fault:
            raise PhotoError(f"{one.name} cannot be read: {fault.strerror}", hint="") from None
        status: Status = "BOUND" if content == one.line["output_sha256"] else "UNBOUND"
        faces = one.line["faces"]
        settings = _settings(one.name, faces)
        catalogue = load.catalogue()
        if any(
            catalogue[name].sha256 != one.line["weights"].get(name)
            for name in (*METHOD.networks, *settings.networks)
        ):
            raise _other_networks(one.name)
        return written(one, faces, secrets_of(one.line, key), settings, status)

    def written(
        one: Sealed | Unsealed,
        faces: Sequence[Mapping[str, Any]],
        secrets: Sequence[bytes],
        settings: Ifadit,
        status: Status,
    ) -> Recovered:
        if status == "UNBOUND" and not allow_unbound:
            reason = "the photo is not the one that was written; --allow-unbound draws all the same"
            return Recovered(one.name, "unbound", reason, status)
        pixels, rest = _pictured(one, faces, secrets, settings, device)
        name = f"{one.name}.likeness.png"
        _write(inside(output, name), pixels)
        reason = "approximate, not the original" + (
            f"; left as before: {count_of(rest, 'covered face')}" if rest else ""
        )
        if status != "BOUND":
            reason += "; the photo was changed since it was written, so the likeness is worse"
        if isinstance(one, Unsealed):
            reason += "; nothing tells whether the key is the right one"
        return Recovered(one.name, "drawn", reason, status, name)

    visit = Visit(
        counts=Recovery(output=str(output), sealed=len(drawn)),
        verb="likeness",
        purpose=purpose,
        log=log,
        listener=listener,
    )
    sealed = [one for one in drawn if isinstance(one, Sealed)]
    with folder_for(output):
        each_of(sealed, openers, table, likeness, visit)
        if master is not None:
            for photo in plain:
                said = photo.line.get("pseudonym")
                salt = said.get("salt") if isinstance(said, dict) else None
                record = f"salt {salt[:32]}" if isinstance(salt, str) else "unknown"
                visit.asks(record)
                try:
                    done = plainly(photo, master)
                except PhotoError as fault:
                    done = refused(photo.name, "failed", fault)
                except (KeyError, TypeError, ValueError):
                    done = Recovered(photo.name, "failed", "the manifest has no whole line of it")
                visit.ends(record, done)
    return visit.counts


def secrets_of(line: Mapping[str, Any], key: KeyFile) -> list[bytes]:
    """Return the faces' secrets of a photo that was drawn with a key and has no sidecar.

    line: of the manifest. key: the key file of the run; nothing tells whether it is the right one.
    Raises PhotoError where the line does not say enough: no keyed method, a sidecar, scope subject.
    """
    said, name = line.get("pseudonym") or {}, line.get("name", "the photo")
    if said.get("scope") not in ("record", "collection") or line.get("sidecar_bytes"):
        why = {"subject": "its persons stand in no manifest", None: "it was drawn without a key"}
        reason = why.get(said.get("scope"), "its secrets come from its sidecar")
        raise PhotoError(f"{name}: {reason}", hint="see docs/keys.md on scopes")
    salt = bytes.fromhex(said["salt"])
    seed = seed_without_envelope(key.pseudonyms, salt)
    made = Pseudonyms(said["scope"], salt, seed, key.pseudonyms)
    return [made.of(number) for number in range(len(line.get("faces", ())))]


def _run_of(photo: Path) -> Path | None:
    """Return the nearest folder above a photo that holds a manifest."""
    return next((up for up in photo.absolute().parents if (up / MANIFEST).is_file()), None)


def _unsealed(root: Path) -> Iterator[Unsealed]:
    lines = {line["name"]: line for line in read_lines(root)}  # the last word on each photo
    for name, line in sorted(lines.items()):
        try:
            photo = inside(root, name)
        except ManifestError:
            raise PhotoError(
                f"{one_line(name)}: no name that a run of ours gives",
                hint=f"the {MANIFEST} of {root} was edited",
            ) from None
        drawn = any(face.get("method") == METHOD.name for face in line.get("faces") or ())
        keyed = (line.get("pseudonym") or drawn) and not line.get("sidecar_bytes")
        if line["decision"] == "published" and keyed and line.get("faces"):
            yield Unsealed(photo, name, line)
    if any(line.get("pseudonym") for line in lines.values()):  # what the manifest has lost
        for photo in sorted(root.rglob("*")):
            name = photo.relative_to(root).as_posix()
            sealed = photo.with_name(photo.name + SIDECAR).exists()
            if SUFFIXES.get(photo.suffix.lower()) in EXTENSION and name not in lines and not sealed:
                yield Unsealed(photo, name, {})


def _settings(name: str, faces: Sequence[Mapping[str, Any]]) -> Ifadit:
    """Return what the method ran with. Raises PhotoError when no face was drawn."""
    first = next((face for face in faces if face["method"] == METHOD.name), None)
    if first is None:
        raise PhotoError(f"{name}: no face of it was drawn with a key", hint="nothing to draw")
    given = dict(first["settings"])
    if given.get("pseudonym") == "flow":  # the match that once could stand beside it did nothing
        given["match"] = "none"
    return Ifadit(**given)


def _other_networks(name: str) -> PhotoError:
    return PhotoError(
        f"{name}: other networks or settings drew it than this installation has",
        hint="use the version that drew it; the original comes back without --neural",
    )


def _pictured(
    one: Sealed | Unsealed,
    faces: Sequence[Mapping[str, Any]],
    secrets: Sequence[bytes],
    settings: Ifadit,
    device: str,
) -> tuple[np.ndarray, int]:
    """Return the photo with likenesses, and how many of its faces were covered and stay so."""
    from moretta.pipeline.recovery import recover_faces

    photo = read_photo(one.photo)
    places = [i for i, face in enumerate(faces) if face["method"] == METHOD.name]
    found = [_face(faces[i]) for i in places]
    height, width = photo.pixels.shape[:2]
    if any(face.box.right > 1.5 * width or face.box.bottom > 1.5 * height for face in found):
        raise PhotoError(
            f"{one.name}: its faces lie outside of it, so it was made smaller since",
            hint="use the photo at the size at which it was written",
        )
    own = [secrets[i] for i in places]
    pixels = recover_faces(photo.pixels, found, own, settings=settings, device=device)
    return pixels, len(faces) - len(places)


def _face(said: Mapping[str, Any]) -> Face:
    return Face(
        box=Box(*said["box"]),
        points=np.array(said["points"], np.float64),
        score=1.0,
        detector="manual",
    )


def _write(target: Path, pixels: np.ndarray) -> None:
    if os.path.lexists(target):
        raise PhotoError(
            f"{one_line(target.name)} is there already", hint="choose another --output"
        )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target, mode=0o600) as out:
        out.write(file.getvalue())
