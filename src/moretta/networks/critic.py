"""The critic: tells drawn crops from photographed ones. For training only; it never ships.

Sources   Karras et al. 2018, section 3 (deviation over the batch); Isola et al. 2017 (patches).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from moretta.networks.composer import Convolution, Dense, bent


class Critic(nn.Module):
    """One verdict for the crop and one for every patch of it.

    (n, 3, side, side) RGB -1..1 -> whole (n,), patches (n, side / 8, side / 8), features.
    """

    def __init__(self, side: int, widths: tuple[int, int, int, int] = (64, 112, 176, 224)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.first = Convolution(12, a)
        self.halve = nn.ModuleList(
            [Convolution(a, b, stride=2), Convolution(b, c, stride=2), Convolution(c, d, stride=2)]
        )
        self.look = nn.ModuleList([Convolution(b, b), Convolution(c, c), Convolution(d + 1, d)])
        self.patches = Convolution(c, 1, 1, linear=True)
        self.hidden = Dense(d * (side // 16) ** 2, 256)
        self.whole = Dense(256, 1)

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Judge crops: see the class."""
        x = functional.pixel_unshuffle(crops, 2).contiguous(memory_format=torch.channels_last)
        fine = self.look[0](self.halve[0](self.first(x)))
        middle = self.look[1](self.halve[1](fine))
        coarse = self.halve[2](middle)
        wide = coarse.float()
        spread = (wide - wide.mean(0)).square().mean(0).add(1e-8).sqrt().mean().to(coarse.dtype)
        x = self.look[2](torch.cat([coarse, spread.expand(len(x), 1, *coarse.shape[2:])], 1))
        verdict = self.whole(bent(self.hidden(x.flatten(1))))[:, 0]
        return verdict.float(), self.patches(middle)[:, 0].float(), [fine, middle, coarse]
