"""A face's identity: dlib's vector, centred, whitened and put on the unit sphere of 48 dimensions.

Promise   unit vectors; different people nearly at right angles; gradients to pixels and points.
          Uniform random vectors and rotated vectors look like vectors of real people, which the
          same 48 directions of dlib's own vectors do not.
Assumes   RGB 0..255; tensors named as in `weights/bundled/identity.safetensors`.
Not here  finding the face; judging: dlib's network is in the loss, so it never judges.
Sources   PCA whitening of dlib's vectors over wide crops, both orientations (docs/networks.md).
Checked   tests/networks/test_identity.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import nn
from torch.nn import functional

from moretta.networks.pool import LENGTH, random_identities
from moretta.networks.recogniser import DlibResNet, chip, chip_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DIRECTIONS", "LENGTH", "MEAN", "Identity", "cut", "random_identities"]

MEAN, DIRECTIONS = "whitening.mean", "whitening.directions"  # names of the two tensors


class Identity(nn.Module):
    """Pictures of faces to unit vectors of 48 numbers; frozen, in eval mode.

    Two vectors are compared by their dot product: near 0 for two people, above it for one person.
    `to(memory_format=torch.channels_last)` works and is faster. For bfloat16 convert `recogniser`
    alone: the whitening must stay in float32.
    """

    mean: torch.Tensor  # (128,)
    directions: torch.Tensor  # (128, 48): column k has the length 1 / standard deviation k

    def __init__(self, recogniser: DlibResNet, mean: torch.Tensor, directions: torch.Tensor):
        super().__init__()
        if mean.shape != (128,) or directions.shape != (128, LENGTH):
            raise ValueError(
                f"whitening of shapes {tuple(mean.shape)} and {tuple(directions.shape)}, "
                f"not (128,) and (128, {LENGTH})"
            )
        self.recogniser = recogniser
        self.register_buffer("mean", mean)
        self.register_buffer("directions", directions)

    @classmethod
    def from_tensors(cls, dlib: Mapping[str, Any], whitening: Mapping[str, Any]) -> Identity:
        """Build it from arrays or tensors: `load.tensors("dlib")`, `load.tensors("identity")`.

        whitening: `whitening.mean` (128,) and `whitening.directions` (128, 48); other entries are
        left alone. Raises KeyError and ValueError when they are missing or have other shapes.
        """
        mean, directions = (
            torch.as_tensor(whitening[name]).to(torch.float32) for name in (MEAN, DIRECTIONS)
        )
        network = cls(DlibResNet.from_tensors(dlib), mean, directions)
        return network.requires_grad_(False).eval()

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """(n, 3, 150, 150) RGB 0..255 -> (n, 48) float32 unit vectors; differentiable."""
        return self.whiten(self.recogniser.embed(chips))

    def of(self, pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Identities of the faces at `points`, one a picture -> (n, 48) float32 unit vectors.

        pictures: (n, 3, h, w) RGB 0..255. points: (n, 5, 2) x, y in pixels, centres at .5, in the
        order of records.Points. Differentiable in both. See `cut` for large pictures.
        """
        return self.forward(cut(pictures, points))

    @overload
    def embed(self, chips: torch.Tensor, *, features: Literal[False] = False) -> torch.Tensor: ...
    @overload
    def embed(
        self, chips: torch.Tensor, *, features: Literal[True]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]: ...
    def embed(
        self, chips: torch.Tensor, *, features: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return identities as `forward` does; with `features` also dlib's maps of three stages.

        The maps are those of `DlibResNet.embed`: (n, 32, 35, 35), (n, 64, 17, 17), (n, 128, 8, 8).
        One pass gives both, for a perceptual loss beside an identity loss.
        """
        if not features:
            return self.forward(chips)
        vectors, maps = self.recogniser.embed(chips, features=True)
        return self.whiten(vectors), maps

    def whiten(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of dlib's network, (n, 128) -> (n, 48) unit vectors."""
        with torch.autocast(vectors.device.type, enabled=False):  # identities are float32 anywhere
            precise = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            mean, directions = self.mean.to(precise.dtype), self.directions.to(precise.dtype)
            return functional.normalize((precise - mean) @ directions, dim=1)


def cut(pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Cut dlib's chips as `recogniser.chip` does, from pictures of any scale.

    A picture that shows its face k times larger than the chip (k rounded, from 2) is shrunk by
    area first, k x k pixels to one, so that fine texture does not fold into the chip.
    pictures: (n, 3, h, w). points: (n, 5, 2) pixels, centres at .5. Returns (n, 3, 150, 150).
    """
    with torch.no_grad():
        scales = chip_matrix(points)[:, :, 0].norm(dim=1)  # picture pixels a chip pixel
        factors = [max(1, round(scale)) for scale in scales.tolist()]
    if set(factors) == {1}:
        return chip(pictures, points)
    return torch.cat(
        [
            chip(_shrunk(pictures[i : i + 1], factor), points[i : i + 1] / factor)
            for i, factor in enumerate(factors)
        ]
    )


def _shrunk(picture: torch.Tensor, factor: int) -> torch.Tensor:
    """The mean of each factor x factor pixels; the last row and column may have fewer."""
    if factor == 1:
        return picture
    return functional.avg_pool2d(picture, factor, ceil_mode=True, count_include_pad=False)
