"""dlib's face ResNet in torch: what generative methods are trained against, never what judges them.

Promise   the same vectors as dlib from the same chip (docs/networks.md), and gradients to the pixels.
Assumes   RGB 0..255; tensors named as `moretta.weights.convert.convert_dlib` names them.
Not here  finding the face: the chip is cut from five points that a detector gives.
Sources   davisking/dlib: dnn_face_recognition_ex.cpp (the layers), the 5-point chip template.
Checked   tests/networks/test_recogniser.py; benchmarks/check_dlib.py compares with dlib itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

CHIP_SIDE = 150  # pixels

# dlib's template for its five landmarks, in the chip's pixels, continuous coordinates: outer and
# inner corner of the eye on the image's right, outer and inner corner of the left one, nose base.
DLIB_TEMPLATE = (
    (110.957, 46.350),
    (89.606, 47.897),
    (37.058, 46.373),
    (58.409, 47.906),
    (74.011, 87.780),
)

# Where our five points (records.Points) lie in that chip. An eye is the middle of its corners;
# nose and mouth take the places that the tight template gives them beside those eyes.
_TIGHT = ((0.308, 0.282), (0.692, 0.282), (0.500, 0.511), (0.338, 0.675), (0.662, 0.675))


def _chip_points() -> tuple[tuple[float, float], ...]:
    corner = DLIB_TEMPLATE
    left = [(corner[2][axis] + corner[3][axis]) / 2 for axis in (0, 1)]
    right = [(corner[0][axis] + corner[1][axis]) / 2 for axis in (0, 1)]
    unit = math.dist(left, right) / (_TIGHT[1][0] - _TIGHT[0][0])  # chip pixels a tight side
    return tuple(
        ((left[0] + right[0]) / 2 + (x - 0.5) * unit, (left[1] + right[1]) / 2 + (y - 0.282) * unit)
        for x, y in _TIGHT
    )


CHIP_POINTS = _chip_points()

_MEANS = (122.782, 117.001, 104.298)
_SCALE = 256.0
_STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
_FEATURES_AFTER = (2, 6, 9)  # last block of the stages with 35, 17 and 8 px a side
_COINCIDE = 1e-6  # squared pixels: five points closer together are no face


class DlibResNet(nn.Module):
    """29 convolutions with their affine layers folded in; 128 numbers a chip, norms near 1.27.

    The vectors are dlib's own: Euclidean distance, below 0.6 for one person by dlib's advice.
    `to(torch.bfloat16)` and `to(memory_format=torch.channels_last)` work; sums over positions and
    the last layer stay in float32.
    """

    means: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        blocks = []
        channels = 32
        for width, count, halves in _STAGES:
            for index in range(count):
                blocks.append(_Block(channels, width, halves=halves and index == 0))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.output = nn.Linear(256, 128, bias=False)
        self.register_buffer("means", torch.tensor(_MEANS).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Any]) -> DlibResNet:
        """Build the network from numpy arrays or tensors; it is frozen, float32, in eval mode."""
        with torch.device("meta"):
            network = cls()
        state = {name: torch.as_tensor(each).to(torch.float32) for name, each in tensors.items()}
        network.load_state_dict(state, assign=True)
        network.means = torch.tensor(_MEANS).view(1, 3, 1, 1)
        return network.requires_grad_(False).eval()

    @overload
    def embed(self, chips: torch.Tensor, *, features: Literal[False] = False) -> torch.Tensor: ...
    @overload
    def embed(
        self, chips: torch.Tensor, *, features: Literal[True]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]: ...
    def embed(
        self, chips: torch.Tensor, *, features: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """(n, 3, 150, 150) RGB 0..255 -> (n, 128) float32; differentiable.

        With `features` also the maps after three stages, for perceptual losses:
        (n, 32, 35, 35), (n, 64, 17, 17) and (n, 128, 8, 8), in the network's own precision.
        """
        if chips.ndim != 4 or chips.shape[1:] != (3, CHIP_SIDE, CHIP_SIDE):
            raise ValueError(f"chips of shape {tuple(chips.shape)}, not (n, 3, 150, 150)")
        x = ((chips - self.means) / _SCALE).to(self.stem.weight.dtype)
        x = functional.max_pool2d(functional.relu(self.stem(x)), 3, 2)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _FEATURES_AFTER:
                maps.append(x)
        vectors = functional.linear(_precise(x).mean((2, 3)), _precise(self.output.weight))
        return (vectors, maps) if features else vectors

    def forward(self, chips: torch.Tensor) -> torch.Tensor:
        """Return the vectors: see `embed`."""
        return self.embed(chips)


class _Block(nn.Module):
    """Two convolutions and a way around them; when it halves, nothing is padded at stride 2.

    The way around may then be larger (4 px beside 3) or have fewer channels: both are filled up
    with zeros at their ends, as dlib does.
    """

    def __init__(self, channels: int, width: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        stride, padding = (2, 0) if halves else (1, 1)
        self.first = nn.Conv2d(channels, width, 3, stride=stride, padding=padding)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn = self.second(functional.relu(self.first(x)))
        around = functional.avg_pool2d(x, 2) if self.halves else x
        shape = [max(a, b) for a, b in zip(drawn.shape[1:], around.shape[1:], strict=True)]
        return functional.relu(_filled(drawn, shape) + _filled(around, shape))


def _filled(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    channels, height, width = (a - b for a, b in zip(shape, x.shape[1:], strict=True))
    if not (channels or height or width):
        return x
    return functional.pad(x, (0, width, 0, height, 0, channels))


def _precise(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- the chip --------------------------------------------------------------------------------


def chip_matrix(points: torch.Tensor) -> torch.Tensor:
    """Least-squares similarity from chip to photo, (n, 5, 2) points in pixels -> (n, 2, 3).

    Never mirrors. Differentiable in the points. Acts on continuous coordinates.
    Source: Umeyama 1991, eqs. 38-43, in closed form for two dimensions.
    """
    exact = points.to(torch.float64)
    template = torch.tensor(CHIP_POINTS, dtype=torch.float64, device=points.device)
    chip_middle, photo_middle = template.mean(0), exact.mean(1)
    a, b = template - chip_middle, exact - photo_middle[:, None]
    if bool((b.square().sum((1, 2)) < _COINCIDE).any()):
        raise ValueError("five points that coincide")
    cosine = (a * b).sum((1, 2)) / a.square().sum()
    sine = (a[:, 0] * b[..., 1] - a[:, 1] * b[..., 0]).sum(1) / a.square().sum()
    turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    shift = photo_middle - turn @ chip_middle
    return torch.cat([turn, shift[..., None]], 2)


def chip_grid(points: torch.Tensor, size: tuple[int, int], side: int = CHIP_SIDE) -> torch.Tensor:
    """Where each chip pixel lies in a picture of `size` (height, width).

    points: (n, 5, 2) x, y in the picture's pixels, pixel centres at .5.
    Returns (n, side, side, 2) float32 for `grid_sample` with align_corners=False, for which -1
    and 1 are the picture's outer edges, so that continuous coordinates need no half pixels.
    """
    height, width = size
    matrix = chip_matrix(points)
    steps = (torch.arange(side, dtype=torch.float64, device=points.device) + 0.5) * CHIP_SIDE / side
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    chip = torch.stack([x, y, torch.ones_like(x)], -1)
    photo = torch.einsum("nij,hwj->nhwi", matrix, chip)
    return (photo / photo.new_tensor([width, height]) * 2 - 1).to(torch.float32)


def chip(pictures: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Cut dlib's chip out of each picture: (n, 3, h, w) and (n, 5, 2) -> (n, 3, 150, 150).

    Bilinear, the picture's edge repeated outside it; differentiable in the picture and the points.
    Pictures should show the face at no more than about twice the chip's scale: shrink larger ones
    by area first, or fine texture folds into the chip.
    """
    grid = chip_grid(points, (pictures.shape[2], pictures.shape[3]))
    wide = _precise(pictures)  # a grid in bfloat16 would be off by whole pixels
    cut = functional.grid_sample(
        wide, grid.to(wide.dtype), padding_mode="border", align_corners=False
    )
    return cut.to(pictures.dtype)
