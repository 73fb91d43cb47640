"""AK: several releases of each photo (other seeds, other keys, wrong keys) taken together.

What the releases of one photo share is what the key does not hide: their mean vector is the probe. Wrong
keys: give the outputs of `recover` with wrong keys as further releases. Right keys and known pairs need
no attack of their own: evaluate the recovered folder, or one released under the same key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moretta.evaluation.attackers.attack import Attacker, Candidate, Case, Ints, cosine
from moretta.evaluation.attackers.mapping import ridge
from moretta.evaluation.embed import unit

if TYPE_CHECKING:
    from collections.abc import Iterator

ALIGNMENT = "clear"


def candidates(case: Case, rows: Ints) -> Iterator[Candidate]:
    """Yield one release alone, the mean of all, and a linear map of that mean to clear vectors."""
    one = case.anon[ALIGNMENT]
    yield Candidate(label="one release", score=cosine(one, case.clear))
    mean = unit(np.mean([one, *(case.again or ())], axis=0))
    yield Candidate(label="mean of all releases", score=cosine(mean, case.clear), trained=True)
    yield Candidate(label="its opposite", score=cosine(-mean, case.clear), trained=True)
    before, matrix, after = ridge(mean[rows], case.clear[rows], 0.3)
    moved = unit((mean - before) @ matrix + after)
    label = "mean of all releases, mapped"
    yield Candidate(label=label, score=cosine(moved, case.clear), trained=True)


KEYED = Attacker(
    name="AK",
    summary="several releases of each photo taken together",
    gallery="clear",
    candidates=candidates,
    trained=True,
    again=True,
)
