"""The latent swapper: how much of each number of a face's code should be another's, face by face.

Gates g in (0, 1), one for every number of W+, are read from both codes, and the new code is

    w = w_s + g * (w_t - w_s)          w_s: the face's own rows, w_t: the target's

Rows that carry identity are locked: their gates are 1, so that they are the target's whatever the
network says. Which rows these are comes from the backend's measured ranking: see `locked_rows`.

Assumes   a backend's table of rows (`Backend.layers`), and a ranking of the same backend.
Promise   a face's gates come from its own two codes alone.
Sources   Le & Carlsson 2023 (StyleID), its latent swapper: one perceptron a level of rows, 2 layers,
          sigmoid, identity rows forced to 1. Ours: numbers are normalised along a row, not along the
          rows; rows of a level have biases of their own; widths; which rows are locked.
Checked   tests/networks/test_swapper.py; figures in docs/styleid.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from moretta.networks.composer import bent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moretta.networks.composer import Layer
    from moretta.networks.ranking import Ranking

#: A row is locked when its D is at least this share of the best row's.
LEAST = 0.5
_HIDDEN = 256


def locked_rows(ranking: Ranking) -> tuple[int, ...]:
    """Return the rows that are always the target's, ascending; the best one by D is among them."""
    score = ranking.spaces["rows"].score
    return tuple(row for row, one in enumerate(score.tolist()) if one >= LEAST * float(score.max()))


class _Level(nn.Module):
    """Gates of the rows that act at one size of picture: (n, rows, 2 * latent) -> (n, rows, latent)."""

    def __init__(self, rows: int, latent: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * latent, _HIDDEN)
        self.own = nn.Parameter(0.5 * torch.randn(rows, _HIDDEN))  # tells rows of one code apart
        self.second = nn.Linear(_HIDDEN, latent, bias=False)
        self.lean = nn.Parameter(torch.zeros(rows, latent))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        normal = codes * torch.rsqrt(codes.square().mean(2, keepdim=True) + 1e-8)
        gates: torch.Tensor = torch.sigmoid(
            self.second(bent(self.first(normal) + self.own)) + self.lean
        )
        return gates


class Swapper(nn.Module):
    """Gates of all rows."""

    def __init__(self, layers: Sequence[Layer], latent: int, locked: Sequence[int]) -> None:
        """Make one for a backend's rows.

        Raises ValueError where a locked row does not exist or no row is left to decide about.
        """
        super().__init__()
        free = [layer for layer in layers if layer.row not in locked]
        if not set(locked) <= {layer.row for layer in layers} or not free:
            raise ValueError(f"rows {_listed(locked)} of {len(layers)} are locked")
        sizes = list(dict.fromkeys(layer.picture for layer in free))
        self.shape = (len(layers), latent)
        self.locked = tuple(sorted(locked))
        self.rows = [[layer.row for layer in free if layer.picture == size] for size in sizes]
        self.levels = nn.ModuleList(_Level(len(rows), latent) for rows in self.rows)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(n, rows, latent) twice -> gates of that shape, within 0..1; differentiable in both.

        Raises ValueError for rows of another backend.
        """
        if source.shape != target.shape or tuple(source.shape[1:]) != self.shape:
            raise ValueError(f"rows of shape {tuple(source.shape)}, not (n, {self.shape})")
        both = torch.cat([source, target], 2)
        gates = torch.ones_like(source)
        for rows, level in zip(self.rows, self.levels, strict=True):
            gates[:, rows] = level(both[:, rows])
        return gates

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Any],
        layers: Sequence[Layer],
        latent: int,
        locked: Sequence[int],
        device: str = "cpu",
    ) -> Self:
        """Build it, frozen, from the arrays of its file.

        Raises RuntimeError and ValueError when they are of another form or not finite.
        """
        made = cls(layers, latent, locked)
        state = {name: torch.as_tensor(value).float() for name, value in tensors.items()}
        if not all(bool(torch.isfinite(value).all()) for value in state.values()):
            raise ValueError("numbers that are not finite")
        made.load_state_dict(state)
        return made.requires_grad_(False).eval().to(device)


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(str(row) for row in rows) or "none"
