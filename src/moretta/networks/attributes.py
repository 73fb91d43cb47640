"""The attribute code: what a face shows beside who it is, in few and noisy numbers.

The code is read from a coarse view (48 px of the wide crop), squeezed through tanh, and given noise
before anything is drawn from it: that bounds how much of a person can pass. Its first numbers matter
most, because training cuts off its tail at random; a hardening level keeps fewer of them.

Assumes   wide crops, RGB -1..1.
Sources   design section 6; facts of IdentityDP 2.9 (levels).
Checked   tests/networks/test_composer.py; what leaks through the code is in docs/composer.md.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from moretta.networks.composer import Convolution, Dense, bent

LENGTH = 64
NOISE = 0.35  # standard deviation that is added to each number
KEPT = (64, 16, 0)  # numbers kept at hardening level 0, 1, 2
VIEW = 48  # pixels of the coarse view

#: The five points on the wide template: the tight one's about the same centre, 1.7 times the side.
WIDE_POINTS = tuple(
    ((x - 0.5) / 1.7 + 0.5, (y - 0.5) / 1.7 + 0.5)
    for x, y in ((0.308, 0.282), (0.692, 0.282), (0.500, 0.511), (0.338, 0.675), (0.662, 0.675))
)


class Reader(nn.Module):
    """A small network over the coarse view: (n, 3, side, side) -> (n, outputs) float32."""

    def __init__(self, outputs: int, widths: tuple[int, int, int], hidden: int) -> None:
        super().__init__()
        first, second, third = widths
        self.convolutions = nn.Sequential(
            Convolution(12, first),
            Convolution(first, second, stride=2),
            Convolution(second, third, stride=2),
            Convolution(third, third),
        )
        self.hidden = Dense(third * (VIEW // 8) ** 2, hidden)
        self.output = Dense(hidden, outputs)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Read the numbers."""
        view = functional.adaptive_avg_pool2d(crops, VIEW)
        view = functional.pixel_unshuffle(view, 2).contiguous(memory_format=torch.channels_last)
        numbers: torch.Tensor = self.output(bent(self.hidden(self.convolutions(view).flatten(1))))
        return numbers.float()


class AttributeEncoder(Reader):
    """Reads the attribute code: (n, 3, side, side) RGB -1..1 -> (n, 64), each in -1..1."""

    def __init__(self, length: int = LENGTH) -> None:
        super().__init__(length, (64, 96, 128), 256)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return the code without its noise: give it to `bounded` before anything is drawn."""
        return torch.tanh(super().forward(crops))


class PointReader(Reader):
    """Reads the five points: (n, 3, side, side) -> (n, 5, 2) in units of the side. For training."""

    def __init__(self) -> None:
        super().__init__(10, (48, 64, 96), 128)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return the points as small offsets from where the template has them."""
        offsets = super().forward(crops).view(-1, 5, 2) * 0.1
        return offsets + offsets.new_tensor(WIDE_POINTS)


def bounded(
    code: torch.Tensor,
    noise: torch.Tensor,
    *,
    kept: int | torch.Tensor = LENGTH,
    sigma: float = NOISE,
) -> torch.Tensor:
    """Return the code with noise added and its tail cut off: all that a drawing may know of it.

    code, noise: (n, length), noise standard normal; kept: how many numbers stay, for all or each
    face (n,). The rest become 0, noise included.
    """
    count = torch.as_tensor(kept, device=code.device).reshape(-1, 1)
    stays = torch.arange(code.shape[1], device=code.device)[None] < count
    return (code + noise * sigma) * stays
