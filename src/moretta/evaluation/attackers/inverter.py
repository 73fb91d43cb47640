"""A6: faces drawn from anonymised vectors, and shown to a recogniser that did not make the vectors.

A decoder from vectors to pixels, learnt on part T by ridge regression (in its dual form, as in A3-lin):
from clear vectors, or at once from released vectors to clear pixels of the same shot.
Source  Mohanty, Sarkar, Kasturi 2007 (linear reconstruction from a recogniser's space).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Floats, Ints, cosine
from moretta.evaluation.attackers.restorer import Restorer, drawn, lazily, small

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moretta.records import Pixels

SIDE = 64  # px that are drawn
WEIGHTS = (1e-3, 1e-1)


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield the untrained twin, then a decoder from each other recogniser and kind of pairs."""
    if case.clear_crops is None:
        raise ValueError("a decoder needs crops")
    for name, vectors in case.anon.items():
        yield Candidate(label=f"untrained, points from {name}", score=cosine(vectors, case.clear))
    big = case.clear_crops.shape[1]
    pixels = small(case.clear_crops[rows], min(SIDE, big))
    for other, (clear, anon) in (case.foreign or {}).items():
        for taught, inputs in (("clear", clear), ("released", anon)):
            decoder = Restorer(inputs[rows], pixels)
            for weight in WEIGHTS:

                def draw(
                    wanted: Ints,
                    by: Restorer = decoder,
                    weight: float = weight,
                    anon: Floats = anon,
                ) -> Pixels:
                    return drawn(by(anon[wanted], weight), min(SIDE, big), big)

                label = f"from {other}, taught by {taught} vectors, weight {weight:g}"
                yield Candidate(label=label, score=lazily(case, draw), trained=True)


INVERTER = Attacker(
    name="A6",
    summary="faces drawn from another recogniser's anonymised vectors",
    gallery="clear",
    candidates=candidates,
    trained=True,
    pixels=True,
    foreign=True,
    since="standard",
)
