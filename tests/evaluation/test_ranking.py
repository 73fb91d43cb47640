"""Ranks: ties, chance, and the mean over random galleries against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.evaluation import ranking


def slow_hit(scores, own, k):
    """Average over all orders of the tied: the share in which the right one is among the first k."""
    above = sum(s > scores[own] + 1e-9 for s in scores)
    equal = sum(abs(s - scores[own]) <= 1e-9 for s in scores)
    return np.mean([above + place < k for place in range(equal)])


@given(
    scores=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    data=st.data(),
    k=st.integers(1, 3),
)
def test_expected_hits_are_the_mean_over_every_subset(scores, data, k):
    own = data.draw(st.integers(0, len(scores) - 1))
    size = data.draw(st.integers(1, len(scores)))
    others = [i for i in range(len(scores)) if i != own]
    slow = np.mean(
        [
            slow_hit([scores[own], *(scores[i] for i in chosen)], 0, k)
            for chosen in combinations(others, size - 1)
        ]
    )
    above, equal = ranking.above_and_equal(np.array([scores], float), np.array([own]))
    fast = ranking.expected_hits(above, equal, len(scores), size, k)
    np.testing.assert_allclose(fast, slow, atol=1e-9)


@pytest.mark.parametrize("size", [1, 20, 100])
@pytest.mark.parametrize("k", [1, 5])
def test_the_same_score_for_everybody_is_chance(size, k):
    scores = np.full((3, 100), 0.7)
    above, equal = ranking.above_and_equal(scores, np.array([0, 50, 99]))
    found = ranking.expected_hits(above, equal, 100, size, k)
    np.testing.assert_allclose(found, min(k / size, 1))


def test_hits_never_fall_with_k_and_rise_with_fewer_people():
    rng = np.random.default_rng(0)
    above, equal = ranking.above_and_equal(rng.normal(size=(50, 200)), rng.integers(0, 200, 50))
    by_k = [ranking.expected_hits(above, equal, 200, 100, k).mean() for k in (1, 2, 5, 20, 100)]
    by_size = [ranking.expected_hits(above, equal, 200, n, 1).mean() for n in (200, 100, 20, 2, 1)]
    assert by_k == sorted(by_k)
    assert by_k[-1] == pytest.approx(1)
    assert by_size == sorted(by_size)
    assert by_size[-1] == pytest.approx(1)


@pytest.mark.parametrize("rule", ranking.RULES)
def test_person_scores_by_loops(rule):
    rng = np.random.default_rng(1)
    owners = rng.permutation(np.repeat([3, 5, 9], [2, 4, 1]))
    scores = rng.normal(size=(6, 7))
    found = ranking.person_scores(scores, owners, np.array([3, 5, 9]), rule)
    pick = np.max if rule == "max" else np.mean
    for j, person in enumerate((3, 5, 9)):
        np.testing.assert_allclose(found[:, j], pick(scores[:, owners == person], axis=1))


def test_what_person_scores_refuse():
    with pytest.raises(ValueError, match="not finite"):
        ranking.person_scores(np.array([[np.nan]]), np.array([0]), np.array([0]), "max")
    with pytest.raises(ValueError, match="people"):
        ranking.person_scores(np.zeros((1, 1)), np.array([0]), np.array([0, 1]), "max")
    with pytest.raises(ValueError, match="5 of 3"):
        ranking.expected_hits(np.array([0]), np.array([0]), 3, 5, 1)


def test_chance_of_unequal_galleries_is_what_random_scores_give():
    sizes = np.array([1, 2, 3, 6])
    rng = np.random.default_rng(2)
    owners = np.repeat(np.arange(4), sizes)
    scores = ranking.person_scores(rng.normal(size=(40_000, 12)), owners, np.arange(4), "max")
    first = np.bincount(scores.argmax(1), minlength=4) / len(scores)
    np.testing.assert_allclose(ranking.chance(sizes.astype(float), 4), first, atol=0.01)


def test_normalised_rate():
    assert ranking.normalised(0.0, 0.01) < 0
    assert ranking.normalised(0.505, 0.01) == pytest.approx(0.5)
