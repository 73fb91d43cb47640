"""A4: maps from anonymised vectors back to clear ones, learnt on pairs of other people.

A4-anti takes the lowest cosine: methods that push an identity away leave it on the far side.
A4-shift removes the mean of each side; A4-procrustes undoes a rotation; A4-ridge any linear map; A4-cca
keeps the directions that both sides share. Each is tried on pairs of the same shot, which teach the
transform, and of different shots, which teach the identity only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from moretta.evaluation.attackers.attack import (
    Attacker,
    Candidate,
    Case,
    Floats,
    Ints,
    cosine,
    cross_shot,
    same_shot,
)
from moretta.evaluation.embed import unit

RIDGE = (0.03, 0.3, 3.0)  # times the mean square of the inputs
DIRECTIONS = (32, 64, 128)
SHOTS = {"same shots": same_shot, "other shots": cross_shot}

Map = Callable[[Floats], Floats]


def rotation(anon: Floats, clear: Floats) -> Floats:
    """Return the orthogonal Q that brings anon @ Q closest to clear; (pairs, length) each."""
    left, _, right = np.linalg.svd(anon.T @ clear)
    turned: Floats = left @ right
    return turned


def ridge(anon: Floats, clear: Floats, weight: float) -> tuple[Floats, Floats, Floats]:
    """Return (mean of anon, W, mean of clear): (x - mean) @ W + mean is nearest to clear.

    weight: of the penalty on W, in units of the mean square of the centred inputs times their number
    over the length.
    """
    before, after = anon.mean(0), clear.mean(0)
    x, y = anon - before, clear - after
    gram = x.T @ x
    gram += (weight * np.trace(gram) / len(gram) + 1e-9) * np.eye(len(gram))
    return before, np.linalg.solve(gram, x.T @ y), after


def shared_directions(
    anon: Floats, clear: Floats, count: int, shrinkage: float = 0.1
) -> tuple[Floats, Floats, Floats]:
    """Return (A, C, correlations): projections of both centred sides onto canonical directions."""
    x, y = anon - anon.mean(0), clear - clear.mean(0)
    whites = []
    for side in (x, y):
        square = side.T @ side / len(side)
        level = np.trace(square) / len(square)
        square = (1 - shrinkage) * square + (shrinkage * level + 1e-12) * np.eye(len(square))
        value, vector = np.linalg.eigh(square)
        whites.append(vector / np.sqrt(value))
    left, strength, right = np.linalg.svd((x @ whites[0]).T @ (y @ whites[1]) / len(x))
    kept = min(count, len(strength))
    weight = np.sqrt(np.clip(strength[:kept], 0, 1))
    return (
        whites[0] @ left[:, :kept] * weight,
        whites[1] @ right[:kept].T * weight,
        strength[:kept],
    )


def _anti(case: Case, rows: Ints) -> Iterator[Candidate]:
    for name, vectors in case.anon.items():
        yield Candidate(label=f"points from {name}", score=cosine(-vectors, case.clear))


def _untrained(case: Case) -> Iterator[Candidate]:
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))


def _shift(case: Case, rows: Ints) -> Iterator[Candidate]:
    yield from _untrained(case)
    clear = unit(case.clear - case.clear[rows].mean(0))
    for name, vectors in case.anon.items():
        moved = unit(vectors - vectors[rows].mean(0))
        label = f"means removed, points from {name}"
        yield Candidate(label=label, score=cosine(moved, clear), trained=True)


def _procrustes(case: Case, rows: Ints) -> Iterator[Candidate]:
    yield from _untrained(case)
    for name, vectors in case.anon.items():
        for shots, pairs in SHOTS.items():
            moved = vectors @ rotation(*pairs(case, rows, name))
            label = f"{shots}, points from {name}"
            yield Candidate(label=label, score=cosine(moved, case.clear), trained=True)


def _ridge(case: Case, rows: Ints) -> Iterator[Candidate]:
    yield from _untrained(case)
    for name, vectors in case.anon.items():
        for shots, pairs in SHOTS.items():
            for weight in RIDGE:
                before, matrix, after = ridge(*pairs(case, rows, name), weight)
                label = f"weight {weight}, {shots}, points from {name}"
                moved = unit((vectors - before) @ matrix)
                clear = unit(case.clear - after)
                yield Candidate(label=f"{label}, centred", score=cosine(moved, clear), trained=True)
                whole = unit((vectors - before) @ matrix + after)
                yield Candidate(label=label, score=cosine(whole, case.clear), trained=True)


def _cca(case: Case, rows: Ints) -> Iterator[Candidate]:
    yield from _untrained(case)
    for name, vectors in case.anon.items():
        for shots, pairs in SHOTS.items():
            anon, clear = pairs(case, rows, name)
            for count in [d for d in DIRECTIONS if d <= anon.shape[1]]:
                left, right, _ = shared_directions(anon, clear, count)
                yield Candidate(
                    label=f"{count} directions, {shots}, points from {name}",
                    score=cosine(
                        unit((vectors - anon.mean(0)) @ left),
                        unit((case.clear - clear.mean(0)) @ right),
                    ),
                    trained=True,
                )


def _family(
    name: str, summary: str, candidates: Callable[[Case, Ints], Iterator[Candidate]]
) -> Attacker:
    return Attacker(
        name=f"A4-{name}",
        summary=summary,
        gallery="clear",
        candidates=candidates,
        trained=name != "anti",
    )


ANTI = _family("anti", "the least alike is the one", _anti)
SHIFT = _family("shift", "the means of both sides removed", _shift)
PROCRUSTES = _family("procrustes", "a rotation of vectors undone", _procrustes)
RIDGE_MAP = _family("ridge", "any linear map of vectors undone", _ridge)
CCA = _family("cca", "what both sides share", _cca)
