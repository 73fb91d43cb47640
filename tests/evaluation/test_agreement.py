"""Our figures against the libraries that others use, to 1e-6; a library that is absent skips its test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.evaluation import intervals, ranking, utility, verification

pytest.importorskip("scipy")
EXACT = 1e-6
scores = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=15)


def draw(seed, n=300):
    rng = np.random.default_rng(seed)
    return rng.normal(1, 1, n), rng.normal(0, 1, 4 * n)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_scikit_learns(k):
    """Where no scores tie: ours then counts whole hits."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(k)
    by_person, own = rng.normal(size=(200, 30)), rng.integers(0, 30, 200)
    above, equal = ranking.above_and_equal(by_person, own)
    wanted = metrics.top_k_accuracy_score(own, by_person, k=k, labels=np.arange(30))
    found = ranking.expected_hits(above, equal, 30, 30, k).mean()
    assert found == pytest.approx(wanted, abs=EXACT)


@given(genuine=scores, impostor=scores)
def test_rates_at_every_threshold_are_scikit_learns(genuine, impostor):
    """DET by scikit-learn (accepts at the threshold itself) against ours (accepts above it)."""
    metrics = pytest.importorskip("sklearn.metrics")
    labels = [1] * len(genuine) + [0] * len(impostor)
    fmr, fnmr, limits = metrics.det_curve(labels, genuine + impostor)
    for false, missed, limit in zip(fmr, fnmr, limits, strict=True):
        below = np.nextafter(limit, -np.inf)
        assert verification.rate_above(np.array(impostor), below) == pytest.approx(false, abs=EXACT)
        own = 1 - verification.rate_above(np.array(genuine), below)
        assert own == pytest.approx(missed, abs=EXACT)


def test_area_and_error_rate_are_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    genuine, impostor = draw(0, 500)
    low = min(genuine.min(), impostor.min())
    high = max(genuine.max(), impostor.max())
    joined = (np.concatenate([genuine, impostor]) - low) / (high - low)  # it wants 0..1
    labels = torch.tensor([1] * len(genuine) + [0] * len(impostor))
    area = float(functional.binary_auroc(torch.from_numpy(joined), labels))
    assert verification.area(genuine, impostor) == pytest.approx(area, abs=EXACT)
    equal = float(functional.binary_eer(torch.from_numpy(joined), labels))
    assert verification.equal_error_rate(genuine, impostor) == pytest.approx(
        equal,
        abs=1 / len(genuine),  # one step of the curve: theirs reads it in single precision
    )


def test_kernel_distance_is_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 16)), rng.normal(0.3, 1.2, size=(40, 16))  # it wants equal numbers
    wanted = float(kid.poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    assert utility.squared_distance(x, y) == pytest.approx(wanted, abs=EXACT)


def test_ssim_and_psnr_are_torchmetrics():
    image = pytest.importorskip("torchmetrics.functional.image")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    first = rng.integers(0, 256, (48, 40, 3)).astype(np.uint8)
    second = np.clip(first.astype(int) + rng.integers(-40, 40, first.shape), 0, 255).astype(
        np.uint8
    )
    a, b = (
        torch.from_numpy(p.transpose(2, 0, 1)[None].astype(np.float64)) for p in (first, second)
    )
    _, wanted = image.structural_similarity_index_measure(
        a, b, sigma=1.5, kernel_size=11, data_range=255.0, return_full_image=True
    )
    inner = np.s_[8:-8, 8:-8]  # it pads in another way at the border
    theirs = wanted[0].mean(0).numpy()
    np.testing.assert_allclose(utility.ssim_map(first, second)[inner], theirs[inner], atol=EXACT)
    ratio = float(image.peak_signal_noise_ratio(a, b, data_range=255.0))
    everywhere = np.ones(first.shape[:2], bool)
    assert utility.psnr(first, second, everywhere) == pytest.approx(ratio, abs=EXACT)


@pytest.mark.parametrize(("hits", "people"), [(0, 40), (1, 40), (3, 150), (149, 150), (150, 150)])
def test_wilson_is_scipys(hits, people):
    """One comparison a person: the effective number is the number of people."""
    from scipy.stats import binomtest

    wanted = binomtest(hits, people).proportion_ci(0.95, method="wilson")
    rate = hits / people
    low, high = intervals.wilson(rate, rate * (1 - rate) / people, people)
    assert (low, high) == (
        pytest.approx(wanted.low, abs=EXACT),
        pytest.approx(wanted.high, abs=EXACT),
    )


def test_the_bootstrap_over_people_is_scipys():
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).beta(2, 3, 120)
    wanted = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=4)
    found = intervals.over_people(values, seed=5)
    for ours, theirs in zip((found.lo, found.hi), wanted.confidence_interval, strict=True):
        assert ours == pytest.approx(theirs, abs=0.004)  # both draw: the noise of 2,000 draws


def test_intervals_over_pairs_are_those_of_cimat():
    """A small case given to awslabs/cis-matching-tasks (cimat, commit 654483a) once; its answers below.

    12 drawn people with four vectors each, cosines rounded to six places, threshold 0.4567891.
    cimat bounds the effective number by nothing; ours by the number of people, so that is lifted here.
    """
    rng = np.random.default_rng(12)
    people = np.repeat(np.arange(12), 4)
    vectors = rng.normal(size=(12, 6))[people] + 0.9 * rng.normal(size=(48, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    above = (np.round(vectors @ vectors.T, 6) > 0.4567891).astype(float)
    same, off = people[:, None] == people[None], ~np.eye(48, dtype=bool)
    owners = np.broadcast_to(people[:, None], same.shape)[same & off]
    accepted = above[same & off]
    variance = intervals.genuine_variance(accepted, owners)
    assert 1 - accepted.mean() == pytest.approx(0.4444444444444444, abs=EXACT)
    assert variance == pytest.approx(0.0051440329218107, abs=1e-12)
    found = intervals.wilson(1 - accepted.mean(), variance, np.inf)
    assert found == pytest.approx((0.3132345676442808, 0.5838876689852878), abs=EXACT)
