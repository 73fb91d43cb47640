"""Error rates against scikit-learn and slow loops; linkability on known densities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.evaluation import verification

metrics = pytest.importorskip("sklearn.metrics")
scores = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12)


def draw(seed, n=400, gap=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(gap, 1, n), rng.normal(0, 1, 3 * n)


@given(genuine=scores, impostor=scores)
def test_area_is_scikit_learns(genuine, impostor):
    labels = [1] * len(genuine) + [0] * len(impostor)
    wanted = metrics.roc_auc_score(labels, genuine + impostor)
    assert verification.area(np.array(genuine), np.array(impostor)) == pytest.approx(
        wanted, abs=1e-6
    )


@given(impostor=scores, rate=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9]))
def test_a_threshold_never_lets_more_in_and_the_next_lower_score_would(impostor, rate):
    values = np.array(impostor)
    limit = verification.threshold(values, rate)
    assert limit in values
    assert verification.rate_above(values, limit) <= rate + 1e-9
    lower = values[values < limit]
    if len(lower):
        assert verification.rate_above(values, lower.max()) > rate


@given(genuine=scores, impostor=scores)
def test_equal_error_rate_by_loops(genuine, impostor):
    g, i = np.array(genuine), np.array(impostor)
    steps = [-np.inf, *np.unique(np.concatenate([g, i]))]
    pairs = [((i > s).mean(), (g <= s).mean()) for s in steps]
    gaps = [abs(a - b) for a, b in pairs]
    best = [sum(pair) / 2 for pair, gap in zip(pairs, gaps, strict=True) if gap <= min(gaps) + 1e-9]
    found = verification.equal_error_rate(g, i)
    assert any(found == pytest.approx(each, abs=1e-9) for each in best)


def test_true_accept_rate_is_on_scikit_learns_curve():
    genuine, impostor = draw(0)
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    false, true, _ = metrics.roc_curve(
        labels, np.concatenate([genuine, impostor]), drop_intermediate=False
    )
    for rate in (1e-2, 1e-1):
        limit = verification.threshold(impostor, rate)
        wanted = true[false <= rate + 1e-12].max()
        assert verification.rate_above(genuine, limit) == pytest.approx(wanted, abs=1e-6)


def test_few_comparisons_are_not_reported():
    assert verification.reportable(30_000, 1e-3)
    assert not verification.reportable(29_999, 1e-3)


def test_linkability_of_known_densities():
    genuine, impostor = draw(1, 20_000, gap=0)
    fit = draw(2, 20_000, gap=0)
    assert verification.linkability(genuine, impostor, fitted_on=fit) < 0.03
    assert verification.linkability(genuine + 20, impostor) > 0.99
    # two uniform densities, half overlapping: LR is 1 on the overlap, infinite beyond
    rng = np.random.default_rng(4)
    mated, other = rng.uniform(0.5, 1.5, 50_000), rng.uniform(0, 1, 50_000)
    assert verification.linkability(mated, other) == pytest.approx(0.5, abs=0.03)


def test_linkability_by_a_slow_integral():
    mated, other = draw(5, 4000, gap=1.5)
    steps = np.linspace(0, 1, 26)
    edges = sorted({*np.quantile(mated, steps), *np.quantile(other, steps)})
    total = 0.0
    for low, high in zip([-np.inf, *edges], [*edges, np.inf], strict=True):
        p, q = ((mated > low) & (mated <= high)).mean(), ((other > low) & (other <= high)).mean()
        ratio = p / q if q else np.inf
        local = 0 if ratio <= 1 else (1 if q == 0 else 2 * ratio / (1 + ratio) - 1)
        total += local * p
    assert verification.linkability(mated, other) == pytest.approx(total, abs=1e-6)


def test_nothing_to_compare_is_not_a_number():
    assert np.isnan(verification.area(np.zeros(0), np.zeros(1)))
    assert np.isnan(verification.equal_error_rate(np.zeros(0), np.zeros(1)))
    with pytest.raises(ValueError, match="no comparisons"):
        verification.threshold(np.zeros(0), 0.1)
