"""Who comes first: person scores, ranks with ties counted honestly, top-k among N people.

Promise   a recogniser that answers the same for everybody scores k/N, never more.
Sources   evaluation.md 3.1. The mean over random sets of N people is computed in closed form
          (multivariate hypergeometric), so no draws are needed and none can be lucky.
Checked   tests/evaluation/test_ranking.py: brute force over every subset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

TIE = 1e-9  # scores that differ by no more are equal
Rule = Literal["max", "mean"]
RULES: tuple[Rule, ...] = ("max", "mean")


def person_scores(scores: Floats, owners: Ints, people: Ints, rule: Rule) -> Floats:
    """Return one score a person: the best of that person's gallery photos, or their mean.

    scores: (probes, gallery). owners: (gallery,) person of each gallery photo. people: the persons,
    sorted, each with at least one gallery photo. Returns (probes, people).
    Raises ValueError for scores that are not finite and for a person without a photo.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite")
    order = np.argsort(owners, kind="stable")
    found, starts = np.unique(owners[order], return_index=True)
    if not np.array_equal(found, people):
        raise ValueError("the gallery's people are not those asked for")
    by_person = scores[:, order]
    if rule == "max":
        best: Floats = np.maximum.reduceat(by_person, starts, axis=1)
        return best
    total: Floats = np.add.reduceat(by_person, starts, axis=1)
    return total / np.diff(np.append(starts, len(owners)))


def above_and_equal(scores: Floats, own: Ints) -> tuple[Ints, Ints]:
    """Return how many others beat the right person and how many tie with them, per probe.

    scores: (probes, people). own: (probes,) column of the right person.
    """
    right = scores[np.arange(len(scores)), own][:, None]
    above = (scores > right + TIE).sum(1)
    equal = (np.abs(scores - right) <= TIE).sum(1) - 1
    return above.astype(np.int64), equal.astype(np.int64)


def hits(above: Ints, equal: Ints, k: int) -> Floats:
    """Return hit@k of each probe among all people: clamp((k - above) / (equal + 1), 0, 1)."""
    share: Floats = np.clip((k - above) / (equal + 1), 0, 1)
    return share


def expected_hits(above: Ints, equal: Ints, people: int, size: int, k: int) -> Floats:
    """Return hit@k of each probe, averaged over all sets of `size` people that hold the right one.

    above, equal: (probes,), out of people - 1 others. Of those, size - 1 are drawn without replacement.
    """
    if not 1 <= size <= people:
        raise ValueError(f"{size} of {people} people")
    if size == people:
        return hits(above, equal, k)
    result = np.zeros(len(above))
    pairs, where = np.unique(np.stack([above, equal], axis=1), axis=0, return_inverse=True)
    value = np.array([_expected(int(a), int(e), people - 1, size - 1, k) for a, e in pairs])
    if len(pairs):
        result = value[where.reshape(-1)]
    return result


def _expected(above: int, equal: int, others: int, drawn: int, k: int) -> float:
    """Sum over how many of `above` (fewer than k) and of `equal` are among the drawn."""
    rest = others - above - equal
    total = 0.0
    for a in range(min(k, above + 1)):
        for e in range(min(equal, drawn - a) + 1):
            if drawn - a - e > rest:
                continue
            log = (_choose(above, a) + _choose(equal, e) + _choose(rest, drawn - a - e)) - _choose(
                others, drawn
            )
            total += float(np.exp(log)) * min((k - a) / (e + 1), 1.0)
    return total


def _choose(n: int, k: int) -> float:
    """Logarithm of the binomial coefficient."""
    from math import lgamma

    if k > n:
        return -float("inf")
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def chance(gallery_sizes: Floats, size: int) -> Floats:
    """Return each person's chance of top-1 among `size` people for scores that mean nothing.

    gallery_sizes: (people,) photos of each. With the max rule whoever has more photos wins more often:
    n_j against the mean of the others.
    """
    n = np.asarray(gallery_sizes, np.float64)
    if len(n) < 2:
        return np.ones(len(n))
    others = (n.sum() - n) / (len(n) - 1)
    own: Floats = n / (n + (size - 1) * others)
    return own


def normalised(rate: float, by_chance: float) -> float:
    """Return S = (rate - chance) / (1 - chance): 0 is chance, 1 perfect, below 0 an inverted signal.

    >>> normalised(1.0, 0.01), normalised(0.01, 0.01)
    (1.0, 0.0)
    """
    return (rate - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0
