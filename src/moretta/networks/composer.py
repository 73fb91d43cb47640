"""The composer: surroundings, five points and a latent code in, a face drawn into them out.

Assumes   the wide crop of design section 4, RGB -1..1; points in units of the crop's side.
Promise   of the crop only what lies outside the mask reaches the drawing; the face itself comes
          from the points and from the latent rows alone.
Not here  weights, files, cutting and pasting, the identity vector (identity.py), the attribute
          code (attributes.py), losses (training/composer.py).
Sources   Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 2.2
          (modulation and demodulation, weights shared over the batch: inputs and outputs are scaled
          instead of weights, eqs. 1 and 3); Karras et al. 2018, section 4.1 (equalised learning rate).
Checked   tests/networks/test_composer.py.

Latent spaces, for `Shape()` (side 128):

Z   identity (48, unit length) x attributes (64, -1..1)
W+  `rows`: (faces, 9, 256)
S   `scales`: (faces, 1536), the numbers that act on channels; `Composer.layers` has this table

| row | acts on      | picture | channels | offset in S |
|-----|--------------|---------|----------|-------------|
| 0   | added, start | 8 px    | 256      | 0           |
| 1   | convolution  | 8 px    | 256      | 256         |
| 2   | convolution  | 8 px    | 256      | 512         |
| 3   | convolution  | 16 px   | 192      | 768         |
| 4   | convolution  | 16 px   | 192      | 960         |
| 5   | convolution  | 32 px   | 128      | 1152        |
| 6   | convolution  | 32 px   | 128      | 1280        |
| 7   | convolution  | 64 px   | 64       | 1408        |
| 8   | convolution  | 64 px   | 64       | 1472        |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn import functional

#: The ellipse that is drawn anew, in units of the wide crop's side (design section 4).
CENTRE = (0.5, 0.512)
SEMI_AXES = (0.36, 0.405)
FEATHER = 0.14  # of the semi-axes, inwards

AnyModule = TypeVar("AnyModule", bound=nn.Module)

SIDES = (64, 96, 128, 256)
_SKIP = 0.7  # weight of what the encoder hands over, so that sums keep their size


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that decides which tensors a composer has."""

    side: int = 128  # pixels of the wide crop
    widths: tuple[int, ...] = (64, 128, 192, 256)  # channels at side / 2, / 4, / 8, ...
    identity: int = 48
    attributes: int = 64
    finish: int = 16  # channels of the last convolutions, at full size; 0 for none

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"side is {self.side}, not one of {SIDES}")
        if len(self.widths) < 2 or self.side % 2 ** len(self.widths):
            raise ValueError(f"{len(self.widths)} widths do not halve {self.side} px evenly")

    @property
    def latent(self) -> int:
        """Length of one row of W+: that of the coarsest level's channels."""
        return self.widths[-1]

    @classmethod
    def of(cls, side: int) -> Shape:
        """Return the usual shape for a side: one level more at 256, so that the start stays small."""
        return cls(side=side, widths=(48, 64, 128, 192, 256)) if side == 256 else cls(side=side)


class Layer(NamedTuple):
    """One row of W+ and the channels of S that it turns into."""

    row: int
    picture: int  # side in pixels where it acts
    channels: int
    offset: int  # of its first channel in S


class Dense(nn.Module):
    """A linear layer with equalised learning rate: (n, inputs) -> (n, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.gain = 1 / math.sqrt(inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        return functional.linear(x, self.weight * self.gain, self.bias)


class Convolution(nn.Module):
    """A convolution with equalised learning rate, then a leaky ReLU unless `linear`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        linear: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain = gain * (1 if linear else math.sqrt(2)) / math.sqrt(inputs * kernel**2)
        self.stride, self.padding, self.linear = stride, kernel // 2, linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        y = functional.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)
        return y if self.linear else bent(y)


