"""A0: compare what was released with clear photos, as if nothing had been done to it.

A0-same: the probe's own original is in the gallery (a published data set whose originals are online).
A0-other: only other photos of the person are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Ints, cosine

if TYPE_CHECKING:
    from collections.abc import Iterator


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the plain cosine in each alignment."""
    for name, vectors in case.anon.items():
        yield Candidate(label=f"points from {name}", score=cosine(vectors, case.clear))


SAME = Attacker(
    name="A0-same",
    summary="naive, the same photo is in the gallery",
    gallery="clear",
    same_photo=True,
    candidates=candidates,
)
OTHER = Attacker(
    name="A0-other",
    summary="naive, other photos of the person are in the gallery",
    gallery="clear",
    candidates=candidates,
)
