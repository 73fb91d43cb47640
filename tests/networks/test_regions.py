"""Regions: they share the ellipse among them, and lie where their names say, however a face turns."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from moretta.networks.attributes import WIDE_POINTS
from moretta.networks.composer import ellipse
from moretta.networks.regions import REGIONS, matched, regions

UPRIGHT = torch.tensor(WIDE_POINTS, dtype=torch.float32)


def centres(points: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = regions(points[None], ellipse(96))[0]
    y, x = torch.meshgrid(*[(torch.arange(96) + 0.5) / 96] * 2, indexing="ij")
    return {
        name: torch.stack([(part * x).sum(), (part * y).sum()]) / part.sum()
        for name, part in zip(REGIONS, parts, strict=True)
    }


def test_they_share_the_ellipse_among_them():
    points = UPRIGHT + torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(0)) * 0.04
    mask = ellipse(96)
    parts = regions(points, mask)
    assert parts.shape == (20, len(REGIONS), 96, 96)
    assert float(parts.min()) >= 0
    torch.testing.assert_close(parts.sum(1, keepdim=True), mask.expand(20, -1, -1, -1))
    assert bool((regions(UPRIGHT[None], mask)[0].sum((1, 2)) > 60).all())  # pixels of 96 x 96


def test_they_lie_where_their_names_say():
    at = centres(UPRIGHT)
    assert torch.allclose(at["eyes"], UPRIGHT[:2].mean(0), atol=0.04)
    assert torch.allclose(at["nose"], UPRIGHT[2], atol=0.05)
    assert torch.allclose(at["mouth"], UPRIGHT[3:].mean(0), atol=0.03)
    assert at["forehead"][1] < at["eyes"][1] < at["nose"][1] < at["mouth"][1] < at["chin"][1]


def test_they_turn_with_the_face():
    centre = torch.tensor([0.5, 0.512])
    turned = torch.stack([-(UPRIGHT - centre)[:, 1], (UPRIGHT - centre)[:, 0]], 1) + centre
    upright, now = centres(UPRIGHT), centres(turned)
    for name in ("eyes", "nose", "mouth"):
        offset = upright[name] - centre
        expected = torch.stack([-offset[1], offset[0]]) + centre
        assert torch.allclose(now[name], expected, atol=0.01)


def test_points_that_coincide_still_give_shares():
    parts = regions(torch.full((1, 5, 2), 0.5), ellipse(96))
    assert bool(parts.isfinite().all())


def test_colours_are_matched_where_they_are_compared():
    rng = torch.Generator().manual_seed(1)
    goal = torch.rand(2, 3, 96, 96, generator=rng) * 0.6 - 0.5
    drawn = goal * 0.8 + 0.2
    share = ellipse(96).expand(2, -1, -1, -1)

    def light(pictures: torch.Tensor) -> torch.Tensor:
        linear = ((pictures + 1) / 2) ** 2.2
        return (linear * share).sum((2, 3)) / share.sum((2, 3))

    assert (light(drawn) - light(goal)).abs().max() > 0.05
    torch.testing.assert_close(light(matched(drawn, goal, share)), light(goal), atol=2e-3, rtol=0)
    assert torch.equal(matched(drawn, goal, share * 0), drawn)
