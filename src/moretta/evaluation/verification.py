"""Same person or not: thresholds on the step, error rates, linkability.

Words     FMR: share of comparisons of different people with a score above the threshold. TAR: share
          of comparisons of one person with a score above it.
Sources   evaluation.md 3.2, 3.3, 3.5; Gomez-Barrero et al. for D_sys.
Checked   tests/evaluation/test_verification.py: scikit-learn and slow loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RATES = (1e-2, 1e-3, 1e-4)
LEAST_FALSE = 30  # expected false matches below which a rate is not reported
BINS = 50  # of the densities in D_sys


def threshold(impostor: Floats, rate: float) -> float:
    """Return the score that a share `rate` of the impostor scores lies above: accept if score > it.

    It is value no. floor(rate n) + 1 in descending order: one of the scores, nothing interpolated.
    With ties the realised rate is lower; `rate_above` tells it.
    """
    n = len(impostor)
    if n == 0:
        raise ValueError("no comparisons of different people")
    place = min(int(np.floor(rate * n + 1e-9)), n - 1)
    return float(np.partition(impostor, n - 1 - place)[n - 1 - place])


def rate_above(scores: Floats, limit: float) -> float:
    """Return the share of scores above `limit`."""
    return float((scores > limit).mean()) if len(scores) else float("nan")


def reportable(count: int, rate: float) -> bool:
    """Whether `count` impostor comparisons are enough for a threshold at `rate`."""
    return count * rate >= LEAST_FALSE - 1e-9


def equal_error_rate(genuine: Floats, impostor: Floats) -> float:
    """Return where the step curves of FMR and FNMR cross: the mean of the two values there."""
    if not len(genuine) or not len(impostor):
        return float("nan")
    steps = np.unique(np.concatenate([genuine, impostor]))
    false_non = np.searchsorted(np.sort(genuine), steps, side="right") / len(genuine)
    false = 1 - np.searchsorted(np.sort(impostor), steps, side="right") / len(impostor)
    false_non, false = np.append(0.0, false_non), np.append(1.0, false)
    first = int(np.argmax(false_non >= false))
    best = (
        first
        if false_non[first] - false[first] < false[first - 1] - false_non[first - 1]
        else first - 1
    )
    return float((false_non[best] + false[best]) / 2)


def area(genuine: Floats, impostor: Floats) -> float:
    """Return the area under the ROC: how often a genuine score beats an impostor's, ties half."""
    if not len(genuine) or not len(impostor):
        return float("nan")
    ordered = np.sort(impostor)
    below = np.searchsorted(ordered, genuine, side="left")
    equal = np.searchsorted(ordered, genuine, side="right") - below
    return float((below + equal / 2).mean() / len(impostor))


def linkability(
    mated: Floats, other: Floats, *, fitted_on: tuple[Floats, Floats] | None = None
) -> float:
    """Return D_sys, 0 (unlinkable by these scores) to 1 (fully linkable).

    D(s) = 0 where LR(s) = p(s | mated) / p(s | other) <= 1, else 2 LR / (1 + LR) - 1; D_sys is its mean
    under p(s | mated). Densities: BINS bins, half of them of equal mass of the mated and half of the
    other scores of `fitted_on` (mated, other), which come from other people; without it the scores
    themselves are used, which makes D_sys too high for few scores.
    """
    fit_mated, fit_other = fitted_on if fitted_on is not None else (mated, other)
    if not (len(mated) and len(fit_mated) and len(fit_other)):
        return float("nan")
    count = max(1, min(BINS // 2, min(len(fit_mated), len(fit_other)) // 10))
    steps = np.linspace(0, 1, count + 1)
    edges = np.unique([*np.quantile(fit_mated, steps), *np.quantile(fit_other, steps)])
    size = len(edges) + 1
    p_mated = np.bincount(np.searchsorted(edges, fit_mated), minlength=size) / len(fit_mated)
    p_other = np.bincount(np.searchsorted(edges, fit_other), minlength=size) / len(fit_other)
    total = p_mated + p_other
    local = np.where(total > 0, np.clip((p_mated - p_other) / np.maximum(total, 1e-300), 0, 1), 0)
    weights = np.bincount(np.searchsorted(edges, mated), minlength=size) / len(mated)
    return float((local * weights).sum())
