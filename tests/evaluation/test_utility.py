"""Utility figures against scikit-image and slow sums."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.evaluation import utility

metrics = pytest.importorskip("skimage.metrics")
pytest.importorskip("scipy")


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 256, (48, 40, 3)).astype(np.uint8)
    second = np.clip(first.astype(int) + rng.integers(-30, 30, first.shape), 0, 255)
    return first, second.astype(np.uint8)


def test_ssim_is_scikit_images():
    first, second = pictures()
    _, wanted = metrics.structural_similarity(
        first,
        second,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    np.testing.assert_allclose(utility.ssim_map(first, second), wanted.mean(2), atol=1e-6)


def test_psnr_is_scikit_images():
    first, second = pictures(1)
    everywhere = np.ones(first.shape[:2], bool)
    wanted = metrics.peak_signal_noise_ratio(first, second, data_range=255)
    assert utility.psnr(first, second, everywhere) == pytest.approx(wanted, abs=1e-6)
    assert utility.psnr(first, first, everywhere) == utility.BEST_PSNR
    half = everywhere.copy()
    half[:20] = False
    wanted = metrics.peak_signal_noise_ratio(first[20:], second[20:], data_range=255)
    assert utility.psnr(first, second, half) == pytest.approx(wanted, abs=1e-6)


def test_kernel_distance_by_a_slow_sum():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(7, 3)), rng.normal(1, 1, size=(6, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert utility.squared_distance(x, y) == pytest.approx(xx + yy - 2 * xy, abs=1e-9)


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(3)
    same = [utility.squared_distance(*rng.normal(size=(2, 60, 8))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(200)
    assert utility.squared_distance(rng.normal(size=(60, 8)), rng.normal(1, 1, (60, 8))) > 0.5


def test_subsets_of_the_kernel_distance_depend_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(utility, "SUBSET", 20)
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(40, 4))
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    first = utility.kid(x, y, seed=1)
    np.random.seed(5)  # noqa: NPY002
    assert utility.kid(x, y, seed=1) == first
    assert utility.kid(x, y, seed=2) != first
    assert first[1] > 0


def test_point_error_in_shares_of_the_eyes_distance():
    wanted = np.array([[0.0, 0], [10, 0], [5, 5], [2, 9], [8, 9]])
    assert utility.point_error(wanted + np.array([1, 0]), wanted) == pytest.approx(0.1)
    assert utility.point_error(wanted, wanted) == 0


def test_collapse_counts_different_people_only():
    vectors = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    people = np.array([0, 0, 1, 2])
    assert utility.collapse(vectors, people, 0.5) == pytest.approx(4 / 10)
