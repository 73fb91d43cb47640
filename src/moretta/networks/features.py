"""Attribute features of a picture: a vector to pair faces by, and tokens to hold attributes with.

What FALCO takes from FaRL: pose, expression, gaze, hair edge, glasses, apparent age. `Features` is the
interface; `SmallFeatures` is bundled, `FaRL` runs on official weights where somebody has them.

Promise   tokens are differentiable to the pictures; all networks are frozen.
Assumes   wide crops, RGB -1..1; points in units of the crop's side.
Not here  identity. But features are no promise of privacy either: they come from the face, and what
          they keep of who it is was only made small (docs/falco.md has the figure).
Sources   Barattin et al. 2023 (FALCO), section 3; Zheng et al. 2022 (FaRL).
Checked   tests/networks/test_features.py; agreement with held-out labels in docs/falco.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional

from moretta.networks.identity import cut

if TYPE_CHECKING:
    from moretta.networks.identity import Identity

GRID = 8  # tokens a side of dlib's chip
TOKENS = GRID * GRID
CHANNELS = 64  # of a token
LENGTH = 64  # of a vector
INPUTS = 32 * 16 + 64 * 4 + 128  # what dlib's three stages hold of one place of the grid
_HIDDEN = 128


class Seen(NamedTuple):
    """Features of n pictures."""

    vectors: torch.Tensor  # (n, length) float32, not normalised
    tokens: torch.Tensor  # (n, tokens, channels) float32


class Features(Protocol):
    """A network that sees attributes."""

    @property
    def name(self) -> str:
        """What a pool's manifest calls it."""

    def of(
        self,
        pictures: torch.Tensor,
        points: torch.Tensor,
        *,
        maps: Sequence[torch.Tensor] | None = None,
    ) -> Seen:
        """(n, 3, side, side), (n, 5, 2) -> features; differentiable in the pictures.

        maps: dlib's three stages of the same pictures, where the caller has them anyway.
        """


class FeatureHead(nn.Module):
    """What is learnt: a projection of dlib's stages to tokens, and a perceptron to the vector."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(INPUTS, CHANNELS)
        self.hidden = nn.Linear(TOKENS * CHANNELS, _HIDDEN)
        self.output = nn.Linear(_HIDDEN, LENGTH)
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("scale", torch.ones(INPUTS))

    def forward(self, places: torch.Tensor) -> Seen:
        """(n, TOKENS, INPUTS) from `places_of` -> features."""
        tokens = self.project((places - self.mean) * self.scale)
        hidden = functional.leaky_relu(self.hidden(tokens.flatten(1)), 0.2)
        return Seen(self.output(hidden), tokens)


class SmallFeatures:
    """The bundled features: frozen stages of dlib's network with a `FeatureHead`."""

    name = "features"

    def __init__(self, identity: Identity, head: FeatureHead) -> None:
        self._identity = identity
        self._head = head.requires_grad_(False).eval()

    @classmethod
    def from_tensors(
        cls, identity: Identity, tensors: Mapping[str, Any], device: str = "cpu"
    ) -> SmallFeatures:
        """Build it from `load.tensors("features")`. Raises KeyError and RuntimeError for others."""
        head = FeatureHead()
        head.load_state_dict(
            {name: torch.as_tensor(tensors[name]).float() for name in head.state_dict()}
        )
        return cls(identity, head.to(device))

    def of(
        self,
        pictures: torch.Tensor,
        points: torch.Tensor,
        *,
        maps: Sequence[torch.Tensor] | None = None,
    ) -> Seen:
        """Return vectors (n, 64) and tokens (n, 64, 64): see `Features`."""
        if maps is None:
            maps = stages(self._identity, pictures, points)[1]
        seen: Seen = self._head(places_of(maps))
        return seen


def stages(
    identity: Identity, pictures: torch.Tensor, points: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Identities (n, 48) and dlib's maps of three stages, in one pass."""
    chips = cut((pictures + 1) * 127.5, points * pictures.shape[-1])
    return identity.embed(chips, features=True)


def places_of(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Gather dlib's stages, (n, 32, 35, 35), (n, 64, 17, 17), (n, 128, 8, 8), by place.

    Returns (n, TOKENS, INPUTS) float32: nothing is averaged, so that eyes keep where they look.
    """
    fine, middle, coarse = (each.float() for each in maps)
    gathered = torch.cat(
        [
            functional.pixel_unshuffle(fine[:, :, 1:33, 1:33], 4),
            functional.pixel_unshuffle(middle[:, :, :16, :16], 2),
            coarse,
        ],
        1,
    )
    return gathered.flatten(2).transpose(1, 2)


def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """FALCO's attribute loss of each face: tokens (n, t, c) -> (n,), summed over tokens.

    sum over tokens of the mean over channels of |one - other| (facts of FALCO, 1.6).
    """
    return (one - other).abs().mean(2).sum(1)
