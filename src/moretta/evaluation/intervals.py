"""Intervals over people, because photos and pairs of one person do not count as independent.

Sources   evaluation.md 3.7; Wilson 1927 with an effective n (Fogliato, Patil, Perona); the variance of
          an error rate over pairs as in awslabs/cis-matching-tasks, in closed form.
Checked   tests/evaluation/test_intervals.py: slow loops, and coverage on drawn people.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

DRAWS = 2000
Z = 1.959963984540054  # 95 %, two-sided
NEAR_EDGE = 0.1  # rates this near 0 or 1 get Wilson's interval: the bootstrap's is too short there


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    v: float
    lo: float
    hi: float


def over_people(
    values: Floats, *, seed: int, weights: Floats | None = None, rate: bool = True
) -> Estimate:
    """Return the mean over people with a 95 % interval.

    values: (people,) each person's own mean, 0..1. weights: (people,) how much each counts; equal by
    default. Percentile bootstrap of DRAWS draws of people; near 0 and 1 Wilson's interval with
    n* = p (1 - p) / Var, at most the number of people. Zero everywhere gives at least 3 / people.
    rate: the values are shares of yes and no. Lengths and angles are not: they have no edge to be
    near, and always get the bootstrap.
    """
    count = len(values)
    if count == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    m = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    mean = float((m * values).sum() / m.sum())
    if not rate or NEAR_EDGE <= mean <= 1 - NEAR_EDGE:
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
        total = drawn @ m
        means = (drawn @ (m * values))[total > 0] / total[total > 0]
        low, high = np.percentile(means, [2.5, 97.5])
        return Estimate(mean, float(low), float(high))
    variance = float(((m * (values - mean)) ** 2).sum() / m.sum() ** 2)
    low, high = wilson(mean, variance, count)
    if mean == 0:
        low, high = 0.0, max(high, min(1.0, 3 / count))
    return Estimate(mean, low, high)


def wilson(mean: float, variance: float, most: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval with the effective n that `variance` stands for, at most `most`."""
    n = most
    if variance > 0 and 0 < mean < 1:
        n = min(most, mean * (1 - mean) / variance)
    n = max(n, 1.0)
    middle = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def over_genuine(accepted: Floats, owners: Ints) -> Estimate:
    """Return the share of accepted comparisons of one person with themselves, interval over people.

    accepted: (comparisons,) 0 or 1. owners: (comparisons,) whose they are.
    Wilson's interval with the effective n of `genuine_variance`, at most the number of people.
    """
    if not len(accepted):
        return Estimate(float("nan"), float("nan"), float("nan"))
    people = len(np.unique(owners))
    mean = float(accepted.mean())
    low, high = wilson(mean, genuine_variance(accepted, owners), people)
    if mean == 0:
        low, high = 0.0, max(high, min(1.0, 3 / people))
    return Estimate(mean, low, high)


def genuine_variance(accepted: Floats, owners: Ints) -> float:
    """Return the variance of a rate over comparisons of one person with themselves.

    sum_i (m_i (a_i - mean))^2 / (sum_i m_i)^2 over people i with m_i comparisons and rate a_i.
    """
    _, index = np.unique(owners, return_inverse=True)
    m = np.bincount(index).astype(np.float64)
    a = np.bincount(index, weights=accepted) / m
    return float(((m * (a - accepted.mean())) ** 2).sum() / m.sum() ** 2)


def paired_difference(first: Floats, second: Floats, *, seed: int) -> Estimate:
    """Return mean(first) - mean(second) over the same people, with a paired 95 % bootstrap interval."""
    count = len(first)
    if count == 0 or len(second) != count:
        raise ValueError("paired values of the same people are needed")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
    differences = drawn @ (first - second) / count
    low, high = np.percentile(differences, [2.5, 97.5])
    return Estimate(float((first - second).mean()), float(low), float(high))
