"""A2-head: a recogniser's last step learnt anew on anonymised faces of other people.

Frozen vectors, centred, reduced by PCA, whitened by the shrunk scatter within people (WCCN), and in a
second variant turned to the directions that separate people best (LDA). Cosine in that space.
A2-head compares released with released photos; A2-cross learns one space from clear and released
photos together and compares with clear ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Floats, Ints, cosine
from moretta.evaluation.embed import unit

if TYPE_CHECKING:
    from collections.abc import Iterator

SHRINKAGE = (0.1, 0.3, 0.5)
MOST = 256  # dimensions after PCA


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """A linear map of vectors: (x - mean) @ matrix, then unit length."""

    mean: Floats
    matrix: Floats

    def __call__(self, vectors: Floats) -> Floats:
        """(n, length) -> (n, dimensions) unit vectors."""
        return unit((vectors - self.mean) @ self.matrix)


def learnt(vectors: Floats, people: Ints, shrinkage: float, *, turned: bool) -> Space:
    """Return the space in which people of the training set are far apart and their photos close.

    vectors: (n, length). people: (n,). turned: keep only the LDA directions.
    """
    mean = vectors.mean(0)
    centred = vectors - mean
    _, scale, axes = np.linalg.svd(centred, full_matrices=False)
    kept = min(MOST, int((scale > scale[0] * 1e-6).sum())) if scale[0] > 0 else 1
    reduced = centred @ axes[:kept].T
    _, index = np.unique(people, return_inverse=True)
    counts = np.bincount(index)
    sums = np.zeros((len(counts), kept))
    np.add.at(sums, index, reduced)
    means = sums / counts[:, None]
    residual = (reduced - means[index])[counts[index] > 1]
    within = residual.T @ residual / max(len(residual), 1)
    level = float(np.trace(within)) / kept
    within = (1 - shrinkage) * within + (shrinkage * level + 1e-12) * np.eye(kept)
    value, vector = np.linalg.eigh(within)
    white = vector / np.sqrt(value)
    if turned:
        between = means @ white
        _, _, turn = np.linalg.svd(between - between.mean(0), full_matrices=False)
        white = white @ turn[: min(len(counts) - 1, kept // 2 + 1)].T
    return Space(mean, axes[:kept].T @ white)


def _spaces(vectors: Floats, people: Ints) -> Iterator[tuple[str, Space]]:
    for shrinkage in SHRINKAGE:
        for turned in (False, True):
            name = f"{'LDA' if turned else 'WCCN'} {shrinkage}"
            yield name, learnt(vectors, people, shrinkage, turned=turned)


def _head(case: Case, rows: Ints) -> Iterator[Candidate]:
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, vectors))
        for label, space in _spaces(vectors[rows], case.people[rows]):
            moved = space(vectors)
            yield Candidate(
                label=f"{label}, points from {name}", score=cosine(moved, moved), trained=True
            )


def _cross(case: Case, rows: Ints) -> Iterator[Candidate]:
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))
        both = np.concatenate([vectors[rows], case.clear[rows]])
        for label, space in _spaces(both, np.tile(case.people[rows], 2)):
            yield Candidate(
                label=f"{label}, points from {name}",
                score=cosine(space(vectors), space(case.clear)),
                trained=True,
            )


HEAD = Attacker(
    name="A2-head",
    summary="a head learnt on anonymised faces, anonymised gallery",
    gallery="anon",
    candidates=_head,
    trained=True,
)
CROSS = Attacker(
    name="A2-cross",
    summary="a head learnt on clear and anonymised faces, clear gallery",
    gallery="clear",
    candidates=_cross,
    trained=True,
)
