"""The prior: what it fits, and that samples do not depend on how many are drawn."""

from __future__ import annotations

import pytest
import torch

from moretta.networks.composer import ellipse
from moretta.networks.prior import COMPONENTS, Prior, fit


@pytest.fixture(scope="module")
def prior() -> Prior:
    torch.manual_seed(0)
    mask = ellipse(64)
    codes = torch.tanh(torch.randn(300, 6) @ torch.randn(6, 6) * 0.3)
    points = 0.5 + 0.05 * torch.randn(300, 5, 2)
    scenes = torch.rand(300, 3, 1, 1) * 2 - 1
    contexts = torch.cat(
        [scenes.expand(-1, -1, 64, 64) * (1 - mask), mask.expand(300, -1, -1, -1)], 1
    )
    fitted = fit(codes, points, contexts)
    assert all(value.dtype == torch.float16 for value in fitted.values())
    found = Prior.from_tensors(fitted)
    torch.testing.assert_close(found.mean[:6], codes.mean(0), atol=1e-3, rtol=1e-2)
    covariance = found.root @ found.root.t()
    wanted = torch.cov(torch.cat([codes, points.flatten(1)], 1).t())
    torch.testing.assert_close(covariance, wanted, atol=2e-3, rtol=2e-2)
    return found


def test_fewer_are_the_first_of_more(prior: Prior):
    few, many = prior.sample(3, 5), prior.sample(9, 5)
    for a, b in zip(few, many, strict=True):
        torch.testing.assert_close(a, b[:3])
    assert not torch.equal(prior.sample(3, 6)[0], few[0])


def test_truncation_draws_nearer_to_the_mean(prior: Prior):
    codes, points, scenes = prior.sample(50, 1, truncation=0.0)
    torch.testing.assert_close(codes, prior.mean[:6].clamp(-1, 1).expand(50, -1))
    assert float(scenes.abs().max()) == 0
    assert points.shape == (50, 5, 2)
    wide = prior.sample(50, 1, truncation=1.0)[0]
    assert float(wide.std(0).mean()) > 0.1


def test_contexts_hold_a_scene_around_a_blank(prior: Prior):
    mask = ellipse(96)
    scenes = prior.sample(4, 1)[2]
    assert scenes.shape == (4, min(COMPONENTS, 300))
    contexts = prior.contexts(scenes, mask)
    assert contexts.shape == (4, 4, 96, 96)
    assert float((contexts[:, :3] * (mask >= 1)).abs().max()) == 0
    corner = contexts[:, :3, 2, 2]
    assert float(corner.std(0).mean()) > 0.1  # plain scenes of many colours were learnt
