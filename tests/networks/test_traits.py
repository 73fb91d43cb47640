import math

import numpy as np
import pytest

from moretta.networks.pool import BANDS, random_identities
from moretta.networks.traits import TENSORS, TraitsHead
from moretta.weights import load


def tensors(width: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = [(width, 48), (width,), (6, width), (6,)]
    return {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in zip(TENSORS, shapes, strict=True)
    }


def test_probabilities_agree_with_a_plain_sum():
    given = tensors()
    identities = random_identities(5, 3)
    bands, female = TraitsHead.from_tensors(given).probabilities(identities)
    a, b, c, d = (given[name].astype(float) for name in TENSORS)
    for row, vector in enumerate(identities):
        hidden = [
            max(
                0.0, math.sqrt(48) * sum(w * v for w, v in zip(weights, vector, strict=True)) + bias
            )
            for weights, bias in zip(a, b, strict=True)
        ]
        logits = [
            sum(w * h for w, h in zip(weights, hidden, strict=True)) + bias
            for weights, bias in zip(c, d, strict=True)
        ]
        odds = [math.exp(each) for each in logits[:5]]
        np.testing.assert_allclose(bands[row], np.array(odds) / sum(odds), atol=1e-9)
        assert female[row] == pytest.approx(1 / (1 + math.exp(-logits[5])), abs=1e-9)


def test_it_agrees_with_the_network_that_is_trained():
    torch = pytest.importorskip("torch")
    given, identities = tensors(), random_identities(5, 3)
    a, b, c, d = (torch.from_numpy(given[name]) for name in TENSORS)
    linear = torch.nn.functional.linear
    logits = linear(linear(torch.from_numpy(identities) * 48**0.5, a, b).relu(), c, d)
    bands, female = TraitsHead.from_tensors(given).probabilities(identities)
    np.testing.assert_allclose(bands, logits[:, :5].softmax(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(female, logits[:, 5].sigmoid().numpy(), atol=1e-5)


def test_probabilities_stay_finite_for_a_very_sure_head():
    given = {name: each * 1000 for name, each in tensors().items()}
    bands, female = TraitsHead.from_tensors(given).probabilities(random_identities(20, 1))
    np.testing.assert_allclose(bands.sum(1), 1)
    assert np.isfinite(female).all()


def test_read_names_the_most_probable():
    head = TraitsHead.from_tensors(tensors())
    identities = random_identities(40, 2)
    bands, female = head.probabilities(identities)
    for at, each in enumerate(identities):
        traits = head.read(each)
        assert traits.band == BANDS[int(bands[at].argmax())]
        assert traits.band_confidence == pytest.approx(bands[at].max())
        assert traits.gender == ("female" if female[at] >= 0.5 else "male")
        assert traits.gender_confidence == pytest.approx(max(female[at], 1 - female[at]))
    assert {head.read(each).gender for each in identities} == {"male", "female"}


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="identities of shape"):
        TraitsHead.from_tensors(tensors()).probabilities(np.zeros((3, 128)))
    wrong = {**tensors(), TENSORS[2]: np.zeros((5, 6))}
    with pytest.raises(ValueError, match="a head of shapes"):
        TraitsHead.from_tensors(wrong)
    with pytest.raises(KeyError):
        TraitsHead.from_tensors({})


def test_directions_are_orthonormal_nested_and_the_same_each_time():
    head = TraitsHead.from_tensors(load.tensors("identity"))
    both = head.directions("age,gender")
    assert both.shape == (3, 48)
    np.testing.assert_allclose(both @ both.T, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(both, head.directions("age,gender"))
    np.testing.assert_allclose(head.directions("gender"), both[:1], atol=1e-12)
    assert head.directions("age").shape == (2, 48)
    with pytest.raises(ValueError, match="no direction"):
        head.directions("none")


def test_identities_that_agree_along_the_directions_look_alike_to_the_head():
    head = TraitsHead.from_tensors(load.tensors("identity"))
    both = head.directions("age,gender")
    a, b = random_identities(2000, 5).astype(float), random_identities(2000, 6).astype(float)
    along = a @ both.T
    rest = b - b @ both.T @ both
    rest *= np.sqrt(1 - (along**2).sum(1, keepdims=True)) / np.linalg.norm(rest, axis=1)[:, None]
    (bands, female), (bands_too, female_too) = (
        head.probabilities(each) for each in (a, along @ both + rest)
    )
    assert ((female > 0.5) == (female_too > 0.5)).mean() > 0.85
    assert (bands.argmax(1) == bands_too.argmax(1)).mean() > 0.65
    chance = head.probabilities(b)
    assert ((female > 0.5) == (chance[1] > 0.5)).mean() < 0.6
    assert (bands.argmax(1) == chance[0].argmax(1)).mean() < 0.55
