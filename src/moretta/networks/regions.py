"""Parsing a face by its five points: soft regions that share the drawn ellipse among them.

Eyes with brows, nose, mouth, cheeks, forehead, chin; the rest up to the ellipse is the rim, which holds
the outline of the face, hair and ears. Everything is measured in the distance between the eyes, along
and across the line between them, so that regions turn and grow with the face.

Assumes   the wide crop; points in units of its side, in the order of records.Points.
Sources   Le & Carlsson 2023 (StyleID), the pixel variant: face parts are exchanged through a parsing
          mask. Theirs comes from a network; ours from geometry, since no parser ships.
Checked   tests/networks/test_regions.py.
"""

from __future__ import annotations

import torch

#: In the order of the last axis but two of `regions`.
REGIONS = ("eyes", "nose", "mouth", "cheeks", "forehead", "chin", "rim")
_SOFT = 0.12  # width of the step between two regions, in eye distances


def regions(points: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return each region's share of every pixel, (n, len(REGIONS), side, side); their sum is the mask.

    points: (n, 5, 2) in units of the side. mask: (1 or n, 1, side, side), the drawn ellipse, 0..1.
    """
    side = mask.shape[-1]
    steps = (torch.arange(side, dtype=points.dtype, device=points.device) + 0.5) / side
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([x, y], -1)[None]
    eyes, mouth = points[:, :2].mean(1), points[:, 3:].mean(1)
    along = points[:, 1] - points[:, 0]
    unit = along.norm(dim=1).clamp_min(0.02)
    along = along / unit[:, None]
    down = torch.stack([-along[:, 1], along[:, 0]], 1)

    def at(centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels about a centre, in eye distances: along the eyes and down the face."""
        offset = (pixels - centre[:, None, None]) / unit[:, None, None, None]
        return (
            (offset * along[:, None, None]).sum(-1),
            (offset * down[:, None, None]).sum(-1),
        )

    def within(
        place: tuple[torch.Tensor, torch.Tensor], width: float, height: float, shift: float = 0.0
    ) -> torch.Tensor:
        """1 inside an ellipse of these semi-axes, in eye distances, falling to 0 about its rim."""
        radius = torch.hypot(place[0] / width, (place[1] - shift) / height)
        return torch.sigmoid((1 - radius) * min(width, height) / _SOFT * 4)

    each_eye = [within(at(points[:, i]), 0.42, 0.36, -0.1) for i in (0, 1)]
    eye = torch.maximum(*each_eye)
    middle = at((eyes + points[:, 2]) / 2)
    nose = torch.maximum(within(middle, 0.2, 0.45), within(at(points[:, 2]), 0.34, 0.22))
    lips = within(at(mouth), 0.52, 0.3)
    from_eyes, from_mouth = at(eyes), at(mouth)
    high = torch.sigmoid((-0.3 - from_eyes[1]) / _SOFT * 4)
    low = torch.sigmoid((from_mouth[1] - 0.05) / _SOFT * 4)
    inner = within(at((eyes + mouth) / 2), 1.02, 1.42)
    parts = []
    left = torch.ones_like(inner)
    for share in (eye, nose, lips):
        parts.append(left * share)
        left = left * (1 - share)
    forehead, chin = left * inner * high, left * inner * low
    cheeks = left * inner - forehead - chin
    parts += [cheeks.clamp_min(0), forehead, chin]
    parts.append((1 - torch.stack(parts, 1).sum(1)).clamp_min(0))
    found = torch.stack(parts, 1)
    return found / found.sum(1, keepdim=True) * mask


def matched(drawn: torch.Tensor, pictures: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Give a drawing the colours that a picture has in a region: mean and deviation, in linear light.

    drawn, pictures: (n, 3, side, side) RGB -1..1; share: (n, 1, side, side) weights of the pixels that
    are compared. The deviation changes by a factor of 1.2 at most. Where share is nothing, nothing moves.
    """
    weight = share / share.sum((2, 3), keepdim=True).clamp_min(1e-6)
    light, goal = (((each.clamp(-1, 1) + 1) / 2) ** 2.2 for each in (drawn, pictures))
    means = [(each * weight).sum((2, 3), keepdim=True) for each in (light, goal)]
    widths = [
        (((each - mean) ** 2) * weight).sum((2, 3), keepdim=True).sqrt()
        for each, mean in zip((light, goal), means, strict=True)
    ]
    gain = ((widths[1] + 1e-3) / (widths[0] + 1e-3)).clamp(1 / 1.2, 1.2)
    fitted = ((light - means[0]) * gain + means[1]).clamp(0, 1) ** (1 / 2.2) * 2 - 1
    return torch.where(share.sum((2, 3), keepdim=True) > 1e-6, fitted, drawn)
