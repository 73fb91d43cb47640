"""What a face needs beside an identity, when there is no photo: code, points and surroundings.

A Gaussian for the attribute code and the points together, and a Gaussian over the first principal
components of coarse surroundings. Truncation draws nearer to the mean, as StyleGAN's does.

Promise   no training crop comes out again: surroundings have 40 numbers, at 24 px.
Sources   Karras et al. 2019 (truncation); design section 6.
Checked   tests/networks/test_prior.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

COARSE = 24  # pixels of the surroundings' side
COMPONENTS = 40
_NAMES = ("prior.mean", "prior.root", "prior.scene mean", "prior.scene directions")


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Draws attribute codes, points and contexts."""

    mean: torch.Tensor  # (attributes + 10,)
    root: torch.Tensor  # (attributes + 10, attributes + 10): a square root of the covariance
    scene_mean: torch.Tensor  # (3 * 24 * 24,)
    scene_directions: torch.Tensor  # (components, 3 * 24 * 24), each as long as its deviation

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> Prior:
        """Build it from the entries `prior.*` of a composer's file."""
        return cls(*(torch.as_tensor(tensors[name]).float() for name in _NAMES))

    def sample(
        self, count: int, seed: int, *, truncation: float = 0.7
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes (n, attributes), points (n, 5, 2) and scenes (n, components).

        The first of a larger draw are a smaller draw. See `contexts` for what a scene looks like.
        """
        rng = np.random.default_rng(seed)
        width, scenes = len(self.mean), len(self.scene_directions)
        normal = torch.from_numpy(rng.standard_normal((count, width + scenes)).astype(np.float32))
        turned = [part[:, :width] @ self.root.t() for part in normal.split(16)]  # type: ignore[no-untyped-call]
        together = self.mean + truncation * torch.cat(turned)  # 16 at a time: bits as in any draw
        codes, points = together[:, :-10].clamp(-1, 1), together[:, -10:].view(-1, 5, 2)
        return codes, points, truncation * normal[:, width:]

    def contexts(self, scenes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Paint coarse surroundings: scenes (n, components), the composer's mask (1, 1, side, side).

        Returns contexts (n, 4, side, side) as the composer takes them.
        """
        mean, directions = self.scene_mean.to(scenes), self.scene_directions.to(scenes)
        coarse = (mean + scenes @ directions).view(-1, 3, COARSE, COARSE)
        scene = functional.interpolate(
            coarse, mask.shape[-1], mode="bicubic", align_corners=False
        ).clamp(-1, 1)
        return torch.cat([scene * (1 - mask), mask.expand(len(scene), -1, -1, -1)], 1)


def fit(
    codes: torch.Tensor, points: torch.Tensor, contexts: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Fit the prior to codes (n, attributes), points (n, 5, 2), contexts (n, 4, side, side)."""
    together = torch.cat([codes, points.flatten(1)], 1).double()
    centred = together - together.mean(0)
    values, vectors = torch.linalg.eigh(centred.t() @ centred / max(len(centred) - 1, 1))
    root = vectors * values.clamp_min(0).sqrt()
    shown = 1 - contexts[:, 3:]
    size = (COARSE, COARSE)
    blank = functional.adaptive_avg_pool2d(contexts[:, :3], size)
    share = functional.adaptive_avg_pool2d(shown, size)
    scenes = (blank / share.clamp_min(0.05) * (share > 0.05)).flatten(1).double()
    mean = scenes.mean(0)
    _, deviations, directions = torch.linalg.svd(scenes - mean, full_matrices=False)
    scale = deviations[:COMPONENTS, None] / max(len(scenes) - 1, 1) ** 0.5
    made = (together.mean(0), root, mean, directions[:COMPONENTS] * scale)
    return {name: value.half().contiguous() for name, value in zip(_NAMES, made, strict=True)}
