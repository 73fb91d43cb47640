"""A2-closed: a classifier of exactly the people in the gallery, learnt on their released photos.

Multinomial logistic regression on the anonymised gallery itself: the attacker knows who may appear.
Nothing is learnt from part T.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Floats, Ints, cosine

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = (1.0, 30.0)  # C: the inverse of the penalty


def scores(vectors: Floats, people: Ints, probes: Ints, gallery: Ints, weight: float) -> Floats:
    """Return each gallery photo's person's log-probability, (probes, gallery)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scale = vectors.shape[1] ** 0.5
    owners = people[gallery]
    model = LogisticRegression(C=weight, max_iter=200)
    with warnings.catch_warnings():  # one or two photos a person are what an attacker has here
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 rounds are his budget
        model.fit(vectors[gallery] * scale, owners)
    found = model.predict_log_proba(vectors[probes] * scale)
    logs: Floats = np.maximum(found, -700)[:, np.searchsorted(model.classes_, owners)]
    return logs


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the plain comparison, then a classifier for each weight and alignment."""
    for name, vectors in case.anon.items():
        yield Candidate(label=f"no classifier, points from {name}", score=cosine(vectors, vectors))
        for weight in WEIGHTS:

            def score(
                probes: Ints, gallery: Ints, vectors: Floats = vectors, weight: float = weight
            ) -> Floats:
                return scores(vectors, case.people, probes, gallery, weight)

            label = f"classifier, C = {weight:g}, points from {name}"
            yield Candidate(label=label, score=score, closed=True)


CLOSED = Attacker(
    name="A2-closed",
    summary="a classifier of the gallery's people, learnt on their anonymised photos",
    gallery="anon",
    candidates=candidates,
)
