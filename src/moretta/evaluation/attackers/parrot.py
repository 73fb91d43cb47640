"""A1 and A1r: the attacker runs the anonymiser on the gallery, or on the probe only.

Source  Newton, Sweeney, Malin: "parrot" and "reverse" recognition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Ints, cosine

if TYPE_CHECKING:
    from collections.abc import Iterator


def _released(case: Case, rows: Ints) -> Iterator[Candidate]:
    for name, vectors in case.anon.items():
        yield Candidate(label=f"points from {name}", score=cosine(vectors, vectors))


def _reverse(case: Case, rows: Ints) -> Iterator[Candidate]:
    for name, vectors in case.anon.items():
        yield Candidate(label=f"points from {name}", score=cosine(case.clear, vectors))


PARROT = Attacker(
    name="A1",
    summary="the gallery was anonymised too",
    gallery="anon",
    candidates=_released,
)
REVERSE = Attacker(
    name="A1r",
    summary="anonymised gallery, clear probe",
    gallery="anon",
    candidates=_reverse,
)
