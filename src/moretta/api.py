"""The package from Python: the same options, the same code path as the command."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moretta import __version__
from moretta.errors import UsageError
from moretta.pipeline.options import options
from moretta.pipeline.persons import Plan
from moretta.pipeline.protect import NOBODY, Picture, Protector
from moretta.records import PhotoRecord

if TYPE_CHECKING:
    from moretta.pipeline.custody import Keyring
    from moretta.pipeline.run import Listener, Summary
    from moretta.records import Face, Pixels


class Anonymizer:
    """Protects photos with one set of options; networks are loaded once, at first use.

    Options are those of `moretta anonymize`, with underscores: method, settings, strength, identity,
    persons, ledger, detector, threshold, min_face, thorough, on_no_face, on_audit_fail, audit_far,
    metadata, format, quality, rename, reversible, scope, linkable, seed, max_pixels, device. Raises
    UsageError for an option that does not exist or is out of range.

    >>> Anonymizer(method="pixelate", settings={"cells": 6}).options.method
    'pixelate'
    """

    def __init__(self, method: str = "solid", **given: Any) -> None:
        self.options = options({"method": method, **given})
        self._protector: Protector | None = None
        seed = self.options.seed
        self._secret = (
            secrets.randbits(63) if seed is None else seed
        )  # for pictures; a run has its own

    def image(
        self,
        rgb: Pixels,
        *,
        faces: Sequence[Face] | None = None,
        name: str = "",
        keyring: Keyring | str | os.PathLike[str] | None = None,
    ) -> tuple[Pixels, PhotoRecord]:
        """Protect one picture.

        rgb: (height, width, 3) uint8, upright. faces: cover exactly these instead of searching.
        keyring: what keyed methods draw from: the path of a key file, or what
        `moretta.pipeline.custody.keyring` returns.
        Returns a new array of the same shape and the record. Check `record.decision`: when it is
        "withheld" the picture is not protected and the array is all zeros, so that it cannot be
        published by mistake. With identity "per-run" all pictures of this Anonymizer are one run.
        Raises UsageError with persons, who need the photos of a whole run, with `reversible`, which
        needs files, and for a keyed method without a key.
        """
        import numpy as np

        from moretta.pipeline import sealing

        _check_picture(rgb)
        for face in faces or ():
            _check_face(face, rgb.shape)
        if self.options.identity == "per-person" or self.options.persons is not None:
            raise UsageError(
                "persons are asked for, and one picture has no persons",
                hint="protect folders with `run`, or use identity per-run",
            )
        if self.options.reversible:
            raise UsageError(
                "reversible seals files, and this is a picture in memory",
                hint="protect the file with `run`",
            )
        ring = _ring(keyring)
        sealing.check(self.options, ring)
        begun = sealing.begin(self.options, ring)
        identities = NOBODY
        if self.options.identity == "per-run":
            identities = Plan("run").identities(name, self._secret)
        protector = self._built()
        picture = Picture(
            pixels=rgb,
            name=name,
            faces=faces,
            identities=identities,
            pseudonyms=begun.pseudonyms if begun else None,
        )
        (result,) = protector.protect([picture])
        published = result.decision == "published"
        record = PhotoRecord(
            name=name,
            decision=result.decision,
            reason=result.reason,
            width=rgb.shape[1],
            height=rgb.shape[0],
            faces=tuple(result.faces),
            notes=tuple(result.notes),
            seconds=dict(result.seconds),
            pseudonym=begun.public if begun and published else {},
            method=self.options.method,
            weights=protector.weights(result.faces),
            seed=result.seed if self._built().tells_seeds else None,
            version=__version__,
        )
        pixels = result.pixels.copy() if result.pixels is rgb else result.pixels
        return (pixels if published else np.zeros_like(rgb)), record

    def find(self, rgb: Pixels) -> list[Face]:
        """Return the faces in one picture, best first. rgb: as in `image`."""
        _check_picture(rgb)
        return self._built().find(rgb)

    def run(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        *,
        jobs: int | Literal["auto"] = "auto",
        resume: bool = False,
        overwrite: bool = False,
        boxes: str | os.PathLike[str] | None = None,
        internal_record: str | os.PathLike[str] | None = None,
        keyring: Keyring | str | os.PathLike[str] | None = None,
        listener: Listener | None = None,
    ) -> Summary:
        """Protect files, folders and globs into a folder, with a manifest; return the counts.

        keyring: what keyed methods and `reversible` need: the path of a key file, or what
        `moretta.pipeline.custody.keyring` returns.
        With `jobs` above 1 (or auto and 8 photos or more) worker processes are started, so a
        script needs the usual `if __name__ == "__main__":`.
        """
        from moretta.pipeline.run import run

        sources = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        return run(
            sources,
            Path(output),
            self.options,
            jobs=jobs,
            resume=resume,
            overwrite=overwrite,
            boxes=boxes,
            internal_record=internal_record,
            keyring=_ring(keyring),
            listener=listener,
        )

    def _built(self) -> Protector:
        if self._protector is None:
            self._protector = Protector(self.options)
        return self._protector


def _check_picture(rgb: Any) -> None:
    import numpy as np

    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3:
        raise UsageError("the picture must be an array of uint8, (height, width, 3)")
    if rgb.shape[2] != 3 or 0 in rgb.shape:
        raise UsageError(f"the picture has the shape {rgb.shape}", hint="(height, width, 3) RGB")


def _check_face(face: Any, shape: tuple[int, ...]) -> None:
    from moretta.records import Face

    if not isinstance(face, Face):
        raise UsageError(f"a face is a moretta.records.Face, not {type(face).__name__}")
    box = face.box
    if not (box.left < shape[1] and box.top < shape[0] and box.right > 0 and box.bottom > 0):
        raise UsageError(f"the face {box} lies outside the picture of {shape[1]} x {shape[0]}")


def anonymize_image(
    rgb: Pixels,
    method: str = "solid",
    *,
    keyring: Keyring | str | os.PathLike[str] | None = None,
    **given: Any,
) -> tuple[Pixels, PhotoRecord]:
    """Protect one picture: `Anonymizer(method, **given).image(rgb)`. Networks are loaded each time.

    rgb: (height, width, 3) uint8, upright. keyring: see `Anonymizer.image`. Returns the protected copy
    and its record.
    """
    return Anonymizer(method, **given).image(rgb, keyring=keyring)


def _ring(given: Keyring | str | os.PathLike[str] | None) -> Keyring | None:
    """Return what to seal with; a path is that of a key file. Raises KeyRejected."""
    if not isinstance(given, str | os.PathLike):
        return given
    from moretta.pipeline.custody import keyring

    return keyring(key=Path(given))


def find_faces(rgb: Pixels, **given: Any) -> list[Face]:
    """Return the faces in one picture: `Anonymizer(**given).find(rgb)`."""
    return Anonymizer(**given).find(rgb)
