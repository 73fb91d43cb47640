"""Intervals: slow loops, and whether they hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.evaluation import intervals


def test_the_interval_holds_the_truth():
    """People with very different rates, five photos each: 95 % intervals, 150 times."""
    rng = np.random.default_rng(0)
    held = {"middle": 0, "edge": 0}
    for name, (a, b) in {"middle": (0.6, 0.9), "edge": (0.05, 1.5)}.items():
        for trial in range(150):
            rates = rng.beta(a, b, 80)
            values = rng.binomial(5, rates) / 5
            found = intervals.over_people(values, seed=trial)
            held[name] += found.lo <= a / (a + b) <= found.hi
    assert held["middle"] >= 136
    assert held["edge"] >= 133


def test_people_count_not_photos():
    one = np.tile([0.0, 1.0], 50)
    wide = intervals.over_people(one, seed=0)
    assert wide.hi - wide.lo == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 100), rel=0.15)


@pytest.mark.parametrize("people", [20, 100, 500])
def test_no_hits_still_leave_three_over_the_number_of_people(people):
    found = intervals.over_people(np.zeros(people), seed=0)
    assert found.v == 0
    assert found.lo == 0
    assert found.hi >= 3 / people


def test_weights_change_the_mean():
    values, weights = np.array([0.2, 0.8, 0.5]), np.array([1.0, 3.0, 0.0])
    assert intervals.over_people(values, seed=0, weights=weights).v == pytest.approx(0.65)


def test_genuine_variance_by_a_loop():
    rng = np.random.default_rng(1)
    owners = rng.integers(0, 12, 80)
    accepted = rng.integers(0, 2, 80).astype(float)
    mean = accepted.mean()
    variance = 0.0
    for person in set(owners.tolist()):
        own = accepted[owners == person]
        variance += (len(own) * (own.mean() - mean)) ** 2
    variance /= len(accepted) ** 2
    found = intervals.over_genuine(accepted, owners)
    low, high = intervals.wilson(mean, variance, len(set(owners.tolist())))
    assert found.v == pytest.approx(mean)
    assert (found.lo, found.hi) == (pytest.approx(low), pytest.approx(high))


def test_paired_differences_are_narrower_than_unpaired():
    rng = np.random.default_rng(3)
    base = rng.uniform(0, 1, 200)
    found = intervals.paired_difference(base, base - 0.1, seed=0)
    assert (found.v, found.lo, found.hi) == (pytest.approx(0.1),) * 3
    with pytest.raises(ValueError, match="paired"):
        intervals.paired_difference(base, base[:5], seed=0)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(4).uniform(0, 1, 50)
    assert intervals.over_people(values, seed=5) == intervals.over_people(values, seed=5)


def test_what_is_no_rate_gets_no_interval_of_rates():
    """Angles of 2 of 180 degrees, all nearly alike: Wilson's interval would be ten times too wide."""
    rng = np.random.default_rng(3)
    held = 0
    for trial in range(150):
        degrees = np.clip(rng.normal(2, 0.5, 100), 0, 180) / 180
        found = intervals.over_people(degrees, seed=trial, rate=False)
        held += found.lo <= 2 / 180 <= found.hi
        assert found.hi - found.lo < 0.3 / 180
        assert intervals.over_people(degrees, seed=trial).hi - found.hi > 1 / 180
    assert held >= 133
