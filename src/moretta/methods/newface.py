"""Newface: a face that nobody has, drawn into the surroundings of the old one.

Every face gets a fresh identity from a public pool of synthetic ones. Nothing of the old face reaches
the drawing but five points and a short, noisy code of attributes (light, skin, expression). There is no
key, so nothing can be reversed, and no budget.

Checked  tests/contracts; what it hides and keeps is measured in docs/composer.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from moretta.records import Crop, Edited, FaceEdit, Method, Settings
from moretta.weights.backends import MASK_FEATHER, MASK_SCALE, NETWORKS, SIDE

if TYPE_CHECKING:
    import numpy as np

REDRAWS = 4  # how often a face that comes near the old one is drawn anew


class Newface(Settings):
    """Options of `newface`."""

    match: Literal["age,gender", "age", "gender", "none"] = Field(
        "age,gender",
        description="what a new identity has in common with the old one, as it appears: kept by design;"
        " a face shared through --identity is matched to nobody",
    )
    level: int = Field(
        0, ge=0, le=2, description="hardening: 64, 16 or 0 numbers of the attribute code are kept"
    )
    truncation: float = Field(
        0.8,
        ge=0.5,
        le=1,
        description="how far a new face is drawn from the mean of its apparent age and gender: lower is"
        " cleaner and more alike, 1 is as varied as the pool; each drawing anew is nearer to 1",
    )


def build(settings: Newface, device: str) -> FaceEdit:
    """Return the edit: read what is kept, choose an identity, draw."""
    import numpy as np
    import torch

    from moretta.faces.crop import points_in
    from moretta.networks import pool as pools
    from moretta.networks.backend import by_batches, noise_of, pictures_of, pixels_of
    from moretta.weights.backends import composer, stand_ins

    backend = composer(device=device)
    pool, head = stand_ins()

    @torch.inference_mode()
    def drawn(crops: Sequence[Crop]) -> list[Edited]:
        pictures = pictures_of([crop.pixels for crop in crops], backend.device)
        points = torch.from_numpy(np.stack([points_in(crop) for crop in crops])).to(pictures)
        old = backend.identity(pictures, points)
        found = zip(crops, old.cpu().numpy(), strict=True)
        new = pool.identities[[chosen(crop, one) for crop, one in found]]
        noise = noise_of([crop.seed for crop in crops], old)
        code = backend.known(pictures, noise, level=settings.level)
        truncations = [truncation(crop) for crop in crops]
        crowd = None
        if settings.truncation < 1:
            crowd = torch.from_numpy(pools.crowds(pool, head, new)).to(old)
        asked = torch.from_numpy(new).to(old)
        psi = torch.tensor(truncations)
        drawing = backend.redrawn(pictures, points, asked, code, crowd=crowd, truncation=psi)
        made = pixels_of(drawing)
        return [
            Edited(
                pixels=one,
                settings={"truncation": kept}
                | ({} if crop.identity is None else {"match": "none"}),
            )
            for crop, one, kept in zip(crops, made, truncations, strict=True)
        ]

    def truncation(crop: Crop) -> float:
        """Nearer to 1 with each drawing that was too like: the mean of a kind is like many of it."""
        least = settings.truncation
        return round(least + (1 - least) * crop.attempt / REDRAWS, 4)

    def chosen(crop: Crop, old: np.ndarray) -> int:
        if crop.identity is not None:  # shared by faces that may look unlike: nothing is read
            rng = np.random.default_rng(crop.identity)
            return pools.choose(pool, None, "none", rng)
        rng = np.random.default_rng(crop.seed)
        wanted = None if settings.match == "none" else head.read(old)
        return pools.stranger(pool, old, wanted, settings.match, rng)[0]

    return by_batches(drawn)


METHOD = Method(
    name="newface",
    summary="a face that nobody has, drawn into the old one's surroundings",
    settings=Newface,
    build=build,
    template="wide",
    side=SIDE,
    mask_scale=MASK_SCALE,
    mask_feather=MASK_FEATHER,
    promise="measured",
    promises="the face is drawn anew from surroundings, five points and a short noisy code; the identity"
    " comes from a public pool of synthetic ones; the judge has compared the result",
    excludes="what surrounds the face stays and is drawn upon; skin, light, pose and expression are kept"
    " roughly, apparent age and gender by default; drawn faces are softer than a sharp photo",
    source="design section 6; Maximov et al. 2020 (CIAGAN) and Hukkelas et al. 2019 (DeepPrivacy)"
    " draw faces into their surroundings in this manner",
    draws_identity=True,
    redraws=REDRAWS,
    networks=NETWORKS,
    needs=("torch", "safetensors"),
    trained_with=("dlib",),
)
