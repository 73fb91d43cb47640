"""A8: the face is not looked at. Everything the tool changed is blanked, in probes and gallery.

What is left (hair, ears, clothes, place) is described by colour and gradients of the wide crop, and by
the recogniser itself on its own crop. No tool that changes only faces can go below this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Ints, cosine

if TYPE_CHECKING:
    from collections.abc import Iterator


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield one candidate a description."""
    for name, features in (case.context or {}).items():
        yield Candidate(label=name, score=cosine(features, features))


CONTEXT = Attacker(
    name="A8",
    summary="surroundings only, the face blanked",
    gallery="clear",
    candidates=candidates,
    floor=True,
)
