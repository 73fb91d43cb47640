"""Reads which identity a face was drawn with: dlib's network looks twice, a linear map corrects it.

The composer follows an identity at a cosine of about 0.8, and part of what it misses is the same for
everybody. What dlib's network sees of the picture and of its mirror image, all 128 numbers and not the 48
whitened ones alone, tells more of what was meant.

Assumes   pictures are wide crops, RGB -1..1; points in units of the side.
Not here  the key: what is read is a public pseudonym, and only a secret turns it back.
Sources   facts of iFADIT 5.3 (the reader H, there a perceptron); trained by training/reader.py.
Checked   tests/networks/test_reader.py; figures in docs/ifadit.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from moretta.networks.identity import cut
from moretta.networks.pool import LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moretta.networks.backend import ComposerBackend

SEEN = 256  # numbers: dlib's vectors of a chip and of its mirror image
WEIGHT, BIAS = "reader.weight", "reader.bias"  # names of the two tensors


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A linear map from what is seen to identities."""

    weight: torch.Tensor  # (48, 256)
    bias: torch.Tensor  # (48,)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any], device: str = "cpu") -> Reader:
        """Build it from `load.tensors("reader")`.

        Raises KeyError and ValueError when they are missing or have other shapes.
        """
        weight, bias = (
            torch.as_tensor(tensors[name]).float().to(device) for name in (WEIGHT, BIAS)
        )
        if weight.shape != (LENGTH, SEEN) or bias.shape != (LENGTH,):
            raise ValueError(f"a reader of shapes {tuple(weight.shape)} and {tuple(bias.shape)}")
        return cls(weight, bias)

    def __call__(self, seen: torch.Tensor) -> torch.Tensor:
        """(n, 256) as `seen_in` gives them -> identities, (n, 48) unit vectors."""
        return functional.normalize(functional.linear(seen, self.weight, self.bias), dim=1)


def seen_in(backend: ComposerBackend, pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """What dlib's network sees: (n, 3, side, side), (n, 5, 2) -> (n, 256)."""
    recogniser = backend.identify.recogniser
    chips = cut((pictures + 1) * 127.5, points * pictures.shape[-1])
    return torch.cat([recogniser.embed(chips), recogniser.embed(chips.flip(3))], 1).float()
