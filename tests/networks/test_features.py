"""Attribute features: shapes, places, gradients, and what their distance is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from moretta.networks.attributes import WIDE_POINTS
from moretta.networks.features import (
    INPUTS,
    TOKENS,
    FeatureHead,
    SmallFeatures,
    distance,
    places_of,
    stages,
)
from moretta.weights import load


@pytest.fixture(scope="module")
def identity():
    from moretta.networks.identity import Identity

    torch.set_num_threads(1)
    return Identity.from_tensors(load.tensors("dlib"), load.tensors("identity"))


@pytest.fixture(scope="module")
def looked(identity):
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, 96, 96) * 2 - 1
    return pictures, torch.tensor(WIDE_POINTS).expand(2, 5, 2).contiguous()


def test_shapes_gradients_and_maps_that_are_there_already(identity, looked):
    features = SmallFeatures.from_tensors(identity, load.tensors("features"))
    pictures, points = looked[0].clone().requires_grad_(True), looked[1]
    seen = features.of(pictures, points)
    assert seen.vectors.shape == (2, 64)
    assert seen.tokens.shape == (2, 64, 64)
    seen.tokens.square().sum().backward()
    assert float(pictures.grad.abs().sum()) > 0
    maps = stages(identity, *looked)[1]
    again = features.of(*looked, maps=maps)
    torch.testing.assert_close(again.tokens, seen.tokens)
    assert all(p.grad is None and not p.requires_grad for p in features._head.parameters())


def test_places_lose_nothing_and_lie_where_they_are_seen():
    fine, middle, coarse = (
        torch.zeros(1, 32, 35, 35),
        torch.zeros(1, 64, 17, 17),
        torch.zeros(1, 128, 8, 8),
    )
    fine[0, 5, 1 + 4 * 2, 1 + 4 * 3] = 1
    middle[0, 7, 2 * 2, 2 * 3] = 1
    coarse[0, 9, 2, 3] = 1
    places = places_of((fine, middle, coarse))
    assert places.shape == (1, TOKENS, INPUTS)
    assert places[0].sum() == 3
    assert places[0, 2 * 8 + 3].sum() == 3


def test_distance_is_summed_over_tokens_and_averaged_over_channels():
    torch.manual_seed(1)
    one, other = torch.rand(3, 5, 7), torch.rand(3, 5, 7)
    torch.testing.assert_close(distance(one, other), 5 * (one - other).abs().mean((1, 2)))
    assert float(distance(one, one).abs().sum()) == 0


def test_other_tensors_are_refused(identity):
    with pytest.raises(KeyError):
        SmallFeatures.from_tensors(identity, {})
    tensors = {name: value[..., :1] for name, value in FeatureHead().state_dict().items()}
    with pytest.raises(RuntimeError):
        SmallFeatures.from_tensors(identity, tensors)


def test_the_bundled_file_is_small():
    assert load.entry("features").bytes < 5_000_000