class Modulated(nn.Module):
    """A 3x3 convolution whose input channels are scaled by S and whose output is demodulated.

    (n, channels, h, w) and scales (n, channels) -> (n, channels, h, w). Equal to scaling the
    weights for each face (Karras et al. 2020, eqs. 1 and 3), but one dense convolution a batch.
    """

    def __init__(self, channels: int, latent: int, *, noisy: bool = False) -> None:
        super().__init__()
        self.affine = Dense(latent, channels, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.noise = nn.Parameter(torch.zeros(channels)) if noisy else None
        self.gain = math.sqrt(2 / (channels * 9))

    def forward(self, x: torch.Tensor, scales: torch.Tensor, *, noisy: bool) -> torch.Tensor:
        """Apply it; noisy adds grain where the layer has a strength for it."""
        with torch.autocast(x.device.type, enabled=False):
            power = self.weight.float().square().sum((2, 3))
            length = scales.float().square() @ power.t() * (self.gain**2 / 2)
            undo = torch.rsqrt(length + 1e-8)
        y = functional.conv2d(
            x * scales[:, :, None, None].to(x.dtype), self.weight * self.gain, padding=1
        )
        bias = self.bias[None, :, None, None].to(y.dtype)
        if self.noise is not None and noisy:
            grain = torch.randn(len(y), 1, *y.shape[2:], dtype=y.dtype, device=y.device)
            bias = bias + grain * self.noise[None, :, None, None].to(y.dtype)
        return bent(torch.addcmul(bias, y, undo[:, :, None, None].to(y.dtype)))


class Composer(nn.Module):
    """Draws a face into its surroundings. `to(torch.bfloat16)`, channels-last and CUDA work."""

    mask: torch.Tensor

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or Shape()
        widths, latent = shape.widths, shape.latent
        self.first = Convolution(4 * 4 + 5, widths[0])
        self.down = nn.ModuleList(Convolution(a, b, stride=2) for a, b in pairwise(widths))
        self.overall = Dense(latent, latent)
        self.start = Dense(shape.attributes, latent)
        self.map_first = Dense(shape.identity + shape.attributes, latent)
        self.map_second = Dense(latent, latent)
        finest = len(widths) - 1
        self.narrow = nn.ModuleList(
            Convolution(b, a, 1, linear=True, gain=_SKIP)
            for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.draws = nn.ModuleList(
            Modulated(width, latent, noisy=level >= finest - 1 and not second)
            for level, width in enumerate(reversed(widths))
            for second in (False, True)
        )
        self.colours = Convolution(widths[0], 12, linear=True, gain=0.5)
        if shape.finish:
            self.spread = Convolution(widths[0], 4 * shape.finish, 1)
            self.smooth = Convolution(shape.finish, shape.finish)
            self.touch = Convolution(shape.finish, 3, linear=True, gain=0.5)
            nn.init.zeros_(self.touch.weight)  # a warm start from `finish=0` begins where it was
        self.register_buffer("mask", ellipse(shape.side), persistent=False)

    @property
    def layers(self) -> list[Layer]:
        """The table of rows and of their channels in S."""
        coarse = self.shape.side // 2 ** len(self.shape.widths)
        table = [Layer(0, coarse, self.shape.latent, 0)]
        for index in range(len(self.draws)):
            last, width = table[-1], self.shape.widths[-1 - index // 2]
            side = coarse * 2 ** (index // 2)
            table.append(Layer(index + 1, side, width, last.offset + last.channels))
        return table

    def rows(self, identity: torch.Tensor, attributes: torch.Tensor) -> torch.Tensor:
        """Map Z to W+: identity (n, 48) unit length, attributes (n, 64) -> (n, rows, latent).

        Row 0 comes from the attributes alone; the others are one vector, repeated. They may differ
        afterwards: that is what W+ is for.
        """
        together = torch.cat([identity * math.sqrt(self.shape.identity), attributes], 1)
        style = bent(self.map_second(bent(self.map_first(together)))) * 1.4
        first = self.start(attributes)
        return torch.cat([first[:, None], style[:, None].expand(-1, len(self.draws), -1)], 1)

    def scales(self, rows: torch.Tensor) -> torch.Tensor:
        """Map W+ to S: (n, rows, latent) -> (n, sum of channels), in the order of `layers`."""
        expected = (len(self.draws) + 1, self.shape.latent)
        if rows.ndim != 3 or tuple(rows.shape[1:]) != expected:
            raise ValueError(f"rows of shape {tuple(rows.shape)}, not (n, {expected})")
        parts = [rows[:, 0]]
        affines: list[Any] = [draw.affine for draw in self.draws]
        parts += [affine(rows[:, i + 1]) for i, affine in enumerate(affines)]
        return torch.cat(parts, 1)

    def context(self, crops: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Blank the face: (n, 3, side, side) RGB -1..1 -> (n, 4, side, side) with the mask last.

        mask: (1 or n, 1, side, side), 1 where nothing of the crop may be read; the ellipse of design
        section 4 by default.
        """
        hidden = (
            (self.mask if mask is None else mask).to(crops.dtype).expand(len(crops), -1, -1, -1)
        )
        return torch.cat([crops * (1 - hidden), hidden], 1)

    def draw(
        self,
        context: torch.Tensor,
        points: torch.Tensor,
        rows: torch.Tensor,
        *,
        noisy: bool = False,
    ) -> torch.Tensor:
        """Draw from W+. See `draw_scaled`."""
        return self.draw_scaled(context, points, self.scales(rows), noisy=noisy)

    def draw_scaled(
        self,
        context: torch.Tensor,
        points: torch.Tensor,
        scales: torch.Tensor,
        *,
        noisy: bool = False,
    ) -> torch.Tensor:
        """Draw from S: the whole square, (n, 3, side, side) float32 RGB about -1..1.

        context: (n, 4, side, side) from `context`; points: (n, 5, 2) x, y in units of the side;
        scales: (n, S) from `scales`. noisy: fresh grain, for training. Only the inside of the mask is
        trained to be looked at: blend with `composed`.
        """
        return self.drawn_from(self.seen(context, points), scales, noisy=noisy)

    def seen(self, context: torch.Tensor, points: torch.Tensor) -> list[torch.Tensor]:
        """Read surroundings and points: one map a level, fine to coarse. No latent has a say in it."""
        side = self.shape.side
        if tuple(context.shape[1:]) != (4, side, side):
            raise ValueError(f"context of shape {tuple(context.shape)}, not (n, 4, {side}, {side})")
        together = torch.cat(
            [functional.pixel_unshuffle(context, 2), heat(points, side // 2).to(context.dtype)], 1
        )
        maps = [self.first(together.contiguous(memory_format=torch.channels_last))]
        for halve in self.down:
            maps.append(halve(maps[-1]))
        return maps

    def drawn_from(
        self,
        maps: list[torch.Tensor],
        scales: torch.Tensor,
        *,
        row: int = 0,
        entering: torch.Tensor | None = None,
        kept: list[torch.Tensor] | None = None,
        noisy: bool = False,
    ) -> torch.Tensor:
        """Draw from what `seen` read, from `row` on: only rows from there have to be computed again.

        entering: what enters `row`, as an earlier call with the same maps and the same scales in all
        rows before it left in `kept`, which is filled with what enters each row. Maps and entering
        may hold one face for all n of scales. Raises ValueError for a row without what enters it.
        """
        if (row > 0) != (entering is not None):
            raise ValueError(f"row {row} {'without' if row else 'with'} what enters it")
        parts = torch.split(scales, [layer.channels for layer in self.layers], 1)
        x = maps[-1] if entering is None else entering
        if row == 0:
            if kept is not None:
                kept.append(x)
            x = x + (parts[0] + self.overall(x.mean((2, 3))))[:, :, None, None].to(x.dtype)
        for index in range(max(row, 1), len(self.draws) + 1):
            level, second = divmod(index - 1, 2)
            if level and not second and index > row:
                x = functional.interpolate(self.narrow[level - 1](x), scale_factor=2.0)
                x = x + maps[-1 - level] * _SKIP
            if kept is not None:
                kept.append(x)
            x = self.draws[index - 1](x, parts[index], noisy=noisy)
        drawn = functional.pixel_shuffle(self.colours(x), 2)
        if self.shape.finish:
            full = functional.pixel_shuffle(self.spread(x), 2)
            drawn = drawn + self.touch(self.smooth(full))
        return drawn.float()

    def composed(self, crops: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Blend a drawing into its crops through the mask: what a photo will show, at this size."""
        return crops * (1 - self.mask) + drawn * self.mask


def placed(network: AnyModule, device: str) -> AnyModule:
    """Move a network to a device, its convolutions' weights with channels last: faster everywhere."""
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def bent(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU with slope 0.2."""
    return functional.leaky_relu(x, 0.2)


def ellipse(side: int) -> torch.Tensor:
    """Return the mask of the wide crop, (1, 1, side, side): 1 inside, smooth to 0 at the rim."""
    ramp = ((1 - radius(side)) / FEATHER).clamp(0, 1)
    return (ramp * ramp * (3 - 2 * ramp))[None, None]


def radius(side: int) -> torch.Tensor:
    """Return how far each pixel of the wide crop lies from the middle: (side, side), 1 at the rim."""
    steps = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.hypot((x - CENTRE[0]) / SEMI_AXES[0], (y - CENTRE[1]) / SEMI_AXES[1])


def heat(points: torch.Tensor, side: int) -> torch.Tensor:
    """Draw each point as a bump: (n, 5, 2) in units of the side -> (n, 5, side, side)."""
    steps = (torch.arange(side, dtype=torch.float32, device=points.device) + 0.5) / side
    sigma = 1 / 48  # of the crop's side, whatever its size in pixels
    bumps = torch.exp(-((points.float()[..., None] - steps) ** 2) / (2 * sigma**2))
    return bumps[:, :, 1, :, None] * bumps[:, :, 0, None, :]
