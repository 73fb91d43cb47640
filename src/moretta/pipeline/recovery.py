"""Neural recovery: a likeness of the person behind a pseudonymised face, from the picture and the secret.

It is approximate, always: the picture is read, turned back and drawn again. The original comes back from
the envelope alone. A wrong secret gives another face, and nothing here tells right from wrong.

Assumes   faces that `ifadit` drew, found in the protected picture; its surroundings are all that is
          used of the photo (facts of iFADIT, D2: nothing of the original may help).
Checked   tests/pipeline/test_recovery.py; figures in docs/ifadit.md.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moretta.faces import crop as crops
from moretta.faces import mask as masks
from moretta.methods.ifadit import METHOD, Ifadit, secret_of, turns

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from moretta.records import Crop, Face, Pixels

BATCH = 16


def recover_faces(
    photo: Pixels,
    faces: Sequence[Face],
    secrets: Sequence[bytes],
    *,
    settings: Ifadit | None = None,
    device: str = "cpu",
) -> Pixels:
    """Return a copy of a protected photo in which each face is an approximate likeness of its original.

    photo: (height, width, 3), as its file was read. faces: those that `ifadit` drew, at their points in
    this photo. secrets: 32 bytes each, in the faces' order. settings: what `ifadit` ran with.
    Where masks overlap, the largest face is pasted last, as in `protect`.
    Raises ValueError for another number of secrets, UsageError for a secret of another size.
    """
    if len(faces) != len(secrets):
        raise ValueError(f"{len(secrets)} secrets for {len(faces)} faces")
    order = sorted(range(len(faces)), key=lambda i: faces[i].box.side)
    found = [aligned(photo, faces[i], secrets[i]) for i in order]
    canvas = photo.copy()
    drawn = recovered(found, settings=settings, device=device)
    for crop, pixels in zip(found, drawn, strict=True):
        stretch = masks.stretch(crop.face, scale=METHOD.mask_scale, feather=METHOD.mask_feather)
        alpha, bounds = masks.redraw(
            crop.face,
            photo.shape,
            scale=METHOD.mask_scale * stretch,
            feather=METHOD.mask_feather,
        )
        crops.paste(canvas, pixels, crop, alpha, bounds)
    return canvas


def aligned(photo: Pixels, face: Face, secret: bytes) -> Crop:
    """Return a face of a protected photo as a crop that `recovered` takes."""
    scale, feather = METHOD.mask_scale, METHOD.mask_feather
    stretch = masks.stretch(face, scale=scale, feather=feather)
    alpha, _ = masks.redraw(face, photo.shape, scale=scale * stretch, feather=feather)
    crop = crops.align(
        photo, face, alpha, template=METHOD.template, side=METHOD.side, seed=0, stretch=stretch
    )
    return replace(crop, secret=secret)


@functools.cache
def _networks(device: str) -> tuple[Any, Any]:
    from moretta.networks.reader import Reader
    from moretta.weights import load
    from moretta.weights.backends import composer

    backend = composer(device=device)
    return backend, Reader.from_tensors(load.tensors("reader"), backend.device)


def carriers(found: Sequence[Crop], *, device: str = "cpu") -> npt.NDArray[np.float64]:
    """Return the pseudonyms that crops of drawn faces show, (n, 48) unit vectors: no key is needed."""
    import numpy as np
    import torch

    from moretta.networks.reader import seen_in

    backend, reader = _networks(device)
    read = [np.zeros((0, 48))]
    with torch.inference_mode():
        for start in range(0, len(found), BATCH):
            seen = seen_in(backend, *_inputs(found[start : start + BATCH], backend.device))
            read.append(reader(seen).cpu().double().numpy())
    return np.concatenate(read)


def recovered(
    found: Sequence[Crop], *, settings: Ifadit | None = None, device: str = "cpu"
) -> list[Pixels]:
    """Return approximate likenesses, (side, side, 3) each: crops of drawn faces, with their secrets."""
    import torch

    from moretta.networks.backend import pixels_of

    secrets = [secret_of(crop) for crop in found]
    _, back = turns(settings or Ifadit.model_validate({}))
    backend, _ = _networks(device)
    read = carriers(found, device=device)
    drawn: list[Pixels] = []
    with torch.inference_mode():
        for start in range(0, len(found), BATCH):
            part = slice(start, start + BATCH)
            pictures, points = _inputs(found[part], backend.device)
            own = back(secrets[part], read[part])
            identities = torch.from_numpy(own).to(pictures)
            codes = backend.attributes(pictures)
            drawn += pixels_of(backend.redrawn(pictures, points, identities, codes))
    return drawn


def _inputs(found: Sequence[Crop], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    import numpy as np
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks.backend import pictures_of

    pictures = pictures_of([crop.pixels for crop in found], device)
    return pictures, torch.from_numpy(np.stack([points_in(crop) for crop in found])).to(pictures)
